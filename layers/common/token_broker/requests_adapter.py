"""Digishare's token for `requests`: ``session.mount("https://api.digishare.ma/", BrokerAdapter(client))``.

Installed with the extra `token-broker[requests]`.
"""

from __future__ import annotations

import copy
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from requests import RequestException
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from token_broker.renewal import authorization, lease_to_repeat_with
from token_broker.token_hosts import DIGISHARE_HOSTS, host_names, may_carry_token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from requests import PreparedRequest, Response

    from token_broker.client import BrokerClient
    from token_broker.lease import Lease


class BrokerAdapter(HTTPAdapter):
    """Sends requests with the token to the hosts that it is meant for; requests to all others are sent unchanged.

    The token is set on a copy, in the place of any other Authorization: the request and the response's `request`
    never show it, and no redirect passes it on. After a 401 the adapter reports the token and repeats the request
    once, if there is another token and the body can be sent again (bytes, text, seekable files; not generators);
    otherwise the 401 is the answer. It works below hooks and, because urllib3 would repeat below any adapter, takes
    401 off `max_retries`. A 403 is returned as it is: another token has the same rights.

    Args:
        client: where tokens come from; share it.
        hosts: host names that may see the token, over HTTPS (loopback hosts also over HTTP).
        settings: what `HTTPAdapter` takes.

    Raises:
        ValueError: an entry of `hosts` is not a host name.

    Sending a request raises `TokenBrokerError` where the broker gives no token, also for repeating one. Waiting for
    the broker is bounded by the client's time budget, not by the request's timeout.
    """

    # Where copies of an adapter find what they need.
    __attrs__ = [*HTTPAdapter.__attrs__, "_client", "_hosts"]  # noqa: RUF012 - a list in the base class

    def __init__(
        self, client: BrokerClient, *, hosts: Iterable[str] = DIGISHARE_HOSTS, **settings: Any
    ) -> None:
        self._client = client
        self._hosts = host_names(hosts)
        super().__init__(**settings)

    @property
    def max_retries(self) -> Retry:
        """What urllib3 repeats by itself; never after a 401, even if that was set."""
        return self._max_retries

    @max_retries.setter
    def max_retries(self, value: Retry | int | None) -> None:
        self._max_retries = _without_401(Retry.from_int(value))

    def send(self, request: PreparedRequest, *args: Any, **settings: Any) -> Response:
        """Send a request (the hook of `requests`). Blocks."""
        if not may_carry_token(request.url or "", self._hosts):
            return super().send(request, *args, **settings)
        body_start = _position(request.body)
        lease = self._client.token()
        answer = self._send_with(lease, request, *args, **settings)
        if answer.status_code != HTTPStatus.UNAUTHORIZED:
            return answer
        can_repeat = _is_rewound(request.body, body_start)
        report = partial(self._client.report_rejected, lease.token_id)
        try:
            renewed = lease_to_repeat_with(report, lease, can_repeat=can_repeat)
        except BaseException:
            answer.close()
            raise
        if renewed is None:
            return answer
        answer.close()  # not read: its body may be endless
        return self._send_with(renewed, request, *args, **settings)

    def _send_with(self, lease: Lease, request: PreparedRequest, *args: Any, **settings: Any) -> Response:
        with_token = request.copy()
        with_token.headers["Authorization"] = authorization(lease)
        try:
            answer = super().send(with_token, *args, **settings)
        except RequestException as error:
            error.request = request
            raise
        answer.request = request
        return answer


class _Without401(Retry):
    """The part of a class of retries that lets a 401 through."""

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:  # noqa: FBT001, FBT002
        return status_code != HTTPStatus.UNAUTHORIZED and super().is_retry(
            method, status_code, has_retry_after
        )

    def increment(self, *args: Any, **settings: Any) -> Retry:  # type: ignore[override] # a class of its own
        # A subclass may return any retries from here, such as plain ones.
        return _without_401(super().increment(*args, **settings))


def _without_401(retries: Retry) -> Retry:
    """Return the same retries in a subclass of their own class, because that may have its own `is_retry`."""
    if isinstance(retries, _Without401):
        return retries
    retries = copy.copy(retries)
    retries.__class__ = type(f"{type(retries).__name__}Without401", (_Without401, type(retries)), {})
    return retries


def _position(body: object) -> object:
    try:
        return body.tell()  # type: ignore[attr-defined] # a body without the method raises, too
    except Exception:  # noqa: BLE001 - a caller's own object may raise anything
        return None


def _is_rewound(body: object, start: object) -> bool:
    """Make a body ready to be sent again, and return whether that succeeded."""
    if body is None or isinstance(body, bytes | bytearray | str):
        return True
    try:
        body.seek(start)  # type: ignore[attr-defined] # a body without the method raises, too
        return bool(body.tell() == start)  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - no file, a pipe, a closed file, or a caller's own object
        return False
