"""What is special to the transports for `httpx` (see `test_adapters.py`): the event loop never waits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, Mock, patch

import anyio
import httpx
import pytest

from tests.client.fake_broker import FIRST, failure
from tests.client.forks import forks, in_child
from token_broker import httpx_transport
from token_broker.errors import UpstreamRejected
from token_broker.httpx_transport import AsyncBrokerTransport, BrokerTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.client.fake_api import FakeApi
    from tests.client.fake_broker import FakeBroker
    from token_broker.client import BrokerClient

    InLoop = Callable[[Callable[[httpx.AsyncClient], Awaitable[Any]]], Any]

MANY = 45  # more than the threads that anyio gives to the whole program


def test_closing_a_transport_closes_the_one_that_it_wraps(client: BrokerClient, api: FakeApi) -> None:
    below, async_below = Mock(wraps=httpx.HTTPTransport()), AsyncMock()
    request = httpx.Request("GET", api.url())
    with BrokerTransport(client, below, hosts=["localhost"]) as transport:
        answer = transport.handle_request(request)
        answer.read()
    asyncio.run(AsyncBrokerTransport(client, async_below).aclose())

    below.close.assert_called_once_with()
    async_below.aclose.assert_awaited_once_with()
    assert answer.request is request


# --- the event loop never waits ----------------------------------------------------------------------------


@pytest.fixture
def in_loop(client: BrokerClient) -> InLoop:
    """Return a function that runs another one, with a client for `httpx`, on an event loop."""

    async def run(act: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        transport = AsyncBrokerTransport(client, hosts=["localhost"])
        async with httpx.AsyncClient(mounts={"all://": transport}, trust_env=False, timeout=10.0) as http:
            return await act(http)

    return lambda act: asyncio.run(run(act))


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - it happens in another thread
            await asyncio.sleep(0.01)


def asking_threads() -> int:
    return [thread.name for thread in threading.enumerate()].count("token-broker: lease")


def test_event_loop_and_the_programs_other_threads_run_on_while_many_wait_for_the_broker(
    in_loop: InLoop, api: FakeApi, broker: FakeBroker
) -> None:
    broker.may_answer.clear()

    async def run(http: httpx.AsyncClient) -> list[int]:
        waiting = [asyncio.create_task(http.get(api.url())) for _ in range(MANY)]
        await until(broker.was_asked.is_set)
        with anyio.fail_after(5):
            assert await anyio.to_thread.run_sync(lambda: "done") == "done"
        assert asking_threads() == 1
        broker.may_answer.set()
        return [answer.status_code for answer in await asyncio.gather(*waiting)]

    assert in_loop(run) == [200] * MANY
    assert len(broker.calls) == 1


def test_many_that_wait_for_a_broker_that_fails_are_told_by_its_first_answer(
    in_loop: InLoop, api: FakeApi, broker: FakeBroker
) -> None:
    broker.may_answer.clear()
    broker.script.append(failure(502, "upstream_rejected"))  # who asks again gets a token

    async def run(http: httpx.AsyncClient) -> list[Any]:
        waiting = [asyncio.create_task(http.get(api.url())) for _ in range(MANY)]
        await until(broker.was_asked.is_set)
        await asyncio.sleep(0.1)
        broker.may_answer.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    errors = in_loop(run)
    assert [type(error) for error in errors] == [UpstreamRejected] * MANY
    assert len({id(error) for error in errors}) == MANY  # a raise writes a traceback into each
    assert len(broker.calls) == 1


def test_many_refused_together_make_one_report(in_loop: InLoop, api: FakeApi, broker: FakeBroker) -> None:
    async def run(http: httpx.AsyncClient) -> list[int]:
        await http.get(api.url())
        api.refused = {FIRST}
        answers = await asyncio.gather(*(http.get(api.url()) for _ in range(MANY)))
        return [answer.status_code for answer in answers]

    assert in_loop(run) == [200] * MANY
    assert len(broker.calls) == 2


def test_known_lease_needs_no_thread(in_loop: InLoop, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(http: httpx.AsyncClient) -> None:
        await http.get(api.url())
        monkeypatch.setattr(httpx_transport, "in_background", None)
        assert (await http.get(api.url())).status_code == 200

    in_loop(run)


def test_cancelled_request_ends_at_once_and_the_others_get_its_threads_token(
    in_loop: InLoop, api: FakeApi, broker: FakeBroker
) -> None:
    broker.may_answer.clear()

    async def run(http: httpx.AsyncClient) -> None:
        first = asyncio.create_task(http.get(api.url()))
        await until(broker.was_asked.is_set)
        others = [asyncio.create_task(http.get(api.url())) for _ in range(3)]
        await asyncio.sleep(0.05)
        for cancelled in (first, others.pop()):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        assert not broker.may_answer.is_set()
        broker.may_answer.set()
        assert [answer.status_code for answer in await asyncio.gather(*others)] == [200, 200]
        assert (await http.get(api.url())).status_code == 200

    in_loop(run)
    assert len(broker.calls) == 1


def test_many_time_outs_leave_one_thread_behind(in_loop: InLoop, api: FakeApi, broker: FakeBroker) -> None:
    broker.may_answer.clear()

    async def run(http: httpx.AsyncClient) -> None:
        for _ in range(MANY):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(http.get(api.url()), 0.01)
        assert asking_threads() == 1
        broker.may_answer.set()
        assert (await http.get(api.url())).status_code == 200

    in_loop(run)
    assert len(broker.calls) == 1


def test_request_that_is_cancelled_while_its_token_is_reported_closes_the_401(
    in_loop: InLoop, api: FakeApi, broker: FakeBroker
) -> None:
    async def run(http: httpx.AsyncClient) -> None:
        await http.get(api.url())
        api.refused, api.dripping_401 = {FIRST}, True
        broker.may_answer.clear()
        broker.was_asked.clear()
        refused = asyncio.create_task(http.get(api.url()))
        await until(broker.was_asked.is_set)
        refused.cancel()
        with pytest.raises(asyncio.CancelledError):
            await refused
        await until(api.hung_up.is_set)
        broker.may_answer.set()
        assert (await http.get(api.url())).status_code == 200  # the report went on

    in_loop(run)
    assert len(broker.calls) == 2


# --- several event loops -----------------------------------------------------------------------------------


class OnePerRequest(httpx.AsyncBaseTransport):
    """Belongs to no event loop, because it reuses no connection."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        once = httpx.AsyncHTTPTransport(verify=False, limits=httpx.Limits(max_keepalive_connections=0))
        return await once.handle_async_request(request)


@pytest.fixture
def transport(client: BrokerClient) -> AsyncBrokerTransport:
    return AsyncBrokerTransport(client, OnePerRequest(), hosts=["localhost"])


async def get_with(transport: AsyncBrokerTransport, url: str) -> int:
    async with asyncio.timeout(10):
        request = httpx.Request("GET", url)
        answer = await transport.handle_async_request(request)
        assert answer.request is request
        await answer.aread()
        await answer.aclose()
    return answer.status_code


async def give_up(transport: AsyncBrokerTransport, url: str) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(get_with(transport, url), 0.2)


def test_event_loops_at_the_same_time_wait_for_the_same_thread(
    transport: AsyncBrokerTransport, api: FakeApi, broker: FakeBroker
) -> None:
    broker.may_answer.clear()
    statuses: list[int] = []

    async def get_some() -> None:
        statuses.extend(await asyncio.gather(*(get_with(transport, api.url()) for _ in range(5))))

    loops = [threading.Thread(target=lambda: asyncio.run(get_some()), daemon=True) for _ in range(4)]
    for loop in loops:
        loop.start()
    assert broker.was_asked.wait(10)
    # One more event loop, which ends before there is an answer.
    asyncio.run(give_up(transport, api.url()))
    assert asking_threads() == 1
    broker.may_answer.set()
    for loop in loops:
        loop.join(10)
    assert statuses == [200] * 20
    assert len(broker.calls) == 1


def test_thread_that_outlives_its_event_loop_serves_the_next_one(
    transport: AsyncBrokerTransport, api: FakeApi, broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.may_answer.clear()
    asyncio.run(give_up(transport, api.url()))
    asyncio.run(give_up(transport, api.url()))
    broker.may_answer.set()

    assert asyncio.run(get_with(transport, api.url())) == 200
    assert len(broker.calls) == 1
    assert not caplog.records


@pytest.mark.parametrize("form", ["asyncio's own", "like trio's"])
def test_every_form_of_event_loop_is_told(
    form: str, transport: AsyncBrokerTransport, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def token() -> object:
        loop = asyncio.get_running_loop()  # as anyio gives it before 4.11
        return loop if form == "asyncio's own" else SimpleNamespace(run_sync_soon=loop.call_soon_threadsafe)

    monkeypatch.setattr(httpx_transport, "current_token", token)

    assert asyncio.run(get_with(transport, api.url())) == 200


# --- what else can go wrong with threads -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("threading.Thread.start", RuntimeError("can't start")),
        ("token_broker.BrokerClient.token", SystemExit()),
    ],
    ids=["no thread can be started", "a fault in the thread"],
)
def test_an_error_of_a_thread_reaches_the_request_and_the_next_one_works(
    part: str, error: BaseException, transport: AsyncBrokerTransport, api: FakeApi
) -> None:
    with patch(part, side_effect=error), pytest.raises(type(error)):
        asyncio.run(get_with(transport, api.url()))

    assert asyncio.run(get_with(transport, api.url())) == 200


@forks
def test_forked_child_does_not_wait_for_a_thread_of_its_parent(
    transport: AsyncBrokerTransport, api: FakeApi, broker: FakeBroker
) -> None:
    def answer_the_child() -> None:
        asyncio.run(until(lambda: len(broker.calls) == 2))
        broker.may_answer.set()

    broker.may_answer.clear()
    asyncio.run(give_up(transport, api.url()))
    assert broker.was_asked.wait(10)

    assert in_child(lambda: asyncio.run(get_with(transport, api.url())) == 200, answer_the_child)


def test_ending_program_waits_for_no_broker(broker: FakeBroker, api: FakeApi, tmp_path: Path) -> None:
    broker.may_answer.clear()
    program = f"""
import asyncio, httpx
from token_broker import BrokerClient
from token_broker.httpx_transport import AsyncBrokerTransport

async def main():
    transport = AsyncBrokerTransport(BrokerClient(), hosts=["localhost"])
    async with httpx.AsyncClient(mounts={{"all://": transport}}) as http:
        await http.get("{api.url()}")

try:
    asyncio.run(asyncio.wait_for(main(), 1))
except TimeoutError:
    print("gave up")
"""
    environment = {**broker.environment, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", program]
    shown = subprocess.check_output(command, env=environment, stderr=subprocess.STDOUT, timeout=15)  # noqa: S603 - the program above
    assert shown == b"gave up\n"
    assert broker.was_asked.is_set()
