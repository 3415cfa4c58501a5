"""What the wheel contains: the client, its command behind an extra, and nothing that only Lambda needs."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local.wheel import build_wheel, requirement
from tests.programs import run_program

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

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

PIP_INSTALL = (sys.executable, "-m", "pip", "install", "--isolated", "--no-index")


def end(command: Sequence[str | Path], folder: Path = Path(sys.prefix)) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with no variable of this environment."""
    return run_program(*command, cwd=folder, env={"PIP_CONFIG_FILE": os.devnull}, timeout_s=120)


def run(command: Sequence[str | Path], folder: Path = Path(sys.prefix)) -> str:
    done = end(command, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def install(wheel: Path, folder: Path, borrowed: Callable[[Path], bool]) -> Path:
    """Return a new environment with the wheel and the borrowed packages of this one: nothing is downloaded."""
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    uv = Path(sys.executable).parent / "uv"
    options = ("--quiet", "--offline", "--no-cache", "--no-deps", "--python")
    run([uv, "pip", "install", *options, folder, requirement(wheel, "cli")])
    (site,) = folder.glob("lib/python*/site-packages")
    for package in filter(borrowed, Path(sysconfig.get_path("purelib")).iterdir()):
        if not (site / package.name).exists():
            (site / package.name).symlink_to(package)
    return folder


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and every package that this one has."""
    # Without the .pth files, which would put this checkout on its path.
    return install(wheel, tmp_path_factory.mktemp("installed"), lambda package: package.suffix != ".pth")


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it asks for without an extra, and what that needs."""
    needed = {"botocore", "dateutil", "jmespath", "six.py", "urllib3"}
    return install(wheel, tmp_path_factory.mktemp("plain"), lambda package: package.name in needed)


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


def test_the_client_needs_the_sdk_and_the_http_library_and_nothing_else(plain: Path) -> None:
    code = (
        "import token_broker\n"
        "client = token_broker.BrokerClient('https://abc.lambda-url.eu-west-3.on.aws/')\n"
        "print(token_broker.__file__, client, sep='\\n')"
    )
    file, client = run([plain / "bin/python", "-W", "error", "-c", code]).splitlines()

    assert Path(file).is_relative_to(plain)
    assert client == "BrokerClient('https://abc.lambda-url.eu-west-3.on.aws', connection='digishare')"


@pytest.mark.parametrize("command", [["token-broker"], ["python", "-m", "token_broker.cli"]])
@pytest.mark.parametrize(
    "arguments", [["token"], ["--help"], ["completion", "bash"], ["mints", "--json"], []]
)
def test_without_its_extra_the_command_line_names_it_in_one_line(
    plain: Path, wheel: Path, command: list[str], arguments: list[str]
) -> None:
    program, *options = command
    ended = end([plain / "bin" / program, *options, *arguments])

    told = f"token-broker needs the command line's libraries: pip install '{wheel.name}[cli]'\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", told)


def test_an_sdk_that_is_there_for_other_reasons_is_not_the_extra(wheel: Path, tmp_path: Path) -> None:
    install(wheel, tmp_path, lambda package: package.suffix != ".pth" and package.name != "shtab")

    ended = end([tmp_path / "bin/token-broker", "completion", "bash"])

    assert (ended.returncode, ended.stderr.count("\n"), ended.stdout) == (2, 1, "")
    assert f"{wheel.name}[cli]" in ended.stderr


def test_pip_accepts_what_that_line_says(wheel: Path) -> None:
    # Run in the wheel's folder. Without an index, pip finds in this environment what the extra needs.
    told = run([*PIP_INSTALL, "--dry-run", f"{wheel.name}[cli]"], wheel.parent)

    assert "boto3>=1.34.63 in " in told


def test_a_wheel_with_other_bytes_is_not_installed(wheel: Path, tmp_path: Path) -> None:
    right = requirement(wheel, "cli")
    forged = tmp_path / wheel.name
    forged.write_bytes(wheel.read_bytes() + b"more")
    wrong = right.replace(wheel.as_uri(), forged.as_uri())

    ended = end([*PIP_INSTALL, "--no-deps", "--target", tmp_path, wrong])
    assert "DO NOT MATCH THE HASHES" in ended.stderr


def test_the_wheel_is_the_same_bytes_wherever_and_whenever_it_is_built(wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    for source in (*(ROOT / "layers/common").rglob("*.py"), *(ROOT / "layers/common").rglob("py.typed")):
        copied = copy / source.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copied)
        copied.chmod(0o600)
        os.utime(copied, (1_700_000_000, 1_700_000_000))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, copy / name)

    assert build_wheel(tmp_path, copy).read_bytes() == wheel.read_bytes()


def test_the_metadata_asks_for_the_sdk_and_the_http_library_alone_and_names_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        licence = archive.read(name.replace("METADATA", "licenses/LICENSE"))
    needed = metadata.get_all("Requires-Dist") or []
    always = {re.split(r"[^\w-]", line)[0] for line in needed if "extra ==" not in line}

    assert always == {"botocore", "urllib3"}
    assert all(re.search(r">=\d", line) for line in needed), "each lower bound was tested"
    assert set(metadata.get_all("Provides-Extra") or []) == {"cli", "requests", "httpx"}
    assert (metadata["License-Expression"], metadata["License-File"]) == ("MIT", "LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert licence.startswith(b"MIT License\n\nCopyright (c) 2026 the token-broker authors\n")


def test_wheel_and_sdist_have_what_callers_use_and_nothing_of_functions(wheel: Path, tmp_path: Path) -> None:
    run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path], ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as packed:
        names = archive.namelist()
        sources = [name.partition("/")[2] for name in packed.getnames()]

    assert "token_broker/py.typed" in names
    assert not [name for name in names if not name.startswith(("token_broker/", "token_broker-"))]
    assert "layers/common/token_broker/client.py" in sources
    assert not [name for name in (*names, *sources) if "telemetry" in name or "lambda_support" in name]
