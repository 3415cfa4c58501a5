"""`make sam-local`: every sample event by `sam local`, in real containers, from nothing; a table of what was seen.

    prove               starts a child, and removes everything that it leaves
    prepare_and_enter   engine and image, in a temporary folder (local/engine.py)
    prove_inside        in network, mount and process namespaces: engine, local cloud, SAM as the README has it

Exits with 1 when a line is not as promised, and with 77 where no engine can run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import requests

from local.cloud import PROJECT, end_in_order_on_signals
from local.container import CONTAINER_FOLDER, FUNCTIONS, lambda_architecture
from local.engine import (
    BRIDGE,
    NAMESPACES,
    RUNTIME,
    Engine,
    EngineError,
    OutOfReachError,
    find_leftovers,
    lasting_paths,
    prepare,
    run,
    why_not_possible,
)
from local.promises import Line, render, verdict
from local.reaper import Reaper, sweep
from local.samples import ANSWERS, EVENTS, describe, function_for
from local.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NOT_POSSIBLE: Final = 77
# As in the README.
LOCAL_CLOUD: Final = f"make local BRIDGE={BRIDGE}"
INVOKE: Final = "sam local invoke {function} --event events/{event}.json"
START_LAMBDA: Final = "sam local start-lambda"
_START_TIMEOUT_S: Final = 60.0
_LOG_TIMEOUT_S: Final = 15.0
_SERVER: Final = "http://127.0.0.1:3001"
_SELF: Final = (sys.executable, "-m", "local.sam_local")
_MARK: Final = "OFADEVELOPER"
# What a developer's shell may have; from the namespaces only the local AWS can be reached.
_DEVELOPER: Final = {
    "AWS_ACCESS_KEY_ID": f"AKIA{_MARK}0000",
    "AWS_SECRET_ACCESS_KEY": f"{_MARK}{'s' * 28}",
    "AWS_SESSION_TOKEN": f"{_MARK}-session",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}
CALLS: Final = (
    ("BrokerFunction", "token-default", "200 from table"),
    ("BrokerFunction", "token-default", "200 from memory"),
    ("BrokerFunction:live", "token-default", "200 from memory"),
    ("CampaignsFunction", "campaigns-by-hand", "complete"),
)
# Byte code counts if it is of this interpreter's kind.
_COUNT_BYTE_CODE: Final = """
import importlib.util, pathlib
modules = [f for d in ("/var/task", "/opt/python") for f in pathlib.Path(d).rglob("*.py")]
def has_byte_code(module):
    cached = pathlib.Path(importlib.util.cache_from_source(str(module)))
    return cached.exists() and cached.read_bytes()[:4] == importlib.util.MAGIC_NUMBER
count = sum(map(has_byte_code, modules))
print("all" if 0 < count == len(modules) else f"{count} of {len(modules)}: is there a Python 3.13? (make python)")
"""


class Proof:
    """What is shown, in the order of the table."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._environment = engine.environment | {
            "PATH": f"{PROJECT}/.local/sam/bin{os.pathsep}{engine.environment['PATH']}",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "SAM_CLI_TELEMETRY": "0",
            "SAM_SKIP_PULL_IMAGE": "1",  # no registry can be reached: the image is here under its name
        }
        self.lines: list[Line] = []

    def run(self) -> None:
        with self._background(LOCAL_CLOUD, os.environ | {"TMPDIR": str(self._folder / "tmp")}, "Ctrl-C"):
            for event in sorted(EVENTS.glob("*.json")):
                self._show_event(event)
            with self._background(START_LAMBDA, self._environment | _DEVELOPER, "Running on"):
                for call in CALLS:
                    self._show_call(*call)
                self._show_what_is_inside()
        self._show_that_it_fails_closed()

    def _show_event(self, event: Path) -> None:
        command = INVOKE.format(function=function_for(event), event=event.stem)
        answer = json.loads(run(*command.split(), environment=self._environment))
        self._note(command, ANSWERS[event.stem], describe(answer))

    def _show_call(self, function: str, event: str, promised: str) -> None:
        url = f"{_SERVER}/2015-03-31/functions/{function}/invocations"
        count_before = len(self._sources())
        answer = requests.post(url, data=(EVENTS / f"{event}.json").read_bytes(), timeout=60).json()
        seen = describe(answer)
        if "statusCode" in answer:
            seen += f" from {self._source_after(count_before)}"
        self._note(f"{START_LAMBDA}, {function}", promised, seen)

    def _sources(self) -> list[str]:
        """Return where the broker's audit lines say that its tokens came from, oldest first."""
        log = self._log_file(START_LAMBDA).read_text(errors="replace")
        return re.findall(r'"source":"(\w+)"', log)

    def _source_after(self, count_before: int) -> str:
        """Return the next one; SAM may write a container's lines later than it answers."""
        sources = wait_until(lambda: self._sources()[count_before:], _LOG_TIMEOUT_S)
        return ", ".join(sources) or "nowhere"

    def _show_what_is_inside(self) -> None:
        containers = {
            self._engine.docker("exec", id_, "printenv", "AWS_LAMBDA_FUNCTION_NAME").strip(): id_
            for id_ in self._engine.docker("ps", "--quiet").split()
        }
        promised, seen = (", ".join(sorted(names)) for names in (FUNCTIONS.values(), containers))
        self._note("  containers, there for the next call", promised, seen)
        for name, container in sorted(containers.items()):
            told = self._engine.docker("inspect", container)
            count = sum(told.count(text) for text in (_MARK, _DEVELOPER["AWS_REGION"]))
            self._note(f"  of the developer's keys and region in {name}", "0", count)
            byte_code = self._engine.docker("exec", container, RUNTIME, "-c", _COUNT_BYTE_CODE).strip()
            self._note(f"  modules with byte code in {name}", "all", byte_code)

    def _show_that_it_fails_closed(self) -> None:
        command = INVOKE.format(function="BrokerFunction", event="token-default")
        try:
            seen = run(*command.split(), environment=self._environment | _DEVELOPER)
        except EngineError as error:
            seen = "no such file" if ".local/container/" in str(error) else str(error)
        self._note(f"{command}, without the local cloud", "no such file", seen)

    @contextmanager
    def _background(self, command: str, environment: Mapping[str, str], ready: str) -> Iterator[None]:
        """Run a command until the end of the block, which begins once the command has written `ready`."""
        log_file = self._log_file(command)
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command.split(),
                cwd=PROJECT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:

            def is_ready() -> bool:
                return ready in log_file.read_text(errors="replace")

            wait_until(lambda: is_ready() or process.poll() is not None, _START_TIMEOUT_S)
            if not is_ready():
                raise EngineError(
                    f"`{command}` did not start:\n{log_file.read_text(errors='replace')[-3000:]}"
                )
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # as a terminal does: make's child, too
            process.wait()

    def _log_file(self, command: str) -> Path:
        return self._folder / f"{command.replace(' ', '-')}.log"

    def _note(self, what: str, promised: str, seen: object) -> None:
        line = Line(what, promised, str(seen))
        print(f"  {'✓' if line.holds else '✗'} {what}: {seen}", flush=True)
        self.lines.append(line)


def prove_inside(folder: Path) -> int:
    """Run the proof in namespaces that are this process's own; return the exit status."""
    run("ip", "link", "set", "lo", "up")
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    engine = Engine(folder)
    with engine.running():
        print(f"· engine {engine.docker('version', '--format', '{{.Server.Version}}').strip()}")
        print(f"· image {engine.import_image(lambda_architecture())}", flush=True)
        proof = Proof(engine, folder)
        proof.run()
    print(f"\n{render(proof.lines)}\n")
    print(verdict(proof.lines))
    return 0 if all(line.holds for line in proof.lines) else 1


def prepare_and_enter(folder: Path) -> NoReturn:
    """Prepare, and go on in new namespaces."""
    started_s = time.monotonic()
    print("· engine and image, from Debian's packages", flush=True)
    print("\n".join(f"  {package}" for package in prepare(folder)))
    print(f"  prepared in {time.monotonic() - started_s:.0f} s", flush=True)
    os.execvp(NAMESPACES[0], [*NAMESPACES, *_SELF, "--inside", str(folder)])


def prove() -> int:
    """Let a child do everything, and remove all that it leaves, also if we are killed; return the exit status."""
    if reason := why_not_possible():
        print(f"not possible here: {reason}", file=sys.stderr)
        return NOT_POSSIBLE
    sweep(PROJECT)  # also what a `make local` that was killed has left
    if CONTAINER_FOLDER.exists():
        print("error: end `make local` first; both would write .local/container", file=sys.stderr)
        return 1
    started_s = time.monotonic()
    folder = Path(tempfile.gettempdir()) / f"token-broker-sam-local-{uuid.uuid4().hex[:12]}"
    before = find_leftovers(folder)  # an engine of the machine's own
    folder.mkdir(mode=0o700)
    reaper = Reaper(PROJECT)
    for path in lasting_paths(folder):
        reaper.remove_at_end(path)
    try:
        child = subprocess.Popen([*_SELF, "--prepare", folder], cwd=PROJECT, start_new_session=True)
        reaper.watch(child)
        status = child.wait()
    finally:
        reaper.act()
        sweep(PROJECT)  # the files of the local cloud inside, where that was killed
    leftovers = [text for text in find_leftovers(folder) if text not in before]
    print("\n".join(["left behind:", *leftovers]) if leftovers else "nothing is left of it", end="")
    print(f"; {time.monotonic() - started_s:.0f} s")
    return status or bool(leftovers)


def main() -> int:
    parser = argparse.ArgumentParser(prog="local.sam_local", description=__doc__.partition("\n")[0])
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    step.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.prepare:
            prepare_and_enter(options.prepare)
        if options.inside:
            return prove_inside(options.inside)
        end_in_order_on_signals()
        return prove()
    except OutOfReachError as error:
        print(f"not possible here: {error}", file=sys.stderr)
        return NOT_POSSIBLE
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
