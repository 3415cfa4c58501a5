"""What `httpx` sends, to whom, and what happens after a 401; sync and async."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest

from tests.client.fake_broker import failure, token_id
from token_broker.errors import UpstreamRejected
from token_broker.httpx_auth import BrokerAuth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.client.fake_api import FakeApi
    from tests.client.fake_broker import FakeBroker
    from token_broker.client import BrokerClient

    Send = Callable[..., httpx.Response]

FIRST, SECOND = "canary-token-1", "canary-token-2"


@pytest.fixture
def auth(new_client: Callable[..., BrokerClient]) -> BrokerAuth:
    return BrokerAuth(new_client(), hosts=["localhost"])


@pytest.fixture(params=["sync", "async"])
def send(request: pytest.FixtureRequest, auth: BrokerAuth) -> Send:
    """Send one request with a client of either kind."""
    settings = {"auth": auth, "trust_env": False, "follow_redirects": True, "timeout": 10.0}

    async def send_async(method: str, url: str, **given: object) -> httpx.Response:
        async with httpx.AsyncClient(**settings) as client:  # type: ignore[arg-type] # the same for both kinds
            return await client.request(method, url, **given)  # type: ignore[arg-type] # any setting

    def send_sync(method: str, url: str, **given: object) -> httpx.Response:
        with httpx.Client(**settings) as client:  # type: ignore[arg-type] # the same for both kinds
            return client.request(method, url, **given)  # type: ignore[arg-type] # any setting

    if request.param == "sync":
        return send_sync
    return lambda *given, **more: asyncio.run(send_async(*given, **more))


def bearers(api: FakeApi) -> list[str | None]:
    return [seen.bearer for seen in api.seen]


def test_token_is_sent_to_its_host(send: Send, api: FakeApi) -> None:
    assert send("GET", api.url()).status_code == 200
    assert bearers(api) == [FIRST]


def test_no_other_host_sees_the_token(send: Send, api: FakeApi, broker: FakeBroker) -> None:
    assert send("GET", api.url(host="127.0.0.1")).status_code == 401
    assert bearers(api) == [None]
    assert not broker.calls


@pytest.mark.parametrize(
    "body", [{}, {"content": b"bytes"}, {"json": {"a": 1}}, {"data": {"a": "1"}}], ids=str
)
def test_401_is_reported_and_the_request_repeated_once(
    body: dict[str, object], send: Send, api: FakeApi, broker: FakeBroker
) -> None:
    api.refused = {FIRST}

    answer = send("POST", api.url(), **body)

    assert answer.status_code == 200
    assert [refused.status_code for refused in answer.history] == [401]
    assert bearers(api) == [FIRST, SECOND]
    assert api.seen[0].body == api.seen[1].body
    assert broker.calls[1].body["rejected_token_id"] == token_id(FIRST)
    assert api.connections == 1  # the first answer was read to its end


def test_second_401_is_returned(send: Send, api: FakeApi) -> None:
    api.refused = {FIRST, SECOND}

    assert send("GET", api.url()).status_code == 401
    assert len(api.seen) == 2


def test_request_is_not_repeated_with_the_same_token(send: Send, api: FakeApi, broker: FakeBroker) -> None:
    api.refused = {FIRST}
    broker.replaces_rejected = False

    assert send("GET", api.url()).status_code == 401
    assert bearers(api) == [FIRST]


def test_403_is_left_alone(send: Send, api: FakeApi, broker: FakeBroker) -> None:
    assert send("GET", api.url("/forbidden")).status_code == 403
    assert (len(api.seen), len(broker.calls)) == (1, 1)


def test_generator_cannot_be_sent_again_so_the_401_is_returned_and_the_next_request_works(
    send: Send, api: FakeApi, request: pytest.FixtureRequest
) -> None:
    async def async_pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"b"):
            yield piece

    def pieces() -> Iterator[bytes] | AsyncIterator[bytes]:
        return async_pieces() if request.node.callspec.id == "async" else iter([b"a", b"b"])

    api.refused = {FIRST}

    assert send("POST", api.url(), content=pieces()).status_code == 401
    assert [seen.body for seen in api.seen] == [b"ab"]
    assert send("POST", api.url(), content=pieces()).status_code == 200


def test_redirect_to_another_host_does_not_carry_the_token(
    send: Send, api: FakeApi, broker: FakeBroker
) -> None:
    elsewhere = quote(api.url(host="127.0.0.1"), safe="")

    assert send("POST", api.url(f"/redirect/307/{elsewhere}"), content=b"x").status_code == 401
    assert bearers(api) == [FIRST, None]
    assert len(broker.calls) == 1  # that 401 says nothing about the token


def test_redirect_on_the_same_host_carries_the_token_and_renews_it_after_a_401(
    send: Send, api: FakeApi
) -> None:
    api.refused = {FIRST}

    assert send("GET", api.url(f"/redirect/302/{quote('/things', safe='')}")).status_code == 200
    assert bearers(api) == [FIRST, FIRST, SECOND, SECOND]


def test_brokers_error_about_the_rejected_token_is_raised(
    send: Send, api: FakeApi, broker: FakeBroker
) -> None:
    send("GET", api.url())
    api.refused = {FIRST}
    broker.script.append(failure(502, "upstream_rejected"))

    with pytest.raises(UpstreamRejected):
        send("GET", api.url())


def test_event_loop_runs_on_while_the_broker_is_asked(
    new_client: Callable[..., BrokerClient], api: FakeApi, broker: FakeBroker
) -> None:
    auth = BrokerAuth(new_client(time_budget_s=3), hosts=["localhost"])
    broker.may_answer.clear()

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(auth=auth, trust_env=False, timeout=10.0) as client:
            asking = asyncio.create_task(client.get(api.url()))
            # Only a loop that still turns can let the broker answer.
            assert await asyncio.to_thread(broker.was_asked.wait, 10)
            broker.may_answer.set()
            return await asking

    assert asyncio.run(run()).status_code == 200


def test_cancelled_request_ends_at_once_and_the_lease_is_there_for_the_next(
    auth: BrokerAuth, api: FakeApi, broker: FakeBroker
) -> None:
    broker.may_answer.clear()

    async def run() -> None:
        async with httpx.AsyncClient(auth=auth, trust_env=False, timeout=10.0) as client:
            asking = asyncio.create_task(client.get(api.url()))
            assert await asyncio.to_thread(broker.was_asked.wait, 10)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert not broker.may_answer.is_set()
            broker.may_answer.set()
            assert (await client.get(api.url())).status_code == 200

    asyncio.run(run())
    assert len(broker.calls) == 1


def test_lease_in_memory_needs_no_thread(auth: BrokerAuth, api: FakeApi) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(auth=auth, trust_env=False, timeout=10.0) as client:
            await client.get(api.url())
            flow = auth.async_auth_flow(httpx.Request("GET", api.url()))
            # A flow that goes to a thread does not come back from its first step.
            with pytest.raises(StopIteration) as stepped:
                anext(flow).__await__().__next__()
            assert stepped.value.value.headers["Authorization"] == f"Bearer {FIRST}"
            await flow.aclose()

    asyncio.run(run())
