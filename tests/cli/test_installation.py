"""What `pip install .` brings: the client and its command, and nothing that only Lambda needs."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
NOT_FOR_CALLERS = {
    "aws_lambda_powertools",
    "aws_xray_sdk",
    "functions",
    "moto",
    "pydantic",
    "requests",
    "httpx",
}


def run(command: Sequence[str | Path]) -> str:
    done = subprocess.run(  # noqa: S603 - our own programs
        command, capture_output=True, text=True, timeout=120, check=False, cwd=Path(sys.prefix), env={}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install .` would build, from a copy of nothing but what the sdist includes."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; boto3 and the like are borrowed, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("installed")
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    uv = Path(sys.executable).parent / "uv"
    run([uv, "pip", "install", "--quiet", "--offline", "--no-cache", "--no-deps", "--python", folder, wheel])
    (site,) = folder.glob("lib/python*/site-packages")
    # A plain line: unlike the borrowed folder's own .pth files, which would bring this checkout back in.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_command_is_there_and_explains_itself(installed: Path) -> None:
    program = installed / "bin/token-broker"

    assert "First steps:" in run([program, "--help"])
    assert re.fullmatch(r"token-broker \d+\.\d+\.\d+\n", run([program, "--version"]))
    assert "token-broker" in run([program, "completion", "bash"])


def test_the_package_is_the_installed_one_and_loads_nothing_of_lambdas(installed: Path) -> None:
    code = (
        "import pkgutil, sys, importlib, token_broker.cli, token_broker.client\n"
        "for module in pkgutil.iter_modules(token_broker.cli.__path__, 'token_broker.cli.'):\n"
        "    module.name.endswith('__main__') or importlib.import_module(module.name)\n"
        "print(token_broker.__file__, *sys.modules, sep='\\n')"
    )
    file, *modules = run([installed / "bin/python", "-W", "error", "-c", code]).splitlines()

    assert Path(file).is_relative_to(installed)
    assert not NOT_FOR_CALLERS & set(modules)


def test_the_metadata_asks_for_the_sdk_and_little_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        names = archive.namelist()
    needed = metadata.get_all("Requires-Dist") or []
    always = {re.split(r"[^\w-]", line)[0] for line in needed if "extra ==" not in line}

    assert always == {"boto3", "urllib3", "shtab"}
    assert set(metadata.get_all("Provides-Extra") or []) >= {"requests", "httpx"}
    assert "token_broker/py.typed" in names
    assert not [name for name in names if not name.startswith("token_broker")]
