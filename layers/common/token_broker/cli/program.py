"""`main` of the command line: reads the arguments, runs the command, and returns an exit code in every case."""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, cast

from token_broker.cli import prompts
from token_broker.cli.arguments import installed_version, parse
from token_broker.cli.outcome import Exit, from_exception
from token_broker.cli.terminal import ReaderGoneError, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from token_broker.cli.outcome import Options

    Command = Callable[[Options, Terminal, Callable[[], float]], int]

_LIBRARIES: Final = ("boto3", "shtab")  # which the extra `cli` of the wheel brings

# Loaded when they are run, because --help should not wait for the AWS SDK.
_COMMANDS: Final = {
    "token": "token_broker.cli.tokens:print_token",
    "exec": "token_broker.cli.tokens:execute",
    "get": "token_broker.cli.api:get",
    "status": "token_broker.cli.tokens:show_status",
    "mints": "token_broker.cli.ledger:run",
    "connection": "token_broker.cli.connections:run",
    "doctor": "token_broker.cli.doctor:run",
    "completion": "token_broker.cli.completion:print_script",
}


def main(arguments: Sequence[str] | None = None, *, clock: Callable[[], float] = time.time) -> int:
    """Run one command and return its exit code; `exec` does not return.

    Args:
        arguments: default: the process's own.
        clock: current epoch seconds.
    """
    _prepare_streams()
    terminal = Terminal(as_json=False)
    try:
        with prompts.echo_restored():
            return _run(sys.argv[1:] if arguments is None else arguments, terminal, clock)
    except ReaderGoneError:
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - never a traceback: it may contain secrets
        told = from_exception(error)
        terminal.fail(told)
        return told.exit_code


def _run(arguments: Sequence[str], terminal: Terminal, clock: Callable[[], float]) -> int:
    if not all(map(find_spec, _LIBRARIES)):
        wheel = f"token_broker-{installed_version()}-py3-none-any.whl"
        terminal.note(f"token-broker needs the command line's libraries: pip install '{wheel}[cli]'")
        return Exit.USAGE
    # argparse ignores what cannot be written.
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            options = parse(arguments)
    except SystemExit as end:  # --help, --version, wrong usage
        for line in err.getvalue().splitlines():
            terminal.note(line)
        for line in out.getvalue().splitlines():
            terminal.show(line)
        return int(end.code or 0)
    terminal.as_json = options.json
    return _load(_COMMANDS[options.command])(options, terminal, clock)


def _prepare_streams() -> None:
    """Make standard streams that a command can use, even if the process was started with closed ones."""
    # A closed one (`>&-`) becomes a file that reads as empty and cannot be written. Else a result would be lost
    # silently, and a socket would get the stream's number.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115 - until the process ends
    sys.stdout = sys.stdout or open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: PTH123, SIM115 - likewise
    sys.stderr = sys.stderr or open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: PTH123, SIM115 - likewise
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # For the marks, on a terminal that can show ASCII only.
            stream.reconfigure(errors="backslashreplace")


def _load(target: str) -> Command:
    module, _, function = target.partition(":")
    return cast("Command", getattr(import_module(module), function))
