"""Bounds in time and size, and no secret in any error: against the fake Digishare and raw servers."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lambda_support.upstream_http import exchange_json, new_session
from local.digishare import faults
from local.digishare.server import FakeDigishare
from local.waiting import wait_until
from tests.conftest import CANARY_CLIENT_ID
from tests.conftest import CANARY_SECRET as CANARY
from tests.raw_servers import RawTlsServer, sends
from tests.unit.safe_errors import assert_has_no_secret, failure_of
from token_broker.bounded_http import (
    AnswerNotJson,
    AnswerTooLarge,
    CallError,
    CertificateRefused,
    NoAnswer,
    UnusableRequest,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    import requests

    from local.digishare.faults import Fault
    from token_broker.bounded_http import BoundedResponse

    Script = Callable[[ssl.SSLSocket], None]
    Served = tuple[RawTlsServer, Callable[..., BoundedResponse]]
    Serve = Callable[..., Served]

TOKEN_PATH = "/v1/oauth/token"
TIMEOUT_S = 10.0
CUT_AFTER_S = 0.3
CAP_BYTES = 100_000

CREDENTIALS = {"grant_type": "client_credentials", "client_id": CANARY_CLIENT_ID, "client_secret": CANARY}


@pytest.fixture
def session(digishare: FakeDigishare) -> Iterator[requests.Session]:
    with new_session(str(digishare.ca_file)) as session:
        yield session


@pytest.fixture
def without_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def post(session: requests.Session, url: str, *, path: str = TOKEN_PATH, **changes: Any) -> BoundedResponse:
    """Ask for a token with the canary everywhere a secret can be: body, header, query."""
    arguments: dict[str, Any] = {
        "headers": {"Authorization": f"Bearer {CANARY}"},
        "json_body": CREDENTIALS,
        "params": {"q": CANARY},
        "total_timeout_s": TIMEOUT_S,
        "connect_timeout_s": TIMEOUT_S,
        "max_body_bytes": CAP_BYTES,
    }
    return exchange_json(session, "POST", f"{url}{path}", **arguments | changes)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a server that follows a script; returns it and what sends it a request."""
    with ExitStack() as end:

        def start(script: Script, name: str = "127.0.0.1") -> Served:
            server = end.enter_context(RawTlsServer(script, tmp_path, name))
            session = end.enter_context(new_session(str(server.ca_file)))
            return server, partial(post, session, server.url)

        yield start


# --- an ordinary exchange ---------------------------------------------------------------------------------------


def test_an_answer_is_returned_whole(digishare: FakeDigishare, session: requests.Session) -> None:
    answer = post(session, digishare.url)
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.headers["content-LENGTH"] == str(len(answer.body))
    assert answer.json_object()["token_type"] == "Bearer"
    assert len(digishare.mints) == 1


def test_an_error_status_is_not_tried_again(digishare: FakeDigishare, session: requests.Session) -> None:
    digishare.fail("token", faults.rate_limited(retry_after_s=7))
    answer = post(session, digishare.url)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert digishare.requests_by_path == {"POST /v1/oauth/token": 1}


def test_every_call_has_a_connection_of_its_own(serve: Serve) -> None:
    script = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")
    server, ask = serve(script)
    for _ in range(3):
        assert ask().json() == {}
    assert server.connections == 3
    assert all("Connection: close" in head for head in server.heads)
    assert all("Accept-Encoding: identity" in head for head in server.heads)


def test_the_sessions_own_methods_send_nothing(digishare: FakeDigishare, session: requests.Session) -> None:
    with pytest.raises(UnusableRequest):
        session.get(digishare.url, timeout=1)
    with pytest.raises(ValueError, match="No connection adapters"):
        session.get("http://127.0.0.1:1", timeout=1)
    assert digishare.calls == []


# --- time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        faults.hang(),
        faults.drip_headers(interval_ms=20),
        faults.drip_body(interval_ms=20),
        faults.delay(delay_ms=3000),
    ],
    ids=lambda fault: str(fault.name),
)
def test_total_time_is_bounded(digishare: FakeDigishare, session: requests.Session, fault: Fault) -> None:
    digishare.fail("token", fault)
    error = failure_of(lambda: post(session, digishare.url, total_timeout_s=CUT_AFTER_S))
    assert isinstance(error, NoAnswer)
    assert error.may_have_been_processed
    assert "timed out while waiting for the answer" in str(error)


def test_threads_calls_do_not_cut_each_other(digishare: FakeDigishare, session: requests.Session) -> None:
    digishare.fail("campaigns", faults.hang(), times=None)

    def call(path: str, total_timeout_s: float) -> str:
        try:
            return str(post(session, digishare.url, path=path, total_timeout_s=total_timeout_s).status)
        except NoAnswer:
            return "cut"

    work = [("/v1/campaigns", 1.0), (TOKEN_PATH, 10.0)] * 8
    with ThreadPoolExecutor(len(work)) as pool:
        outcomes = list(pool.map(lambda each: call(*each), work))
    assert outcomes == ["cut", "200"] * 8


def test_a_cut_call_leaves_nothing_open(digishare: FakeDigishare, without_garbage_collection: None) -> None:
    def descriptors() -> int:
        found = 0
        for each in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                found += peer_port_of(int(each.name)) == digishare.port
        return found

    digishare.fail("token", faults.hang(), times=3)
    digishare.fail("token", faults.huge_body(), times=3)
    with new_session(str(digishare.ca_file)) as session:
        for _ in range(6):
            with pytest.raises(CallError):
                post(session, digishare.url, total_timeout_s=0.4)
        post(session, digishare.url, total_timeout_s=5)
        assert descriptors() == 0
    # A cancelled timer's thread needs a moment to notice.
    assert wait_until(lambda: not any(isinstance(each, threading.Timer) for each in threading.enumerate()), 2)


def peer_port_of(descriptor: int) -> int:
    duplicate = os.dup(descriptor)
    try:
        each = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)  # no socket; if it stayed open, the reader of a pipe would wait for its end
        raise
    with each:
        return int(each.getpeername()[1])


# --- size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_answer_is_cut(digishare: FakeDigishare, session: requests.Session, *, chunked: bool) -> None:
    digishare.fail("token", faults.huge_body(chunked=chunked))
    tracemalloc.start()
    try:
        error = failure_of(lambda: post(session, digishare.url))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(error, AnswerTooLarge)
    assert error.may_have_been_processed
    assert peak_bytes < 3_000_000


# --- where it goes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_returned_and_its_target_never_contacted(
    digishare: FakeDigishare, session: requests.Session, status: int
) -> None:
    with FakeDigishare() as elsewhere:
        digishare.fail("token", faults.redirect(status=status, location=f"{elsewhere.url}/v1/oauth/token"))
        answer = post(session, digishare.url)
        assert (answer.status, elsewhere.calls) == (status, [])
    assert answer.headers["Location"].startswith(elsewhere.url)


def test_the_environment_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = sends(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
    netrc, keylog = tmp_path / "netrc", tmp_path / "keys.log"
    netrc.write_text(f"machine 127.0.0.1 login x password {CANARY}-netrc\n", encoding="utf-8")
    netrc.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as proxy, RawTlsServer(script, tmp_path) as server:
        proxy.settimeout(0.05)
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none.pem"))
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("SSLKEYLOGFILE", str(keylog))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with new_session(str(server.ca_file)) as session:
            for _ in range(2):
                assert post(session, server.url, headers={}).status == 200
        with pytest.raises(TimeoutError):
            proxy.accept()
    assert not keylog.exists()
    assert "authorization" not in "".join(server.heads).lower()
    assert "cookie" not in "".join(server.heads).lower()


@pytest.mark.parametrize("verify", [True, False])
def test_an_untrusted_certificate_is_refused_before_anything_is_sent_whatever_is_set(
    digishare: FakeDigishare, *, verify: bool
) -> None:
    with new_session() as session:
        session.verify = verify
        error = failure_of(lambda: post(session, digishare.url))
    assert isinstance(error, CertificateRefused)
    assert str(error) == "127.0.0.1: the certificate is refused: unable to get local issuer certificate"
    assert not error.may_have_been_processed
    assert digishare.calls == []


def test_a_certificate_for_another_host_is_refused(serve: Serve) -> None:
    server, ask = serve(sends(b""), name="other.example")
    assert isinstance(failure_of(ask), CertificateRefused)
    assert server.heads == []


# --- what it says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [faults.reset(), faults.close(), faults.cut_body(), faults.mint_then_drop()],
    ids=lambda fault: str(fault.name),
)
def test_a_lost_answer_has_an_unknown_outcome(
    digishare: FakeDigishare, session: requests.Session, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    digishare.fail("token", fault)
    error = failure_of(lambda: post(session, digishare.url))
    assert isinstance(error, NoAnswer)
    assert error.may_have_been_processed
    assert len(digishare.mints) == fault.processed
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        f"HTTP/1.1 200 {CANARY}\r\nno colon {CANARY}\r\nX: {CANARY}\r\n\r\n".encode(),
        f"{CANARY}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{CANARY}\r\n".encode(),
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
    ids=["bad header", "no HTTP", "bad chunk", "too many headers"],
)
def test_a_malformed_answer_is_a_safe_error_or_a_harmless_answer(
    serve: Serve, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    caplog.set_level(logging.DEBUG)

    def script(connection: ssl.SSLSocket) -> None:
        connection.sendall(answer)
        raise ConnectionError("close")

    _server, ask = serve(script)
    try:
        with pytest.raises(AnswerNotJson) as caught:
            ask().json()
        assert_has_no_secret(caught.value)
    except NoAnswer as error:
        assert_has_no_secret(error)
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"Authorization": f"Bearer {CANARY}\nX: y"}},
        {"headers": {"Authorization": f"Bearer {CANARY}€"}},
        {"headers": {"Authorization": None, "X": CANARY.encode()}},
        {"json_body": {"secret": CANARY, "n": float("nan")}},
        {"json_body": {"secret": {CANARY}}},
    ],
)
def test_what_cannot_be_sent_is_refused_and_not_quoted(
    digishare: FakeDigishare, session: requests.Session, changes: dict[str, Any]
) -> None:
    assert isinstance(failure_of(lambda: post(session, digishare.url, **changes)), UnusableRequest)
    assert digishare.calls == []


def test_the_time_to_connect_to_one_address_does_not_limit_its_handshake(serve: Serve) -> None:
    server, ask = serve(sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    server.handshake_delay_s = 0.4
    assert ask(connect_timeout_s=0.1, total_timeout_s=10).status == 200


def test_after_a_dead_address_the_next_is_tried(
    digishare: FakeDigishare, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def two_addresses(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        hosts = ["::1", "127.0.0.1"] if host == "localhost" else [host]
        return [found for each in hosts for found in real(each, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    assert post(session, f"https://localhost:{digishare.port}", total_timeout_s=5).status == 200


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1", "ftp://127.0.0.1", "127.0.0.1", f"https://user:{CANARY}@127.0.0.1:1", "https://",
        f"https://[{CANARY}", f"https://127.0.0.1:{CANARY}", "https://127.0.0.1:1\\@127.0.0.1:2",
        "https://127.0.0\n.1",
        " https://127.0.0.1:canary", "https://b\u00fccher.example",
    ],
)  # fmt: skip
def test_only_https_urls_are_used(session: requests.Session, url: str) -> None:
    error = failure_of(lambda: post(session, url))
    assert isinstance(error, UnusableRequest)
    assert not error.may_have_been_processed
