"""Lambda's Runtime API for one process on loopback: sends events, receives answers, records when they came.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html. AWS's own emulator would be one more process between the
clock and the handler; this server reads the handler's processor clock while the handler waits for the receipt.
"""

from __future__ import annotations

import itertools
import queue
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from local.loopback import LoopbackHandler, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Callable

FUNCTION_ARN: Final = "arn:aws:lambda:eu-west-3:000000000000:function:broker:live"
_RUN_TIME_MS: Final = 600_000  # an instruction counter makes a handler fifty times slower


class HandlerFailedError(Exception):
    """The handler raised, or did not load; the text is what it reported."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one event, and when it came: wall clock and the handler's processor time, in seconds."""

    body: bytes
    at_s: float
    cpu_s: float


class RuntimeApi(LoopbackServer):
    """The server for one process.

    Args:
        processor_s: returns the processor time that the handler's process has used; called at each answer, while that
            process waits.
    """

    def __init__(self, processor_s: Callable[[], float]) -> None:
        super().__init__(_Handler)
        self.processor_s = processor_s
        self.events: queue.Queue[tuple[bytes, str] | None] = queue.Queue()
        self.answers: queue.Queue[Answer | HandlerFailedError] = queue.Queue()
        self.numbers = itertools.count(1)

    def close(self) -> None:
        self.events.put(None)  # ends the process's wait for its next event
        super().close()

    def put_event(self, event: bytes, *, sampled: bool = False) -> None:
        """Offer an event for the next request; `sampled` is X-Ray's flag in its trace header."""
        self.events.put((event, f"Root=1-69244100-0123456789abcdef01234567;Sampled={int(sampled)}"))

    def take_answer(self, timeout_s: float) -> Answer:
        """Wait for the next answer.

        Raises:
            HandlerFailedError: the handler has failed, or did not answer in time.
        """
        try:
            answer = self.answers.get(timeout=timeout_s)
        except queue.Empty:
            raise HandlerFailedError(f"no answer within {timeout_s:.0f} s") from None
        if isinstance(answer, HandlerFailedError):
            raise answer
        return answer


class _Handler(LoopbackHandler):
    server: RuntimeApi

    def serve(self) -> None:
        if self.command == "GET":
            self._send_next_event()
            return
        at_s = time.perf_counter()
        body = self.read_body()
        if self.path.endswith("/response"):
            # The process waits for the receipt, so its clock now says what the answer has cost.
            self.server.answers.put(Answer(body, at_s, self.server.processor_s()))
        else:
            self.server.answers.put(HandlerFailedError(body.decode(errors="replace")[:2_000]))
        self.send(202, {})

    def _send_next_event(self) -> None:
        offered = self.server.events.get()
        if offered is None:
            self.close_connection = True
            return
        event, trace = offered
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": f"00000000-0000-4000-8000-{next(self.server.numbers):012d}",
            "Lambda-Runtime-Deadline-Ms": str(int(1000 * time.time()) + _RUN_TIME_MS),
            "Lambda-Runtime-Invoked-Function-Arn": FUNCTION_ARN,
            "Lambda-Runtime-Trace-Id": trace,
        }
        self.send(200, headers, event)
