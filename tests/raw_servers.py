"""Servers that send exactly the bytes that a test gives them."""

from __future__ import annotations

import select
import socket
import ssl
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trustme

from local.loopback import LoopbackHandler, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Script = Callable[[Any], object]  # of a socket, or of a TLS socket where the server speaks TLS


class RawServer(LoopbackServer):
    """Hands each connection to a script, after `handshake_delay_s` and, where it speaks TLS, the handshake."""

    def __init__(self, script: Script) -> None:
        super().__init__(_RawHandler)
        self.script = script
        self.handshake_delay_s = 0.0
        self.connections = 0


class _RawHandler(LoopbackHandler):
    server: RawServer
    timeout = 5

    def setup(self) -> None:
        self.server.connections += 1
        self.server.stopping.wait(self.server.handshake_delay_s)
        super().setup()

    def handle(self) -> None:
        # Closed here: the server would shut the connection down first, so that no reset would be sent.
        with self.rfile, self.connection:
            self.server.script(self.connection)


class RawTlsServer(RawServer):
    """Hands each connection to a script at the end of each request's head and body; notes the heads."""

    def __init__(self, script: Script, directory: Path, name: str = "127.0.0.1") -> None:
        super().__init__(self._serve_requests)
        authority = trustme.CA()
        self.ca_file = directory / "raw-ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.speak_tls(authority.issue_cert(name))
        self.url = self.origin
        self.heads: list[str] = []
        self._answer = script

    def _serve_requests(self, connection: ssl.SSLSocket) -> None:
        while head := self._read_request(connection):
            self.heads.append(head)
            self._answer(connection)

    @staticmethod
    def _read_request(connection: ssl.SSLSocket) -> str:
        received = b""
        while not received.endswith(b"}"):  # every request here has a JSON body
            piece = connection.recv(65_536)
            if not piece:
                return ""
            received += piece
        return received.partition(b"\r\n\r\n")[0].decode()


class ConnectProxy(RawServer):
    """A proxy that opens tunnels and nothing else; notes each request's head, which must contain `wanted`."""

    def __init__(self, certificate: trustme.LeafCert | None = None) -> None:
        super().__init__(self._open_tunnel)
        if certificate is not None:
            self.speak_tls(certificate)
        self.heads: list[str] = []
        self.wanted = ""
        self.stalls = False

    def _open_tunnel(self, client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        self.heads.append(head.decode())
        if self.stalls:
            client.recv(1)
        if self.wanted not in self.heads[-1]:
            client.sendall(b"HTTP/1.1 407 canary-reason\r\n\r\n")
            return
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _relay(client, server)


def _relay(client: socket.socket, server: socket.socket) -> None:
    """Pass on what either side sends until one of them ends. One thread does it: TLS is not safe in two."""
    other = {client: server, server: client}
    while True:
        has_more = isinstance(client, ssl.SSLSocket) and client.pending() > 0
        ready = [client] if has_more else select.select([client, server], [], [], 5)[0]
        for source in ready:
            piece = source.recv(65_536)
            if not piece:
                return
            other[source].sendall(piece)
        if not ready:
            return


def sends(*pieces: bytes) -> Script:
    def script(connection: ssl.SSLSocket) -> None:
        for piece in pieces:
            connection.sendall(piece)

    return script


def drips_for_ever(start: bytes) -> Script:
    def script(connection: ssl.SSLSocket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"1")
            time.sleep(0.02)  # the drip itself; it ends when the client cuts the connection

    return script


def drip_handshake(connection: socket.socket) -> None:
    """Begin a TLS handshake that never ends."""
    connection.recv(1)
    # A handshake record of 16 KiB, of which one byte comes at a time.
    drips_for_ever(b"\x16\x03\x03\x40\x00")(connection)


@contextmanager
def plain_listener(script: Script) -> Iterator[str]:
    """Yield an https URL of a server that never speaks TLS."""
    with RawServer(script) as server:
        yield f"https://127.0.0.1:{server.port}"
