"""Hidden prompts, our own and those of libraries in other threads (an MFA code), and piped standard input."""

from __future__ import annotations

import getpass
import os
import sys
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator


class UnreadableInput(Exception):
    """Standard input cannot be used; the text says why, and quotes nothing of it."""


def read_piped(most_bytes: int) -> bytes:
    """Return all of standard input. Blocks until its end.

    Raises:
        UnreadableInput: it cannot be read, or has more bytes.
    """
    try:
        # Bytes, because JSON is UTF-8 whatever the locale's encoding is (RFC 8259 §8.1).
        content = sys.stdin.buffer.read(most_bytes + 1)
    except OSError as error:
        raise UnreadableInput(
            f"standard input cannot be read ({error.strerror or 'not open for reading'})"
        ) from None
    if len(content) > most_bytes:
        raise UnreadableInput(f"it has more than {most_bytes} bytes")
    return content


def is_open() -> bool:
    """Return whether a thread of this process waits at a hidden prompt."""
    for innermost in sys._current_frames().values():  # noqa: SLF001 - documented, and the only way
        if any(frame.f_globals is vars(getpass) for frame, _ in traceback.walk_stack(innermost)):
            return True
    return False


@contextmanager
def echo_restored() -> Iterator[None]:
    """At the end, turn the terminal's echo on again if a prompt that nobody has answered has turned it off.

    Only then, because otherwise a program beside this one (`| less`) may have changed the settings.
    """
    terminal = None
    with suppress(OSError, AttributeError):
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        settings = termios.tcgetattr(terminal)
    try:
        yield
    finally:
        if terminal is not None:
            if is_open():
                with suppress(termios.error):
                    termios.tcsetattr(terminal, termios.TCSADRAIN, settings)
            os.close(terminal)
