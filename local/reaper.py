"""Ends the processes and removes the files of a run once it has ended, also by SIGKILL.

A run lists what must not outlive it in a file of `.local/runs`, which it locks. A separate process, the reaper, has the
lock, too, and waits for the end of its standard input, which the operating system closes when the run ends.

    the run ends                    it does what its list says
    the run is killed               the reaper does
    the reaper is killed            the run does, at its end; `make local` ends at once
    both are killed                 each server ends with its standard input; the next run finds the list
                                    unlocked, and does what it says
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from local.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_REMOVAL_TIMEOUT_S = 5.0


class AlreadyRunningError(Exception):
    """There is a live run of this name; the text says which."""


class Reaper:
    """The list of one run, and the process that waits for its end. Every listed process must lead its own group."""

    def __init__(self, project: Path, name: str = "") -> None:
        """Clean up after dead runs first.

        Args:
            project: the folder whose `.local/runs` has the lists.
            name: only one live run can have it at a time; "" for a run beside which there may be any others.

        Raises:
            AlreadyRunningError: a live run has this name.
        """
        with _alone(project) as runs:
            _sweep(runs)
            path = runs / (name or uuid.uuid4().hex)
            if path.exists():
                raise AlreadyRunningError(
                    f"another one runs in this folder, or is about to end: process {path.read_text().split()[1]}"
                )
            self._list = path.open("x+")
            fcntl.flock(self._list, fcntl.LOCK_EX)
            self._add("run", os.getpid())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "local.reaper", path],
            stdin=subprocess.PIPE,
            pass_fds=[self._list.fileno()],
            cwd=Path(__file__).parent.parent,
            start_new_session=True,  # a Ctrl-C in the terminal must not reach it
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        """Kill `child` and everything in its process group at the end."""
        self._add("process", child.pid, _start_time(child.pid))

    def remove_at_end(self, path: Path) -> None:
        """Remove this file or folder at the end, after the processes have been killed."""
        self._add("path", path)

    def act(self) -> None:
        """Do everything now; returns when it is done."""
        _obey(self._list)
        self._list.close()
        # It has nothing left to do, and may never see the end of the pipe, because our end may have been duplicated.
        self._process.kill()
        self._process.communicate()

    def _add(self, *words: object) -> None:
        print(*words, file=self._list, flush=True)


def sweep(project: Path) -> None:
    """End the processes and remove the files that dead runs of this folder have left."""
    with _alone(project) as runs:
        _sweep(runs)


@contextmanager
def _alone(project: Path) -> Iterator[Path]:
    """Yield the folder of the lists; nobody else makes or reads any meanwhile."""
    runs = project / ".local/runs"
    runs.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(runs, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield runs
    finally:
        os.close(descriptor)


def _sweep(runs: Path) -> None:
    for path in runs.iterdir():
        # If it is locked, the run or its reaper is alive. If it is missing, the run has just ended.
        with contextlib.suppress(BlockingIOError, FileNotFoundError), path.open() as listed:
            fcntl.flock(listed, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _obey(listed)


def _obey(listed: IO[str]) -> None:
    """Kill the groups, remove the paths, and then the list itself."""
    listed.seek(0)
    entries = [line.rstrip("\n").partition(" ") for line in listed]
    for kind, _, argument in entries:
        if kind == "process":
            _kill_group(*argument.split(" ", maxsplit=1))
    for kind, _, argument in entries:
        if kind == "path":
            _remove(Path(argument))
    Path(listed.name).unlink(missing_ok=True)


def _kill_group(pid: str, started: str) -> None:
    # By now, another process may have this number.
    if started and _start_time(int(pid)) == started:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(int(pid), signal.SIGKILL)


def _start_time(pid: int) -> str:
    """Return when a process has started, to the second; "" where there is none, or no `ps` to ask."""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    try:
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return shown.stdout.strip()


def _remove(path: Path) -> None:
    """Remove a path, again and again, because a killed process can still be writing for an instant."""

    def is_gone() -> bool:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return not path.exists()

    wait_until(is_gone, _REMOVAL_TIMEOUT_S)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with Path(sys.argv[1]).open() as listed:  # now: it can still be read after somebody has removed `.local`
        sys.stdin.read()
        _obey(listed)


if __name__ == "__main__":
    main()
