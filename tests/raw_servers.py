"""Servers that say byte for byte what a test tells them to."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

import trustme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class RawTlsServer:
    """Hands each connection, after the handshake and the request's head, to a script; notes the heads."""

    def __init__(
        self, script: Callable[[ssl.SSLSocket], None], directory: Path, name: str = "127.0.0.1"
    ) -> None:
        self._script = script
        self._ca = trustme.CA()
        self.ca_file = directory / "raw-ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_file))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(name).configure_cert(self._tls)
        self.handshake_delay_s = 0.0
        self.heads: list[str] = []
        self.connections = 0
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._start(self._serve, connection)

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(5)
        time.sleep(self.handshake_delay_s)
        with suppress(OSError), plain, self._tls.wrap_socket(plain, server_side=True) as connection:
            while head := self._read_request(connection):
                self.heads.append(head)
                self._script(connection)

    @staticmethod
    def _read_request(connection: ssl.SSLSocket) -> str:
        received = b""
        while not received.endswith(b"}"):  # every request here has a JSON body
            piece = connection.recv(65_536)
            if not piece:
                return ""
            received += piece
        return received.partition(b"\r\n\r\n")[0].decode()


def sends(*pieces: bytes) -> Callable[[ssl.SSLSocket], None]:
    def script(connection: ssl.SSLSocket) -> None:
        for piece in pieces:
            connection.sendall(piece)

    return script


def drips_for_ever(start: bytes, every_s: float = 0.02) -> Callable[[ssl.SSLSocket], None]:
    def script(connection: ssl.SSLSocket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"1")
            time.sleep(every_s)  # the drip itself; it ends when the client cuts the connection

    return script


def drip_handshake(connection: socket.socket) -> None:
    """Begin a TLS handshake that never ends."""
    connection.recv(1)
    connection.sendall(
        b"\x16\x03\x03\x40\x00"
    )  # a handshake record of 16 KiB, of which one byte comes at a time
    while True:
        connection.sendall(b"\x02")
        time.sleep(0.02)  # the drip itself


@contextmanager
def plain_listener(script: Callable[[socket.socket], object]) -> Iterator[str]:
    """Accept one TCP connection, never speak TLS on it, and yield the https URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            connection.settimeout(5)
            with suppress(OSError), connection:
                script(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)
