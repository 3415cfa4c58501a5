"""Starting the local cloud's programs: a clean environment, a log file, and an error that says what went wrong."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from local.reaper import Reaper

START_TIMEOUT_S = 30.0
_LOG_TAIL_LINES = 25


class LocalCloudError(Exception):
    """A part of the local cloud did not start or did not do its job; the text holds its last log lines."""


class Children:
    """The programs of one local cloud. All of them, and the folder, are gone once `reaper` acts."""

    def __init__(self, project: Path, folder: Path, reaper: Reaper) -> None:
        self._project = project
        self._folder = folder
        self._reaper = reaper
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        timeout_s: float = START_TIMEOUT_S,
    ) -> dict[str, str]:
        """Start a server that writes a JSON object to `--ready-file PATH` when it listens, and return that object.

        Raises:
            LocalCloudError: it ended, or did not get ready within `timeout_s`.
        """
        ready_file = self._folder / f"{name}.ready.json"
        child = self._spawn(name, [*command, "--ready-file", str(ready_file)], environment)
        give_up_at_s = time.monotonic() + timeout_s
        while child.poll() is None and time.monotonic() < give_up_at_s:
            answer = _read_json(ready_file)
            if answer is not None:
                return answer
            time.sleep(0.05)
        fate = (
            "did not get ready in time" if child.poll() is None else f"ended with status {child.returncode}"
        )
        raise LocalCloudError(f"{name} {fate}; its last lines:\n{self.last_lines(name)}")

    def run(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], timeout_s: float
    ) -> None:
        """Run a program to its end, behind whatever else wants the machine: SAM takes seconds of a core, tests measure time.

        Raises:
            LocalCloudError: it failed or took longer than `timeout_s`.
        """
        child = self._spawn(name, ["nice", *command], environment)
        _close_input(child)
        try:
            status = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LocalCloudError(f"{name} took over {timeout_s:.0f} s:\n{self.last_lines(name)}") from None
        self._reaper.forget(child)
        self._running.remove(child)
        if status:
            raise LocalCloudError(f"{name} failed; its last lines:\n{self.last_lines(name)}")

    def last_lines(self, name: str) -> str:
        log = self._log(name)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:])

    def collect(self) -> None:
        """Take note of the children's end, after the reaper acted, so that none is left as a zombie."""
        for child in self._running:
            child.wait()
            _close_input(child)

    def _spawn(
        self, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with self._log(name).open("ab") as log:
            child = subprocess.Popen(
                command,
                cwd=self._project,
                env=dict(environment),
                stdin=subprocess.PIPE,  # stays open as long as we live: its end tells a child that we are gone
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._reaper.watch(child)
        self._running.append(child)
        return child

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _close_input(child: subprocess.Popen[bytes]) -> None:
    if child.stdin is not None:
        child.stdin.close()


def clean_environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment without anything of the host's but PATH: no AWS settings, no home folder, no proxies."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        **more,
    }


def host_environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the host's environment (package installers need its proxies and caches) without its AWS settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return {**kept, **nowhere, "TMPDIR": str(folder), **more}


def _read_json(path: Path) -> dict[str, str] | None:
    try:
        answer = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None  # not there yet, or still being written
    return answer if isinstance(answer, dict) else None
