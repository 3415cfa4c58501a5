"""Digishare's token for `httpx`: ``httpx.Client(mounts={"https://api.digishare.ma": BrokerTransport(client)})``.

Installed with the extra `token-broker[httpx]`.
"""

from __future__ import annotations

import copy
import os
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from anyio.lowlevel import current_token

from token_broker.background import in_background
from token_broker.errors import TokenBrokerError
from token_broker.renewal import authorization, lease_to_repeat_with
from token_broker.token_hosts import DIGISHARE_HOSTS, host_names, may_carry_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from token_broker.client import BrokerClient
    from token_broker.lease import Lease


class BrokerTransport(httpx.BaseTransport):
    """Sends requests with the token to the hosts that it is meant for; requests to all others are sent unchanged.

    The token is set on a copy, in the place of any other Authorization: the request and the response's `request`
    never show it, and no redirect passes it on. After a 401 the transport reports the token and repeats the
    request once, if there is another token and the body is in memory (`content`, `json`, `data`; not generators,
    files and multipart); otherwise the 401 is the answer. It works below `event_hooks`. A 403 is returned as it is:
    another token has the same rights.

    Args:
        client: where tokens come from; share it.
        transport: what sends the requests, and is closed with this one; default: `httpx.HTTPTransport()`. Proxy,
            roots and limits are settings of it: those of an `httpx.Client` do not reach what is mounted.
        hosts: host names that may see the token, over HTTPS (loopback hosts also over HTTP).

    Raises:
        ValueError: an entry of `hosts` is not a host name.

    Sending a request raises `TokenBrokerError` where the broker gives no token, also for repeating one. Waiting for
    the broker is bounded by the client's time budget, not by the request's timeout.
    """

    def __init__(
        self,
        client: BrokerClient,
        transport: httpx.BaseTransport | None = None,
        *,
        hosts: Iterable[str] = DIGISHARE_HOSTS,
    ) -> None:
        self._client = client
        self._hosts = host_names(hosts)
        self._transport = transport or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request (the hook of `httpx`). Blocks."""
        if not may_carry_token(str(request.url), self._hosts):
            return self._transport.handle_request(request)
        lease = self._client.token()
        answer = self._send_with(lease, request)
        if answer.status_code != HTTPStatus.UNAUTHORIZED:
            return answer
        report = partial(self._client.report_rejected, lease.token_id)
        try:
            renewed = lease_to_repeat_with(report, lease, can_repeat=_can_repeat(request))
        except BaseException:
            answer.close()
            raise
        if renewed is None:
            return answer
        answer.close()  # not read: its body may be endless
        return self._send_with(renewed, request)

    def close(self) -> None:
        """Close the transport that sends the requests."""
        self._transport.close()

    def _send_with(self, lease: Lease, request: httpx.Request) -> httpx.Response:
        answer = self._transport.handle_request(_with_token(request, lease))
        answer.request = request
        return answer


class AsyncBrokerTransport(httpx.AsyncBaseTransport):
    """The same as `BrokerTransport` for `httpx.AsyncClient`, on asyncio and trio; the event loop never waits.

    While the broker is asked, requests wait for one thread, together and in any number of event loops. One that is
    cancelled ends at once; the thread goes on for the others, within the client's time budget.

    It takes the same arguments; `httpx.AsyncHTTPTransport()` sends where no other transport is given.
    """

    def __init__(
        self,
        client: BrokerClient,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        hosts: Iterable[str] = DIGISHARE_HOSTS,
    ) -> None:
        self._client = client
        self._hosts = host_names(hosts)
        self._transport = transport or httpx.AsyncHTTPTransport()
        self._asked: dict[tuple[object, ...], Future[Lease]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request (the hook of `httpx`). Does not block the event loop."""
        if not may_carry_token(str(request.url), self._hosts):
            return await self._transport.handle_async_request(request)
        lease = self._client.fresh_lease() or (await self._ask(self._client.token))()
        answer = await self._send_with(lease, request)
        if answer.status_code != HTTPStatus.UNAUTHORIZED:
            return answer
        try:
            report = await self._ask(self._client.report_rejected, lease.token_id)
            renewed = lease_to_repeat_with(report, lease, can_repeat=_can_repeat(request))
        except BaseException:
            await answer.aclose()
            raise
        if renewed is None:
            return answer
        await answer.aclose()  # not read: its body may be endless
        return await self._send_with(renewed, request)

    async def aclose(self) -> None:
        """Close the transport that sends the requests."""
        await self._transport.aclose()

    async def _send_with(self, lease: Lease, request: httpx.Request) -> httpx.Response:
        answer = await self._transport.handle_async_request(_with_token(request, lease))
        answer.request = request
        return answer

    async def _ask(self, ask: Callable[..., Lease], *what: str) -> Callable[[], Lease]:
        """Wait for a thread that asks; what this returns then returns the lease, or raises, without blocking.

        Those that ask the same share a thread. It is a daemon and belongs to no event loop, so that neither a
        cancelled task nor a program that ends waits for the broker. There is one thread for each question.
        """
        question = (os.getpid(), *what)  # a forked child has none of its parent's threads
        new: Future[Lease] = Future()
        new.add_done_callback(lambda _: self._asked.pop(question))
        # One atomic step, because event loops can be in several threads.
        answer = self._asked.setdefault(question, new)
        if answer is new:
            in_background("lease", partial(ask, *what), new)
        await _wait_for(answer)
        return partial(_lease_of, answer)


def _with_token(request: httpx.Request, lease: Lease) -> httpx.Request:
    headers = httpx.Headers(request.headers)
    headers["Authorization"] = authorization(lease)
    return httpx.Request(
        request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
    )


def _can_repeat(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)


async def _wait_for(answer: Future[Lease]) -> None:
    """Wait until the thread has given its answer, in whichever event loop it was started."""
    done = anyio.Event()
    call_soon = _call_soon_of_this_loop()

    def tell(_: object) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            call_soon(done.set)

    answer.add_done_callback(tell)
    await done.wait()


def _lease_of(answer: Future[Lease]) -> Lease:
    error = answer.exception()
    if isinstance(error, TokenBrokerError):
        raise copy.copy(error)  # a copy, because `raise` writes a traceback into the error
    return answer.result()


def _call_soon_of_this_loop() -> Callable[[Callable[[], object]], object]:
    """Return the way to have this event loop call something from any thread: asyncio's or trio's."""
    token: Any = current_token()
    loop: Any = getattr(token, "native_token", token)  # anyio wraps it since 4.11
    return loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon  # type: ignore[no-any-return]
