"""One HTTP call that is over in time: the way to the broker and to the upstream, silent about secrets.

Every call has a connection of its own, closed afterwards: what a server leaves on one (an interim answer, a late
duplicate, junk behind a 204) must not become the answer to another call.

A read time-out alone bounds nothing: it starts again with every byte, so a server that drips can hold a caller for
as long as it likes. Here a timer shuts the connection's socket down when the whole call's time is over, which ends
a handshake, a send or a read at once. A lookup of the host's name cannot be ended: it is left behind in a thread.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection, ProxyConfig
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import parse_url

from token_broker.http_answer import TooLongError, UnreadableError, read_answer
from token_broker.token_hosts import is_private_channel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from urllib3.util import Url

_T = TypeVar("_T")

_PORTS: Final = {"http": 80, "https": 443}
_CAUSES: Final = (UnreadableError, HTTPError, HTTPException, OSError, ValueError, RuntimeError)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET: Final = re.compile(r"[!-~]+")
_SECONDS: Final = re.compile(r"[0-9]{1,300}(?:\.[0-9]{1,15})?")


class CallError(Exception):
    """Root of what `call` raises. Never holds a URL, header, body or cause: logging one is always safe.

    Attributes:
        code: for programs and metrics.
        may_have_been_processed: False only if the server cannot have acted on the request.
    """

    code = "call_failed"
    may_have_been_processed = True


class UnusableRequest(CallError, ValueError):
    """Nothing was sent: the URL is malformed or would show the request on the way, or a header cannot be sent."""

    code = "unusable_request"
    may_have_been_processed = False


class ConnectFailed(CallError):
    """No connection: name, address, proxy, or TLS (an untrusted certificate included); the request was not sent."""

    code = "connect_failed"
    may_have_been_processed = False


class CertificateRefused(ConnectFailed):
    """The host's TLS certificate is not one to trust; the request was not sent."""

    code = "certificate_refused"


class NoAnswer(CallError):
    """The request was sent, or a part of it, and no whole answer came in time: its outcome is unknown."""

    code = "no_answer"


class AnswerTooLarge(CallError):
    """The answer is longer than the caller allows; the rest of it was not read."""

    code = "answer_too_large"


class AnswerNotJson(CallError):
    """The answer has another content type, or is not the JSON that it says it is."""

    code = "answer_not_json"


@dataclass(frozen=True, slots=True)
class BoundedResponse:
    """A whole answer of any final status, redirects included; `body` is unpacked.

    The names of `headers` match in any case; repeated headers are joined by ", ".
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; "" if there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def json(self) -> object:
        """Return the body's value. Raises AnswerNotJson, also for a content type that is not JSON."""
        if self.content_type != "application/json" and not self.content_type.endswith("+json"):
            raise AnswerNotJson(f"status {self.status}: the content type is not JSON")
        try:
            return json.loads(self.body.decode("utf-8"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            pass  # raised below, outside of this block: the parser's error holds the whole body
        raise AnswerNotJson(f"status {self.status}: the body is not valid JSON")

    def json_object(self) -> dict[str, object]:
        """Return the body's object. Raises AnswerNotJson, also for any other kind of value."""
        value = self.json()
        if not isinstance(value, dict):
            raise AnswerNotJson(f"status {self.status}: the body is not a JSON object")
        return value

    def retry_after_s(self, now_epoch_s: float) -> float | None:
        """Return the seconds that `Retry-After` asks for (RFC 9110 §10.2.3: seconds or a date); None for nonsense."""
        text = self.headers.get("Retry-After", "").strip()
        if _SECONDS.fullmatch(text):
            return float(text)
        until_epoch_s = epoch_s_of_date(text)
        return None if until_epoch_s is None else max(0.0, until_epoch_s - now_epoch_s)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that opens tunnels (RFC 9110 §9.3.6).

    Attributes:
        url: `http://HOST:PORT` or `https://HOST:PORT`.
        headers: sent to the proxy, such as `Proxy-Authorization`.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)


def epoch_s_of_date(text: str) -> float | None:
    """Return the epoch seconds of a header's date (RFC 9110 §5.6.7); None for what is none."""
    with suppress(ValueError, TypeError, OverflowError, IndexError):
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None


def new_tls_context(ca_file: str) -> ssl.SSLContext:
    """Return a context that trusts the certificates of this file alone. Keep it: loading them is slow.

    Raises:
        OSError, ValueError: they cannot be read.
    """
    # Not ssl.create_default_context: it writes session keys to where SSLKEYLOGFILE says.
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_verify_locations(ca_file)
    return tls


def call(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    tls: ssl.SSLContext | None,
    proxy: Proxy | None = None,
    total_timeout_s: float,
    connect_timeout_s: float,
    max_body_bytes: int,
) -> BoundedResponse:
    """Send one request, once, and return the whole answer; blocks for `total_timeout_s` at most.

    Redirects are returned like any answer, cookies are dropped, nothing is tried again.

    Args:
        method: in capitals; not HEAD.
        url: https, or http on a loopback host.
        headers: `Connection: close` and `Accept-Encoding: identity` are always sent, `User-Agent` if absent.
        body: sent as it is; None for none.
        tls: for https; see `new_tls_context`.
        proxy: for https.
        total_timeout_s: for everything from here to the answer's last byte.
        connect_timeout_s: for reaching the host, all its addresses together, within `total_timeout_s`.
        max_body_bytes: of the answer, as it comes and unpacked.

    Raises:
        UnusableRequest, ConnectFailed, CertificateRefused: the server has not acted on the request.
        NoAnswer, AnswerTooLarge: it may have.
    """
    sent_headers = {"User-Agent": "token-broker", **headers}
    sent_headers |= {"Accept-Encoding": "identity", "Connection": "close"}
    outcome: BoundedResponse | CallError
    target = _checked(url, sent_headers, tls)
    if isinstance(target, UnusableRequest):
        outcome = target
    else:
        bounded = _Call(str(target.host), total_timeout_s, connect_timeout_s)
        outcome = bounded.send((method, target, body, sent_headers), tls, proxy, max_body_bytes)
    if isinstance(outcome, CallError):
        # Raised here and not where it was found: there it would carry the original error, with the request's body
        # and bearer, as its context, which `from None` hides but keeps.
        raise outcome
    return outcome


def in_background(what: str, act: Callable[[], _T], outcome: Future[_T] | None = None) -> Future[_T]:
    """Run what cannot be ended in a thread that nobody has to wait for, not even the interpreter at its end.

    Args:
        what: names the thread.
        act: what is run.
        outcome: where its answer or error is put; default: a new one.

    The answer has the error RuntimeError where no thread can be started.
    """
    future: Future[_T] = outcome or Future()

    def run() -> None:
        try:
            answer = act()
        except BaseException as error:  # noqa: BLE001 - handed on to the one who waits
            future.set_exception(error)
        else:
            future.set_result(answer)

    try:
        threading.Thread(target=run, name=f"token-broker: {what}", daemon=True).start()
    except RuntimeError as error:  # the process has too many, or is ending
        future.set_exception(error)
    return future


def _checked(url: str, headers: Mapping[str, str], tls: ssl.SSLContext | None) -> Url | UnusableRequest:
    try:
        parts, target = urlsplit(url), parse_url(url)
        if parts.scheme == "https" and tls is None:
            return UnusableRequest("an https URL needs a TLS context")
        port = parts.port
        if not is_private_channel(url) or not parts.hostname or target.auth is not None or port == 0:
            return UnusableRequest("the URL must be https://host/..., without a user name")
        host = str(target.host).strip("[]")
        if (target.scheme, host, target.port) != (parts.scheme, parts.hostname, port):
            return UnusableRequest("the URL's host can be read in two ways")
        sendable = _TARGET.fullmatch(target.request_uri) and all(
            _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value) for name, value in headers.items()
        )
        return target if sendable else UnusableRequest("the URL or a header cannot be sent")
    except (LocationParseError, ValueError, TypeError):
        return UnusableRequest("the URL or a header cannot be sent")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Call:
    """One request: how far it got, and the timer that cuts its connection.

    The timer works on a duplicate of the socket's descriptor, because the socket itself passes into TLS, while shutting
    the duplicate down ends whatever its owner is blocked in.
    """

    def __init__(self, host: str, total_timeout_s: float, connect_timeout_s: float) -> None:
        self._host = host.strip("[]")
        self._was_cut = False
        self._connect_timeout_s = connect_timeout_s
        self._stage = "preparing"
        self._way = ""
        self._is_sent = False
        self._is_over = False
        self._watched: socket.socket | None = None
        self._lock = threading.Lock()
        self._total_timeout_s = total_timeout_s
        self._end_s = time.monotonic() + total_timeout_s
        self._timer = threading.Timer(total_timeout_s, self._cut)
        self._timer.daemon = True

    def send(
        self,
        request: tuple[str, Url, bytes | None, Mapping[str, str]],
        tls: ssl.SSLContext | None,
        proxy: Proxy | None,
        max_body_bytes: int,
    ) -> BoundedResponse | CallError:
        method, target, body, headers = request
        try:
            self._timer.start()
            with closing(self._connection(target, tls, proxy)) as connection:
                connection.connect()
                self._stage, self._is_sent = "waiting for the answer", True
                connection.request(method, target.request_uri, body, headers)
                with connection.sock.makefile("rb") as stream:
                    answer = BoundedResponse(*read_answer(stream, max_body_bytes))
            self._finish()
            # If cut in the middle of what has no declared length, it looks whole.
            return self._failure() if self._was_cut else answer
        except TooLongError:
            return AnswerTooLarge(f"{self._host}: the answer has more than {max_body_bytes} bytes")
        except ssl.SSLCertVerificationError as error:
            return CertificateRefused(f"{self._host}: the certificate is refused: {error.verify_message}")
        except _CAUSES as error:
            return self._failure(timed_out=isinstance(error, TimeoutError))
        finally:
            self._finish()

    def _connection(self, target: Url, tls: ssl.SSLContext | None, proxy: Proxy | None) -> HTTPConnection:
        """Return what speaks HTTP and TLS for this call, on the sockets that `_open_socket` makes."""
        first = target if proxy is None else parse_url(proxy.url)
        host, port = str(first.host).strip("[]"), first.port or _PORTS[str(first.scheme)]
        connection: HTTPConnection
        if target.scheme == "http":
            connection = HTTPConnection(host, port, timeout=self._total_timeout_s)
        else:
            connection = HTTPSConnection(
                host,
                port,
                timeout=self._total_timeout_s,
                ssl_context=tls,
                proxy=None if proxy is None else first,
                # The proxy's own certificate, if it has one, is checked with the same roots.
                proxy_config=ProxyConfig(
                    tls, use_forwarding_for_https=False, assert_hostname=None, assert_fingerprint=None
                ),
            )
        if proxy is not None:
            self._way = f" through the proxy {host}:{port}"
            tunnel_port = target.port or _PORTS["https"]
            connection.set_tunnel(self._host, tunnel_port, proxy.headers, scheme=str(first.scheme))
        connection._new_conn = partial(self._open_socket, host, port)  # type: ignore[method-assign] # noqa: SLF001 - where urllib3's own SOCKS support steps in, too
        return connection

    def _open_socket(self, host: str, port: int) -> socket.socket:
        self._stage = "looking up the host's name"
        lookup = in_background("name lookup", lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        addresses = [str(address[0]) for *_, address in lookup.result(self._left_s())]
        self._stage = f"connecting{self._way}"
        plain = self._connect_to_one_of(addresses, port)
        self._stage = f"agreeing on TLS{self._way}"
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(self._left_s())
            self._watch(plain)
            plain.getpeername()  # a TLS socket made of one that the peer has left would not be closed
        except BaseException:
            plain.close()
            raise
        return plain

    def _connect_to_one_of(self, addresses: list[str], port: int) -> socket.socket:
        """Give each address its share of the connect time-out, which is for all of them together."""
        end_s = min(self._end_s, time.monotonic() + self._connect_timeout_s)
        for index, address in enumerate(addresses):
            share_s = (end_s - time.monotonic()) / (len(addresses) - index)
            if share_s > 0:
                with suppress(OSError):
                    return socket.create_connection((address, port), share_s)
        raise TimeoutError if time.monotonic() >= end_s else ConnectionError

    def _left_s(self) -> float:
        return max(self._end_s - time.monotonic(), 0.001)

    def _failure(self, *, timed_out: bool = False) -> CallError:
        how = "timed out" if timed_out or self._was_cut else "failed"
        text = f"{self._host}: {how} while {self._stage}"
        return NoAnswer(text) if self._is_sent else ConnectFailed(text)

    def _watch(self, connection: socket.socket) -> None:
        with self._lock:
            self._watched = connection.dup()
            if self._was_cut:
                raise TimeoutError

    def _cut(self) -> None:
        with self._lock:
            if not self._is_over:
                self._was_cut = True
                self._shut_down()

    def _shut_down(self) -> None:
        if self._watched is not None:
            with suppress(OSError):  # the other end was faster
                self._watched.shutdown(socket.SHUT_RDWR)

    def _finish(self) -> None:
        """End the timer's power over the connection. Safe to call again."""
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._watched is not None:
                self._watched.close()
