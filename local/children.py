"""The local cloud's programs: a clean environment, a log file, and an error that says what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from local.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from local.reaper import Reaper

START_TIMEOUT_S = 30.0
_LOG_TAIL_LINES = 25


class LocalCloudError(Exception):
    """A part of the local cloud did not start, has ended or has failed; the text contains its last log lines."""


class Children:
    """The programs of one local cloud. All of them end with it, and so does everything else on the reaper's list."""

    def __init__(self, project: Path, folder: Path, reaper: Reaper) -> None:
        """Take the working directory of all programs, the folder for their logs, and the reaper that lists them."""
        self._project = project
        self._folder = folder
        self._reaper = reaper
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        timeout_s: float = START_TIMEOUT_S,
    ) -> dict[str, str]:
        """Start a server that writes a JSON object to `--ready-file PATH` when it listens, and return that object.

        Its standard input stays open as long as this process lives; the server must end when that ends.

        Raises:
            LocalCloudError: it ended, or did not get ready within `timeout_s`.
        """
        ready_file = self._folder / f"{name}.ready.json"
        child = self._spawn(name, [*command, "--ready-file", str(ready_file)], environment)
        wait_until(lambda: _read_json(ready_file) or child.poll() is not None, timeout_s)
        self.check()
        if answer := _read_json(ready_file):
            return answer
        raise self._failure(name, "did not get ready in time")

    def run(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], timeout_s: float
    ) -> None:
        """Run a program to its end, with low priority: SAM takes seconds of a core, while tests measure time.

        Raises:
            LocalCloudError: it failed or took longer than `timeout_s`.
        """
        child = self._spawn(name, ["nice", *command], environment)
        try:
            child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise self._failure(name, f"took over {timeout_s:.0f} s") from None
        del self._running[name]
        if child.returncode:
            raise self._failure(name, f"failed with status {child.returncode}")

    def check(self) -> None:
        """Raise LocalCloudError if a server or the reaper has ended."""
        for name, child in self._running.items():
            if child.poll() is not None:
                raise self._failure(name, f"has ended with status {child.returncode}")
        if not self._reaper.is_alive:
            raise LocalCloudError("local.reaper has ended, which ends everything if this process is killed")

    def end(self) -> None:
        """End all programs with what they have started, and then have the reaper do the rest."""
        for child in self._running.values():
            # Also if the child itself has ended: something that it has started may still run.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
        self._reaper.act()

    def _failure(self, name: str, fate: str) -> LocalCloudError:
        lines = self._log(name).read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return LocalCloudError(
            "\n".join([f"{name} {fate}; its last lines:", *(f"  {line}" for line in lines)])
        )

    def _spawn(
        self, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with self._log(name).open("ab") as log:
            child = subprocess.Popen(
                command,
                cwd=self._project,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = child
        self._reaper.watch(child)
        return child

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def clean_environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment with nothing of the host's but PATH: no AWS settings, no home folder, no proxies."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        **more,
    }


def host_environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the host's environment (package installers need its proxies and caches) without its AWS settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return {**own, **nowhere, "TMPDIR": str(folder), **more}


def _read_json(path: Path) -> dict[str, str] | None:
    try:
        answer = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None  # not there yet, or still being written
    return answer if isinstance(answer, dict) else None
