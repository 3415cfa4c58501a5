"""What is done in a forked child of the test's own process."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def in_child(act: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> bool:
    """Tell whether `act` returned True in a forked child within 10 seconds; `meanwhile` runs in the parent."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(10)  # ends a child that waits for ever
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    meanwhile()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
