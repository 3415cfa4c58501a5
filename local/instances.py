"""Instances of a handler as real processes: many at once, cold, started at one moment, stopped at a step, killed.

A nursery process imports the handler once and forks an instance for every socket that it receives::

    this process                 nursery                       instance
      | socket, environment        |                              |
      |--------------------------->| fork                         |
      |                            |----------------------------->| assembles its own broker (memory empty)
      |<----------------------------------------- ready, pid -----|
      | event, moment ------------------------------------------->| waits for the moment, runs lambda_handler
      |<----------------------------------------- stopped --------| only one that was told to stop at a step
      | go on --------------------------------------------------->|
      |<----------------------------------------- answer ---------|
      | closes the socket --------------------------------------->| ends

The nursery has one thread, so that forking is safe even if the process that asks for it has several.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from functions.broker.lifetime import FUNCTION_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

READY_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_END_S = 10.0


class InstanceLostError(Exception):
    """An instance ended, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an instance's `lambda_handler` returned. Times are epoch seconds."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any] = field(repr=False)
    began_at_epoch_s: float
    ended_at_epoch_s: float

    @property
    def took_s(self) -> float:
        return self.ended_at_epoch_s - self.began_at_epoch_s


class Instance:
    """One process that serves one request at a time, like an execution environment of Lambda."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines: IO[str] = connection.makefile("r", encoding="utf-8")
        self.pid = 0

    def wait_until_ready(self) -> None:
        """Block until the broker is assembled. Raises InstanceLostError."""
        self.pid = int(self._receive(READY_TIMEOUT_S)["pid"])

    def send(
        self, event: Mapping[str, Any], *, at_epoch_s: float = 0.0, run_time_s: float = FUNCTION_TIMEOUT_S
    ) -> None:
        """Send an event to be answered from `at_epoch_s` on; the answers come in order."""
        order = {"event": event, "at_epoch_s": at_epoch_s, "run_time_s": run_time_s}
        self._connection.sendall(json.dumps(order).encode() + b"\n")

    def receive(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """Return the next answer. Raises InstanceLostError."""
        line = self._receive(timeout_s)
        answer = line["answer"]
        return Answer(
            answer["statusCode"],
            answer["headers"],
            json.loads(answer["body"]),
            line["began_at_epoch_s"],
            line["ended_at_epoch_s"],
        )

    def wait_until_stopped(self) -> None:
        """Block until it is at the step that it was told to stop at. Raises InstanceLostError."""
        line = self._receive(STOP_TIMEOUT_S)
        if "stopped" not in line:
            raise InstanceLostError(f"instance {self.pid} has answered without reaching its step")

    def go_on(self) -> None:
        """Let it go on from the step that it stopped at."""
        self._connection.sendall(b"\n")

    def kill(self) -> None:
        """Send SIGKILL: it ends at once, in the middle of what it is doing."""
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let it end once it has answered; safe to call again."""
        self._lines.close()
        self._connection.close()

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        self._connection.settimeout(timeout_s)
        try:
            line = self._lines.readline()
        except OSError as error:
            raise InstanceLostError(f"{type(error).__name__} while waiting for instance {self.pid}") from None
        if not line:
            raise InstanceLostError(f"instance {self.pid} has ended")
        value: dict[str, Any] = json.loads(line)
        return value


@dataclass(frozen=True, slots=True)
class Code:
    """What a nursery's instances run.

    Attributes:
        handler: `module.function`.
        prepare: statements that the nursery runs before it forks.
        command: the interpreter.
        folder: where it starts; its modules come first.
        path: folders of more modules.
    """

    handler: str = "functions.broker.handler.lambda_handler"
    prepare: str = "from local.nursery import load_broker; load_broker()"
    command: tuple[str | Path, ...] = (sys.executable,)
    folder: Path = Path(__file__).resolve().parent.parent
    path: tuple[Path, ...] = ()


BROKER: Final = Code()


class Nursery:
    """Starts instances; a context manager, at whose end all of them have ended.

    Args:
        environment: the function's environment variables and what the SDK needs; nothing else is passed on.
        log_file: what the instances write to standard output and error.
        sabotage: `module:function`, called in the nursery: a planted fault, so that a test can be seen to fail.
        code: what the instances run.
    """

    def __init__(
        self, environment: Mapping[str, str], log_file: Path, *, sabotage: str = "", code: Code = BROKER
    ) -> None:
        self._environment = environment
        self._log_file = log_file
        self._code = code
        module, _, name = sabotage.partition(":")
        self._prepare = f"{code.prepare}\nfrom {module} import {name}; {name}()" if sabotage else code.prepare
        self._instances: list[Instance] = []

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._code.command,
                    "-m",
                    "local.nursery",
                    str(theirs.fileno()),
                    self._code.handler,
                    self._prepare,
                ],
                cwd=self._code.folder,
                env={
                    "PATH": os.defpath,
                    "PYTHONPATH": os.pathsep.join(map(str, self._code.path)),
                    "PYTHONUNBUFFERED": "1",
                    "AWS_EC2_METADATA_DISABLED": "true",
                    # Instances are forked like those that are restored from a snapshot: each assembles its own broker.
                    "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
                    **self._environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return self

    def __exit__(self, *_exception: object) -> None:
        for instance in self._instances:
            instance.close()
        self._control.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            # It leads its own process group, which contains only its instances.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def start(self, count: int, **environment: str) -> list[Instance]:
        """Return so many instances, cold and ready.

        Args:
            count: how many.
            environment: overrides variables for these. STOP_AT names a step at which each of them stops, the first
                time that it reaches it: "before adapters.token_store:TokenStore.write" or "after ...", a method of a
                module of `functions.broker`.

        Raises:
            InstanceLostError: one did not get ready.
        """
        started = [self._start_one(environment) for _ in range(count)]
        for instance in started:
            instance.wait_until_ready()
        return started

    def retire(self, instances: Iterable[Instance]) -> None:
        """Let these end."""
        for instance in instances:
            instance.close()
            self._instances.remove(instance)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return what the instances have logged as JSON so far: notices and one audit line an answer."""
        lines = self._log_file.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _start_one(self, environment: Mapping[str, str]) -> Instance:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = array.array("i", [theirs.fileno()])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            self._control.sendmsg([json.dumps(environment).encode()], ancillary)
        instance = Instance(ours)
        self._instances.append(instance)
        return instance
