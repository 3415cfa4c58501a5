"""What `requests` sends, to whom, and what happens after a 401."""

from __future__ import annotations

import io
import logging
import os
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import requests

from tests.client.fake_broker import failure, token_id
from token_broker.errors import UpstreamRejected
from token_broker.requests_auth import BrokerAuth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.client.fake_api import FakeApi
    from tests.client.fake_broker import FakeBroker
    from token_broker.client import BrokerClient

TIMEOUT_S = 10.0
FIRST, SECOND = "canary-token-1", "canary-token-2"


@pytest.fixture
def auth(new_client: Callable[..., BrokerClient]) -> BrokerAuth:
    return BrokerAuth(new_client(), hosts=["localhost"])


@pytest.fixture
def session(auth: BrokerAuth) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.auth = auth
        yield session


def bearers(api: FakeApi) -> list[str | None]:
    return [seen.bearer for seen in api.seen]


def test_token_is_sent_to_its_host(session: requests.Session, api: FakeApi) -> None:
    assert session.get(api.url(), timeout=TIMEOUT_S).status_code == 200
    assert bearers(api) == [FIRST]


def test_no_other_host_sees_the_token(session: requests.Session, api: FakeApi, broker: FakeBroker) -> None:
    assert session.get(api.url(host="127.0.0.1"), timeout=TIMEOUT_S).status_code == 401
    assert bearers(api) == [None]
    assert not broker.calls


def test_token_is_not_sent_in_clear_beyond_loopback(new_client: Callable[..., BrokerClient]) -> None:
    auth = BrokerAuth(new_client())
    for url in (
        "http://api.digishare.ma/v1",
        "https://api.digishare.ma.example.com/",
        "https://x@example.com/",
    ):
        assert "Authorization" not in requests.Request("GET", url, auth=auth).prepare().headers
    sent = requests.Request("GET", "https://API.digishare.ma/v1/campaigns", auth=auth).prepare().headers
    assert sent["Authorization"] == f"Bearer {FIRST}"


@pytest.mark.parametrize(
    "host", ["https://api.digishare.ma", "api.digishare.ma:443", "api.digishare.ma/v1", ""]
)
def test_host_that_could_never_match_is_refused(host: str, new_client: Callable[..., BrokerClient]) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        BrokerAuth(new_client(), hosts=[host])


@pytest.mark.parametrize("body", [None, b"bytes", "text", {"form": "field"}], ids=str)
def test_401_is_reported_and_the_request_repeated_once(
    body: object, session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    api.refused = {FIRST}

    answer = session.post(api.url(), data=body, timeout=TIMEOUT_S)  # type: ignore[arg-type] # every kind of body

    assert answer.status_code == 200
    assert [refused.status_code for refused in answer.history] == [401]
    assert answer.history[0].json() == {"status": 401}
    assert bearers(api) == [FIRST, SECOND]
    assert api.seen[0].body == api.seen[1].body
    assert broker.calls[1].body["rejected_token_id"] == token_id(FIRST)
    assert api.connections == 1  # the first answer was read to its end


def test_second_401_is_returned(session: requests.Session, api: FakeApi) -> None:
    api.refused = {FIRST, SECOND}

    assert session.get(api.url(), timeout=TIMEOUT_S).status_code == 401
    assert len(api.seen) == 2


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


def test_file_is_sent_again_from_where_it_started(session: requests.Session, api: FakeApi) -> None:
    api.refused = {FIRST}
    file = io.BytesIO(b"skipped,sent")
    file.seek(8)

    assert session.post(api.url(), data=file, timeout=TIMEOUT_S).status_code == 200
    assert [seen.body for seen in api.seen] == [b"sent", b"sent"]


def test_generator_cannot_be_sent_again_so_the_401_is_returned_and_the_next_request_works(
    session: requests.Session, api: FakeApi
) -> None:
    api.refused = {FIRST}

    assert session.post(api.url(), data=iter([b"a", b"b"]), timeout=TIMEOUT_S).status_code == 401
    assert [seen.body for seen in api.seen] == [b"ab"]
    assert session.post(api.url(), data=iter([b"a", b"b"]), timeout=TIMEOUT_S).status_code == 200


def test_pipe_cannot_be_sent_again(session: requests.Session, api: FakeApi) -> None:
    api.refused = {FIRST}
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)

    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
        assert session.post(api.url(), data=pipe, timeout=TIMEOUT_S).status_code == 401
    assert len(api.seen) == 1


@pytest.mark.parametrize("status", [302, 307])
def test_redirect_to_another_host_does_not_carry_the_token(
    status: int, session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    elsewhere = quote(api.url(host="127.0.0.1"), safe="")

    answer = session.post(api.url(f"/redirect/{status}/{elsewhere}"), data=b"x", timeout=TIMEOUT_S)

    assert answer.status_code == 401
    assert bearers(api) == [FIRST, None]
    assert len(broker.calls) == 1  # that 401 says nothing about the token


def test_redirect_on_the_same_host_carries_the_token_and_renews_it_after_a_401(
    session: requests.Session, api: FakeApi
) -> None:
    api.refused = {FIRST}

    answer = session.get(api.url(f"/redirect/302/{quote('/things', safe='')}"), timeout=TIMEOUT_S)

    assert answer.status_code == 200
    assert bearers(api) == [FIRST, FIRST, SECOND]


def test_settings_of_the_request_hold_for_the_repeated_one(
    session: requests.Session, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.refused = {FIRST}
    settings: list[dict[str, object]] = []
    send = requests.adapters.HTTPAdapter.send

    def record(
        adapter: requests.adapters.HTTPAdapter, request: requests.PreparedRequest, **given: object
    ) -> requests.Response:
        settings.append(given)
        return send(adapter, request, **given)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", record)
    session.get(api.url(), timeout=7.5, verify="some.pem", stream=True).close()

    assert settings[0] == settings[1]
    assert (settings[1]["timeout"], settings[1]["verify"], settings[1]["stream"]) == (7.5, "some.pem", True)


def test_brokers_error_about_the_rejected_token_is_raised(
    session: requests.Session, api: FakeApi, broker: FakeBroker
) -> None:
    session.get(api.url(), timeout=TIMEOUT_S)
    api.refused = {FIRST}
    broker.script.append(failure(502, "upstream_rejected"))

    with pytest.raises(UpstreamRejected):
        session.get(api.url(), timeout=TIMEOUT_S)


def test_token_is_in_no_repr_and_no_log(
    session: requests.Session, auth: BrokerAuth, api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="token_broker")
    caplog.set_level(logging.DEBUG, logger="urllib3")
    api.refused = {FIRST}
    answer = session.get(api.url(), timeout=TIMEOUT_S)

    seen = repr([auth, vars(auth), answer, answer.request, answer.request.hooks, answer.history])
    assert caplog.records
    assert "canary-token" not in seen + caplog.text
