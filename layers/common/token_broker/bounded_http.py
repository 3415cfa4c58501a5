"""The one way in which the functions call the upstream: bounded in time and size, and silent about secrets.

Importing this module imports requests, which is dear at a cold start: import it where the first call is made.

A read time-out alone bounds nothing: it starts anew with every byte, so a server that drips can hold a caller for
as long as it likes. Here a timer shuts the connection's socket down when the whole call's time is over, which ends
a handshake, a send or a read at once. The one exception is the lookup of the host's name, which the operating
system bounds (`options timeout` of resolv.conf).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import threading
import time
from contextlib import closing, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    from _typeshed import SupportsRead
    from typing_extensions import Buffer

    _Sendable: TypeAlias = SupportsRead[bytes] | Iterable[Buffer] | Buffer | str

_PIECE_BYTES = 65_536
_MAX_IDLE_S = 5.0
_CAUSES = (requests.RequestException, HTTPError, HTTPException, OSError, ValueError)


class ExchangeError(Exception):
    """Root of what `exchange_json` raises. Never holds a URL, header, body or cause: logging one is always safe.

    Attributes:
        code: for programs and metrics.
        may_have_been_processed: False only if the upstream cannot have acted on the request.
    """

    code = "exchange_failed"
    may_have_been_processed = True


class UnusableRequest(ExchangeError, ValueError):
    """Nothing was sent: not an https URL, or a header or body that cannot be sent as it is."""

    code = "unusable_request"
    may_have_been_processed = False


class ConnectFailed(ExchangeError):
    """No connection: name, address, or TLS (an untrusted certificate included); the request was not sent."""

    code = "connect_failed"
    may_have_been_processed = False


class NoAnswer(ExchangeError):
    """The request was sent, or a part of it, and no whole answer came in time: its outcome is unknown."""

    code = "no_answer"


class AnswerTooLarge(ExchangeError):
    """The answer is longer than the caller allows; the rest of it was not read."""

    code = "answer_too_large"


class AnswerNotJson(ExchangeError):
    """The answer has another content type, or is not the JSON that it says it is."""

    code = "answer_not_json"


@dataclass(frozen=True)
class BoundedResponse:
    """A whole answer of any status, redirects included; the names of `headers` match in any case."""

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


def new_session(ca_file: str | None = None) -> requests.Session:
    """Return a session for `exchange_json`; threads may share it. Loads the CA certificates once.

    Args:
        ca_file: the only CA certificates to trust; None for the public ones (certifi). What the environment says
            (proxies, netrc, REQUESTS_CA_BUNDLE, SSLKEYLOGFILE) never counts.
    """
    for name in ("urllib3.connection", "urllib3.connectionpool"):
        logging.getLogger(name).addFilter(_is_not_ours)
    session = requests.Session()
    session.trust_env = False
    session.verify = ca_file or True
    for scheme in list(session.adapters):
        del session.adapters[scheme]
    session.mount("https://", _BoundedAdapter(ca_file or certifi.where()))
    return session


def exchange_json(
    session: requests.Session,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    json_body: object = None,
    params: Mapping[str, str] | None = None,
    total_timeout_s: float,
    connect_timeout_s: float,
    max_body_bytes: int,
) -> BoundedResponse:
    """Send one request, once, and return the whole answer; blocks for `total_timeout_s` at most.

    Redirects are returned like any answer, cookies are dropped, nothing is tried again.

    Args:
        session: from `new_session`.
        method: in capitals.
        url: https only.
        headers: `Accept: application/json` is added if absent; `Accept-Encoding` is always `identity`, so that
            `max_body_bytes` bounds what is really there.
        json_body: sent as JSON; None for no body.
        params: the query.
        total_timeout_s: for everything from here to the answer's last byte, except the lookup of the host's name.
        connect_timeout_s: for reaching the host, within `total_timeout_s`.
        max_body_bytes: of the answer.

    Raises:
        UnusableRequest, ConnectFailed: the upstream has not acted on the request.
        NoAnswer, AnswerTooLarge: it may have.
    """
    prepared = _prepare(requests.Request(method, url, headers=headers, json=json_body, params=params))
    outcome: BoundedResponse | ExchangeError
    if isinstance(prepared, ExchangeError):
        outcome = prepared
    else:
        timeouts_s = (min(connect_timeout_s, total_timeout_s), total_timeout_s)
        outcome = _send(session, prepared, timeouts_s, max_body_bytes)
    if isinstance(outcome, ExchangeError):
        # Raised here and not where it was found: there it would carry the original error, with the request's body
        # and bearer, as its context, which `from None` hides but keeps.
        raise outcome
    return outcome


def _prepare(request: requests.Request) -> requests.PreparedRequest | UnusableRequest:
    try:
        parts = urlsplit(request.url)
        if parts.scheme != "https" or not parts.hostname or parts.username is not None:
            return UnusableRequest("the URL must be https://host/..., without a user name")
        headers = CaseInsensitiveDict({"Accept": "application/json", "User-Agent": "token-broker"})
        headers.update(request.headers)
        headers["Accept-Encoding"] = "identity"
        for value in headers.values():
            value.encode("latin-1")
        request.headers = headers
        return request.prepare()
    except (requests.RequestException, ValueError, TypeError, AttributeError):
        return UnusableRequest("the URL, a header or the body cannot be sent")


def _send(
    session: requests.Session,
    prepared: requests.PreparedRequest,
    timeouts_s: tuple[float, float],
    max_body_bytes: int,
) -> BoundedResponse | ExchangeError:
    url = prepared.url or ""
    host = urlsplit(url).hostname
    call = _Call(timeouts_s[1])
    previous = _current_call.set(call)
    try:
        call.start()
        # The adapter, not the session: for a redirect that it must not follow, Session.send still reads the whole
        # body into memory, and it keeps cookies.
        response = session.get_adapter(url).send(prepared, stream=True, timeout=timeouts_s, proxies={})
        with closing(response):
            body = _read_body(response, max_body_bytes)
        call.finish()
        if call.was_cut:
            # Possibly cut in the middle of what has no declared length, so that it looks whole.
            return call.failure(f"{host}: timed out")
        if body is None:
            return AnswerTooLarge(f"{host}: the answer has more than {max_body_bytes} bytes")
        return BoundedResponse(response.status_code, response.headers, body)
    except _CAUSES as error:
        timed_out = call.was_cut or isinstance(error, requests.Timeout | TimeoutError)
        return call.failure(f"{host}: {'timed out' if timed_out else 'failed'}")
    finally:
        call.finish()
        _current_call.reset(previous)


def _read_body(response: requests.Response, max_body_bytes: int) -> bytes | None:
    """Return the body as it came over the wire; None, with the rest unread, if it is larger than allowed."""
    body = bytearray()
    while piece := response.raw.read(min(_PIECE_BYTES, max_body_bytes + 1 - len(body)), decode_content=False):
        body += piece
        if len(body) > max_body_bytes:
            return None
    return bytes(body)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Call:
    """One exchange: how far it got, and the timer that cuts its connection.

    `watch` keeps a duplicate of the socket's descriptor, because the socket object itself changes hands (into TLS,
    into the response) while shutting the duplicate down ends whatever its owner is blocked in.
    """

    def __init__(self, total_timeout_s: float) -> None:
        self.stage = "preparing"
        self.is_sent = False
        self.was_cut = False
        self._is_over = False
        self._watched: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(total_timeout_s, self._cut)
        self._timer.daemon = True

    def start(self) -> None:
        self._timer.start()

    def watch(self, connection: socket.socket) -> None:
        with self._lock:
            if self._watched is None and not self._is_over:
                self._watched = socket.socket(fileno=os.dup(connection.fileno()))
            if self.was_cut:
                self._shut_down()

    def finish(self) -> None:
        """End the timer's power over the connection, which may go back to the pool. Safe to call again."""
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._watched is not None:
                self._watched.close()

    def failure(self, what: str) -> ExchangeError:
        text = f"{what} while {self.stage}"
        return NoAnswer(text) if self.is_sent else ConnectFailed(text)

    def _cut(self) -> None:
        with self._lock:
            if not self._is_over:
                self.was_cut = True
                self._shut_down()

    def _shut_down(self) -> None:
        if self._watched is not None:
            with suppress(OSError):  # the other end was faster
                self._watched.shutdown(socket.SHUT_RDWR)


_current_call: ContextVar[_Call] = ContextVar("_current_call")


def _is_not_ours(_: logging.LogRecord) -> bool:
    """Drop what urllib3 logs about our calls: URLs with their query, and what it could not read of an answer."""
    return _current_call.get(None) is None


class _WatchedConnection(HTTPSConnection):
    """Tells the current call which socket it uses, and when the first byte of the request goes out."""

    _last_used_s = 0.0

    @property
    def is_connected(self) -> bool:
        # A connection that sat in a frozen Lambda is likely dead, and a request lost on one has an unknown outcome.
        return time.monotonic() - self._last_used_s < _MAX_IDLE_S and super().is_connected

    def _new_conn(self) -> socket.socket:
        call = _current_call.get()
        call.stage = "looking up the host's name"
        host = self._dns_host.strip("[]")
        addresses = [
            str(address[0]) for *_, address in socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        ]
        call.stage = "connecting"
        connection = self._connect_to_one_of(addresses)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        call.stage = "agreeing on TLS"
        call.watch(connection)
        return connection

    def _connect_to_one_of(self, addresses: list[str]) -> socket.socket:
        """Give each address its share of the connect time-out, which is for all of them together."""
        end_s = time.monotonic() + float(self.timeout or 0)
        for index, address in enumerate(addresses):
            share_s = (end_s - time.monotonic()) / (len(addresses) - index)
            with suppress(OSError):
                return socket.create_connection((address, self.port), max(share_s, 0.001))
        if time.monotonic() >= end_s:
            raise ConnectTimeoutError(self, "no address answered in time")
        raise ConnectionError("no address could be reached")

    def send(self, data: _Sendable) -> None:
        call = _current_call.get()
        if self.sock is not None:
            call.watch(self.sock)
        call.stage, call.is_sent = "waiting for the answer", True
        super().send(data)
        self._last_used_s = time.monotonic()


class _WatchedPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _WatchedConnection


class _BoundedAdapter(HTTPAdapter):
    """Watched connections that share one TLS context: loading the CA certificates is most of a handshake's cost."""

    def __init__(self, ca_file: str) -> None:
        super().__init__(max_retries=0)
        # Not ssl.create_default_context: it writes session keys to where SSLKEYLOGFILE says.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        tls.load_verify_locations(ca_file)
        self.poolmanager = urllib3.PoolManager(num_pools=2, maxsize=2, ssl_context=tls)
        self.poolmanager.pool_classes_by_scheme = {"https": _WatchedPool}

    def close(self) -> None:
        # urllib3 leaves a pool's connections to the garbage collector, and errors hold pools in reference cycles.
        for key in self.poolmanager.pools.keys():  # noqa: SIM118 - not a mapping that can be iterated
            self.poolmanager.pools[key].close()
        super().close()

    def cert_verify(self, conn: object, url: object, verify: object, cert: object) -> None:
        """Do nothing: the context has its CA certificates, and verifying is not for a caller to switch off."""
