"""Many cold instances at once on a small machine: loads a handler once, forks, and lets all children call it together.

`python -S -m bench.nursery HANDLER PREPARE N` with an event on standard input. PREPARE is a statement that does what
the handler does before it first talks to anybody (making clients), so that N children on few cores do not pay for
what each has a machine of its own for. Prints one JSON object.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
import time
from typing import Any

_RUN_TIME_S = 29.0


class Context:
    """What handlers read of Lambda's context object."""

    function_name = "broker"
    function_version = "1"
    invoked_function_arn = "arn:aws:lambda:eu-west-3:000000000000:function:broker:live"
    memory_limit_in_mb = 1024
    log_group_name = log_stream_name = ""

    def __init__(self, number: int, until_s: float) -> None:
        self.aws_request_id = f"00000000-0000-4000-8000-{number:012d}"
        self._until_s = until_s

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * (self._until_s - time.monotonic()))


def main() -> None:
    name, prepare, children = sys.argv[1], sys.argv[2], int(sys.argv[3])
    module, _, function = name.rpartition(".")
    handler = getattr(importlib.import_module(module), function)
    exec(prepare)  # noqa: S102 - the bench's own statement
    event = json.load(sys.stdin)
    start_read, start_write = os.pipe()
    results_read, results_write = os.pipe()
    for number in range(children):
        if os.fork() == 0:
            os.close(start_write)
            select.select([start_read], [], [])  # until its other end is closed: the same moment for all
            os.write(results_write, _call(handler, event, number))
            os._exit(0)
    os.close(results_write)
    time.sleep(0.5)  # until the last child has got to its wait
    started_s = time.monotonic()
    os.close(start_read)
    os.close(start_write)
    answers = []
    with os.fdopen(results_read) as lines:
        for line in lines:
            answer = json.loads(line)
            answers.append({"status": answer["status"], "after_s": answer["at_s"] - started_s})
    os.write(1, json.dumps({"answers": answers}).encode())


def _call(handler: Any, event: dict[str, Any], number: int) -> bytes:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the parent's own output is for its report
    try:
        answer = handler(event, Context(number, time.monotonic() + _RUN_TIME_S))
        status = answer["statusCode"]
    except Exception as error:  # noqa: BLE001 - an answer like any other: the caller of the function sees a 502
        status = f"502 {type(error).__name__}"
    # One write below the size of a pipe's buffer: lines of several children do not mix.
    return json.dumps({"status": status, "at_s": time.monotonic()}).encode() + b"\n"


if __name__ == "__main__":
    main()
