"""An API that wants bearer tokens, on loopback; it answers to whatever host name leads there."""

from __future__ import annotations

import ssl
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

if TYPE_CHECKING:
    from types import TracebackType

    import trustme

HOSTS_ELSEWHERE = ("example.com", "api.example.com", "api.digishare.ma.example.com")
URLS_ELSEWHERE = (
    "https://api.digishare.ma.example.com:{port}/",
    "https://api.digishare.ma@example.com:{port}/",
    "https://api.digishare.ma:secret@example.com:{port}/",
    "https://api.digishare.ma%2f@example.com:{port}/",
    "https://example.com:{port}/https://api.digishare.ma/",
    "https://example.com:{port}?@api.digishare.ma/",
    "https://example.com:{port}#@api.digishare.ma/",
    "https://api.example.com:{port}/api.digishare.ma",
)
"""What a prefix without its last slash, or a careless reader, takes for Digishare's."""


@dataclass(frozen=True)
class Seen:
    """A request. `bearer` is the whole Authorization where it is of another scheme."""

    host: str
    path: str
    bearer: str | None
    body: bytes


class FakeApi:
    """Use as a context manager. `/redirect/STATUS/URL` redirects, `/forbidden` is 403, all else needs a good token.

    `first_statuses` come before all that. Errors have `error_headers`; with `dripping_401` its body drips for ten
    seconds, or until the client hangs up, which `hung_up` tells.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.refused: set[str] = set()
        self.first_statuses: deque[int] = deque()
        self.error_headers: dict[str, str] = {}
        self.dripping_401 = False
        self.hung_up = threading.Event()
        self.connections = 0
        self.body: bytes | None = None
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_port

    def speak_tls(self, certificate: trustme.LeafCert) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        # The handshake belongs into the request's own thread.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )

    def url(self, path: str = "/things", host: str = "localhost") -> str:
        return f"http://{host}:{self.port}{path}"

    def status_of(self, seen: Seen) -> int:
        self.seen.append(seen)
        if self.first_statuses:
            return self.first_statuses.popleft()
        if seen.path == "/forbidden":
            return 403
        if seen.path.startswith("/redirect/"):
            return int(seen.path.split("/")[2])
        return 401 if seen.bearer is None or seen.bearer in self.refused else 200


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    api: FakeApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up or distrust a certificate, which is what some tests want."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    server: _Server

    def _serve(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size + 2)[:-2]
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        authorization = self.headers.get("Authorization")
        bearer = None if authorization is None else authorization.removeprefix("Bearer ")
        api = self.server.api
        status = api.status_of(Seen(self.headers["Host"], self.path, bearer, body))
        answer = b'{"status":%d}' % status if api.body is None else api.body
        self.send_response(status)
        if self.path.startswith("/redirect/"):
            self.send_header("Location", unquote(self.path.split("/", 3)[3]))
        if status >= 400:
            for name, value in api.error_headers.items():
                self.send_header(name, value)
        if status == 401 and api.dripping_401:
            self._drip()
            return
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _drip(self) -> None:
        api = self.server.api
        self.close_connection = True
        self.end_headers()
        try:
            for _ in range(500):
                self.wfile.write(b".")
                time.sleep(0.02)
        except OSError:
            api.hung_up.set()

    do_GET = do_HEAD = do_POST = _serve  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the tests look at what was recorded."""
