"""Bounds in time and size, and silence about secrets: against the fake Digishare and rawer servers still."""

from __future__ import annotations

import gc
import gzip
import logging
import os
import socket
import struct
import threading
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pytest

from lambda_support import upstream_http
from lambda_support.upstream_http import exchange_json, new_session
from local.digishare import faults
from local.digishare.server import FakeDigishare
from tests.conftest import CANARY_CLIENT_ID
from tests.conftest import CANARY_SECRET as CANARY
from tests.raw_servers import RawTlsServer, drip_handshake, drips_for_ever, plain_listener, sends
from token_broker import bounded_http
from token_broker.bounded_http import (
    AnswerNotJson,
    AnswerTooLarge,
    BoundedResponse,
    CallError,
    CertificateRefused,
    ConnectFailed,
    NoAnswer,
    UnusableRequest,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    import requests

    from local.digishare.faults import Fault

TIMEOUT_S = 0.3
PROMPT_S = 2.5  # room for a busy machine; every server here would hold a caller for far longer
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


def post(session: requests.Session, url: str, **changes: Any) -> BoundedResponse:
    """Ask for a token with the canary everywhere a secret can be: body, header, query."""
    arguments: dict[str, Any] = {
        "headers": {"Authorization": f"Bearer {CANARY}"},
        "json_body": CREDENTIALS,
        "params": {"q": CANARY},
        "total_timeout_s": TIMEOUT_S,
        "connect_timeout_s": TIMEOUT_S,
        "max_body_bytes": CAP_BYTES,
    }
    return exchange_json(session, "POST", f"{url}/v1/oauth/token", **arguments | changes)


def failure_of(call: Callable[[], object]) -> CallError:
    """Return what the call raises, having checked that it holds no secret and came in time."""
    start = time.monotonic()
    with pytest.raises(CallError) as caught:
        call()
    assert time.monotonic() - start < PROMPT_S
    assert_holds_no_secret(caught.value)
    return caught.value


def assert_holds_no_secret(error: BaseException) -> None:
    assert CANARY not in f"{error}{error!r}{error.args}{vars(error)}"
    assert error.__cause__ is None
    assert error.__context__ is None
    ours = {__file__, bounded_http.__file__, upstream_http.__file__}
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename not in ours:
            assert CANARY not in repr(step.tb_frame.f_locals)
        step = step.tb_next


# --- an ordinary exchange ---------------------------------------------------------------------------------------


def test_an_answer_is_returned_whole(digishare: FakeDigishare, session: requests.Session) -> None:
    answer = post(session, digishare.url)
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.headers["content-LENGTH"] == str(len(answer.body))
    assert answer.json_object()["token_type"] == "Bearer"
    assert len(digishare.mints) == 1


def test_an_error_status_is_an_answer_and_is_not_tried_again(
    digishare: FakeDigishare, session: requests.Session
) -> None:
    digishare.fail("token", faults.rate_limited(retry_after_s=7))
    answer = post(session, digishare.url)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert digishare.requests_by_path == {"POST /v1/oauth/token": 1}


def test_repr_of_an_answer_shows_neither_body_nor_headers() -> None:
    assert CANARY not in repr(BoundedResponse(200, {"X": CANARY}, CANARY.encode()))


def test_every_call_has_a_connection_of_its_own(tmp_path: Path) -> None:
    script = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")
    with RawTlsServer(script, tmp_path) as server, new_session(str(server.ca_file)) as session:
        for _ in range(3):
            assert post(session, server.url).json() == {}
    assert server.connections == 3
    assert all("Connection: close" in head for head in server.heads)


def test_the_sessions_own_methods_bound_nothing_and_so_send_nothing(
    digishare: FakeDigishare, session: requests.Session
) -> None:
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
    error = failure_of(lambda: post(session, digishare.url))
    assert isinstance(error, NoAnswer)
    assert error.may_have_been_processed
    assert "timed out while waiting for the answer" in str(error)


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 ",
    ],
    ids=["no length", "closing, no length", "closing", "chunk size", "status line"],
)
def test_a_cut_answer_never_looks_whole(tmp_path: Path, start: bytes) -> None:
    with RawTlsServer(drips_for_ever(start), tmp_path) as server, new_session(str(server.ca_file)) as session:
        assert isinstance(failure_of(lambda: post(session, server.url)), NoAnswer)


@pytest.mark.parametrize("pause_s", [0.0, 0.04])
def test_endless_interim_answers_are_bounded(tmp_path: Path, pause_s: float) -> None:
    def script(connection: ssl.SSLSocket) -> None:
        while True:
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            time.sleep(pause_s)  # the drip itself

    with RawTlsServer(script, tmp_path) as server, new_session(str(server.ca_file)) as session:
        assert isinstance(failure_of(lambda: post(session, server.url)), NoAnswer)


@pytest.mark.parametrize(
    "script", [lambda connection: connection.recv(9_999) and connection.recv(1), drip_handshake]
)
def test_a_handshake_is_bounded_and_nothing_was_sent(
    session: requests.Session, script: Callable[[socket.socket], object]
) -> None:
    with plain_listener(script) as url:
        error = failure_of(lambda: post(session, url))
    assert isinstance(error, ConnectFailed)
    assert str(error) == "127.0.0.1: timed out while agreeing on TLS"
    assert not error.may_have_been_processed


def test_a_slow_lookup_counts_towards_the_total_time(
    session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> list[Any]:
        time.sleep(0.25)  # a slow name server
        return list(real(*args, **kwargs))

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with plain_listener(lambda connection: connection.recv(9_999) and connection.recv(1)) as url:
        error = failure_of(lambda: post(session, url, total_timeout_s=0.6, connect_timeout_s=0.6))
    assert str(error) == "127.0.0.1: timed out while agreeing on TLS"


def test_after_a_lookup_that_took_all_the_time_nothing_is_sent(
    digishare: FakeDigishare, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> list[Any]:
        time.sleep(0.2)  # a slow name server
        return list(real(*args, **kwargs))

    connected: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **_: connected.append(args))
    error = failure_of(lambda: post(session, digishare.url, total_timeout_s=0.1, connect_timeout_s=5))
    assert isinstance(error, ConnectFailed)
    assert connected == []


@pytest.mark.parametrize(("total_timeout_s", "how"), [(0.1, "timed out"), (5, "failed")])
def test_a_connection_that_was_cut_before_tls_is_closed(
    total_timeout_s: float, how: str, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.create_connection

    def late(*args: Any, **kwargs: Any) -> socket.socket:
        connection = real(*args, **kwargs)
        time.sleep(0.2)  # the process stood still, and the peer has left
        return connection

    def reset(connection: socket.socket) -> None:
        time.sleep(0.05)  # not before the other end knows that it is connected
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    monkeypatch.setattr(socket, "create_connection", late)
    with plain_listener(reset) as url:
        error = failure_of(lambda: post(session, url, total_timeout_s=total_timeout_s, connect_timeout_s=5))
    # A socket that is left open is a warning, and every warning is an error here.
    assert str(error) == f"127.0.0.1: {how} while agreeing on TLS"


def test_connecting_is_bounded(session: requests.Session) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.settimeout(0)
            with suppress(BlockingIOError):
                each.connect(full.getsockname())
        url = f"https://127.0.0.1:{full.getsockname()[1]}"
        error = failure_of(lambda: post(session, url, total_timeout_s=5))
        for each in waiting:
            each.close()
    assert isinstance(error, ConnectFailed)
    assert str(error) == "127.0.0.1: timed out while connecting"


def test_calls_of_many_threads_do_not_cut_each_other(
    digishare: FakeDigishare, session: requests.Session
) -> None:
    digishare.fail("campaigns", faults.hang(), times=None)
    outcomes: list[str] = []

    def call(path: str, total_timeout_s: float) -> None:
        try:
            answer = exchange_json(
                session,
                "POST",
                f"{digishare.url}{path}",
                headers={},
                json_body=CREDENTIALS,
                total_timeout_s=total_timeout_s,
                connect_timeout_s=5,
                max_body_bytes=CAP_BYTES,
            )
            outcomes.append(str(answer.status))
        except NoAnswer:
            outcomes.append("cut")

    work = [("/v1/campaigns", 1.0), ("/v1/oauth/token", 10.0)] * 8
    threads = [threading.Thread(target=call, args=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert sorted(outcomes) == ["200"] * 8 + ["cut"] * 8


def test_cut_calls_leave_no_descriptor_and_no_timer_behind(
    digishare: FakeDigishare, without_garbage_collection: None
) -> None:
    def descriptors() -> int:
        held = 0
        for each in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                held += peer_port_of(int(each.name)) == digishare.port
        return held

    digishare.fail("token", faults.hang(), times=3)
    digishare.fail("token", faults.huge_body(), times=3)
    with new_session(str(digishare.ca_file)) as session:
        for _ in range(6):
            with pytest.raises(CallError):
                post(session, digishare.url, total_timeout_s=0.1)
        post(session, digishare.url, total_timeout_s=5)
        assert descriptors() == 0
    deadline = time.monotonic() + 2
    while any(isinstance(thread, threading.Timer) for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # a cancelled timer's thread needs a moment to notice


def peer_port_of(descriptor: int) -> int:
    duplicate = os.dup(descriptor)
    try:
        each = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)  # no socket: left open, it would keep the other end of somebody's pipe waiting
        raise
    with each:
        return int(each.getpeername()[1])


def test_addresses_that_are_left_when_the_time_is_over_are_not_tried(
    session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def slow(address: object, _: float) -> None:
        tried.append(address)
        time.sleep(0.15)  # longer than its share, as a stopped process would take
        raise OSError

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", 1)) for n in range(2, 6)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_connection", slow)
    error = failure_of(lambda: post(session, "https://api.example", connect_timeout_s=0.1))
    assert str(error) == "api.example: timed out while connecting"
    assert len(tried) == 1


def test_an_addresss_share_of_the_time_to_connect_does_not_bound_its_handshake(tmp_path: Path) -> None:
    script = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    with RawTlsServer(script, tmp_path) as server, new_session(str(server.ca_file)) as session:
        server.handshake_delay_s = 0.4
        assert post(session, server.url, connect_timeout_s=0.1, total_timeout_s=10).status == 200


def test_a_timer_that_comes_too_late_cuts_nothing() -> None:
    call = bounded_http._Call("api.example", 1, 1)
    call._finish()
    call._cut()
    assert not call._was_cut


# --- size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_answer_is_cut_at_the_cap(
    digishare: FakeDigishare, session: requests.Session, *, chunked: bool
) -> None:
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


def test_an_answer_of_exactly_the_cap_is_returned(
    digishare: FakeDigishare, session: requests.Session
) -> None:
    for chunked in (False, True):
        digishare.fail("token", faults.huge_body(size_bytes=CAP_BYTES, chunked=chunked))
        assert len(post(session, digishare.url).body) == CAP_BYTES
        digishare.fail("token", faults.huge_body(size_bytes=CAP_BYTES + 1, chunked=chunked))
        assert isinstance(failure_of(lambda: post(session, digishare.url)), AnswerTooLarge)


def test_a_compressed_answer_is_unpacked_up_to_the_cap(tmp_path: Path) -> None:
    packed = gzip.compress(b" " * CAP_BYTES, mtime=0)
    script = sends(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed), packed
    )
    with RawTlsServer(script, tmp_path) as server, new_session(str(server.ca_file)) as session:
        assert post(session, server.url).body == b" " * CAP_BYTES
        assert "Accept-Encoding: identity" in server.heads[0]
        too_long = failure_of(lambda: post(session, server.url, max_body_bytes=CAP_BYTES - 1))
        assert isinstance(too_long, AnswerTooLarge)


def test_the_body_of_a_redirect_is_capped_too(tmp_path: Path) -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: /login\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    script = sends(head, *[chunk] * 200)
    with RawTlsServer(script, tmp_path) as server, new_session(str(server.ca_file)) as session:
        assert isinstance(failure_of(lambda: post(session, server.url)), AnswerTooLarge)


# --- where it goes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_returned_and_its_target_never_contacted(
    digishare: FakeDigishare, session: requests.Session, status: int
) -> None:
    with FakeDigishare() as elsewhere:
        digishare.fail("token", faults.redirect(status=status, location=f"{elsewhere.url}/v1/oauth/token"))
        answer = post(session, digishare.url)
        assert (answer.status, elsewhere.calls) == (status, [])
    assert answer.headers["Location"].startswith(elsewhere.url)


def test_the_environment_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_untrusted_certificate_is_refused_before_anything_is_sent(digishare: FakeDigishare) -> None:
    with new_session() as session:
        error = failure_of(lambda: post(session, digishare.url))
    assert isinstance(error, CertificateRefused)
    assert str(error) == "127.0.0.1: the certificate is refused: unable to get local issuer certificate"
    assert not error.may_have_been_processed
    assert digishare.calls == []


def test_verification_cannot_be_switched_off(digishare: FakeDigishare) -> None:
    with new_session() as session:
        session.verify = False
        assert isinstance(failure_of(lambda: post(session, digishare.url)), CertificateRefused)


def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    with (
        RawTlsServer(sends(b""), tmp_path, name="other.example") as server,
        new_session(str(server.ca_file)) as session,
    ):
        assert isinstance(failure_of(lambda: post(session, server.url)), CertificateRefused)
        assert server.heads == []


def test_a_refused_connection_was_certainly_not_processed(session: requests.Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"https://127.0.0.1:{gone.getsockname()[1]}"
    error = failure_of(lambda: post(session, url))
    assert isinstance(error, ConnectFailed)
    assert not error.may_have_been_processed
    assert str(error) == "127.0.0.1: failed while connecting"


def test_an_unknown_host_name_is_a_failed_connect(
    session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, f"no such name {CANARY}")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = failure_of(lambda: post(session, "https://api.example"))
    assert str(error) == "api.example: failed while looking up the host's name"


def test_a_dead_address_is_passed_over_for_the_next(
    digishare: FakeDigishare, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def two_addresses(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        hosts = ["::1", "127.0.0.1"] if host == "localhost" else [host]
        return [found for each in hosts for found in real(each, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    assert post(session, f"https://localhost:{digishare.port}", total_timeout_s=5).status == 200


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
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    caplog.set_level(logging.DEBUG)

    def script(connection: ssl.SSLSocket) -> None:
        connection.sendall(answer)
        raise ConnectionError("close")

    with RawTlsServer(script, tmp_path) as server, new_session(str(server.ca_file)) as session:
        try:
            with pytest.raises(AnswerNotJson) as caught:
                post(session, server.url).json()
            assert_holds_no_secret(caught.value)
        except NoAnswer as error:
            assert_holds_no_secret(error)
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "ftp://127.0.0.1",
        "127.0.0.1",
        f"https://user:{CANARY}@127.0.0.1:1",
        "https://",
        f"https://[{CANARY}",
        f"https://127.0.0.1:{CANARY}",
        "https://127.0.0.1:1\\@127.0.0.1:2",
        "https://127.0.0\n.1",
        " https://127.0.0.1:canary",
        "https://b\u00fccher.example",
    ],
)
def test_only_https_urls_are_used(session: requests.Session, url: str) -> None:
    error = failure_of(lambda: post(session, url))
    assert isinstance(error, UnusableRequest)
    assert not error.may_have_been_processed


def test_nothing_is_sent_in_clear_to_another_machine_or_for_lack_of_a_tls_context() -> None:
    tls = bounded_http.new_tls_context(certifi.where())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        port = listener.getsockname()[1]
        for url, context in (
            (f"http://127.0.0.1.example.com:{port}/", tls),
            (f"http://user@127.0.0.1:{port}/", None),
            (f"https://127.0.0.1:{port}/", None),
            (f"https://user:{CANARY}@127.0.0.1:{port}/", tls),
            (f"https://127.0.0.1:{port}\\@example.com/", tls),
            ("https://127.0.0.1:99999/", tls),
        ):
            error = failure_of(
                lambda url=url, context=context: bounded_http.call(  # type: ignore[misc] # both are bound
                    "GET",
                    url,
                    headers={"Authorization": CANARY},
                    tls=context,
                    total_timeout_s=TIMEOUT_S,
                    connect_timeout_s=TIMEOUT_S,
                    max_body_bytes=CAP_BYTES,
                )
            )
            assert isinstance(error, UnusableRequest)
        with pytest.raises(TimeoutError):
            listener.accept()


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
def test_what_cannot_be_sent_is_refused_without_a_word_about_it(
    digishare: FakeDigishare, session: requests.Session, changes: dict[str, object]
) -> None:
    assert isinstance(failure_of(lambda: post(session, digishare.url, **changes)), UnusableRequest)
    assert digishare.calls == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html; charset=UTF-8", b"{}"),
        ("", b"{}"),
        ("application/json", b""),
        ("application/json", b'{"access_token":"' + CANARY.encode()),
        ("application/json", b'{"access_token":NaN,"x":"' + CANARY.encode() + b'"}'),
        ("application/json", b"\xff\xfe{}" + CANARY.encode()),
        ("application/json", b"[" * 200_000),
        ("application/json", b'["' + CANARY.encode() + b'"]'),
        ("application/json", b'{"n":' + b"9" * 10_000 + b"}"),
    ],
)
def test_an_answer_that_is_no_json_object_is_refused(content_type: str, body: bytes) -> None:
    answer = BoundedResponse(200, {"Content-Type": content_type}, body)
    error = failure_of(answer.json_object)
    assert isinstance(error, AnswerNotJson)


def test_a_bare_array_is_json() -> None:
    assert BoundedResponse(200, {"Content-Type": "Application/Problem+JSON; x=y"}, b"[1]").json() == [1]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("1.5", 1.5),
        ("9" * 300, 1e300),
        ("Sat, 01 Jan 2000 00:01:40 GMT", 100),
        ("Saturday, 01-Jan-00 00:01:40 GMT", 100),
        ("Sat Jan  1 00:01:40 2000", 100),
        ("Sat, 01 Jan 2000 00:01:40 -0000", 100),
        ("Fri, 31 Dec 1999 00:00:00 GMT", 0),
        ("Mon, 01 Jan 0150 00:00:00 +2359", 0),
        ("", None),
        ("-1", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("9" * 400, None),
        ("\u0663", None),
        ("5, 7", None),
        ("soon", None),
        ("Sat, 01 Jan 99999 00:00:00 GMT", None),
        ("Sat, 99 Jan 2000 25:61:61 GMT", None),
        ("Sat, 01 Jan 2000 00:00:00 +999999999999", None),
        (", ", None),
        (":" * 50, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nonsense(
    text: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("TZ", "XYZ-5")  # a date without a zone is no local time
    time.tzset()
    request.addfinalizer(time.tzset)
    request.addfinalizer(monkeypatch.undo)
    response = BoundedResponse(429, {"Retry-After": text}, b"")
    assert response.retry_after_s(now_epoch_s=946_684_800.0) == seconds
