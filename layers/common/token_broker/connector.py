"""One TCP connection whose whole time is bounded.

A read time-out alone bounds nothing: it starts again with every byte, so a server that sends single bytes can block a
caller without limit. Here a timer shuts the connection's socket down when the whole time is over, which ends a
handshake, a send or a read at once. A lookup of the host's name cannot be ended: its thread is left running.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Self

from token_broker.background import in_background


class Connector:
    """Use as a context manager: the time runs inside of it, and only there is a connection cut.

    The timer works on a duplicate of the socket's descriptor, because the socket itself is handed to TLS. Shutting the
    duplicate down ends the call in which the socket's owner is blocked.

    Attributes:
        stage: what takes the time at the moment, in words.
        way: added to some stages, such as " through the proxy HOST:PORT".
        was_cut: whether the time was over.
    """

    def __init__(self, total_timeout_s: float, connect_timeout_s: float) -> None:
        self.stage = "preparing"
        self.way = ""
        self.was_cut = False
        self._connect_timeout_s = connect_timeout_s
        self._is_over = False
        self._watched: socket.socket | None = None
        self._lock = threading.Lock()
        self._end_s = time.monotonic() + total_timeout_s
        self._timer = threading.Timer(total_timeout_s, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._watched is not None:
                self._watched.close()

    def connect(self, host: str, port: int) -> socket.socket:
        """Return a connected socket, for the caller to close. Raises OSError, and RuntimeError for lack of threads."""
        self.stage = "looking up the host's name"
        lookup = in_background("name lookup", lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        addresses = [str(address[0]) for *_, address in lookup.result(self.left_s())]
        self.stage = f"connecting{self.way}"
        plain = self._connect_to_one_of(addresses, port)
        self.stage = f"agreeing on TLS{self.way}"
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(self.left_s())
            self._watch(plain)
            plain.getpeername()  # raises if the peer has left: a TLS socket made of this one would not be closed
        except BaseException:
            plain.close()
            raise
        return plain

    def _connect_to_one_of(self, addresses: list[str], port: int) -> socket.socket:
        """Give each address its share of the connect time-out, which is for all of them together."""
        end_s = min(self._end_s, time.monotonic() + self._connect_timeout_s)
        for index, address in enumerate(addresses):
            share_s = (end_s - time.monotonic()) / (len(addresses) - index)
            if share_s > 0:
                with suppress(OSError):
                    return socket.create_connection((address, port), share_s)
        raise TimeoutError if time.monotonic() >= end_s else ConnectionError

    def left_s(self) -> float:
        return max(self._end_s - time.monotonic(), 0.001)

    def _watch(self, connection: socket.socket) -> None:
        with self._lock:
            self._watched = connection.dup()
            if self.was_cut:
                raise TimeoutError

    def _cut(self) -> None:
        with self._lock:
            if not self._is_over:
                self.was_cut = True
                if self._watched is not None:
                    with suppress(OSError):  # the peer has closed it already
                        self._watched.shutdown(socket.SHUT_RDWR)
