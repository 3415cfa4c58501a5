"""Bearer authentication for `httpx`, sync and async: ``httpx.AsyncClient(auth=BrokerAuth(client))``.

Installed with the extra `token-broker[httpx]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httpx
from anyio import to_thread

from token_broker.token_hosts import host_names, may_carry_token

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable

    from token_broker.client import BrokerClient, Lease

_UNAUTHORIZED: Final = 401


class BrokerAuth(httpx.Auth):
    """Sets the token on requests to the hosts that it is meant for, and on no others.

    After a 401 it reports the token, takes the next one and repeats the request once, if there is another token and
    the body is in memory (`content`, `json`, `data`; not generators and files); the 401 is then in
    `response.history`. A 403 is left alone: another token has the same rights. `httpx` drops the header on a
    redirect to another host. In async clients the broker is asked in a thread, so the event loop never waits.

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

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Drive one request (the hook of `httpx`). May block."""
        if not may_carry_token(str(request.url), self._hosts):
            yield request
            return
        lease = self._client.token()
        response = yield _with_token(request, lease)
        if _is_refused(response, lease):
            renewed = self._client.report_rejected(lease.token_id)
            if renewed.token_id != lease.token_id and _can_repeat(request):
                yield _with_token(request, renewed)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Drive one request (the hook of `httpx`). Does not block the event loop."""
        if not may_carry_token(str(request.url), self._hosts):
            yield request
            return
        # abandon_on_cancel: a cancelled task ends at once; its thread ends by itself, within the time budget.
        lease = self._client.fresh_lease()
        if lease is None:
            lease = await to_thread.run_sync(self._client.token, abandon_on_cancel=True)
        response = yield _with_token(request, lease)
        if _is_refused(response, lease):
            renewed = await to_thread.run_sync(
                self._client.report_rejected, lease.token_id, abandon_on_cancel=True
            )
            if renewed.token_id != lease.token_id and _can_repeat(request):
                yield _with_token(request, renewed)


def _with_token(request: httpx.Request, lease: Lease) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {lease.access_token}"
    return request


def _is_refused(response: httpx.Response, lease: Lease) -> bool:
    # After a redirect the answer can belong to another request, one that was not given the token.
    sent = response.request.headers.get("Authorization")
    return response.status_code == _UNAUTHORIZED and sent == f"Bearer {lease.access_token}"


def _can_repeat(request: httpx.Request) -> bool:
    try:
        request.content  # noqa: B018 - the property tells by raising
    except httpx.RequestNotRead:
        return False
    return True
