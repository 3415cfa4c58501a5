"""`make build` and `make deploy` in a copy of the checkout, with a scripted `sam`."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local.build import describe_missing_byte_code
from local.pythons import LAMBDA_PYTHON, find_python
from local.waiting import wait_until
from tests.programs import run_program

ROOT = Path(__file__).parents[2]
# Only GNU's programs and Linux have these. macOS's make 3.81 ignores the last two.
NOT_EVERYWHERE = r"\bflock\b|\breadlink -f|\bsed -i|\bdate -d|\bgrep -P|\bcp -a|\bxargs -r|\bnproc\b|^\.SHELLFLAGS|^\.ONESHELL"


class Checkout:
    """A copy of what the tasks need. `sam` runs a test's script; `calls` are the commands it was started with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.artefact = folder, folder / ".aws-sam/build/BrokerFunction"
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copytree(ROOT / "local", folder / "local", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / ".local/sam/bin").mkdir(parents=True)
        self.have_sam_do("")

    def have_sam_do(self, script: str) -> None:
        sam = self.folder / ".local/sam/bin/sam"
        sam.write_text(f'#!/bin/sh\necho "$1" >> calls\n[ "$1" = build ] || exec echo deploying\n{script}\n')
        sam.chmod(0o755)

    def make(self, task: str) -> list[str]:
        # READY: the environments are this checkout's.
        return ["make", task, "READY=", f"BIN={Path(sys.executable).parent}"]

    def run(self, task: str, stderr: int = subprocess.STDOUT) -> subprocess.CompletedProcess[str]:
        return run_program(*self.make(task), cwd=self.folder, stderr=stderr)

    @property
    def calls(self) -> list[str]:
        calls = self.folder / "calls"
        return calls.read_text().split() if calls.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def put_module(artefact: Path, version: str | None = LAMBDA_PYTHON) -> None:
    """Write a module into an artefact, with byte code of a version of Python, or without any."""
    (artefact / "__pycache__").mkdir(parents=True)
    (artefact / "handler.py").touch()
    if version:
        (artefact / f"__pycache__/handler.cpython-{version.replace('.', '')}.pyc").touch()


@pytest.mark.parametrize("version", [None, "3.11"])
def test_what_has_no_byte_code_is_told_before_it_is_deployed(checkout: Checkout, version: str | None) -> None:
    put_module(checkout.artefact, version)
    put_module(checkout.artefact.with_name("CommonLayer"))

    # SAM builds nothing new here: the artefact above is deployed.
    done = checkout.run("deploy")

    assert done.returncode == 0
    assert re.fullmatch(
        r"note: BrokerFunction without byte code: (?s:.+)`make python`(?s:.+)\ndeploying\n· .+\n", done.stdout
    )
    assert checkout.calls == ["build", "deploy"]
    # `make invoke` builds, too, and only its answer may be on standard output.
    assert checkout.run("build", stderr=subprocess.DEVNULL).stdout == ""


def test_the_page_shows_that_note(tmp_path: Path) -> None:
    for artefact in ("BrokerFunction", "CampaignsFunction", "CommonLayer"):
        put_module(tmp_path / ".aws-sam/build" / artefact, None)

    page = (ROOT / "docs/running-locally.md").read_text()
    assert f"```\n{describe_missing_byte_code(tmp_path)}\n```" in page


def test_nothing_is_told_of_artefacts_with_byte_code(checkout: Checkout) -> None:
    put_module(checkout.artefact)

    assert checkout.run("deploy").stdout.startswith("deploying\n")


def test_sam_builds_with_the_environments_python_and_a_cache_per_compiler(
    checkout: Checkout,
) -> None:
    put_module(checkout.artefact)
    checkout.have_sam_do('(command -v python3; echo "$*"; echo "$LAMBDA_PYTHON_COMMAND") > seen')

    checkout.run("build")

    python3, arguments, command = (checkout.folder / "seen").read_text().splitlines()
    assert Path(python3).parent == Path(sys.executable).parent
    found = find_python(LAMBDA_PYTHON)
    assert command == (found or f"python{LAMBDA_PYTHON}")
    assert arguments.endswith(f" --cache-dir {checkout.folder}/.aws-sam/cache{found or ''}")


def test_a_build_that_fails_shows_all_that_sam_said_and_nothing_is_deployed(checkout: Checkout) -> None:
    checkout.have_sam_do("seq 1000; echo broken >&2; exit 1")

    done = checkout.run("deploy")

    assert done.returncode != 0
    assert done.stdout.startswith("1\n2\n")
    assert "1000\nbroken\n" in done.stdout
    assert checkout.calls == ["build"]


def test_a_build_waits_for_another_program_that_builds_or_reads(checkout: Checkout) -> None:
    put_module(checkout.artefact)
    with (checkout.folder / ".aws-sam/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        making = subprocess.Popen(checkout.make("build"), cwd=checkout.folder)  # noqa: S603 - as in `run`
        with pytest.raises(subprocess.TimeoutExpired):
            making.wait(3)
        assert checkout.calls == []

    assert making.wait(30) == 0
    assert checkout.calls == ["build"]


def test_a_build_whose_starter_was_killed_is_not_joined_by_another(checkout: Checkout) -> None:
    checkout.have_sam_do("kill -9 $PPID; touch orphaned; read never")
    with subprocess.Popen(checkout.make("build"), cwd=checkout.folder, stdin=subprocess.PIPE) as making:  # noqa: S603
        assert wait_until((checkout.folder / "orphaned").exists)
        with (checkout.folder / ".aws-sam/lock").open("w") as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert making.stdin
            making.stdin.close()
            fcntl.flock(lock, fcntl.LOCK_EX)


@pytest.mark.parametrize("makefile", ["Makefile", "functions/Makefile", "layers/common/Makefile"])
def test_the_makefiles_need_nothing_that_only_linux_has(makefile: str) -> None:
    assert not re.search(NOT_EVERYWHERE, (ROOT / makefile).read_text(), re.MULTILINE)


def test_an_environment_without_its_installer_is_no_environment_also_under_make_3_81(tmp_path: Path) -> None:
    # As this version runs each line: with -c alone.
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *venv*) mkdir -p environment/bin; cp "$0" environment/bin/;; *pip*) exit 1;; esac\n'
    )
    python.chmod(0o755)
    (tmp_path / "local/requirements").mkdir(parents=True)
    (tmp_path / "local/requirements/uv.txt").touch()
    variables = (".SHELLFLAGS=-c", "VENV=environment", f"PYTHON={python}")

    done = run_program("make", "-f", ROOT / "Makefile", *variables, "environment/bin/uv", cwd=tmp_path)

    assert done.returncode != 0
    assert not (tmp_path / "environment/bin/uv").exists()
