"""`make compatibility`: the wheel in empty environments, with the oldest versions that it allows and the locked ones.

The tests are those of this checkout. The package that they import is the wheel's, which each trial checks. The locked
versions are tried where `make test` has not tried them: on the other Python. There the command line is tested beside the
functions, because many of its tests compare it with them.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from local.locks import PROJECT
from local.pythons import find_python
from local.wheel import build_wheel, requirement

if TYPE_CHECKING:
    from collections.abc import Sequence

PYTHONS: Final = ("3.11", "3.13")
_UV: Final = str(Path(sys.executable).with_name("uv"))
_LOWEST: Final = "tests/client/lowest.txt"
_LOCKED: Final = "tests/requirements.txt"
# Older SDKs call what Python has deprecated since.
_OF_OLD_SDKS: Final = ("-W", "ignore:datetime.datetime.utcnow() is deprecated:DeprecationWarning")


@dataclass(frozen=True, slots=True)
class Trial:
    """One environment: the wheel with `extras`, versions as `lock` has them, and the tests that it has to pass.

    Attributes:
        needs: what the tests need besides.
        beside: packages of the checkout that they import and that are not in the wheel.
        options: pytest's.
    """

    lock: str
    extras: str
    tests: str
    options: tuple[str, ...] = ()
    needs: str = "tests/client/requirements.txt"
    beside: tuple[str, ...] = ()


TRIALS: Final = (
    Trial(_LOWEST, "requests,httpx", "tests/client", _OF_OLD_SDKS),  # without boto3
    Trial(_LOWEST, "cli", "tests/cli/test_program.py", _OF_OLD_SDKS),
)
LOCKED_TRIALS: Final = (
    Trial(_LOCKED, "cli,requests,httpx", "tests/client"),
    Trial(
        _LOCKED,
        "cli,requests,httpx",
        "tests/cli",
        options=("--confcutdir=tests", "-n", "2"),
        needs=_LOCKED,
        beside=("layers/common/lambda_support",),
    ),
)


class TrialFailed(Exception):
    """A program failed; the text is what it has written."""


def try_out(trial: Trial, wheel: Path, python: str, folder: Path) -> str:
    """Return pytest's last line; takes some ten seconds, two minutes with the functions.

    Args:
        trial: what to try.
        wheel: the built file.
        python: an interpreter.
        folder: a new one, for the environment.

    Raises:
        TrialFailed: something cannot be installed, the package is not the wheel's, or a test fails.
    """
    _run([python, "-m", "venv", folder])
    install = (_UV, "pip", "install", "--python", folder, "--require-hashes")
    _run([*install, "-r", trial.needs])
    _run([*install, "-c", trial.lock, requirement(wheel, trial.extras)])
    (packages,) = folder.glob("lib/python*/site-packages")
    for package in trial.beside:
        (packages / Path(package).name).symlink_to(PROJECT / package)
    own_python = folder / "bin/python"
    origin = _run([own_python, "-c", "import token_broker; print(token_broker.__file__)"]).strip()
    if not Path(origin).is_relative_to(folder):
        raise TrialFailed(f"the tests would import {origin}, which is not the wheel's")
    # The folder's own fixtures only: those of all tests need the functions and the local cloud.
    fixtures = f"--confcutdir={trial.tests.partition('/test_')[0]}"
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", fixtures, *trial.options, trial.tests)
    return _run([own_python, *tests]).splitlines()[-1]


def trials_on(version: str) -> tuple[Trial, ...]:
    """Return what is tried with a minor version."""
    tested_by_make_test = platform.python_version_tuple()[:2] == tuple(version.split("."))
    return TRIALS if tested_by_make_test else TRIALS + LOCKED_TRIALS


def main() -> int:
    tried = 0
    with tempfile.TemporaryDirectory(prefix="token-broker-") as name:
        folder = Path(name).resolve()
        wheel = build_wheel(folder)
        for version in PYTHONS:
            python = find_python(version)
            if python is None:
                print(f"· no Python {version} here: not tried with it")
                continue
            for trial in trials_on(version):
                tried += 1
                what = f"Python {version}, {trial.lock}, [{trial.extras}], {trial.tests}"
                try:
                    print(f"✓ {what}: {try_out(trial, wheel, python, folder / str(tried))}", flush=True)
                except TrialFailed as error:
                    print(f"{error}\n✘ {what}", file=sys.stderr)
                    return 1
    return 0 if tried else 1


def _run(command: Sequence[str | Path]) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        raise TrialFailed(done.stdout)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
