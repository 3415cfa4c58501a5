"""A local cloud leaves nothing behind, whatever ends it, and ends nothing of another one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local.children import Children, LocalCloudError, clean_environment
from local.cloud import PROJECT
from local.reaper import Reaper, sweep
from local.waiting import wait_until
from tests.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROC = Path("/proc")
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
pytestmark = pytest.mark.skipif(not PROC.exists(), reason="looks the processes up in /proc")

# `make local` without a stack: build and deployment take a quarter of a minute and leave nothing behind.
PROGRAM = """
import io, json, os, sys, zipfile
from local import up
from local.cloud import ENV_FILE, LocalCloud

class DigishareAlone(LocalCloud):
    def _start(self):
        self._start_digishare()

def keep_a_function_busy(cloud):
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("busy.py", "import time\\ndef handle(event, context):\\n    time.sleep(60)\\n")
    aws_lambda = cloud.client("lambda")
    role = cloud.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    aws_lambda.create_function(FunctionName="busy", Runtime="python3.13", Handler="busy.handle", Role=role,
                               Timeout=60, Code={"ZipFile": code.getvalue()})
    aws_lambda.invoke(FunctionName="busy", InvocationType="Event", Payload=b"{}")

def keep_up(bridge):
    has_aws = "--with-aws" in sys.argv
    with (LocalCloud if has_aws else DigishareAlone)(say=lambda line: None, name="make-local") as cloud:
        if has_aws:
            keep_a_function_busy(cloud)
        cloud.remove_at_end(ENV_FILE)
        ENV_FILE.write_text("secret")
        pids = {"python": os.getpid(), "reaper": cloud._reaper._process.pid}
        pids |= {name: child.pid for name, child in cloud._children._running.items()}
        print(json.dumps({"folder": str(cloud.ca_file.parent), "pids": pids}), flush=True)
        cloud.wait_for_an_end()

up.keep_up = keep_up
up.argparse.ArgumentParser.parse_args = lambda self: up.argparse.Namespace(bridge=None)
sys.exit(up.main())
"""


@dataclass
class Run:
    """A `make local` in a checkout of its own."""

    checkout: Path
    make: subprocess.Popen[str]
    folder: Path
    pids: dict[str, int]

    def kill(self, *names: str, number: signal.Signals = signal.SIGKILL) -> None:
        # Stopped first: none of them has time to notice the end of another.
        for step in (signal.SIGSTOP, number, signal.SIGCONT):
            for name in names:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pids[name], step)

    def end(self) -> str:
        """Wait for its end, check that nothing of it is left, and return what it wrote to standard error."""
        _, told = self.make.communicate(timeout=20)
        assert not self.processes
        assert not self.files
        return told

    @property
    def processes(self) -> list[str]:
        """The command lines of those that are alive."""
        found = []
        for process in PROC.glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended while we looked
                place = (process / "cwd").readlink()
                if place.is_relative_to(self.checkout) or place.is_relative_to(self.folder):
                    found.append((process / "cmdline").read_bytes().decode())
        return found

    @property
    def files(self) -> list[Path]:
        runs = (self.checkout / ".local/runs").iterdir()
        return [path for path in (self.folder, self.env_file, *runs) if path.exists()]

    @property
    def env_file(self) -> Path:
        return self.checkout / ".local/env"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(PROJECT / "local", folder / "local", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".local").mkdir()
    (folder / ".local/aws").symlink_to(PROJECT / ".local/aws")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "Makefile").write_text(f".PHONY: local\nlocal:\n\t@{sys.executable} program.py $(WITH)\n")
    return folder


@pytest.fixture
def start(checkout: Path) -> Iterator[Callable[..., Run]]:
    with contextlib.ExitStack() as ending:

        def start_run(*options: str) -> Run:
            command, pipe = ["make", "local", *options], subprocess.PIPE
            make = ending.enter_context(
                subprocess.Popen(  # noqa: S603 - the test's own command
                    command, cwd=checkout, stdout=pipe, stderr=pipe, text=True, start_new_session=True
                )
            )
            assert make.stdout is not None
            told = json.loads(make.stdout.readline())
            run = Run(checkout, make, Path(told["folder"]), {"make": make.pid, **told["pids"]})
            ending.callback(run.kill, *run.pids)
            return run

        yield start_run


@pytest.mark.parametrize(
    "killed", [["make"], ["python"], ["reaper"], ["make", "python"], ["make", "reaper"]], ids=" and ".join
)
def test_nothing_is_left_after_a_kill_of(killed: list[str], start: Callable[..., Run]) -> None:
    run = start()
    run.kill(*killed)
    assert wait_until(lambda: not run.processes and not run.files)


def test_nothing_is_left_after_ctrl_c(start: Callable[..., Run]) -> None:
    run = start()
    run.kill("python", number=signal.SIGINT)
    run.end()


@pytest.fixture
def busy(start: Callable[..., Run]) -> Run:
    """A run whose function is busy."""
    run = start("WITH=--with-aws")
    assert wait_until(lambda: any("_worker.py" in command for command in run.processes))
    return run


@pytest.mark.cloud
def test_functions_at_work_end_on_sigterm(busy: Run) -> None:
    busy.kill("python", number=signal.SIGTERM)
    busy.end()


@pytest.mark.cloud
def test_without_python_and_reaper_servers_end_and_the_next_start_removes_the_files(busy: Run) -> None:
    busy.kill("python", "reaper")
    assert wait_until(lambda: not busy.processes)
    assert len(busy.files) == 3  # the folder, the file with the keys, and the list of both
    Reaper(busy.checkout).act()
    assert not busy.files


def test_a_server_that_dies_is_named_with_its_last_lines_and_all_ends(start: Callable[..., Run]) -> None:
    run = start()
    with (run.folder / "digishare.log").open("a") as log:
        log.write("the reason\n")
    run.kill("digishare")
    told = run.end()
    assert "digishare has ended with status -9; its last lines:\n  the reason" in told
    assert "Error 1" in told  # make, of the status of what it ran


def test_a_second_make_local_is_refused_and_leaves_the_first_one_alone(start: Callable[..., Run]) -> None:
    run = start()
    second = run_program("make", "local", cwd=run.checkout)
    told = f"another one runs in this folder, or is about to end: process {run.pids['python']}"
    assert told in second.stderr
    assert run.env_file.read_text() == "secret"
    assert run.make.poll() is None


# --- lists of runs ----------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not end with its standard input."""
    with subprocess.Popen(SLEEP, start_new_session=True) as process:  # noqa: S603 - the test's own command
        yield process
        process.kill()


@pytest.fixture
def thing(tmp_path: Path) -> Path:
    (tmp_path / "thing").touch()
    return tmp_path / "thing"


def die(reaper: Reaper) -> None:
    """Do what the operating system does for a run that is killed together with its reaper."""
    reaper._process.kill()
    reaper._process.communicate()
    reaper._list.close()


def test_the_next_start_ends_processes_and_removes_files_of_a_dead_run(
    tmp_path: Path, thing: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    dead = Reaper(tmp_path)
    dead.watch(sleeper)
    dead.remove_at_end(thing)
    die(dead)
    assert thing.exists()
    Reaper(tmp_path).act()
    assert sleeper.wait(5) == -signal.SIGKILL
    assert not thing.exists()


def test_a_process_with_a_reused_pid_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    dead = Reaper(tmp_path)
    dead._add("process", sleeper.pid, "Thu Jan  1 00:00:00 1970")
    die(dead)
    sweep(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.2)
    assert not list((tmp_path / ".local/runs").iterdir())


def test_the_end_of_a_run_does_not_touch_what_a_live_one_has_listed(
    tmp_path: Path, thing: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    live = Reaper(tmp_path)
    live.watch(sleeper)
    live.remove_at_end(thing)
    Reaper(tmp_path).act()
    assert thing.exists()
    assert sleeper.poll() is None
    live.act()
    assert not thing.exists()


def test_what_a_live_reaper_is_about_to_do_is_not_done_for_it(tmp_path: Path, thing: Path) -> None:
    reaper = Reaper(tmp_path)
    reaper.remove_at_end(thing)
    reaper._list.close()
    sweep(tmp_path)
    assert thing.exists()
    reaper._process.communicate()
    assert not thing.exists()


def test_a_run_ends_in_order_also_where_its_list_is_gone(tmp_path: Path, thing: Path) -> None:
    reaper = Reaper(tmp_path)
    reaper.remove_at_end(thing)
    shutil.rmtree(tmp_path / ".local")  # make clean
    reaper.act()
    assert not thing.exists()


def test_ending_waits_for_no_process_with_a_copy_of_the_pipe(tmp_path: Path, thing: Path) -> None:
    reaper = Reaper(tmp_path)
    assert reaper._process.stdin is not None
    descriptors = PROC / str(reaper._process.pid) / "fd"
    # It inherits one of the list, and opens one: it waits for its input then.
    listed = reaper._list.name
    assert wait_until(lambda: [str(each.readlink()) for each in descriptors.iterdir()].count(listed) > 1)
    duplicate = os.dup(reaper._process.stdin.fileno())
    reaper.remove_at_end(thing)
    reaper.act()
    os.close(duplicate)
    assert not thing.exists()


# --- programs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    children = Children(tmp_path, tmp_path, Reaper(PROJECT))
    yield children
    children.end()


def test_child_that_dies_at_start_is_named_with_its_last_lines(children: Children, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"]
    with pytest.raises(LocalCloudError, match=r"broken has ended with status 3(.|\n)*the reason"):
        children.start("broken", command, clean_environment(tmp_path))


def test_child_that_never_gets_ready_is_given_up(children: Children, tmp_path: Path) -> None:
    with pytest.raises(LocalCloudError, match="idle did not get ready in time"):
        children.start("idle", SLEEP, clean_environment(tmp_path), timeout_s=0.2)


def test_program_that_fails_is_named_with_its_last_lines(children: Children, tmp_path: Path) -> None:
    with pytest.raises(LocalCloudError, match=r"tool failed(.|\n)*the reason"):
        children.run("tool", [sys.executable, "-c", "exit('the reason')"], clean_environment(tmp_path), 20)


def test_program_that_takes_too_long_is_given_up(children: Children, tmp_path: Path) -> None:
    with pytest.raises(LocalCloudError, match="tool took over"):
        children.run("tool", SLEEP, clean_environment(tmp_path), 0.2)


def test_clean_environment_has_nothing_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "HTTPS_PROXY", "PYTHONPATH"):
        monkeypatch.setenv(name, "canary")
    environment = clean_environment(tmp_path)
    assert "canary" not in json.dumps(environment)
    assert environment["HOME"] == environment["TMPDIR"] == str(tmp_path)
