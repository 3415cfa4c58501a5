"""The one way in which the functions call the upstream: bounded in time and size, and silent about secrets.

Every call has a connection of its own, closed afterwards: what an upstream leaves on one (an interim answer, a late
duplicate, junk behind a 204) must not become the answer to another call.

Importing this module imports requests, which takes long at a cold start: import it where the first call is made.

A read time-out alone bounds nothing: it starts again with every byte, so a server that drips can hold a caller for
as long as it likes. Here a timer shuts the connection's socket down when the whole call's time is over, which ends
a handshake, a send or a read at once. The one exception is the lookup of the host's name, which the operating
system bounds (`options timeout` of resolv.conf).
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, NoReturn, cast
from urllib.parse import urlsplit

import certifi
import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from token_broker.http_answer import TooLongError, UnreadableError, read_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

_CAUSES = (UnreadableError, HTTPException, OSError, ValueError)
_SECONDS = re.compile(r"[0-9]{1,300}(?:\.[0-9]{1,15})?")


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


class CertificateRefused(ConnectFailed):
    """The host's TLS certificate is not one to trust; the request was not sent."""

    code = "certificate_refused"


class NoAnswer(ExchangeError):
    """The request was sent, or a part of it, and no whole answer came in time: its outcome is unknown."""

    code = "no_answer"


class AnswerTooLarge(ExchangeError):
    """The answer is longer than the caller allows; the rest of it was not read."""

    code = "answer_too_large"


class AnswerNotJson(ExchangeError):
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
        with suppress(ValueError, TypeError, OverflowError, IndexError):
            until = parsedate_to_datetime(text)
            if until.tzinfo is None:
                until = until.replace(tzinfo=UTC)
            return max(0.0, until.timestamp() - now_epoch_s)
        return None


def new_session(ca_file: str | None = None) -> requests.Session:
    """Return a session for `exchange_json` and nothing else; threads may share it. Loads the CA certificates once.

    Args:
        ca_file: the only CA certificates to trust; None for the public ones (certifi). What the environment says
            (proxies, netrc, REQUESTS_CA_BUNDLE, SSLKEYLOGFILE) never counts.
    """
    session = requests.Session()
    session.adapters.clear()
    session.mount("https://", _TlsAdapter(ca_file or certifi.where()))
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
        method: in capitals; not HEAD.
        url: https only.
        headers: `Accept: application/json` is added if absent; `Accept-Encoding` is always `identity`.
        json_body: sent as JSON; None for no body.
        params: the query.
        total_timeout_s: for everything from here to the answer's last byte, except the lookup of the host's name.
        connect_timeout_s: for reaching the host, within `total_timeout_s`.
        max_body_bytes: of the answer, as it comes and unpacked.

    Raises:
        UnusableRequest, ConnectFailed, CertificateRefused: the upstream has not acted on the request.
        NoAnswer, AnswerTooLarge: it may have.
    """
    prepared = _prepare(requests.Request(method, url, headers=headers, json=json_body, params=params))
    outcome: BoundedResponse | ExchangeError
    if isinstance(prepared, ExchangeError):
        outcome = prepared
    else:
        tls = cast("_TlsAdapter", session.get_adapter(str(prepared.url))).tls
        outcome = _send(tls, prepared, (connect_timeout_s, total_timeout_s), max_body_bytes)
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
        headers.update({"Accept-Encoding": "identity", "Connection": "close"})
        for value in headers.values():
            value.encode("latin-1")
        request.headers = headers
        prepared = request.prepare()
        sent = urlsplit(prepared.url)
        if (sent.scheme, sent.hostname, sent.port) != (parts.scheme, parts.hostname, parts.port):
            return UnusableRequest("the URL's host can be read in two ways")
        return prepared
    except (requests.RequestException, ValueError, TypeError, AttributeError):
        return UnusableRequest("the URL, a header or the body cannot be sent")


def _send(
    tls: ssl.SSLContext,
    prepared: requests.PreparedRequest,
    timeouts_s: tuple[float, float],
    max_body_bytes: int,
) -> BoundedResponse | ExchangeError:
    call = _Call(prepared, *timeouts_s)
    try:
        call.start()
        with call.connect(tls) as connection, connection.makefile("rb") as stream:
            call.send(connection)
            status, headers, body = read_answer(stream, max_body_bytes)
        call.finish()
        # If cut in the middle of what has no declared length, it looks whole.
        return call.failure() if call.was_cut else BoundedResponse(status, headers, body)
    except TooLongError:
        return AnswerTooLarge(f"{call.host}: the answer has more than {max_body_bytes} bytes")
    except ssl.SSLCertVerificationError as error:
        return CertificateRefused(f"{call.host}: the certificate is refused: {error.verify_message}")
    except _CAUSES as error:
        return call.failure(timed_out=isinstance(error, TimeoutError))
    finally:
        call.finish()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Call:
    """One request: how far it got, and the timer that cuts its connection.

    The timer works on a duplicate of the socket's descriptor, because the socket itself passes into TLS, while shutting
    the duplicate down ends whatever its owner is blocked in.
    """

    def __init__(
        self, prepared: requests.PreparedRequest, connect_timeout_s: float, total_timeout_s: float
    ) -> None:
        parts = urlsplit(str(prepared.url))
        self.host = str(parts.hostname)
        self.was_cut = False
        self._port = parts.port or 443
        self._prepared = prepared
        self._connect_timeout_s = connect_timeout_s
        self._stage = "preparing"
        self._is_sent = False
        self._is_over = False
        self._watched: socket.socket | None = None
        self._lock = threading.Lock()
        self._end_s = time.monotonic() + total_timeout_s
        self._timer = threading.Timer(total_timeout_s, self._cut)
        self._timer.daemon = True

    def start(self) -> None:
        self._timer.start()

    def connect(self, tls: ssl.SSLContext) -> ssl.SSLSocket:
        self._stage = "looking up the host's name"
        addresses = [
            str(address[0])
            for *_, address in socket.getaddrinfo(self.host, self._port, type=socket.SOCK_STREAM)
        ]
        self._stage = "connecting"
        with self._connect_to_one_of(addresses) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(max(self._end_s - time.monotonic(), 0.001))
            self._stage = "agreeing on TLS"
            self._watch(plain)
            if self.was_cut:
                raise TimeoutError  # a TLS socket made of one that the peer has left would not be closed
            return tls.wrap_socket(plain, server_hostname=self.host)

    def send(self, connection: ssl.SSLSocket) -> None:
        # It only writes the request down: it neither connects nor reads.
        writer = HTTPSConnection(self.host, self._port, context=connection.context)
        writer.sock = connection
        self._stage, self._is_sent = "waiting for the answer", True
        prepared = self._prepared
        body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
        writer.request(str(prepared.method), prepared.path_url, body, prepared.headers)

    def finish(self) -> None:
        """End the timer's power over the connection. Safe to call again."""
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._watched is not None:
                self._watched.close()

    def failure(self, *, timed_out: bool = False) -> ExchangeError:
        how = "timed out" if timed_out or self.was_cut else "failed"
        text = f"{self.host}: {how} while {self._stage}"
        return NoAnswer(text) if self._is_sent else ConnectFailed(text)

    def _connect_to_one_of(self, addresses: list[str]) -> socket.socket:
        """Give each address its share of the connect time-out, which is for all of them together."""
        end_s = min(self._end_s, time.monotonic() + self._connect_timeout_s)
        for index, address in enumerate(addresses):
            share_s = (end_s - time.monotonic()) / (len(addresses) - index)
            if share_s > 0:
                with suppress(OSError):
                    return socket.create_connection((address, self._port), share_s)
        raise TimeoutError if time.monotonic() >= end_s else ConnectionError

    def _watch(self, connection: socket.socket) -> None:
        with self._lock:
            self._watched = connection.dup()
            if self.was_cut:
                self._shut_down()

    def _cut(self) -> None:
        with self._lock:
            if not self._is_over:
                self.was_cut = True
                self._shut_down()

    def _shut_down(self) -> None:
        if self._watched is not None:
            with suppress(OSError):  # the other end was faster
                self._watched.shutdown(socket.SHUT_RDWR)


class _TlsAdapter(BaseAdapter):
    """Where a session keeps its TLS context: loading the CA certificates is most of a handshake's cost.

    It sends nothing, so that the session's own methods, which bound nothing, fail.
    """

    def __init__(self, ca_file: str) -> None:
        super().__init__()
        # Not ssl.create_default_context: it writes session keys to where SSLKEYLOGFILE says.
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self.tls.set_alpn_protocols(["http/1.1"])
        self.tls.load_verify_locations(ca_file)

    def send(self, *_: object, **__: object) -> NoReturn:
        raise UnusableRequest("exchange_json is the way to send a request")

    def close(self) -> None:
        """Do nothing: no connection outlives its call."""
