"""Which Python the tasks run on: what `local/find-python` finds, and what `make python` installs."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local.waiting import wait_until
from tests.programs import run_program

ROOT = Path(__file__).parents[2]
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SHIM = "echo 'pyenv: python: command not found' >&2; exit 127"


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this machine's programs, but for every Python."""
    folder = tmp_path_factory.mktemp("tools")
    programs = {program.name: program for place in ("/bin", "/usr/bin") for program in Path(place).iterdir()}
    for name, program in programs.items():
        if not name.startswith("py"):
            (folder / name).symlink_to(program)
    return folder


class Machine:
    """A machine for one test: what is on PATH, pyenv's folder, and the folder for built versions."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.bin, self.pyenv, self.data = folder / "bin", folder / "pyenv", folder / "data"
        self.built = self.data / "token-broker/python-3.13"
        self.bin.mkdir()
        self.environment = {
            "PATH": f"{folder / 'first'}:{self.bin}:{tools}",
            "PYENV_ROOT": str(self.pyenv),
            "XDG_DATA_HOME": str(self.data),
            "HOME": str(folder),
        }

    def run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return run_program(*command, **{"env": self.environment, **options})

    def find(self, *versions: str) -> str:
        return self.run(ROOT / "local/find-python", *versions).stdout.strip()


@pytest.fixture
def machine(tmp_path: Path, tools: Path) -> Machine:
    return Machine(tmp_path, tools)


def write_program(path: Path, script: str) -> str:
    """Write a shell script; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def pretended(version: str = "3.13", but: str = "") -> str:
    """Return a script that is this very interpreter in another place and version, changed by a line of Python."""
    major, minor = version.split(".")
    lie = f"import sys; sys.executable = '$0'; sys.version_info = ({major}, {minor}, 0); sys.abiflags = ''; {but}"
    return f'for code; do [ "$last" = -c ] && break; last=$code; done; exec {sys.executable} -I -c "{lie}\n$code" {version}'


def put_python(path: Path, version: str = "3.13", but: str = "") -> str:
    return write_program(path, pretended(version, but))


def test_path_comes_before_pyenv_and_what_was_built_comes_last(machine: Machine) -> None:
    folders = (machine.bin, machine.pyenv / "versions/3.13.2/bin", machine.built / "bin")
    places = [put_python(folder / "python3.13") for folder in folders]

    for place in places:
        assert machine.find("3.13") == place
        Path(place).unlink()
    done = machine.run(ROOT / "local/find-python", "3.13")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_the_first_version_that_is_anywhere_is_found(machine: Machine) -> None:
    lowest = put_python(machine.bin / "python3.11", "3.11")
    assert machine.find("3.13", "3.11") == lowest

    built = put_python(machine.built / "bin/python3.13")
    assert machine.find("3.13", "3.11") == built


USELESS = {
    "no ensurepip": "sys.modules['ensurepip'] = None",
    "no venv": "sys.modules['venv'] = None",
    "no ssl": "sys.modules['ssl'] = None",
    "free-threaded": "import ensurepip; sys.abiflags = 't'",
    "not CPython": "sys.implementation.name = 'pypy'",
    "another version": "sys.version_info = (3, 12, 9)",
}


@pytest.mark.parametrize(
    "useless", [SHIM, *(pretended(but=but) for but in USELESS.values())], ids=["shim", *USELESS]
)
def test_a_python_that_cannot_make_an_environment_is_skipped(machine: Machine, useless: str) -> None:
    write_program(machine.bin.parent / "first/python3.13", useless)
    assert machine.find("3.13") == ""
    assert put_python(machine.bin / "python3.13") == machine.find("3.13")


def test_of_pyenvs_versions_the_newest_is_found(machine: Machine) -> None:
    for version in ("3.13.9", "3.13.10", "3.13.2"):
        put_python(machine.pyenv / "versions" / version / "bin/python3.13")

    assert "/3.13.10/" in machine.find("3.13")


def test_pyenv_tells_its_folder_where_the_environment_does_not(machine: Machine) -> None:
    root = machine.pyenv.with_name("elsewhere")
    del machine.environment["PYENV_ROOT"]
    write_program(machine.bin / "pyenv", f"echo {root}")
    found = put_python(root / "versions/3.13.2/bin/python3.13")

    assert machine.find("3.13") == found


def test_a_link_in_an_environment_leads_to_the_interpreter_itself(machine: Machine) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (machine.bin / f"python{version}").symlink_to(sys.executable)

    assert machine.find(version) == os.path.realpath(sys.executable)


SHOW = ("make", "--eval", "show: ; @echo $(PYTHON)", "show")


def test_the_tasks_use_lambdas_version_then_the_lowest_then_any(machine: Machine) -> None:
    assert machine.run(*SHOW).stdout.strip() == "python3"

    for version in ("3.14", "3.12", "3.11", "3.13"):
        found = put_python(machine.bin / f"python{version}", version)
        assert machine.run(*SHOW).stdout.strip() == found
    assert machine.run(*SHOW, "PYTHON=python3.11").stdout.strip() == "python3.11"


def test_tasks_that_make_no_environment_look_for_no_python(machine: Machine) -> None:
    asked = machine.data.with_name("asked")
    write_program(machine.bin / "python3.13", f"touch {asked}")

    assert "make python" in machine.run("make", "help").stdout
    assert not asked.exists()
    machine.run(*SHOW)
    assert asked.exists()


def test_every_file_names_the_same_version() -> None:
    places = {
        "local/pythons.py": r'^LAMBDA_PYTHON: Final = "(\S+)"',
        "Makefile": r"local/find-python (\S+) 3\.11 ",
        "functions/Makefile": r"^LAMBDA_PYTHON = (\S+)",
        "layers/common/Makefile": r"^LAMBDA_PYTHON = (\S+)",
        "local/get-python": r"^version=(\S+)",
        "template.yaml": r"Runtime: python(\S+)",
    }
    for file, pattern in places.items():
        assert (file, set(re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE))) == (file, {"3.13"})


VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
# Instead of pip, which would download what this environment has: the packages that the build looks into.
SLIMMED = ("botocore", "certifi", "dateutil", "jmespath", "urllib3")
PACKAGES = [path for name in SLIMMED for path in importlib.import_module(name).__path__]
INSTALL = f"""\
[ "$1 $2" = "-m pip" ] || exec {sys.executable} "$@"
while [ "$1" != --target ]; do shift; done
mkdir -p "$2" && cp -R {" ".join(PACKAGES)} "$2"
"""


def copy_alone(machine: Machine, source: str) -> Path:
    """Return a folder with what SAM's container has: a folder of the project, a copy to build, and the artefact's."""
    here = machine.data.parent
    for copy in ("source", "scratch"):
        shutil.copytree(ROOT / source, here / copy, ignore=shutil.ignore_patterns("__pycache__"))
    (here / "artefact").mkdir()
    return here


def build_in(machine: Machine, here: Path, target: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one target as SAM does it; byte code is of the version that runs this."""
    write_program(machine.bin / "python3", INSTALL)
    command = ("make", "--makefile", here / "source/Makefile", target, f"LAMBDA_PYTHON={VERSION}")
    environment = {**machine.environment, "ARTIFACTS_DIR": str(here / "artefact"), **variables}
    return machine.run(*command, cwd=here / "scratch", env=environment)


def modules(artefact: Path, suffix: str) -> set[str]:
    files = artefact.rglob(f"*{suffix}")
    return {str(file.relative_to(artefact)).replace("__pycache__/", "").partition(".")[0] for file in files}


TARGETS = [
    ("functions", "build-BrokerFunction"),
    ("functions", "build-CampaignsFunction"),
    ("layers/common", "build-CommonLayer"),
]


@pytest.mark.parametrize(("source", "target"), TARGETS)
def test_a_container_builds_with_its_own_python_and_nothing_of_the_project_but_the_folder(
    machine: Machine, source: str, target: str
) -> None:
    (machine.bin / f"python{VERSION}").symlink_to(sys.executable)
    here = copy_alone(machine, source)

    done = build_in(machine, here, target)

    assert (done.returncode, done.stderr) == (0, "")
    assert "note:" not in done.stdout
    assert modules(here / "artefact", ".py") == modules(here / "artefact", ".pyc") != set()


@pytest.mark.parametrize(("source", "target"), TARGETS)
def test_a_build_without_that_python_says_so_in_a_line(machine: Machine, source: str, target: str) -> None:
    here = copy_alone(machine, source)

    done = build_in(machine, here, target)

    assert (done.returncode, done.stderr) == (0, "")
    note = rf"^note: no python{VERSION} here: {target} has no byte code \(`make build` says"
    assert re.search(note, done.stdout, re.MULTILINE)
    assert not modules(here / "artefact", ".pyc")


def test_make_build_tells_where_that_python_is(machine: Machine) -> None:
    here = copy_alone(machine, "functions")

    done = build_in(machine, here, "build-BrokerFunction", LAMBDA_PYTHON_COMMAND=sys.executable)

    assert "note:" not in done.stdout
    assert modules(here / "artefact", ".pyc")


def test_broken_grants_end_the_build(machine: Machine) -> None:
    here = copy_alone(machine, "functions")
    (here / "scratch/broker/grants.json").write_text("{")

    done = build_in(machine, here, "build-BrokerFunction")

    assert done.returncode != 0
    assert "grants.json" in done.stderr


def test_nothing_is_installed_where_the_version_is_there(machine: Machine) -> None:
    write_program(machine.bin / "pyenv", "echo pyenv was called >&2; exit 1")
    found = put_python(machine.bin / "python3.13")

    done = machine.run("make", "python")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"Python 3.13 is here: {found}\n" in done.stdout


def test_pyenv_installs_into_its_own_place(machine: Machine) -> None:
    place = machine.pyenv / "versions/3.13.2/bin/python3.13"
    script = write_program(machine.data / "python", pretended())
    write_program(
        machine.bin / "pyenv",
        f'[ "$*" = "install --skip-existing 3.13" ] && mkdir -p {place.parent} && cp {script} {place}',
    )

    done = machine.run("make", "python")

    assert done.returncode == 0
    assert f"Python 3.13 is here now: {place}\n" in done.stdout
    assert not machine.built.exists()


def test_a_python_of_pyenvs_that_makes_no_environments_is_not_taken_for_success(machine: Machine) -> None:
    put_python(machine.pyenv / "versions/3.13.2/bin/python3.13", but="sys.modules['ssl'] = None")
    write_program(machine.bin / "pyenv", "exit 0")

    done = machine.run(ROOT / "local/get-python")

    assert (done.returncode, done.stdout) == (1, "")
    assert "pyenv has a Python 3.13 that lacks ssl" in done.stderr


def test_without_pyenv_and_debian_one_line_says_what_to_install(machine: Machine) -> None:
    write_program(machine.bin / "apt-get", "exit 100")

    done = machine.run(ROOT / "local/get-python")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "install Python 3.13" in done.stderr


@pytest.fixture
def debian(machine: Machine, tmp_path: Path) -> Path:
    """The machine's apt, which delivers a source package with the files of the returned folder."""
    if not KEYRING.exists():
        pytest.skip("only where Debian's keyring is")
    source = tmp_path / "source/Python-3.13.5"
    python = put_python(source / "built")
    write_program(source / "configure", 'echo "$1" >prefix')
    (source / "Makefile").write_text(
        "PYTHON = its own\n"
        f"all:\n\t[ '$(PYTHON)' = 'its own' ] && cp {python} python\n"
        "install: place = $(DESTDIR)$(shell sed s/--prefix=// prefix)/bin\n"
        "install:\n\tmkdir -p $(place) && cp python $(place)/python3.13\n"
    )
    tarball = tmp_path / "python3.13_3.13.5.orig.tar.xz"
    write_program(
        machine.bin / "apt-get",
        f"""case "$*" in
indextargets*) echo mirror:/debian ;;
*update) grep -qx 'deb-src \\[signed-by={KEYRING}\\] mirror:/debian trixie main' sources.list ;;
*'source --download-only python3.13') tar -C {source.parent} -cJf {tarball} {source.name} && cp {tarball} . ;;
esac""",
    )
    return source


def contents(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_debians_source_is_built_where_pyenv_fails_and_only_it_stays(machine: Machine, debian: Path) -> None:
    write_program(machine.bin / "pyenv", "exit 1")
    put_python(machine.built / "bin/python3.13", but="sys.exit(1)")  # of a library that is gone

    done = machine.run("make", "PYTHON=python3.11", "python")

    assert done.returncode == 0, done.stderr
    assert f"Python 3.13 is here now: {machine.built}/bin/python3.13\n" in done.stdout
    assert contents(machine.built.parent) == ["python-3.13"]
    assert contents(machine.built) == ["bin"]


def test_what_cannot_be_compiled_leaves_nothing(machine: Machine, debian: Path) -> None:
    (debian / "Makefile").write_text("all:\n\t@echo no such header >&2; exit 1\n")

    done = machine.run("make", "python")

    assert done.returncode != 0
    assert "no such header" in done.stderr
    assert contents(machine.built.parent) == []


def test_what_is_interrupted_leaves_nothing(machine: Machine, debian: Path) -> None:
    reached = machine.data.with_name("reached")
    (debian / "Makefile").write_text(f"all:\n\tmkfifo {reached} && echo >{reached}; sleep 60\n")
    making = ["make", "python"]
    with subprocess.Popen(making, cwd=ROOT, env=machine.environment, process_group=0) as running:  # noqa: S603
        assert wait_until(reached.exists)
        reached.read_text()
        assert contents(machine.built.parent) != []
        os.killpg(running.pid, signal.SIGTERM)

    assert running.returncode != 0
    assert contents(machine.built.parent) == []


def test_libraries_that_are_missing_are_named(machine: Machine, debian: Path) -> None:
    put_python(debian / "built", but="sys.modules['ssl'] = sys.modules['zlib'] = None")

    done = machine.run("make", "python")

    assert done.returncode != 0
    assert "no ssl zlib." in done.stderr
    assert "libssl-dev zlib1g-dev" in done.stderr
    assert contents(machine.built.parent) == []


def test_what_was_built_and_cannot_make_environments_is_removed(machine: Machine, debian: Path) -> None:
    put_python(debian / "built", but="sys.modules['ensurepip'] = None")
    before = Path(put_python(machine.built / "bin/python3.13", but="sys.exit(1)")).read_bytes()

    assert machine.run("make", "python").returncode != 0
    assert contents(machine.built.parent) == ["python-3.13"]
    assert (machine.built / "bin/python3.13").read_bytes() == before
