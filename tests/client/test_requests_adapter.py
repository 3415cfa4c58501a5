"""What `requests` sends through the adapter, to whom, and what happens after a 401."""

from __future__ import annotations

import copy
import io
import logging
import os
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests
import trustme
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tests.client.fake_api import URLS_ELSEWHERE, FakeApi
from tests.client.fake_broker import failure, token_id
from token_broker.errors import BrokerUnreachable, UpstreamRejected
from token_broker.requests_adapter import BrokerAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.client.fake_broker import FakeBroker
    from token_broker.client import BrokerClient

    NewClient = Callable[..., BrokerClient]

TIMEOUT_S = 10.0
FIRST, SECOND = "canary-token-1", "canary-token-2"


@pytest.fixture
def adapter(new_client: NewClient) -> BrokerAdapter:
    return BrokerAdapter(new_client(), hosts=["localhost"])


@pytest.fixture
def session(adapter: BrokerAdapter) -> Iterator[requests.Session]:
    with new_session(adapter) as session:
        yield session


def new_session(adapter: HTTPAdapter, prefix: str = "http://") -> requests.Session:
    """Return a session that sends what starts with `prefix` through the adapter: by default every host's."""
    session = requests.Session()
    session.trust_env = False
    session.mount(prefix, adapter)
    return session


def bearers(api: FakeApi) -> list[str | None]:
    return [seen.bearer for seen in api.seen]


def in_time(call: Callable[[], requests.Response]) -> requests.Response:
    """Return what a call returns; it fails where it takes longer than 10 s, instead of waiting for ever."""
    answers: list[requests.Response] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(10)
    assert answers, "no answer in time"
    return answers[0]


# --- to whom ------------------------------------------------------------------------------------------------------


def test_token_is_sent_to_its_host(session: requests.Session, api: FakeApi) -> None:
    assert session.get(api.url(), timeout=TIMEOUT_S).status_code == 200
    assert bearers(api) == [FIRST]


def test_other_host_gets_the_request_as_it_is(
    session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    for headers in ({}, {"Authorization": "Bearer of-another"}):
        session.get(api.url(host="127.0.0.1"), headers=headers, timeout=TIMEOUT_S)

    assert bearers(api) == [None, "of-another"]
    assert not broker.calls


@pytest.mark.parametrize("template", URLS_ELSEWHERE)
def test_host_that_looks_like_digishares_does_not_see_the_token(
    template: str, api: FakeApi, digishare: Path, new_client: NewClient, broker: FakeBroker
) -> None:
    url = template.format(port=api.port)
    for prefix in ("https://api.digishare.ma", "https://"):  # the first lacks its last slash
        with new_session(BrokerAdapter(new_client()), prefix) as session:
            session.get(url, verify=str(digishare), timeout=TIMEOUT_S)
    hand_made = requests.Request("GET", url).prepare()
    hand_made.url = url  # as it stands, before `requests` had a look at it
    with new_session(BrokerAdapter(new_client()), "https://") as session:
        session.send(hand_made, verify=str(digishare), timeout=TIMEOUT_S)

    assert [seen.host.split(":")[0].endswith("example.com") for seen in api.seen] == [True] * 3
    assert FIRST not in repr(api.seen)
    assert not broker.calls


@pytest.mark.parametrize("host", ["api.digishare.ma", "API.Digishare.ma"])
def test_digishares_api_gets_the_token_over_tls(
    host: str, api: FakeApi, digishare: Path, new_client: NewClient
) -> None:
    with new_session(BrokerAdapter(new_client()), "https://api.digishare.ma") as session:
        session.get(f"https://{host}:{api.port}/", verify=str(digishare), timeout=TIMEOUT_S)

    assert bearers(api) == [FIRST]


def test_digishares_api_does_not_get_the_token_in_clear(
    api: FakeApi, new_client: NewClient, monkeypatch: pytest.MonkeyPatch, broker: FakeBroker
) -> None:
    # A proxy sees plain HTTP to any host.
    proxies = {"http": api.url("", host="127.0.0.1")}
    with new_session(BrokerAdapter(new_client()), "http://") as session:
        session.get("http://api.digishare.ma/v1", proxies=proxies, timeout=TIMEOUT_S)

    assert [(seen.host, seen.bearer) for seen in api.seen] == [("api.digishare.ma", None)]
    assert not broker.calls


@pytest.mark.parametrize(
    "host", ["https://api.digishare.ma", "api.digishare.ma:443", "api.digishare.ma/v1", ""]
)
def test_host_that_could_never_match_is_refused(host: str, new_client: NewClient) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        BrokerAdapter(new_client(), hosts=[host])


def test_token_takes_the_place_of_every_other_authorization(
    session: requests.Session, api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine localhost login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    session.trust_env = True
    session.get(api.url(), timeout=TIMEOUT_S)
    session.trust_env = False
    session.get(api.url(), auth=("a", "b"), timeout=TIMEOUT_S)
    session.get(api.url(), headers={"authorization": "Bearer of-another"}, timeout=TIMEOUT_S)
    session.get(api.url(host="a:b@localhost"), timeout=TIMEOUT_S)

    assert bearers(api) == [FIRST] * 4


# --- after a 401 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": b"bytes"},
        {"data": "text"},
        {"data": bytearray(b"bytes")},
        {"data": {"form": "field"}},
        {"json": {"a": 1}},
        {"files": {"part": ("name", b"content")}},
    ],
    ids=str,
)
def test_401_is_reported_and_the_request_repeated_once(
    body: dict[str, Any], session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    api.refused = {FIRST}

    answer = session.post(api.url(), **body, timeout=TIMEOUT_S)

    assert (answer.status_code, answer.json()) == (200, {"status": 200})
    assert bearers(api) == [FIRST, SECOND]
    assert api.seen[0].body == api.seen[1].body
    assert bool(api.seen[0].body) == bool(body)
    assert [call.body.get("rejected_token_id") for call in broker.calls] == [None, token_id(FIRST)]


def test_head_and_streamed_answers_are_repeated_too(session: requests.Session, api: FakeApi) -> None:
    api.refused = {FIRST}

    assert session.head(api.url(), timeout=TIMEOUT_S).status_code == 200
    api.refused = {FIRST, SECOND}
    with session.get(api.url(), stream=True, timeout=TIMEOUT_S) as answer:
        assert answer.status_code == 200
        assert b"".join(answer.iter_content(3)) == b'{"status":200}'
    assert bearers(api) == [FIRST, SECOND, SECOND, "canary-token-3"]


def test_second_401_is_returned(session: requests.Session, api: FakeApi, broker: FakeBroker) -> None:
    api.refused = {FIRST, SECOND}

    answer = session.get(api.url(), timeout=TIMEOUT_S)

    assert (answer.status_code, answer.json()) == (401, {"status": 401})
    assert bearers(api) == [FIRST, SECOND]
    # The next request starts with what the broker has by then.
    assert session.get(api.url(), timeout=TIMEOUT_S).status_code == 200
    assert len(broker.calls) == 3


def test_request_is_not_repeated_with_the_same_token(
    session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    api.refused = {FIRST}
    broker.replaces_rejected = False

    answer = session.get(api.url(), timeout=TIMEOUT_S)

    assert (answer.status_code, answer.json()) == (401, {"status": 401})
    assert bearers(api) == [FIRST]


def test_403_is_left_alone(session: requests.Session, api: FakeApi, broker: FakeBroker) -> None:
    assert session.get(api.url("/forbidden"), timeout=TIMEOUT_S).status_code == 403
    assert (len(api.seen), len(broker.calls)) == (1, 1)


def test_401_is_reported_although_a_hook_raises_on_it(
    session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    session.hooks["response"].append(lambda answer, **_settings: answer.raise_for_status())
    api.refused = {FIRST}

    assert session.get(api.url(), timeout=TIMEOUT_S).status_code == 200
    api.refused = {SECOND}
    with pytest.raises(requests.HTTPError):
        session.post(api.url(), data=iter([b"a"]), timeout=TIMEOUT_S)
    assert session.post(api.url(), data=iter([b"a"]), timeout=TIMEOUT_S).status_code == 200
    assert len(broker.calls) == 3


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}, {"Retry-After": "600"}], ids=str)
def test_401_that_is_dropped_is_closed_and_not_read(
    headers: dict[str, str], new_client: NewClient, api: FakeApi
) -> None:
    api.refused, api.dripping_401, api.error_headers = {FIRST}, True, headers
    # With one connection only, the 401 has to give it back first.
    adapter = BrokerAdapter(new_client(), hosts=["localhost"], pool_maxsize=1, pool_block=True)

    with new_session(adapter) as session:
        assert in_time(lambda: session.get(api.url(), timeout=TIMEOUT_S)).status_code == 200
    assert api.hung_up.wait(10)


def test_brokers_error_about_the_rejected_token_is_raised_and_the_401_closed(
    session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    session.get(api.url(), timeout=TIMEOUT_S)
    api.refused, api.dripping_401 = {FIRST}, True
    broker.script.append(failure(502, "upstream_rejected"))

    with pytest.raises(UpstreamRejected) as raised:
        session.get(api.url(), timeout=TIMEOUT_S)
    assert api.hung_up.wait(10), raised  # while the error, and with it all that it refers to, is there


def test_no_request_is_sent_where_there_is_no_token(
    session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    broker.script.append(failure(502, "upstream_rejected"))

    with pytest.raises(UpstreamRejected):
        session.get(api.url(), timeout=TIMEOUT_S)
    assert not api.seen


def test_many_threads_that_are_refused_together_make_one_report(
    session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    session.get(api.url(), timeout=TIMEOUT_S)
    api.refused = {FIRST}
    together = threading.Barrier(16)

    def get(_number: int) -> int:
        together.wait(10)
        return session.get(api.url(), timeout=TIMEOUT_S).status_code

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(get, range(16))) == [200] * 16
    assert len(broker.calls) == 2


# --- bodies -------------------------------------------------------------------------------------------------------


def test_file_is_sent_again_from_where_it_started(session: requests.Session, api: FakeApi) -> None:
    api.refused = {FIRST}
    file = io.BytesIO(b"skipped,sent")
    file.seek(8)

    assert session.post(api.url(), data=file, timeout=TIMEOUT_S).status_code == 200
    assert [seen.body for seen in api.seen] == [b"sent", b"sent"]


class ClosesItself(io.BytesIO):
    """Cannot be asked anything any more once it has been read."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.closed:
            return b""
        content = super().read(size)
        if self.tell() == len(self.getvalue()):
            self.close()
        return content


class SeekRaises(io.BytesIO):
    def __len__(self) -> int:  # so that `requests` does not seek for it
        return len(self.getvalue())

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise KeyError("anything")


class SeekDoesNothing(SeekRaises):
    def seek(self, offset: int, whence: int = 0, /) -> int:
        return offset


class OnlyIterable:
    """As some upload libraries have it: it does not say where it is."""

    def __init__(self) -> None:
        self._rest = [b"ab"]

    def __iter__(self) -> Iterator[bytes]:
        while self._rest:
            yield self._rest.pop()


@pytest.mark.parametrize(
    "new_body",
    [
        lambda: iter([b"a", b"b"]),
        lambda: ClosesItself(b"ab"),
        lambda: SeekRaises(b"ab"),
        lambda: SeekDoesNothing(b"ab"),
        OnlyIterable,
    ],
    ids=["generator", "closes itself", "seek raises", "seek does nothing", "iterable"],
)
def test_401_is_reported_and_returned_readable_where_the_body_cannot_be_sent_again(
    new_body: Callable[[], Any], session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    api.refused = {FIRST}

    answer = session.post(api.url(), data=new_body(), timeout=TIMEOUT_S)

    assert (answer.status_code, answer.json()) == (401, {"status": 401})
    assert [seen.body for seen in api.seen] == [b"ab"]
    assert broker.calls[-1].body["rejected_token_id"] == token_id(FIRST)
    assert session.post(api.url(), data=new_body(), timeout=TIMEOUT_S).status_code == 200


def test_pipe_cannot_be_sent_again(session: requests.Session, api: FakeApi) -> None:
    api.refused = {FIRST}
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)

    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
        assert session.post(api.url(), data=pipe, timeout=TIMEOUT_S).status_code == 401
    assert len(api.seen) == 1


def test_401_that_cannot_be_repeated_is_returned_within_the_clients_budget_although_the_broker_is_silent(
    new_client: NewClient, api: FakeApi, broker: FakeBroker
) -> None:
    with new_session(BrokerAdapter(new_client(time_budget_s=1), hosts=["localhost"])) as session:
        session.get(api.url(), timeout=TIMEOUT_S)
        api.refused = {FIRST}
        broker.may_answer.clear()
        with pytest.raises(BrokerUnreachable):
            session.post(api.url(), data=b"ab", timeout=TIMEOUT_S)
        answer = in_time(lambda: session.post(api.url(), data=iter([b"ab"]), timeout=TIMEOUT_S))

        assert (answer.status_code, answer.json()) == (401, {"status": 401})
        broker.may_answer.set()
        assert session.post(api.url(), data=b"ab", timeout=TIMEOUT_S).status_code == 200


# --- below: what urllib3 repeats by itself ------------------------------------------------------------------------


class RetriesUnauthorizedLater(Retry):
    RETRY_AFTER_STATUS_CODES = frozenset({401, 503})


class RetriesAnything(Retry):
    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:  # noqa: FBT001, FBT002
        return status_code >= 400


class ForgetsItsClass(Retry):
    def increment(self, *given: Any, **more: Any) -> Retry:  # type: ignore[override] # that is what it is about
        super().increment(*given, **more)
        return Retry(3, status_forcelist=[401, 503])


RETRIES: dict[str, Callable[[], Retry | int | None]] = {
    "list": lambda: Retry(5, status_forcelist=[401, 503]),
    "tuple": lambda: Retry(5, status_forcelist=(401, 503)),
    "set": lambda: Retry(5, status_forcelist={401, 503}),
    "frozenset": lambda: Retry(5, status_forcelist=frozenset({401, 503})),
    "raises nothing": lambda: Retry(5, status_forcelist=[401, 503], raise_on_status=False),
    "a class that takes Retry-After of a 401": lambda: RetriesUnauthorizedLater(5, status_forcelist=None),
    "a class that judges by itself": lambda: RetriesAnything(5),
    "a class that forgets itself": lambda: ForgetsItsClass(5, status_forcelist=[401, 503]),
}


@pytest.mark.parametrize("new_retries", RETRIES.values(), ids=RETRIES.keys())
@pytest.mark.parametrize("how", ["given", "assigned", "changed"])
def test_401_is_not_urllib3s_to_repeat_but_the_rest_of_its_retries_is(
    how: str, new_retries: Callable[[], Retry], new_client: NewClient, api: FakeApi, broker: FakeBroker
) -> None:
    retries = new_retries()
    given = type(retries), dict(vars(retries))
    adapter = BrokerAdapter(
        new_client(), hosts=["localhost"], **({"max_retries": retries} if how == "given" else {})
    )
    if how == "assigned":
        adapter.max_retries = retries
    if how == "changed":
        adapter.max_retries = type(retries)(5)
        adapter.max_retries.status_forcelist = [401, 503]
    api.refused, api.error_headers = {FIRST}, {"Retry-After": "0"}
    api.first_statuses.extend([503])

    with new_session(adapter) as session:
        assert session.get(api.url(), timeout=TIMEOUT_S).status_code == 200
        assert bearers(api) == [FIRST, FIRST, SECOND]
        assert len(broker.calls) == 2
        # Nor is the second 401, which is the answer.
        api.refused = {SECOND, "canary-token-3"}
        assert session.get(api.url(), timeout=TIMEOUT_S).status_code == 401
        assert len(api.seen) == 5
    assert (type(retries), vars(retries)) == given  # other adapters may use it


@pytest.mark.parametrize("value", [0, 3, None, False])
def test_retries_may_be_a_number(value: int | None, adapter: BrokerAdapter, api: FakeApi) -> None:
    adapter.max_retries = value
    api.refused = {FIRST}

    with new_session(adapter) as session:
        assert session.get(api.url(), timeout=TIMEOUT_S).status_code == 200
    assert bearers(api) == [FIRST, SECOND]


def test_retries_that_leave_401_alone_already_are_taken_as_they_are(adapter: BrokerAdapter) -> None:
    retries = adapter.max_retries
    adapter.max_retries = retries

    assert adapter.max_retries is retries


# --- redirects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 307])
def test_redirect_to_another_host_does_not_carry_the_token(
    status: int, session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    elsewhere = quote(api.url(host="127.0.0.1"), safe="")
    session.post(api.url(f"/redirect/{status}/{elsewhere}"), data=b"x", timeout=TIMEOUT_S)
    session.mount(api.url("", host="127.0.0.1"), HTTPAdapter())  # where another adapter is in charge
    answer = session.post(api.url(f"/redirect/{status}/{elsewhere}"), data=b"x", timeout=TIMEOUT_S)

    assert answer.status_code == 401
    assert bearers(api) == [FIRST, None] * 2
    assert len(broker.calls) == 1  # those 401 say nothing about the token


def test_redirect_on_the_same_host_carries_token_and_body_and_renews_the_token_after_a_401(
    session: requests.Session, api: FakeApi
) -> None:
    api.refused = {FIRST}

    answer = session.post(api.url(f"/redirect/307/{quote('/things', safe='')}"), data=b"x", timeout=TIMEOUT_S)

    assert answer.status_code == 200
    assert bearers(api) == [FIRST, FIRST, SECOND]
    assert [seen.body for seen in api.seen] == [b"x"] * 3


def test_redirect_from_where_the_token_may_not_go_brings_it_where_it_may(
    new_client: NewClient, api: FakeApi, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with (
        FakeApi() as plain,
        new_session(BrokerAdapter(new_client(), hosts=["localhost"]), "https://") as session,
    ):
        api.speak_tls(authority.issue_cert("localhost"))
        target = quote(f"https://localhost:{api.port}/things", safe="")
        url = plain.url(f"/redirect/302/{target}")
        assert session.get(url, verify=str(tmp_path / "ca.pem"), timeout=TIMEOUT_S).status_code == 200

        assert (bearers(plain), bearers(api)) == ([None], [FIRST])


# --- what callers see of it ---------------------------------------------------------------------------------------


def test_callers_request_answer_and_log_do_not_show_the_token(
    session: requests.Session, adapter: BrokerAdapter, api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")  # the functions pin it, and their tests run here, too
    api.refused = {FIRST}
    request = session.prepare_request(requests.Request("POST", api.url("/redirect/307/%2Fthings"), data=b"x"))
    answer = session.send(request, timeout=TIMEOUT_S)

    assert answer.status_code == 200
    assert bearers(api) == [FIRST, FIRST, SECOND]
    assert answer.history[0].request is request
    seen = [vars(each.request) for each in (answer, *answer.history)] + [vars(session), vars(adapter)]
    assert "Authorization" not in repr(seen)
    assert caplog.records
    assert "canary-token" not in repr([seen, vars(request), vars(answer)]) + caplog.text


def test_error_of_the_connection_does_not_show_the_token(
    session: requests.Session, adapter: BrokerAdapter, api: FakeApi
) -> None:
    session.get(api.url(), timeout=TIMEOUT_S)
    with FakeApi() as gone:
        url = gone.url()
    request = session.prepare_request(requests.Request("GET", url))

    with pytest.raises(requests.ConnectionError) as raised:
        session.send(request, timeout=TIMEOUT_S)

    assert raised.value.request is request
    error: BaseException | None = raised.value
    while error:
        assert "canary-token" not in repr([error, error.args, vars(error)])
        error = error.__context__
    assert "canary-token" not in "".join(traceback.format_exception(raised.value))


def test_settings_of_the_request_hold_for_the_repeated_one(
    session: requests.Session, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.refused = {FIRST}
    settings: list[dict[str, object]] = []
    send = HTTPAdapter.send

    def record(adapter: HTTPAdapter, request: requests.PreparedRequest, **given: object) -> requests.Response:
        settings.append(given)
        return send(adapter, request, **given)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(HTTPAdapter, "send", record)
    session.get(api.url(), timeout=7.5, verify="some.pem", stream=True).close()

    assert settings[0] == settings[1]
    assert (settings[1]["timeout"], settings[1]["verify"], settings[1]["stream"]) == (7.5, "some.pem", True)


def test_copy_of_an_adapter_works(adapter: BrokerAdapter, api: FakeApi) -> None:
    with new_session(copy.copy(adapter)) as session:
        assert session.get(api.url(), timeout=TIMEOUT_S).status_code == 200
