"""Nothing of a local cloud is left, whatever ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local.children import Children, LocalCloudError, clean_environment
from local.cloud import PROJECT
from local.reaper import Reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROC = Path("/proc")

# A cloud with a function that is busy, so that there is a worker of a server of ours to find.
SUPERVISOR = """
import io, sys, time, zipfile
from pathlib import Path
from local.cloud import LocalCloud, end_in_order_on_signals
end_in_order_on_signals()
with LocalCloud(say=lambda line: None) as cloud:
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("busy.py", "import time\\ndef handle(event, context):\\n    time.sleep(60)\\n")
    aws_lambda = cloud.client("lambda")
    role = cloud.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    aws_lambda.create_function(FunctionName="busy", Runtime="python3.13", Handler="busy.handle", Role=role,
                               Timeout=60, Code={"ZipFile": code.getvalue()})
    aws_lambda.invoke(FunctionName="busy", InvocationType="Event", Payload=b"{}")
    cloud.remove_at_end(Path(sys.argv[1]))
    print(cloud.ca_file.parent, flush=True)
    time.sleep(60)
"""


@pytest.mark.cloud
@pytest.mark.skipif(not PROC.exists(), reason="looks the processes up in /proc")
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: signal.Signals(n).name
)
def test_processes_and_files_are_gone_after(number: signal.Signals, tmp_path: Path) -> None:
    extra_file = tmp_path / "env"
    extra_file.write_text("secret")
    command = [sys.executable, "-c", SUPERVISOR, str(extra_file)]
    with subprocess.Popen(  # noqa: S603 - the test's own command
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        folder = Path(supervisor.stdout.readline().strip())
        assert folder.is_dir()
        _wait_until(lambda: any("_worker.py" in command for command in _commands_with(folder).values()))
        assert len(_commands_with(folder)) >= 3  # the local AWS, its worker, the fake Digishare
        supervisor.send_signal(number)
        supervisor.wait(20)
    _wait_until(lambda: not folder.exists() and not extra_file.exists() and not _commands_with(folder))


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    reaper = Reaper(PROJECT)
    children = Children(tmp_path, tmp_path, reaper)
    yield children
    reaper.act()
    children.collect()


def test_ending_does_not_wait_for_a_process_that_duplicated_our_end_of_the_pipe(tmp_path: Path) -> None:
    reaper = Reaper(PROJECT)
    process = reaper._process
    assert process.stdin is not None
    duplicate = os.dup(process.stdin.fileno())
    left_over = tmp_path / "left-over"
    left_over.touch()
    reaper.remove_at_end(left_over)
    ending = threading.Thread(target=reaper.act, daemon=True)
    try:
        ending.start()
        ending.join(10)
        assert not ending.is_alive()
        assert not left_over.exists()
    finally:
        os.close(duplicate)


def test_child_that_dies_at_start_is_named_with_its_last_lines(children: Children, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"]
    with pytest.raises(LocalCloudError, match=r"broken ended with status 3(.|\n)*the reason"):
        children.start("broken", command, clean_environment(tmp_path))


def test_child_that_never_gets_ready_is_given_up(children: Children, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(LocalCloudError, match="idle did not get ready in time"):
        children.start("idle", command, clean_environment(tmp_path), timeout_s=0.2)


def test_program_that_fails_is_named_with_its_last_lines(children: Children, tmp_path: Path) -> None:
    with pytest.raises(LocalCloudError, match=r"tool failed(.|\n)*the reason"):
        children.run("tool", [sys.executable, "-c", "exit('the reason')"], clean_environment(tmp_path), 20)


def test_program_that_takes_too_long_is_given_up(children: Children, tmp_path: Path) -> None:
    with pytest.raises(LocalCloudError, match="tool took over"):
        children.run(
            "tool", [sys.executable, "-c", "import time; time.sleep(60)"], clean_environment(tmp_path), 0.2
        )


def test_clean_environment_keeps_nothing_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "HTTPS_PROXY", "PYTHONPATH"):
        monkeypatch.setenv(name, "canary")
    environment = clean_environment(tmp_path)
    assert "canary" not in json.dumps(environment)
    assert environment["HOME"] == environment["TMPDIR"] == str(tmp_path)


def _commands_with(folder: Path) -> dict[int, str]:
    """Return the live processes whose environment names `folder`, with their command lines."""
    found = {}
    for process in PROC.iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):  # it ended while we looked
                if str(folder).encode() in (process / "environ").read_bytes():
                    found[int(process.name)] = (process / "cmdline").read_bytes().decode(errors="replace")
    return found


def _wait_until(condition: Callable[[], bool], within_s: float = 15) -> None:
    give_up_at_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_at_s, "did not happen in time"
        time.sleep(0.05)
