"""One HTTP call that ends at its deadline, to the broker or to the upstream; its errors contain no secrets.

Every call has a connection of its own, closed afterwards: what a server leaves on one (an interim answer, a late
duplicate, junk behind a 204) must not become the answer to another call.
"""

from __future__ import annotations

import json
import re
import ssl
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection, ProxyConfig
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import parse_url

from token_broker.connector import Connector
from token_broker.http_answer import TooLongError, UnreadableError, read_answer
from token_broker.token_hosts import is_private_channel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3.util import Url

_PORTS: Final = {"http": 80, "https": 443}
_CAUSES: Final = (UnreadableError, HTTPError, HTTPException, OSError, ValueError, RuntimeError)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET: Final = re.compile(r"[!-~]+")
_SENT: Final = "waiting for the answer"
_SECONDS: Final = re.compile(r"[0-9]{1,300}(?:\.[0-9]{1,15})?")


class CallError(Exception):
    """Root of what `call` raises. Never contains a URL, header, body or cause, so logging one is always safe.

    Attributes:
        code: for programs and metrics.
        may_have_been_processed: False only if the server cannot have acted on the request.
    """

    code = "call_failed"
    may_have_been_processed = True


class UnusableRequest(CallError, ValueError):
    """Nothing was sent: the URL is malformed or would send the request in clear, or a header cannot be sent."""

    code = "unusable_request"
    may_have_been_processed = False


class ConnectFailed(CallError):
    """No connection: name, address, proxy, or TLS (an untrusted certificate included); the request was not sent."""

    code = "connect_failed"
    may_have_been_processed = False


class CertificateRefused(ConnectFailed):
    """The host's TLS certificate is not trusted; the request was not sent."""

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
            pass  # raised below, outside of this block: the parser's error contains the whole body
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
    """Return a context that trusts the certificates of this file alone. Reuse it: loading them is slow.

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
    target = _checked(url, sent_headers, tls)
    if isinstance(target, UnusableRequest):
        raise target
    connector = Connector(total_timeout_s, connect_timeout_s)
    outcome = _exchange((method, target, body, sent_headers), connector, tls, proxy, max_body_bytes)
    if isinstance(outcome, CallError):
        # Raised here and not where it was found: there its context would be the original error, with the request's body
        # and bearer token, and `from None` hides a context without removing it.
        raise outcome
    return outcome


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


def _exchange(
    request: tuple[str, Url, bytes | None, Mapping[str, str]],
    connector: Connector,
    tls: ssl.SSLContext | None,
    proxy: Proxy | None,
    max_body_bytes: int,
) -> BoundedResponse | CallError:
    method, target, body, headers = request
    host = str(target.host).strip("[]")
    try:
        with connector, closing(_connection(target, connector, tls, proxy)) as connection:
            connection.connect()
            connector.stage = _SENT
            connection.request(method, target.request_uri, body, headers)
            with connection.sock.makefile("rb") as stream:
                answer = BoundedResponse(*read_answer(stream, max_body_bytes))
        # A body without a declared length looks whole when it was cut.
        return _failure(host, connector, timed_out=True) if connector.was_cut else answer
    except TooLongError:
        return AnswerTooLarge(f"{host}: the answer has more than {max_body_bytes} bytes")
    except ssl.SSLCertVerificationError as error:
        return CertificateRefused(f"{host}: the certificate is refused: {error.verify_message}")
    except _CAUSES as error:
        return _failure(host, connector, timed_out=connector.was_cut or isinstance(error, TimeoutError))


def _connection(
    target: Url, connector: Connector, tls: ssl.SSLContext | None, proxy: Proxy | None
) -> HTTPConnection:
    """Return what speaks HTTP and TLS for one call, on the socket that the connector opens."""
    first = target if proxy is None else parse_url(proxy.url)
    host, port = str(first.host).strip("[]"), first.port or _PORTS[str(first.scheme)]
    connection: HTTPConnection
    if target.scheme == "http":
        connection = HTTPConnection(host, port, timeout=connector.left_s())
    else:
        connection = HTTPSConnection(
            host,
            port,
            timeout=connector.left_s(),
            ssl_context=tls,
            proxy=None if proxy is None else first,
            # The proxy's own certificate, if it has one, is checked with the same roots.
            proxy_config=ProxyConfig(
                tls, use_forwarding_for_https=False, assert_hostname=None, assert_fingerprint=None
            ),
        )
    if proxy is not None:
        connector.way = f" through the proxy {host}:{port}"
        tunnel = str(target.host).strip("[]"), target.port or _PORTS["https"]
        connection.set_tunnel(*tunnel, proxy.headers, scheme=str(first.scheme))
    connection._new_conn = partial(connector.connect, host, port)  # type: ignore[method-assign] # noqa: SLF001 - as urllib3's own SOCKS support does
    return connection


def _failure(host: str, connector: Connector, *, timed_out: bool) -> CallError:
    text = f"{host}: {'timed out' if timed_out else 'failed'} while {connector.stage}"
    return NoAnswer(text) if connector.stage == _SENT else ConnectFailed(text)
