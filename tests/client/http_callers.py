"""One interface to what sends requests with the token: `requests`, `httpx`, and `httpx` on an event loop."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx
import requests

from token_broker.httpx_transport import AsyncBrokerTransport, BrokerTransport
from token_broker.requests_adapter import BrokerAdapter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from token_broker.client import BrokerClient

TIMEOUT_S = 10.0
HTTPX: dict[str, Any] = {"trust_env": False, "follow_redirects": True, "timeout": TIMEOUT_S}


class Caller:
    """Sends the requests to every host through one adapter. Attributes are read at the first request.

    `hosts` may see the token, by default the adapter's own; `proxy` is a URL, for plain HTTP; `hook` gets each answer,
    those that redirect included. Roots are those of SSL_CERT_FILE; nothing else comes from the environment.
    """

    status_error: type[Exception]
    connect_error: type[Exception]

    def __init__(self, client: BrokerClient) -> None:
        self.client = client
        self.hosts: tuple[str, ...] | None = ("localhost",)
        self.proxy: str | None = None
        self.has_one_connection = False
        self.hook: Callable[[Any], object] = lambda _answer: None
        self.end = ExitStack()

    def send(self, method: str, url: str, **given: Any) -> Any:
        """Return the library's own answer. A body is `content`, `data` (a form), `json` or `files`."""
        raise NotImplementedError

    def pieces(self) -> Iterator[bytes] | AsyncIterator[bytes]:
        """Return a body that can be sent once."""
        return iter([b"a", b"b"])

    def options(self) -> dict[str, Any]:
        return {} if self.hosts is None else {"hosts": self.hosts}


class RequestsCaller(Caller):
    status_error, connect_error = requests.HTTPError, requests.ConnectionError

    @cached_property
    def session(self) -> requests.Session:
        pool: dict[str, Any] = {"pool_maxsize": 1, "pool_block": True} if self.has_one_connection else {}
        adapter = BrokerAdapter(self.client, **self.options(), **pool)
        session = self.end.enter_context(requests.Session())
        session.trust_env = False
        session.verify = os.environ.get("SSL_CERT_FILE") or True
        session.proxies = {"http": self.proxy} if self.proxy else {}
        session.hooks["response"].append(lambda answer, **_: self.hook(answer))
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        session.mount("https://api.digishare.ma", adapter)  # without the last slash
        return session

    def send(self, method: str, url: str, **given: Any) -> requests.Response:
        if "content" in given:
            given["data"] = given.pop("content")
        return self.session.request(method, url, timeout=TIMEOUT_S, **given)


class HttpxCaller(Caller):
    status_error, connect_error = httpx.HTTPStatusError, httpx.ConnectError

    def below(self) -> dict[str, Any] | None:
        """Return settings of the transport that is wrapped; None for the default one."""
        if self.has_one_connection:
            return {"limits": httpx.Limits(max_connections=1)}
        return {"proxy": self.proxy} if self.proxy else None

    @cached_property
    def http(self) -> httpx.Client:
        settings = self.below()
        below = None if settings is None else httpx.HTTPTransport(**settings)
        transport = BrokerTransport(self.client, below, **self.options())
        http = httpx.Client(mounts={"all://": transport}, event_hooks={"response": [self.hook]}, **HTTPX)
        return self.end.enter_context(http)

    def send(self, method: str, url: str, **given: Any) -> httpx.Response:
        return self.http.request(method, url, **given)


class AsyncHttpxCaller(HttpxCaller):
    @cached_property
    def loop(self) -> asyncio.Runner:
        return self.end.enter_context(asyncio.Runner())

    @cached_property
    def async_http(self) -> httpx.AsyncClient:
        async def hook(answer: httpx.Response) -> None:
            self.hook(answer)

        settings = self.below()
        below = None if settings is None else httpx.AsyncHTTPTransport(**settings)
        transport = AsyncBrokerTransport(self.client, below, **self.options())
        http = httpx.AsyncClient(mounts={"all://": transport}, event_hooks={"response": [hook]}, **HTTPX)
        loop = self.loop
        self.end.callback(lambda: loop.run(http.aclose()))
        return http

    def send(self, method: str, url: str, **given: Any) -> httpx.Response:
        return self.loop.run(asyncio.wait_for(self.async_http.request(method, url, **given), 25))

    def pieces(self) -> AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in (b"a", b"b"):
                yield piece

        return pieces()


KINDS: dict[str, type[Caller]] = {
    "requests": RequestsCaller,
    "httpx": HttpxCaller,
    "httpx async": AsyncHttpxCaller,
}
