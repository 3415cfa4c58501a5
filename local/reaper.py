"""Ends processes and removes files once the process that asked for it is gone, however it went: SIGKILL included.

The reaper is a process of its own that reads orders from its standard input and acts when that input ends. The
operating system closes the pipe when the supervisor dies, so a crash and an orderly end take the same path.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_REMOVAL_PATIENCE_S = 5.0


class Reaper:
    """The supervisor's end of the pipe. Every process given to it must lead its own process group."""

    def __init__(self, project: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "local.reaper"],
            stdin=subprocess.PIPE,
            cwd=project,
            text=True,
            bufsize=1,
            start_new_session=True,  # a Ctrl-C in the terminal must not reach it
        )

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        """Kill `child` and everything in its process group at the end."""
        self._order("group", str(child.pid))

    def forget(self, child: subprocess.Popen[bytes]) -> None:
        """`child` has ended: its number may soon belong to somebody else."""
        self._order("forget", str(child.pid))

    def remove_at_end(self, path: Path) -> None:
        """Remove this file or folder, after the processes are gone."""
        self._order("remove", str(path))

    def act(self) -> None:
        """Do everything now; returns when it is done."""
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe above
        # In words, too: somebody may have inherited or duplicated our end of the pipe, which then never ends.
        self._order("act", "")
        self._process.stdin.close()
        self._process.wait()

    def _order(self, verb: str, argument: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe above
        self._process.stdin.write(f"{verb} {argument}\n")


def obey(orders: Iterable[str]) -> None:
    """Read orders until they end, then kill the groups and remove the paths; blocks."""
    groups: set[int] = set()
    paths: list[Path] = []
    for order in orders:
        verb, _, argument = order.rstrip("\n").partition(" ")
        if verb == "group":
            groups.add(int(argument))
        elif verb == "forget":
            groups.discard(int(argument))
        elif verb == "remove":
            paths.append(Path(argument))
        elif verb == "act":
            break
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for path in paths:
        _remove(path)


def _remove(path: Path) -> None:
    """A killed process can still be writing for an instant: try again until the path stays gone."""
    give_up_at_s = time.monotonic() + _REMOVAL_PATIENCE_S
    while path.exists() and time.monotonic() < give_up_at_s:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        time.sleep(0.05)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    obey(sys.stdin)
