"""What is sent with the token, to whom, and what happens after a 401: the same with `requests` and `httpx`."""

from __future__ import annotations

import io
import logging
from itertools import product
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.client.conftest import everything_of
from tests.client.fake_api import URLS_ELSEWHERE, FakeApi
from tests.client.fake_broker import FIRST, SECOND, failure, token_id
from tests.client.http_callers import KINDS, Caller
from token_broker.background import in_background
from token_broker.errors import BrokerUnreachable, UpstreamRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.client.fake_broker import FakeBroker
    from token_broker.client import BrokerClient


@pytest.fixture(params=KINDS)
def caller(request: pytest.FixtureRequest, client: BrokerClient) -> Iterator[Caller]:
    caller = KINDS[request.param](client)
    with caller.end:
        yield caller


@pytest.fixture
def to_digishare(caller: Caller, digishare: Path, monkeypatch: pytest.MonkeyPatch) -> Caller:
    """A caller whose adapter has its default hosts. Every host name leads to `api`, over TLS."""
    monkeypatch.setenv("SSL_CERT_FILE", str(digishare))
    caller.hosts = None
    return caller


# --- to whom ------------------------------------------------------------------------------------------------------


def test_token_is_sent_to_its_host_instead_of_any_other_authorization(caller: Caller, api: FakeApi) -> None:
    assert caller.send("GET", api.url()).status_code == 200
    caller.send("GET", api.url(), auth=("a", "b"))
    caller.send("GET", api.url(), headers={"authorization": "Bearer of-another"})
    caller.send("GET", api.url(host="a:b@localhost"))

    assert api.bearers == [FIRST] * 4


def test_other_host_gets_the_request_as_it_is(caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    for headers in ({}, {"Authorization": "Bearer of-another"}):
        caller.send("GET", api.url(host="127.0.0.1"), headers=headers)

    assert api.bearers == [None, "of-another"]
    assert not broker.calls


@pytest.mark.parametrize("template", URLS_ELSEWHERE)
def test_host_that_looks_like_digishares_does_not_see_the_token(
    template: str, to_digishare: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    to_digishare.send("GET", template.format(port=api.port))

    assert [seen.host.split(":")[0].endswith("example.com") for seen in api.seen] == [True]
    assert FIRST not in repr(api.seen)
    assert not broker.calls


@pytest.mark.parametrize("host", ["api.digishare.ma", "API.Digishare.ma"])
def test_digishares_api_gets_the_token_over_tls(host: str, to_digishare: Caller, api: FakeApi) -> None:
    to_digishare.send("GET", f"https://{host}:{api.port}/")

    assert api.bearers == [FIRST]


def test_digishares_api_gets_no_token_in_clear(caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    caller.hosts, caller.proxy = None, api.url("", host="127.0.0.1")  # a proxy sees plain HTTP to any host

    caller.send("GET", "http://api.digishare.ma/v1")

    assert [(seen.host, seen.bearer) for seen in api.seen] == [("api.digishare.ma", None)]
    assert not broker.calls


@pytest.mark.parametrize(
    "host", ["https://api.digishare.ma", "api.digishare.ma:443", "api.digishare.ma/v1", ""]
)
def test_host_that_could_never_match_is_refused(host: str, caller: Caller) -> None:
    caller.hosts = (host,)
    with pytest.raises(ValueError, match="is not a host name"):
        caller.send("GET", "http://127.0.0.1:9")


# --- after a 401 --------------------------------------------------------------------------------------------------

REPEATABLE = [{}, {"content": b"bytes"}, {"content": "text"}, {"data": {"form": "field"}}, {"json": {"a": 1}}]
REPEATABLE_BY_REQUESTS = [{"content": bytearray(b"bytes")}, {"files": {"part": ("name", b"content")}}]


@pytest.mark.parametrize(
    ("caller", "body"),
    [*product(KINDS, REPEATABLE), *product(["requests"], REPEATABLE_BY_REQUESTS)],
    indirect=["caller"],
    ids=str,
)
def test_401_is_reported_and_the_request_repeated_once(
    body: dict[str, Any], caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    api.refused = {FIRST}

    answer = caller.send("POST", api.url(), **body)

    assert (answer.status_code, answer.json()) == (200, {"status": 200})
    assert api.bearers == [FIRST, SECOND]
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
    assert api.bearers == [FIRST, SECOND]
    # The next request starts with the token that the broker has then.
    assert caller.send("GET", api.url()).status_code == 200
    assert len(broker.calls) == 3


def test_no_request_is_repeated_with_the_same_token(caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    api.refused = {FIRST}
    broker.replaces_rejected = False

    answer = caller.send("GET", api.url())

    assert (answer.status_code, answer.json()) == (401, {"status": 401})
    assert api.bearers == [FIRST]


def test_403_is_returned_and_not_reported(caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    assert caller.send("GET", api.url("/forbidden")).status_code == 403
    assert (len(api.seen), len(broker.calls)) == (1, 1)


def test_401_is_reported_although_a_hook_raises(caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    caller.hook = lambda answer: answer.raise_for_status()
    api.refused = {FIRST}

    assert caller.send("GET", api.url()).status_code == 200
    api.refused = {SECOND}
    with pytest.raises(caller.status_error):
        caller.send("POST", api.url(), content=caller.pieces())
    assert caller.send("POST", api.url(), content=caller.pieces()).status_code == 200
    assert len(broker.calls) == 3


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}, {"Retry-After": "600"}], ids=str)
def test_dropped_401_is_closed_and_not_read(headers: dict[str, str], caller: Caller, api: FakeApi) -> None:
    api.refused, api.dripping_401, api.error_headers = {FIRST}, True, headers
    caller.has_one_connection = True  # which the 401 has to give back first

    # In a thread, because `requests` would wait for a connection for ever.
    sent = in_background("request", lambda: caller.send("GET", api.url()))
    assert sent.result(25).status_code == 200
    assert api.hung_up.wait(10)


def test_brokers_error_about_the_rejected_token_is_raised_and_the_401_closed(
    caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    caller.send("GET", api.url())
    api.refused, api.dripping_401 = {FIRST}, True
    broker.script.append(failure(502, "upstream_rejected"))

    with pytest.raises(UpstreamRejected) as raised:
        caller.send("GET", api.url())
    assert api.hung_up.wait(10), raised  # while the error, and with it all that it refers to, is there


def test_no_request_is_sent_where_there_is_no_token(caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    broker.script.append(failure(502, "upstream_rejected"))

    with pytest.raises(UpstreamRejected):
        caller.send("GET", api.url())
    assert not api.seen


# --- bodies that cannot be sent again -----------------------------------------------------------------------------


class SeekRaises(io.BytesIO):
    def __len__(self) -> int:  # so that `requests` does not seek for it
        return len(self.getvalue())

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise KeyError("anything")


class SeekDoesNothing(SeekRaises):
    def seek(self, offset: int, whence: int = 0, /) -> int:
        return offset


UNREPEATABLE: dict[str, tuple[list[str], Callable[[Caller], dict[str, Any]]]] = {
    "generator": ([*KINDS], lambda caller: {"content": caller.pieces()}),
    "multipart": (["httpx", "httpx async"], lambda _: {"files": {"part": ("name", io.BytesIO(b"ab"))}}),
    "file": (["httpx"], lambda _: {"content": io.BytesIO(b"ab")}),
    "seek raises": (["requests"], lambda _: {"content": SeekRaises(b"ab")}),
    "seek does nothing": (["requests"], lambda _: {"content": SeekDoesNothing(b"ab")}),
}


@pytest.mark.parametrize(
    ("caller", "name"),
    [(kind, name) for name, (kinds, _) in UNREPEATABLE.items() for kind in kinds],
    indirect=["caller"],
)
def test_401_is_reported_and_returned_readable_where_the_body_cannot_be_sent_again(
    name: str, caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    new_body = UNREPEATABLE[name][1]
    api.refused = {FIRST}

    answer = caller.send("POST", api.url(), **new_body(caller))

    assert (answer.status_code, answer.json()) == (401, {"status": 401})
    assert [b"ab" in seen.body for seen in api.seen] == [True]
    assert broker.calls[-1].body["rejected_token_id"] == token_id(FIRST)
    assert caller.send("POST", api.url(), **new_body(caller)).status_code == 200


def test_401_that_cannot_be_repeated_is_returned_within_the_clients_budget_although_the_broker_is_silent(
    caller: Caller, api: FakeApi, broker: FakeBroker
) -> None:
    caller.send("GET", api.url())
    api.refused = {FIRST}
    broker.may_answer.clear()
    caller.client._time_budget_s = 0.2
    with pytest.raises(BrokerUnreachable):
        caller.send("POST", api.url(), content=b"ab")
    answer = caller.send("POST", api.url(), content=caller.pieces())

    assert (answer.status_code, answer.json()) == (401, {"status": 401})
    broker.may_answer.set()
    caller.client._time_budget_s = 10
    assert caller.send("POST", api.url(), content=b"ab").status_code == 200


# --- redirects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 307])
def test_redirected_host_sees_no_token(status: int, caller: Caller, api: FakeApi, broker: FakeBroker) -> None:
    elsewhere = quote(api.url(host="127.0.0.1"), safe="")

    assert caller.send("POST", api.url(f"/redirect/{status}/{elsewhere}"), content=b"x").status_code == 401
    assert api.bearers == [FIRST, None]
    assert len(broker.calls) == 1  # that 401 says nothing about the token


def test_redirect_on_the_same_host_has_token_and_body_and_shows_the_token_to_nobody(
    caller: Caller, api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")  # the functions pin it, and their tests run here, too
    api.refused = {FIRST}
    requests: list[Any] = []
    caller.hook = lambda answer: requests.append(answer.request)

    answer = caller.send("POST", api.url("/redirect/307/%2Fthings"), content=b"x")

    assert answer.status_code == 200
    assert api.bearers == [FIRST, FIRST, SECOND]
    assert [seen.body for seen in api.seen] == [b"x"] * 3
    assert [each.request for each in (*answer.history, answer)] == requests
    shown = repr([vars(each) for each in (*requests, *answer.history, answer)])
    assert "authorization" not in shown.lower()
    assert caplog.records
    assert "canary-token" not in shown + caplog.text


def test_error_of_the_connection_does_not_show_the_token(caller: Caller, api: FakeApi) -> None:
    caller.send("GET", api.url())
    with FakeApi() as gone:
        url = gone.url()

    with pytest.raises(caller.connect_error) as raised:
        caller.send("GET", url)

    assert "authorization" not in raised.value.request.headers  # type: ignore[attr-defined] # both have one
    assert "canary-token" not in everything_of(raised.value)
