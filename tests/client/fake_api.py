"""An API that wants bearer tokens, over plain loopback HTTP: it has two host names, localhost and 127.0.0.1."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True)
class Seen:
    path: str
    bearer: str | None
    body: bytes


class FakeApi:
    """Use as a context manager. `/redirect/STATUS/URL` redirects, `/forbidden` is 403, all else needs a good token."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.refused: set[str] = set()
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

    def url(self, path: str = "/things", host: str = "localhost") -> str:
        return f"http://{host}:{self._server.server_port}{path}"

    def status_of(self, seen: Seen) -> int:
        self.seen.append(seen)
        if seen.path == "/forbidden":
            return 403
        if seen.path.startswith("/redirect/"):
            return int(seen.path.split("/")[2])
        return 401 if seen.bearer is None or seen.bearer in self.refused else 200


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: FakeApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up or distrust a certificate, which is what some tests want."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.api.connections += 1

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
        status = self.server.api.status_of(Seen(self.path, bearer, body))
        answer = b'{"status":%d}' % status if self.server.api.body is None else self.server.api.body
        self.send_response(status)
        if self.path.startswith("/redirect/"):
            self.send_header("Location", unquote(self.path.split("/", 3)[3]))
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = _serve  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the tests look at what was recorded."""
