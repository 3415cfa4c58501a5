"""Bearer authentication for `requests`: ``requests.get(url, auth=BrokerAuth(client))``.

Installed with the extra `token-broker[requests]`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from requests.auth import AuthBase

from token_broker.token_hosts import host_names, may_carry_token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from requests import PreparedRequest, Response

    from token_broker.client import BrokerClient, Lease

_UNAUTHORIZED: Final = 401


class BrokerAuth(AuthBase):
    """Sets the token on requests to the hosts that it is meant for, and on no others.

    After a 401 it reports the token, takes the next one and repeats the request once, if there is another token and
    the body can be sent again (bytes, text, seekable files; not generators); the 401 is then in
    `response.history`. A 403 is left alone: another token has the same rights. `requests` drops the header on a
    redirect to another host.

    Args:
        client: where tokens come from; share it.
        hosts: host names that may see the token, over HTTPS (loopback hosts also over HTTP).

    Raises:
        ValueError: an entry of `hosts` is not a host name.

    Sending a request raises `TokenBrokerError` where the broker gives no token, also in answer to a 401.
    """

    def __init__(self, client: BrokerClient, hosts: Iterable[str] = ("api.digishare.ma",)) -> None:
        self._client = client
        self._hosts = host_names(hosts)

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Set the header before the request is sent (the hook of `requests`; it names the argument). May block."""
        if may_carry_token(r.url or "", self._hosts):
            lease = self._client.token()
            r.headers["Authorization"] = _header(lease)
            r.hooks["response"].append(partial(self._renew_after_401, lease, _start_of(r.body)))
        return r

    def _renew_after_401(
        self,
        lease: Lease,
        body_start: int | None,
        response: Response,
        **send_settings: Any,  # timeout, verify, cert, stream, proxies: typed by the adapter that gets them
    ) -> Response:
        request = response.request
        # After a redirect this can be another request than the one that was given the token.
        carried_it = request.headers.get("Authorization") == _header(lease)
        if response.status_code != _UNAUTHORIZED or not carried_it:
            return response
        # Read to the end and let go, so that the connection is free for what follows.
        response.content  # noqa: B018 - the property reads
        response.close()
        renewed = self._client.report_rejected(lease.token_id)
        if renewed.token_id == lease.token_id or body_start is None:
            return response
        repeated = request.copy()
        repeated.headers["Authorization"] = _header(renewed)
        body: object = repeated.body  # wider than the stubs say: also what the caller passed, such as a file
        if hasattr(body, "seek"):
            body.seek(body_start)
        answer: Response = response.connection.send(repeated, **send_settings)
        answer.history.append(response)
        answer.request = repeated
        return answer


def _header(lease: Lease) -> str:
    return f"Bearer {lease.access_token}"


def _start_of(body: object) -> int | None:
    """Return where a body starts, for sending it again; None if that cannot be done."""
    if body is None or isinstance(body, bytes | str):
        return 0
    if not hasattr(body, "seek") or not hasattr(body, "tell"):
        return None
    try:
        return int(body.tell())
    except OSError:  # a pipe or a socket
        return None
