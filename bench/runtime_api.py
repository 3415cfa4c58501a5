"""Lambda's Runtime API for one process on loopback: hands out events, takes answers, notes when they came.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html. AWS's own emulator would do, but it is a process
between the clock and the handler; this one reads the handler's processor clock while it waits for the receipt.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

FUNCTION_ARN: Final = "arn:aws:lambda:eu-west-3:000000000000:function:broker:live"
_ROOT: Final = "/2018-06-01/runtime"
_RUN_TIME_MS: Final = 600_000  # instruction counters slow a handler down fifty times


class HandlerFailedError(Exception):
    """The handler raised, or did not load; the text is what it reported."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one event, and when: wall clock and, of the handler's process, processor time, in seconds."""

    body: bytes
    at_s: float
    cpu_s: float


class RuntimeApi:
    """A context manager; `address` is what AWS_LAMBDA_RUNTIME_API takes.

    Args:
        processor_s: returns the processor time that the handler's process has used; called at each answer, while that
            process waits.
    """

    def __init__(self, processor_s: Callable[[], float]) -> None:
        self._processor_s = processor_s
        self._events: queue.Queue[tuple[bytes, str] | None] = queue.Queue()
        self._answers: queue.Queue[Answer | HandlerFailedError] = queue.Queue()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._sequence = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._events.put(None)
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def put_event(self, event: bytes, *, sampled: bool = False) -> None:
        """Offer an event to the next that asks; `sampled` is X-Ray's flag in its trace header."""
        self._events.put((event, f"Root=1-69244100-0123456789abcdef01234567;Sampled={int(sampled)}"))

    def take_answer(self, timeout_s: float) -> Answer:
        """Wait for the next answer.

        Raises:
            HandlerFailedError: there will be none.
        """
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise HandlerFailedError(f"no answer within {timeout_s:.0f} s") from None
        if isinstance(answer, HandlerFailedError):
            raise answer
        return answer

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as requests:
                while line := requests.readline():
                    at_s = time.perf_counter()
                    method, path, _ = line.decode().split(" ", 2)
                    length = 0
                    while (header := requests.readline()) not in {b"\r\n", b""}:
                        name, _, value = header.partition(b":")
                        if name.lower() == b"content-length":
                            length = int(value)
                    reply = self._reply(method, path, requests.read(length), at_s)
                    if reply is None:
                        return
                    connection.sendall(reply)
        except OSError:
            return  # the process has ended, or we are ending

    def _reply(self, method: str, path: str, body: bytes, at_s: float) -> bytes | None:
        if method == "GET" and path == f"{_ROOT}/invocation/next":
            return self._next()
        if path.endswith("/response"):
            # The process waits for the receipt: what its clock says now is what the answer has cost.
            self._answers.put(Answer(body, at_s, self._processor_s()))
        elif path.endswith("/error"):
            self._answers.put(HandlerFailedError(body.decode(errors="replace")[:2_000]))
        return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"

    def _next(self) -> bytes | None:
        offered = self._events.get()
        if offered is None:
            return None
        event, trace = offered
        self._sequence += 1
        head = (
            "HTTP/1.1 200 OK",
            "Content-Type: application/json",
            f"Lambda-Runtime-Aws-Request-Id: 00000000-0000-4000-8000-{self._sequence:012d}",
            f"Lambda-Runtime-Deadline-Ms: {int(1000 * time.time()) + _RUN_TIME_MS}",
            f"Lambda-Runtime-Invoked-Function-Arn: {FUNCTION_ARN}",
            f"Lambda-Runtime-Trace-Id: {trace}",
            f"Content-Length: {len(event)}",
        )
        return "\r\n".join(head).encode() + b"\r\n\r\n" + event
