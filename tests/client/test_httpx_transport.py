"""What `httpx` sends through the transports, to whom, and what happens after a 401; sync and async."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import ssl
import subprocess
import sys
import threading
import time
import traceback
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
import httpx
import pytest

from tests.client.fake_api import URLS_ELSEWHERE, FakeApi
from tests.client.fake_broker import failure, token_id
from token_broker import httpx_transport
from token_broker.errors import BrokerUnreachable, UpstreamRejected
from token_broker.httpx_transport import AsyncBrokerTransport, BrokerTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.client.fake_broker import FakeBroker
    from token_broker.client import BrokerClient

    NewClient = Callable[..., BrokerClient]

FIRST, SECOND = "canary-token-1", "canary-token-2"
MANY = 45  # more than the threads that anyio gives to the whole program


class Caller:
    """Sends requests with a client of either kind, all through one transport that gets every host's."""

    def __init__(self, kind: str, client: BrokerClient) -> None:
        self.kind = kind
        self.client = client
        self.hosts: tuple[str, ...] = ("localhost",)
        self.hook: Callable[[httpx.Response], object] = lambda _answer: None
        self.below: dict[str, Any] = {}
        """Settings of the transport that is wrapped."""

    def send(self, method: str, url: str, **given: Any) -> httpx.Response:
        settings: dict[str, Any] = {"trust_env": False, "follow_redirects": True, "timeout": 10.0}
        if self.kind == "async":
            return asyncio.run(asyncio.wait_for(self._send_async(method, url, settings, given), 25))
        transport = BrokerTransport(self.client, httpx.HTTPTransport(**self.below), hosts=self.hosts)
        hooks = {"response": [self.hook]}
        with httpx.Client(mounts={"all://": transport}, event_hooks=hooks, **settings) as http:
            return http.request(method, url, **given)

    async def _send_async(
        self, method: str, url: str, settings: dict[str, Any], given: dict[str, Any]
    ) -> httpx.Response:
        async def hook(answer: httpx.Response) -> None:
            self.hook(answer)

        below = httpx.AsyncHTTPTransport(**self.below)
        mounts = {"all://": AsyncBrokerTransport(self.client, below, hosts=self.hosts)}
        async with httpx.AsyncClient(mounts=mounts, event_hooks={"response": [hook]}, **settings) as http:
            return await http.request(method, url, **given)

    def pieces(self) -> Iterator[bytes] | AsyncIterator[bytes]:
        """Return a body that can be sent once."""

        async def pieces() -> AsyncIterator[bytes]:
            for piece in (b"a", b"b"):
                yield piece

        return pieces() if self.kind == "async" else iter([b"a", b"b"])


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest, new_client: NewClient) -> Caller:
    return Caller(request.param, new_client())


def bearers(api: FakeApi) -> list[str | None]:
    return [seen.bearer for seen in api.seen]


# --- to whom ------------------------------------------------------------------------------------------------------


def test_token_is_sent_to_its_host(caller: Caller, api: FakeApi) -> None:
    assert caller.send("GET", api.url()).status_code == 200
    assert bearers(api) == [FIRST]


def test_other_host_gets_the_request_as_it_is(caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    for headers in ({}, {"Authorization": "Bearer of-another"}):
        caller.send("GET", api.url(host="127.0.0.1"), headers=headers)

    assert bearers(api) == [None, "of-another"]
    assert not broker.calls


@pytest.mark.parametrize("template", URLS_ELSEWHERE)
def test_host_that_looks_like_digishares_does_not_see_the_token(
    template: str, api: FakeApi, digishare: Path, caller: Caller, broker: FakeBroker
) -> None:
    caller.hosts = ("api.digishare.ma",)
    caller.below = {"verify": ssl.create_default_context(cafile=digishare)}

    caller.send("GET", template.format(port=api.port))

    assert [seen.host.split(":")[0].endswith("example.com") for seen in api.seen] == [True]
    assert FIRST not in repr(api.seen)
    assert not broker.calls


@pytest.mark.parametrize("host", ["api.digishare.ma", "API.Digishare.ma"])
def test_digishares_api_gets_the_token_over_tls(
    host: str, api: FakeApi, digishare: Path, caller: Caller
) -> None:
    caller.hosts = ("api.digishare.ma",)
    caller.below = {"verify": ssl.create_default_context(cafile=digishare)}

    caller.send("GET", f"https://{host}:{api.port}/")

    assert bearers(api) == [FIRST]


def test_digishares_api_does_not_get_the_token_in_clear(
    caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    caller.hosts = ("api.digishare.ma",)
    caller.below = {"proxy": api.url("", host="127.0.0.1")}  # a proxy sees plain HTTP to any host

    caller.send("GET", "http://api.digishare.ma/v1")

    assert [(seen.host, seen.bearer) for seen in api.seen] == [("api.digishare.ma", None)]
    assert not broker.calls


@pytest.mark.parametrize("kind", [BrokerTransport, AsyncBrokerTransport])
def test_host_that_could_never_match_is_refused(
    kind: type[BrokerTransport | AsyncBrokerTransport], new_client: NewClient
) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        kind(new_client(), hosts=["https://api.digishare.ma"])


def test_token_takes_the_place_of_every_other_authorization(
    caller: Caller, api: FakeApi, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine localhost login a password b\n")

    caller.send("GET", api.url(), auth=httpx.NetRCAuth(str(tmp_path / "netrc")))
    caller.send("GET", api.url(), auth=("a", "b"))
    caller.send("GET", api.url(), headers={"authorization": "Bearer of-another"})
    caller.send("GET", api.url(host="a:b@localhost"))

    assert bearers(api) == [FIRST] * 4


# --- after a 401 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [{}, {"content": b"bytes"}, {"json": {"a": 1}}, {"data": {"a": "1"}}], ids=str
)
def test_401_is_reported_and_the_request_repeated_once(
    body: dict[str, object], caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    api.refused = {FIRST}

    answer = caller.send("POST", api.url(), **body)

    assert (answer.status_code, answer.json()) == (200, {"status": 200})
    assert bearers(api) == [FIRST, SECOND]
    assert api.seen[0].body == api.seen[1].body
    assert bool(api.seen[0].body) == bool(body)
    assert [call.body.get("rejected_token_id") for call in broker.calls] == [None, token_id(FIRST)]


def test_head_is_repeated_too(caller: Caller, api: FakeApi) -> None:
    api.refused = {FIRST}

    assert caller.send("HEAD", api.url()).status_code == 200


def test_second_401_is_returned(caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    api.refused = {FIRST, SECOND}

    answer = caller.send("GET", api.url())

    assert (answer.status_code, answer.json()) == (401, {"status": 401})
    assert bearers(api) == [FIRST, SECOND]
    # The next request starts with what the broker has by then.
    assert caller.send("GET", api.url()).status_code == 200
    assert len(broker.calls) == 3


def test_request_is_not_repeated_with_the_same_token(
    caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    api.refused = {FIRST}
    broker.replaces_rejected = False

    answer = caller.send("GET", api.url())

    assert (answer.status_code, answer.json()) == (401, {"status": 401})
    assert bearers(api) == [FIRST]


def test_403_is_left_alone(caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    assert caller.send("GET", api.url("/forbidden")).status_code == 403
    assert (len(api.seen), len(broker.calls)) == (1, 1)


def test_401_is_reported_although_a_hook_raises_on_it(
    caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    caller.hook = httpx.Response.raise_for_status
    api.refused = {FIRST}

    assert caller.send("GET", api.url()).status_code == 200
    api.refused = {SECOND}
    with pytest.raises(httpx.HTTPStatusError):
        caller.send("POST", api.url(), content=caller.pieces())
    assert caller.send("POST", api.url(), content=caller.pieces()).status_code == 200
    assert len(broker.calls) == 3


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}], ids=str)
def test_401_that_is_dropped_is_closed_and_not_read(
    headers: dict[str, str], caller: Caller, api: FakeApi
) -> None:
    api.refused, api.dripping_401, api.error_headers = {FIRST}, True, headers
    # With one connection only, the 401 has to give it back first; else this is a PoolTimeout.
    caller.below = {"limits": httpx.Limits(max_connections=1)}

    assert caller.send("GET", api.url()).status_code == 200
    assert api.hung_up.wait(10)


def test_brokers_error_about_the_rejected_token_is_raised_and_the_401_closed(
    caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    caller.send("GET", api.url())
    api.refused, api.dripping_401 = {FIRST}, True
    broker.script.append(failure(502, "upstream_rejected"))
    request = httpx.Request("GET", api.url())
    below, async_below = LeavesOpen(), AsyncLeavesOpen()
    transport = BrokerTransport(caller.client, below, hosts=["localhost"])
    async_transport = AsyncBrokerTransport(caller.client, async_below, hosts=["localhost"])

    def send() -> httpx.Response:
        if caller.kind == "sync":
            return transport.handle_request(request)
        return asyncio.run(async_transport.handle_async_request(request))

    with pytest.raises(UpstreamRejected):
        send()
    assert [answer.is_closed for answer in below.answers + async_below.answers] == [True]
    assert api.hung_up.wait(10)


class LeavesOpen(httpx.HTTPTransport):
    """Keeps its answers, so that nothing but `close` closes them."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[httpx.Response] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.answers.append(super().handle_request(request))
        return self.answers[-1]


class AsyncLeavesOpen(httpx.AsyncHTTPTransport):
    def __init__(self) -> None:
        super().__init__()
        self.answers: list[httpx.Response] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.answers.append(await super().handle_async_request(request))
        return self.answers[-1]


def test_no_request_is_sent_where_there_is_no_token(caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    broker.script.append(failure(502, "upstream_rejected"))

    with pytest.raises(UpstreamRejected):
        caller.send("GET", api.url())
    assert not api.seen


@pytest.mark.parametrize("body", ["pieces", "multipart", "file"])
def test_401_is_reported_and_returned_readable_where_the_body_cannot_be_sent_again(
    body: str, caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    def new_body() -> dict[str, Any]:
        if body == "multipart":
            return {"files": {"part": ("name", io.BytesIO(b"ab"))}}
        # An async client takes no files as they are.
        file = body == "file" and caller.kind == "sync"
        return {"content": io.BytesIO(b"ab") if file else caller.pieces()}

    api.refused = {FIRST}

    answer = caller.send("POST", api.url(), **new_body())

    assert (answer.status_code, answer.json()) == (401, {"status": 401})
    assert [b"ab" in seen.body for seen in api.seen] == [True]
    assert broker.calls[-1].body["rejected_token_id"] == token_id(FIRST)
    assert caller.send("POST", api.url(), **new_body()).status_code == 200


def test_401_that_cannot_be_repeated_is_returned_within_the_clients_budget_although_the_broker_is_silent(
    new_client: NewClient, caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    caller.client = new_client(time_budget_s=1)
    caller.send("GET", api.url())
    api.refused = {FIRST}
    broker.may_answer.clear()
    with pytest.raises(BrokerUnreachable):
        caller.send("POST", api.url(), content=b"ab")
    started_s = time.monotonic()
    answer = caller.send("POST", api.url(), content=caller.pieces())

    assert (answer.status_code, answer.json()) == (401, {"status": 401})
    assert time.monotonic() - started_s < 10
    broker.may_answer.set()
    assert caller.send("POST", api.url(), content=b"ab").status_code == 200


# --- redirects ----------------------------------------------------------------------------------------------------


def test_redirect_to_another_host_does_not_carry_the_token(
    caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    elsewhere = quote(api.url(host="127.0.0.1"), safe="")

    assert caller.send("POST", api.url(f"/redirect/307/{elsewhere}"), content=b"x").status_code == 401
    assert bearers(api) == [FIRST, None]
    assert len(broker.calls) == 1  # that 401 says nothing about the token


def test_redirect_on_the_same_host_carries_token_and_body_and_renews_the_token_after_a_401(
    caller: Caller, api: FakeApi
) -> None:
    api.refused = {FIRST}

    answer = caller.send("POST", api.url(f"/redirect/307/{quote('/things', safe='')}"), content=b"x")

    assert answer.status_code == 200
    assert bearers(api) == [FIRST, FIRST, SECOND]
    assert [seen.body for seen in api.seen] == [b"x"] * 3


# --- what callers see of it ---------------------------------------------------------------------------------------


def test_callers_request_answer_and_log_do_not_show_the_token(
    caller: Caller, api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api.refused = {FIRST}
    requests: list[httpx.Request] = []
    caller.hook = lambda answer: requests.append(answer.request)

    answer = caller.send("POST", api.url("/redirect/307/%2Fthings"), content=b"x")

    assert bearers(api) == [FIRST, FIRST, SECOND]
    assert [each.request for each in (*answer.history, answer)] == requests
    assert not any("authorization" in request.headers for request in requests)
    assert caplog.records
    assert "canary-token" not in caplog.text


def test_error_of_the_connection_does_not_show_the_token(caller: Caller, api: FakeApi) -> None:
    caller.send("GET", api.url())
    with FakeApi() as gone:
        url = gone.url()

    with pytest.raises(httpx.ConnectError) as raised:
        caller.send("GET", url)

    assert "authorization" not in raised.value.request.headers
    error: BaseException | None = raised.value
    while error:
        assert "canary-token" not in repr([error, error.args, vars(error)])
        error = error.__context__
    assert "canary-token" not in "".join(traceback.format_exception(raised.value))


def test_transport_by_itself_takes_requests_and_closes_the_one_that_it_wraps(
    caller: Caller, api: FakeApi
) -> None:
    closed: list[str] = []

    class Below(httpx.HTTPTransport):
        def close(self) -> None:
            closed.append("sync")
            super().close()

    class AsyncBelow(httpx.AsyncHTTPTransport):
        async def aclose(self) -> None:
            closed.append("async")
            await super().aclose()

    request = httpx.Request("GET", api.url(), extensions={"timeout": {"connect": 10, "read": 10}})

    async def send() -> httpx.Response:
        async with AsyncBrokerTransport(caller.client, AsyncBelow(), hosts=["localhost"]) as transport:
            answer = await transport.handle_async_request(request)
            await answer.aread()
            return answer

    if caller.kind == "async":
        answer = asyncio.run(send())
    else:
        with BrokerTransport(caller.client, Below(), hosts=["localhost"]) as transport:
            answer = transport.handle_request(request)
            answer.read()

    assert answer.raise_for_status().request is request
    assert "authorization" not in request.headers
    assert closed == [caller.kind]


def test_default_transports_send_to_digishare_alone(
    caller: Caller, api: FakeApi, digishare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(digishare))  # httpx's own way to other roots
    request = httpx.Request("GET", f"https://api.digishare.ma:{api.port}/")

    async def send() -> None:
        async with AsyncBrokerTransport(caller.client) as transport:
            await (await transport.handle_async_request(request)).aread()

    if caller.kind == "async":
        asyncio.run(send())
    else:
        with BrokerTransport(caller.client) as transport:
            transport.handle_request(request).read()
    assert bearers(api) == [FIRST]


# --- async: the event loop never waits ----------------------------------------------------------------------------


def new_http(client: BrokerClient, below: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    transport = AsyncBrokerTransport(client, below, hosts=["localhost"])
    return httpx.AsyncClient(mounts={"all://": transport}, trust_env=False, timeout=10.0)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - it happens in another thread
            await asyncio.sleep(0.01)


def asking_threads() -> int:
    return sum(thread.name == "token-broker: lease" for thread in threading.enumerate())


def test_event_loop_and_the_programs_other_threads_run_on_while_many_wait_for_the_broker(
    new_client: NewClient, api: FakeApi, broker: FakeBroker
) -> None:
    broker.may_answer.clear()

    async def run() -> list[int]:
        async with new_http(new_client()) as http:
            waiting = [asyncio.create_task(http.get(api.url())) for _ in range(MANY)]
            await until(broker.was_asked.is_set)
            with anyio.fail_after(5):
                assert await anyio.to_thread.run_sync(lambda: "done") == "done"
            assert asking_threads() == 1
            broker.may_answer.set()
            return [answer.status_code for answer in await asyncio.gather(*waiting)]

    assert asyncio.run(run()) == [200] * MANY
    assert len(broker.calls) == 1


def test_many_that_wait_for_a_broker_that_fails_are_told_by_its_first_answer(
    new_client: NewClient, api: FakeApi, broker: FakeBroker
) -> None:
    broker.may_answer.clear()
    broker.script.append(failure(502, "upstream_rejected"))  # who asks again gets a token

    async def run() -> list[Any]:
        async with new_http(new_client()) as http:
            waiting = [asyncio.create_task(http.get(api.url())) for _ in range(MANY)]
            await until(broker.was_asked.is_set)
            await asyncio.sleep(0.1)
            broker.may_answer.set()
            return await asyncio.gather(*waiting, return_exceptions=True)

    errors = asyncio.run(run())
    assert [type(error) for error in errors] == [UpstreamRejected] * MANY
    assert len({id(error) for error in errors}) == MANY  # a raise writes a traceback into each
    assert len(broker.calls) == 1


def test_many_that_are_refused_together_make_one_report(
    new_client: NewClient, api: FakeApi, broker: FakeBroker
) -> None:
    async def run() -> list[int]:
        async with new_http(new_client()) as http:
            await http.get(api.url())
            api.refused = {FIRST}
            answers = await asyncio.gather(*(http.get(api.url()) for _ in range(MANY)))
            return [answer.status_code for answer in answers]

    assert asyncio.run(run()) == [200] * MANY
    assert len(broker.calls) == 2


def test_lease_in_memory_needs_no_thread(
    new_client: NewClient, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with new_http(new_client()) as http:
            await http.get(api.url())
            monkeypatch.setattr(httpx_transport, "in_background", None)
            assert (await http.get(api.url())).status_code == 200

    asyncio.run(run())


def test_cancelled_request_ends_at_once_and_the_others_get_what_its_thread_brings(
    new_client: NewClient, api: FakeApi, broker: FakeBroker
) -> None:
    broker.may_answer.clear()

    async def run() -> None:
        async with new_http(new_client()) as http:
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

    asyncio.run(run())
    assert len(broker.calls) == 1


def test_requests_that_give_up_one_after_the_other_leave_one_thread_behind(
    new_client: NewClient, api: FakeApi, broker: FakeBroker
) -> None:
    broker.may_answer.clear()

    async def run() -> None:
        async with new_http(new_client()) as http:
            for _ in range(MANY):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(http.get(api.url()), 0.01)
            assert asking_threads() == 1
            broker.may_answer.set()
            assert (await http.get(api.url())).status_code == 200

    asyncio.run(run())
    assert len(broker.calls) == 1


def test_request_that_is_cancelled_while_its_token_is_reported_closes_the_401(
    new_client: NewClient, api: FakeApi, broker: FakeBroker
) -> None:
    below = AsyncLeavesOpen()

    async def run() -> None:
        async with new_http(new_client(), below) as http:
            await http.get(api.url())
            api.refused, api.dripping_401 = {FIRST}, True
            broker.may_answer.clear()
            broker.was_asked.clear()
            refused = asyncio.create_task(http.get(api.url()))
            await until(broker.was_asked.is_set)
            refused.cancel()
            with pytest.raises(asyncio.CancelledError):
                await refused
            assert below.answers[-1].is_closed
            broker.may_answer.set()
            assert (await http.get(api.url())).status_code == 200  # the report went on

    asyncio.run(run())
    assert api.hung_up.wait(10)
    assert len(broker.calls) == 2


# --- async: several event loops -----------------------------------------------------------------------------------


class OnePerRequest(httpx.AsyncBaseTransport):
    """Belongs to no event loop: connections do, and are not reused."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        once = httpx.AsyncHTTPTransport(verify=False, limits=httpx.Limits(max_keepalive_connections=0))
        return await once.handle_async_request(request)


async def get_with(transport: AsyncBrokerTransport, url: str) -> int:
    async with asyncio.timeout(10):
        answer = await transport.handle_async_request(httpx.Request("GET", url))
        await answer.aread()
        await answer.aclose()
    return answer.status_code


async def give_up(transport: AsyncBrokerTransport, url: str) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(get_with(transport, url), 0.2)


def test_event_loops_at_the_same_time_wait_for_the_same_thread(
    new_client: NewClient, api: FakeApi, broker: FakeBroker
) -> None:
    transport = AsyncBrokerTransport(new_client(), OnePerRequest(), hosts=["localhost"])
    broker.may_answer.clear()
    statuses: list[int] = []

    async def get_some() -> None:
        statuses.extend(await asyncio.gather(*(get_with(transport, api.url()) for _ in range(5))))

    loops = [threading.Thread(target=lambda: asyncio.run(get_some()), daemon=True) for _ in range(4)]
    for loop in loops:
        loop.start()
    assert broker.was_asked.wait(10)
    # One more, that ends before there is an answer.
    asyncio.run(give_up(transport, api.url()))
    assert asking_threads() == 1
    broker.may_answer.set()
    for loop in loops:
        loop.join(10)
    assert statuses == [200] * 20
    assert len(broker.calls) == 1


def test_thread_that_outlives_its_event_loop_serves_the_next_one(
    new_client: NewClient, api: FakeApi, broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    transport = AsyncBrokerTransport(new_client(), OnePerRequest(), hosts=["localhost"])
    broker.may_answer.clear()
    asyncio.run(give_up(transport, api.url()))
    asyncio.run(give_up(transport, api.url()))
    broker.may_answer.set()

    assert asyncio.run(get_with(transport, api.url())) == 200
    assert len(broker.calls) == 1
    assert not caplog.records


@pytest.mark.parametrize("form", ["asyncio's own", "like trio's"])
def test_every_form_of_event_loop_is_told(
    form: str, new_client: NewClient, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def token() -> object:
        loop = asyncio.get_running_loop()  # as anyio gives it before 4.11
        return loop if form == "asyncio's own" else SimpleNamespace(run_sync_soon=loop.call_soon_threadsafe)

    monkeypatch.setattr(httpx_transport, "current_token", token)
    transport = AsyncBrokerTransport(new_client(), OnePerRequest(), hosts=["localhost"])

    assert asyncio.run(get_with(transport, api.url())) == 200


# --- async: what else can go wrong with threads -------------------------------------------------------------------


def test_where_no_thread_can_be_had_the_request_fails_and_the_next_one_works(
    new_client: NewClient, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    transport = AsyncBrokerTransport(new_client(), OnePerRequest(), hosts=["localhost"])
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            asyncio.run(get_with(transport, api.url()))

    assert asyncio.run(get_with(transport, api.url())) == 200


def test_fault_in_the_thread_reaches_the_request(
    new_client: NewClient, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = new_client()
    transport = AsyncBrokerTransport(client, OnePerRequest(), hosts=["localhost"])
    with monkeypatch.context() as patch:
        patch.setattr(client, "token", lambda: sys.exit("a fault"))
        with pytest.raises(SystemExit, match="a fault"):
            asyncio.run(get_with(transport, api.url()))

    assert asyncio.run(get_with(transport, api.url())) == 200


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_child_does_not_wait_for_a_thread_of_its_parent(
    new_client: NewClient, api: FakeApi, broker: FakeBroker
) -> None:
    transport = AsyncBrokerTransport(new_client(), OnePerRequest(), hosts=["localhost"])
    broker.may_answer.clear()
    asyncio.run(give_up(transport, api.url()))
    child = os.fork()
    if child == 0:
        with ExitStack() as end:
            end.callback(os._exit, 1)
            if asyncio.run(get_with(transport, api.url())) == 200:
                os._exit(0)
    assert broker.was_asked.wait(10)
    deadline_s = time.monotonic() + 10
    while len(broker.calls) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    broker.may_answer.set()
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline_s:
            os.kill(child, 9)
            deadline_s = float("inf")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(done[1]) == 0


def test_program_that_ends_does_not_wait_for_a_silent_broker(
    broker: FakeBroker, api: FakeApi, tmp_path: Path
) -> None:
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
    done = subprocess.run(  # noqa: S603 - the program above
        [sys.executable, "-c", program],
        env={**broker.environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "gave up\n", "")
    assert broker.was_asked.is_set()
