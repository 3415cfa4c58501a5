"""What is special to the adapter for `requests` (see `test_adapters.py`): files, streams, retries, copies."""

from __future__ import annotations

import copy
import io
import os
from typing import TYPE_CHECKING, Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tests.client.fake_api import URLS_ELSEWHERE, FakeApi
from tests.client.fake_broker import FIRST, SECOND
from token_broker.requests_adapter import BrokerAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.client.fake_broker import FakeBroker
    from token_broker.client import BrokerClient

TIMEOUT_S = 10.0


@pytest.fixture
def adapter(client: BrokerClient) -> BrokerAdapter:
    return BrokerAdapter(client, hosts=["localhost"])


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


@pytest.mark.parametrize("url", URLS_ELSEWHERE)
def test_host_that_looks_like_digishares_gets_no_token_although_requests_did_not_normalise_the_url(
    url: str, api: FakeApi, digishare: Path, client: BrokerClient, broker: FakeBroker
) -> None:
    hand_made = requests.Request("GET", url.format(port=api.port)).prepare()
    hand_made.url = url.format(port=api.port)
    with new_session(BrokerAdapter(client), "https://") as session:
        session.send(hand_made, verify=str(digishare), timeout=TIMEOUT_S)

    assert [seen.host.split(":")[0].endswith("example.com") for seen in api.seen] == [True]
    assert FIRST not in repr(api.seen)
    assert not broker.calls


# --- files ------------------------------------------------------------------------------------------------------


def test_file_is_sent_again_from_where_it_started(session: requests.Session, api: FakeApi) -> None:
    api.refused = {FIRST}
    file = io.BytesIO(b"skipped,sent")
    file.seek(8)

    assert session.post(api.url(), data=file, timeout=TIMEOUT_S).status_code == 200
    assert [seen.body for seen in api.seen] == [b"sent", b"sent"]


def test_pipe_cannot_be_sent_again(session: requests.Session, api: FakeApi) -> None:
    api.refused = {FIRST}
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)

    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
        assert session.post(api.url(), data=pipe, timeout=TIMEOUT_S).status_code == 401
    assert len(api.seen) == 1


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
    "frozenset": lambda: Retry(5, status_forcelist=frozenset({401, 503})),
    "raises nothing": lambda: Retry(5, status_forcelist=[401, 503], raise_on_status=False),
    "a class that takes Retry-After of a 401": lambda: RetriesUnauthorizedLater(5, status_forcelist=None),
    "a class that judges by itself": lambda: RetriesAnything(5),
    "a class that forgets itself": lambda: ForgetsItsClass(5, status_forcelist=[401, 503]),
}


@pytest.mark.parametrize("new_retries", RETRIES.values(), ids=RETRIES.keys())
@pytest.mark.parametrize("how", ["given", "assigned", "changed"])
def test_urllib3_repeats_everything_but_a_401(
    how: str, new_retries: Callable[[], Retry], client: BrokerClient, api: FakeApi, broker: FakeBroker
) -> None:
    retries = new_retries()
    given = type(retries), dict(vars(retries))
    settings = {"max_retries": retries} if how == "given" else {}
    adapter = BrokerAdapter(client, hosts=["localhost"], **settings)
    if how == "assigned":
        adapter.max_retries = retries
    if how == "changed":
        adapter.max_retries = type(retries)(5)
        adapter.max_retries.status_forcelist = [401, 503]
    api.refused, api.error_headers = {FIRST}, {"Retry-After": "0"}
    api.first_statuses.append(503)

    with new_session(adapter) as session:
        assert session.get(api.url(), timeout=TIMEOUT_S).status_code == 200
        assert api.bearers == [FIRST, FIRST, SECOND]
        assert len(broker.calls) == 2
        # The second 401 is not repeated either: it is the answer.
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
    assert api.bearers == [FIRST, SECOND]


def test_retries_that_leave_401_alone_already_are_taken_as_they_are(adapter: BrokerAdapter) -> None:
    retries = adapter.max_retries
    adapter.max_retries = retries

    assert adapter.max_retries is retries


# --- settings -----------------------------------------------------------------------------------------------------


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
