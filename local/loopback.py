"""The one HTTP server on loopback: every fake and every proxy is this server with a handler of its own.

It needs the standard library only: the client's tests run where nothing but the client is installed.
"""

from __future__ import annotations

import json
import logging
import socket
import ssl
import struct
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    import trustme

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_STOP_S = 5.0


class LoopbackServer(ThreadingHTTPServer):
    """Listens once it is made, and serves while its `with` block runs; the end of the block cuts every connection.

    Args:
        handler: serves a connection, in a thread of its own.
        port: 0 for a free one.

    Attributes:
        stopping: set at the end of the block; a handler that delays its answer waits for it instead of sleeping.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, handler: type[LoopbackHandler], port: int = 0) -> None:
        self.stopping = threading.Event()
        self._tls: ssl.SSLContext | None = None
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__((HOST, port), handler)
        self._acceptor = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://{HOST}:{self.port}"

    def speak_tls(self, certificate: trustme.LeafCert) -> None:
        """Speak TLS on every connection that is accepted from now on."""
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._tls)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, cut every connection, wait (5 s at most) until their threads have ended."""
        self.stopping.set()
        self.shutdown()
        self._acceptor.join()
        self.server_close()
        with self._changed:
            for connection in self._open:
                with suppress(OSError):
                    # The plain method: the TLS one would tear down a TLS state that the owner's thread still uses.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout=_STOP_S)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own looks up the host's name, which can take seconds
        self.server_name, self.server_port = HOST, self.port

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        if self._tls is not None:
            try:
                # The connection's thread does the handshake, because a slow client must not stop the others.
                connection = self._tls.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            except (OSError, ValueError):
                connection.close()
                raise OSError("the client left before the handshake") from None
        with self._changed:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def handle_error(self, *_: object) -> None:
        """Log the error that ended a connection's thread: clients that leave are expected, anything else is a bug."""
        error = sys.exception()
        if not isinstance(error, OSError):
            _log.error("bug in a handler: %s", type(error).__name__)  # its text could quote a request


class LoopbackHandler(BaseHTTPRequestHandler):
    """Serves the requests of one connection: HTTP/1.1, one write for each answer, no log."""

    server: LoopbackServer
    connection: socket.socket
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True

    def serve(self) -> None:
        """Answer one request, of any method."""
        raise NotImplementedError

    def _serve(self) -> None:
        self.serve()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve  # noqa: N815 - the base's names

    def setup(self) -> None:
        super().setup()
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.do_handshake()

    def read_body(self) -> bytes:
        """Return the request's body, of the length that its header says, or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size + 2)[:-2]
        self.rfile.readline()
        return body

    def send(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a whole answer; it is cut short if `headers` have a larger Content-Length."""
        head = self.head(status, {"Content-Length": str(len(body)), **headers})
        self.wfile.write(head if self.command == "HEAD" else head + body)

    def send_json(self, status: int, value: object) -> None:
        self.send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def head(self, status: int, headers: Mapping[str, str]) -> bytes:
        """Return status line and headers as they are sent; after `Connection: close` the connection is closed."""
        if headers.get("Connection") == "close":
            self.close_connection = True
        reason = self.responses.get(status, ("Unknown", ""))[0]
        dated = {"Date": self.date_time_string(), **headers}
        lines = [f"{name}: {value}" for name, value in dated.items()]
        return "\r\n".join([f"HTTP/1.1 {status} {reason}", *lines, "", ""]).encode("latin-1")

    def drip(self, content: bytes, interval_s: float, cap_s: float = 30.0) -> None:
        """Send a byte at a time, for `cap_s` at most.

        Raises:
            OSError: the client has left.
        """
        end = time.monotonic() + cap_s
        for byte in content:
            self.wfile.write(bytes([byte]))
            if self.server.stopping.wait(interval_s) or time.monotonic() > end:
                return

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # else the socket would stay open
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Log nothing: a line would show the query, and costs time."""
