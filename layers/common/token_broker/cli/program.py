"""`main` of the command line: reads the arguments, runs the command, and turns every end into an exit code."""

from __future__ import annotations

import io
import os
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, cast

from token_broker.cli.arguments import installed_version, parse
from token_broker.cli.outcome import CommandError, Exit, from_broker_error
from token_broker.cli.terminal import Terminal
from token_broker.errors import TokenBrokerError

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
    "mints": "token_broker.cli.ledger:list_mints",
    "connection": "token_broker.cli.connections:run",
    "doctor": "token_broker.cli.doctor:run",
    "completion": "token_broker.cli.completion:print_script",
}


def main(arguments: Sequence[str] | None = None, *, clock: Callable[[], float] = time.time) -> int:
    """Run one command and return its exit code; `exec` does not return.

    Args:
        arguments: default: the process's own.
        clock: current epoch seconds.

    Raises:
        SystemExit: for --help, --version and wrong usage.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal that knows ASCII only is no reason to fail
    terminal = Terminal(as_json=False)
    if not all(map(find_spec, _LIBRARIES)):
        wheel = f"token_broker-{installed_version()}-py3-none-any.whl"
        terminal.note(f"token-broker needs the command line's libraries: pip install '{wheel}[cli]'")
        return Exit.USAGE
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        terminal = Terminal(as_json=options.json)
        exit_code = _load(_COMMANDS[options.command])(options, terminal, clock)
        sys.stdout.flush()
        return exit_code
    except TokenBrokerError as error:
        told = from_broker_error(error)
        terminal.fail(told)
        return told.exit_code
    except CommandError as error:
        terminal.fail(error)
        return error.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe; the interpreter must not try to flush once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE


def _load(target: str) -> Command:
    module, _, function = target.partition(":")
    return cast("Command", getattr(import_module(module), function))
