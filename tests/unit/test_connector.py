"""Connecting to a host: every step is bounded in time, nothing is sent in clear, and a failure was never processed."""

from __future__ import annotations

import socket
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import certifi
import pytest

from tests.conftest import CANARY_SECRET as CANARY
from tests.raw_servers import drip_handshake, plain_listener
from tests.unit.safe_errors import failure_of
from token_broker.bounded_http import BoundedResponse, ConnectFailed, UnusableRequest, call, new_tls_context
from token_broker.connector import Connector

if TYPE_CHECKING:
    from collections.abc import Callable

TLS = new_tls_context(certifi.where())


def ask(
    url: str, total_timeout_s: float = 5, connect_timeout_s: float = 5, tls: object = TLS
) -> BoundedResponse:
    bounds: Any = {"total_timeout_s": total_timeout_s, "connect_timeout_s": connect_timeout_s, "tls": tls}
    headers = {"Authorization": CANARY}
    return call("POST", url, headers=headers, body=CANARY.encode(), max_body_bytes=1000, **bounds)


def resets(connection: socket.socket) -> None:
    connection.recv(1)  # the handshake has begun
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("script", "total_timeout_s", "how"),
    [
        (lambda connection: connection.recv(9_999) and connection.recv(1), 0.3, "timed out"),
        (drip_handshake, 0.3, "timed out"),
        (resets, 5, "failed"),
    ],
    ids=["silent", "drips", "resets"],
)
def test_a_handshake_is_bounded_and_nothing_was_sent(
    script: Callable[[socket.socket], object], total_timeout_s: float, how: str
) -> None:
    with plain_listener(script) as url:
        error = failure_of(lambda: ask(url, total_timeout_s))
    assert isinstance(error, ConnectFailed)
    assert str(error) == f"127.0.0.1: {how} while agreeing on TLS"
    assert not error.may_have_been_processed


def test_after_a_lookup_that_took_all_the_time_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> list[Any]:
        time.sleep(0.2)  # a slow name server
        return list(real(*args, **kwargs))

    connected: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **_: connected.append(args))
    error = failure_of(lambda: ask("https://127.0.0.1:1", total_timeout_s=0.1, connect_timeout_s=5))
    assert isinstance(error, ConnectFailed)
    assert connected == []


@pytest.mark.parametrize(("total_timeout_s", "how"), [(0.1, "timed out"), (5, "failed")])
def test_cut_connection_is_closed(total_timeout_s: float, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.create_connection

    def late(*args: Any, **kwargs: Any) -> socket.socket:
        connection = real(*args, **kwargs)
        time.sleep(0.2)  # the process was stopped, and the peer has gone
        return connection

    def reset(connection: socket.socket) -> None:
        time.sleep(0.05)  # not before the other end knows that it is connected
        resets(connection)

    monkeypatch.setattr(socket, "create_connection", late)
    with plain_listener(reset) as url:
        error = failure_of(lambda: ask(url, total_timeout_s=total_timeout_s, connect_timeout_s=5))
    # A socket that is left open is a warning, and every warning is an error here.
    assert str(error) == f"127.0.0.1: {how} while agreeing on TLS"


def test_addresses_that_are_left_when_the_time_is_over_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def slow(address: object, _: float) -> None:
        tried.append(address)
        time.sleep(0.15)  # longer than its share, as a stopped process would take
        raise OSError

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", 1)) for n in range(2, 6)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_connection", slow)
    error = failure_of(lambda: ask("https://api.example", connect_timeout_s=0.1))
    assert str(error) == "api.example: timed out while connecting"
    assert len(tried) == 1


def test_a_timer_that_comes_too_late_cuts_nothing() -> None:
    with Connector(10, 10) as over:
        pass
    over._cut()
    assert not over.was_cut


def test_a_refused_connection_was_certainly_not_processed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"https://127.0.0.1:{gone.getsockname()[1]}"
    error = failure_of(lambda: ask(url))
    assert isinstance(error, ConnectFailed)
    assert not error.may_have_been_processed
    assert str(error) == "127.0.0.1: failed while connecting"


def test_an_unknown_host_name_is_a_failed_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, f"no such name {CANARY}")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = failure_of(lambda: ask("https://api.example"))
    assert str(error) == "api.example: failed while looking up the host's name"


def test_nothing_is_sent_in_clear_to_another_machine_or_for_lack_of_a_tls_context() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        port = listener.getsockname()[1]
        for url, context in (
            (f"http://127.0.0.1.example.com:{port}/", TLS),
            (f"http://user@127.0.0.1:{port}/", None),
            (f"https://127.0.0.1:{port}/", None),
            (f"https://user:{CANARY}@127.0.0.1:{port}/", TLS),
            (f"https://127.0.0.1:{port}\\@example.com/", TLS),
            ("https://127.0.0.1:99999/", TLS),
        ):
            error = failure_of(partial(ask, url, tls=context))
            assert isinstance(error, UnusableRequest)
        with pytest.raises(TimeoutError):
            listener.accept()
