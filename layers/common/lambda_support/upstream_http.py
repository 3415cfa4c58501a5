"""The functions' way to the upstream: `requests` prepares, `token_broker.bounded_http` sends.

Proxies, netrc and certificates of the environment are ignored here, because the client secret is sent this way.

Importing this module imports requests, which takes long at a cold start: import it where the first call is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, cast
from urllib.parse import urlsplit

import certifi
import requests
from requests.adapters import BaseAdapter

from token_broker.bounded_http import BoundedResponse, UnusableRequest, call, new_tls_context

if TYPE_CHECKING:
    from collections.abc import Mapping


def new_session(ca_file: str | None = None) -> requests.Session:
    """Return a session for `exchange_json` and nothing else; threads may share it. Loads the CA certificates once.

    Args:
        ca_file: the only CA certificates to trust; None for the public ones (certifi).

    Raises:
        OSError: the certificates cannot be loaded.
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
    """Send one request, once, and return the whole answer; see `bounded_http.call`.

    Args:
        session: from `new_session`.
        method: in capitals; not HEAD.
        url: https only.
        headers: `Accept: application/json` is added if absent.
        json_body: sent as JSON; None for no body.
        params: the query.
        total_timeout_s: for everything from here to the answer's last byte.
        connect_timeout_s: for reaching the host, within `total_timeout_s`.
        max_body_bytes: of the answer, as it comes and unpacked.

    Raises:
        UnusableRequest, ConnectFailed, CertificateRefused: the upstream has not acted on the request.
        NoAnswer, AnswerTooLarge: it may have.
    """
    prepared = _prepare(requests.Request(method, url, headers=headers, json=json_body, params=params))
    if prepared is None:
        raise UnusableRequest("the URL (https only), a header or the body cannot be sent")
    sent_url = str(prepared.url)
    return call(
        method,
        sent_url,
        headers={"Accept": "application/json", **prepared.headers},
        body=prepared.body.encode() if isinstance(prepared.body, str) else prepared.body,
        tls=cast("_TlsAdapter", session.get_adapter(sent_url)).tls,
        total_timeout_s=total_timeout_s,
        connect_timeout_s=connect_timeout_s,
        max_body_bytes=max_body_bytes,
    )


def _prepare(request: requests.Request) -> requests.PreparedRequest | None:
    """Return the request as it is sent; None if it cannot be. Raises nothing: an error would contain secrets."""
    try:
        prepared, wanted = request.prepare(), urlsplit(request.url)
        sent = urlsplit(prepared.url)
        is_same_host = (sent.scheme, sent.hostname, sent.port) == ("https", wanted.hostname, wanted.port)
    except (requests.RequestException, ValueError, TypeError, AttributeError):
        return None
    return prepared if is_same_host and wanted.username is None else None


class _TlsAdapter(BaseAdapter):
    """Stores a session's TLS context, because loading the CA certificates is most of a handshake's cost.

    It sends nothing, so that the session's own methods, which have no limit of time and size, fail.
    """

    def __init__(self, ca_file: str) -> None:
        super().__init__()
        self.tls = new_tls_context(ca_file)

    def send(self, *_: object, **__: object) -> NoReturn:
        raise UnusableRequest("use exchange_json to send a request")

    def close(self) -> None:
        """Do nothing: no connection outlives its call."""
