from __future__ import annotations

import socket
import traceback
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
import trustme

from tests.client.fake_api import HOSTS_ELSEWHERE, FakeApi
from tests.client.fake_broker import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, FakeBroker
from token_broker.client import BrokerClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    NewClient = Callable[..., BrokerClient]


class Clock:
    """Epoch seconds that move by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def everything_of(error: BaseException | None) -> str:
    """Return all that a log of `error` could print, with its hidden causes and their attributes."""
    text = ""
    while error is not None:
        text += repr(error) + str(error) + repr(error.args) + repr(vars(error))
        text += "".join(traceback.format_exception(error))
        error = error.__cause__ or error.__context__
    return text


def session_with(*keys: str, profile: str | None = None) -> botocore.session.Session:
    session = botocore.session.Session(profile=profile)
    session.set_credentials(*keys)
    return session


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as running:
        yield running


@pytest.fixture
def aws_session() -> botocore.session.Session:
    return session_with(ACCESS_KEY_ID, SECRET_ACCESS_KEY)


@pytest.fixture
def pauses() -> list[float]:
    """The seconds that clients of `new_client` wanted to sleep."""
    return []


@pytest.fixture
def new_client(
    broker: FakeBroker, aws_session: botocore.session.Session, clock: Clock, pauses: list[float]
) -> NewClient:
    def make(url: str | None = None, **settings: Any) -> BrokerClient:
        fakes = {"session": aws_session, "region": REGION, "clock": clock, "sleep": pauses.append}
        return BrokerClient(url or broker.url, **{**fakes, **settings})

    return make


@pytest.fixture
def client(new_client: NewClient) -> BrokerClient:
    return new_client()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as running:
        yield running


@pytest.fixture
def digishare(api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Have every host name lead to `api`, over TLS; the file has the root to trust."""
    authority = trustme.CA()
    api.speak_tls(authority.issue_cert("api.digishare.ma", *HOSTS_ELSEWHERE))
    find = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *given, **more: find("127.0.0.1", *given, **more))
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"
