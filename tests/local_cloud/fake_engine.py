"""A container engine that has every image and starts nothing: it notes what SAM asks it to create, and refuses."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path


class FakeEngine:
    """Speaks what SAM needs of Docker's API, on a socket of the file system.

    Attributes:
        host: for DOCKER_HOST.
        created: the bodies of `POST /containers/create` so far.
    """

    def __init__(self, socket_file: Path) -> None:
        self.host = f"unix://{socket_file}"
        self.created: list[dict[str, Any]] = []
        self._server = _Server(str(socket_file), _Handler)
        self._server.engine = self

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    engine: FakeEngine


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer what it is and which images it has."""
        version = {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10.24"}
        self._answer(200, {"Id": "sha256:0"} | version)

    def do_HEAD(self) -> None:
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self._read()
        if "/containers/create" in self.path:
            self.server.engine.created.append(json.loads(body))
            self._answer(500, {"message": "nothing is started here"})
        else:
            self._answer(200, {"stream": "done"})

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Api-Version", "1.41")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing: the tests look at what was noted."""
