"""The command line run in this process, against brokers and AWS accounts of the tests' own."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from botocore.client import BaseClient

from tests.cli.fake_aws import FakeAws
from tests.client.fake_api import FakeApi
from tests.client.fake_broker import FakeBroker
from token_broker.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Ended:
    """How one command ended, and what it wrote."""

    exit_code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The JSON value on standard output."""
        return json.loads(self.out)


Run = Callable[..., Ended]
PROGRAM = [sys.executable, "-m", "token_broker.cli"]


def run_each(
    commands: Mapping[str, Sequence[str | bytes]],
    *,
    streams: str = "",
    stdin: bytes = b"",
    stdout: int | None = None,
    encoding: str = "utf-8",
    **environment: str,
) -> dict[str, Ended]:
    """Run commands, by a name, as forks of one process, whose start they share.

    Each can read `stdin`; `streams` is a redirection of the shell's, such as `>&-`. What is written to the descriptor
    `stdout` is not returned.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").write_bytes(stdin)
        given = [[os.fsdecode(each) for each in command] for command in commands.values()]
        (folder / "commands").write_text(json.dumps(given))
        program = [sys.executable, "-m", "tests.cli.forks", name]
        with (
            (folder / "in").open() as read,
            (folder / "out").open("a") as out,
            (folder / "err").open("a") as err,
        ):
            subprocess.run(  # noqa: S603 - our own program
                ["sh", "-c", f'exec "$@" {streams}', "sh", *program],  # noqa: S607 - as the reader's shell is found
                env={**os.environ, **environment},
                stdin=read,
                stdout=out if stdout is None else stdout,
                stderr=err,
                timeout=120,
                check=True,
            )
        ended = json.loads((folder / "ended").read_text())
    decoded = [[text.encode("latin-1").decode(encoding, "replace") for text in texts] for _, *texts in ended]
    return {
        name: Ended(exit_code, *texts)
        for name, (exit_code, *_), texts in zip(commands, ended, decoded, strict=True)
    }


def run_on_terminal(
    *arguments: str,
    program: Sequence[str] = PROGRAM,
    typed: Sequence[tuple[str, bytes | Callable[[], None]]] = (),
    streams: str = "",
    **environment: str,
) -> tuple[int, str, list[Any]]:
    """Run one command on a terminal of its own; return its exit code, what was shown, and the terminal's settings.

    `typed` says what to wait for on the screen, and what to type or to do then.
    """
    controller, terminal = pty.openpty()
    with subprocess.Popen(  # noqa: S603 - our own program
        ["sh", "-c", f'exec "$@" {streams}', "sh", *program, *arguments],  # noqa: S607 - as the reader's shell is found
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, **environment},
        start_new_session=True,
        preexec_fn=_take_as_controlling_terminal,  # noqa: PLW1509 - it does two system calls
    ) as running:
        shown, due = b"", list(typed)
        overdue = threading.Timer(30, running.kill)
        overdue.start()
        while running.poll() is None or select.select([controller], [], [], 0)[0]:
            if select.select([controller], [], [], 0.02)[0]:
                shown += os.read(controller, 65_536)
            if due and due[0][0].encode() in shown:
                _, answer = due.pop(0)
                if isinstance(answer, bytes):
                    os.write(controller, answer)
                else:
                    answer()
        overdue.cancel()
    settings = termios.tcgetattr(terminal)
    os.close(terminal)
    os.close(controller)
    return running.returncode, shown.decode(errors="replace").replace("\r\n", "\n"), settings


def _take_as_controlling_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    heed_ctrl_c()


def heed_ctrl_c() -> None:
    """Undo what a shell does to the programs that it starts in the background: they ignore SIGINT, by inheritance."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class _Person(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs one command: `run("token", stdin=b"...")`; `typed` is what a person at a terminal types."""

    def act(*arguments: str, stdin: str | bytes = b"", typed: str | None = None) -> Ended:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        reader = io.TextIOWrapper(io.BytesIO(content), encoding="ascii") if typed is None else _Person(typed)
        monkeypatch.setattr(sys, "stdin", reader)
        capsys.readouterr()
        exit_code = main(arguments)
        told = capsys.readouterr()
        return Ended(exit_code, told.out, told.err)

    return act


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBroker]:
    """A broker that the environment names, with the keys that it knows."""
    with FakeBroker() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def aws_says(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What AWS's operations answer in this process: a value, an error, or a function; the others' stands under ""."""
    answers: dict[str, Any] = {}
    call = BaseClient._make_api_call  # type: ignore[attr-defined]

    def answer(client: BaseClient, operation: str, arguments: dict[str, Any]) -> Any:
        said = answers.get(operation, answers.get("", call))
        if isinstance(said, Exception):
            raise said
        return said(client, operation, arguments) if callable(said) else said

    monkeypatch.setattr(BaseClient, "_make_api_call", answer)
    return answers


def stack_with(outputs: Mapping[str, str], parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return what DescribeStacks answers."""
    told = [{"OutputKey": name, "OutputValue": value} for name, value in outputs.items()]
    given = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
    return {"Stacks": [{"Outputs": told, "Parameters": given}]}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with FakeApi() as running:
        monkeypatch.setenv("DIGISHARE_BASE_URL", running.url("/v1"))
        yield running


@pytest.fixture
def aws(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    """An AWS that commands reach as processes of their own, beside the broker."""
    with FakeAws() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.origin)
        yield running
