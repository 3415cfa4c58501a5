"""`token-broker completion SHELL`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import shtab

from token_broker.cli.arguments import new_parser
from token_broker.cli.outcome import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from token_broker.cli.outcome import Options
    from token_broker.cli.terminal import Terminal


def print_script(options: Options, terminal: Terminal, _clock: Callable[[], float]) -> int:
    """Print the script by which a shell completes commands and options."""
    terminal.show_body(f"{shtab.complete(new_parser(), shell=options.shell)}\n".encode())
    return Exit.OK
