"""A loopback server of threads that can be stopped without leaving a thread or a socket behind."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from contextlib import suppress
from http.server import ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from http.server import BaseHTTPRequestHandler

_log = logging.getLogger("digishare")

HOST = "127.0.0.1"
_STOP_S = 5.0


class SocketServer(ThreadingHTTPServer):
    """A loopback HTTP(S) server of threads, which `close` stops together with every open connection."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(
        self, port: int, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
    ) -> None:
        self.stopping = threading.Event()
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__((HOST, port), handler)
        self._acceptor = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        self._acceptor.start()

    def close(self) -> None:
        """Stop listening, cut every connection, wait (5 s at most) until their threads are gone."""
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
                # The handshake is left to the connection's thread: a slow client must not stop the others.
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
        """Note what a connection's thread died of: clients that leave are expected, anything else is a bug."""
        error = sys.exception()
        if not isinstance(error, OSError):
            _log.error("bug in the fake: %s", type(error).__name__)  # its text could quote a request
