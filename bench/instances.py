"""One execution environment: a fresh process of the real runtime interface client with one handler."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from bench.runtime_api import Answer, HandlerFailedError, RuntimeApi
from local.pythons import LAMBDA_PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ANSWER_TIMEOUT_S: Final = 60.0
COUNTED_TIMEOUT_S: Final = 400.0
_INSTRUCTIONS: Final = re.compile(r"I\s+refs:\s+([\d,]+)")


@dataclass(frozen=True, slots=True)
class Stage:
    """A handler as it is deployed: the folders that its process may import from, the interpreter, the environment."""

    name: str
    handler: str
    path: tuple[Path, ...]
    python: Path
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Start:
    """From the start of a process to its first answer, in seconds."""

    wall_s: float
    cpu_s: float


class Instance:
    """A context manager: the process runs during the `with` block, and is killed then, because it has no state to lose.

    Args:
        stage: what runs.
        command_prefix: put before the interpreter, for an instruction counter.
    """

    def __init__(self, stage: Stage, command_prefix: Sequence[str] = ()) -> None:
        self._stage = stage
        self._command_prefix = command_prefix
        self._api = RuntimeApi(self.processor_s)

    def __enter__(self) -> Self:
        self._api.__enter__()
        self._log = tempfile.TemporaryFile()
        self.started_at_s = time.perf_counter()
        self.process = subprocess.Popen(
            [*self._command_prefix, self._stage.python, "-S", "-m", "awslambdaric", self._stage.handler],
            env={
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
                "PYTHONPATH": os.pathsep.join(map(str, self._stage.path)),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONHASHSEED": "0",
                "AWS_LAMBDA_RUNTIME_API": self._api.origin.removeprefix("http://"),
                "AWS_EXECUTION_ENV": f"AWS_Lambda_python{LAMBDA_PYTHON}",
                "AWS_LAMBDA_FUNCTION_NAME": "broker",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
                "AWS_LAMBDA_FUNCTION_VERSION": "1",
                "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
                "LAMBDA_TASK_ROOT": str(self._stage.path[0]),
                **self._stage.environment,
            },
            cwd=self._stage.path[0],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.kill()
        self.process.wait()
        self._api.__exit__()
        self._log.close()

    def processor_s(self) -> float:
        """Return the processor time in seconds that the process has used, its ended threads included."""
        # The number of another process's clock, as clock_getcpuclockid(3) computes it on Linux.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def log_lines(self) -> list[str]:
        """Return what the process has written so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").splitlines()

    def invoke(self, event: bytes, *, sampled: bool = False, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """Send one event and wait for its answer.

        Raises:
            HandlerFailedError: the handler raised, did not load, or took too long.
        """
        self._api.put_event(event, sampled=sampled)
        answer = self._api.take_answer(timeout_s)
        if b'"statusCode": 200' not in answer.body:
            raise HandlerFailedError(f"{self._stage.name} did not answer 200: {answer.body[:300]!r}")
        return answer


@contextmanager
def one_core() -> Iterator[None]:
    """Let this thread, and what it starts in the `with` block, run on one core.

    A function with 1,024 MB has less than a core, for handler and Runtime API together, and the time of a process that
    moves between two cores varies more.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def start(stage: Stage, event: bytes) -> Start:
    """Run a fresh process up to its first answer, and end it."""
    with Instance(stage) as instance:
        answer = instance.invoke(event, sampled=True)
        return Start(answer.at_s - instance.started_at_s, answer.cpu_s)


def count_instructions(stage: Stage, event: bytes, answers: int = 1) -> int:
    """Return the instructions from the start of a process to its n-th answer, in user space.

    Raises:
        FileNotFoundError: valgrind is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        counter = (
            "/usr/bin/valgrind",
            "--tool=cachegrind",
            "--cache-sim=no",
            f"--cachegrind-out-file={folder}/counts",
            f"--log-file={report}",
        )
        with Instance(stage, counter) as instance:
            for number in range(answers):
                instance.invoke(event, sampled=number == 0, timeout_s=COUNTED_TIMEOUT_S)
            instance.process.terminate()  # it now waits for its next event
            instance.process.wait(60)
        found = _INSTRUCTIONS.search(report.read_text())
    if found is None:
        raise HandlerFailedError(f"no count for {stage.name}")
    return int(found[1].replace(",", ""))
