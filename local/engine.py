"""A container engine and an image like Lambda's, from Debian's packages, in a folder: nothing is installed.

apt and debootstrap check the signatures; the runtime interface client comes from tests/requirements.txt, by its hash.
The image replaces AWS's own under the same name, so that SAM finds it: docs/running-locally.md says what differs.

Needs root, `unshare`, and the network while it prepares. `Engine` runs in namespaces of its own (local/sam_local.py).
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from local.cloud import PROJECT
from local.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMESPACES: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Put before a command: its mounts, processes and networks are its own, and end with it."""
RUNTIME: Final = "python3.13"
BRIDGE: Final = "docker0"
_DEBIAN_WITH_RUNTIME: Final = "trixie"
_PACKAGES: Final = ("docker.io", "iptables", "debootstrap")
_INSIDE: Final = f"{RUNTIME},ca-certificates"
_NEEDED: Final = ("apt-get", "dpkg", "unshare", "ip", "gpgv")
_TIMEOUT_S: Final = 600.0
_START_TIMEOUT_S: Final = 30.0
_END_S: Final = 30.0
_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
_UNUSED: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists")
# Where an engine writes by default.
_USUAL_PATHS: Final = tuple(map(Path, ("/etc/docker", "/run/docker", "/run/containerd", "/var/lib/docker")))
_IMAGE_OF_SAM: Final = """
import sys
from samcli.local.docker.lambda_image import LambdaImage, Runtime
print(LambdaImage._INVOKE_REPO_PREFIX + "/" + Runtime.get_image_name_tag(*sys.argv[1:]))
"""
# In the order of AWS's image: the function's code, layers, the runtime's own packages; none of them can be written to.
_BOOTSTRAP: Final = f"""#!/bin/sh
export PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH=/var/task:/opt/python/lib/{RUNTIME}/site-packages:/opt/python:/var/runtime
exec /usr/bin/{RUNTIME} -m awslambdaric "$AWS_LAMBDA_FUNCTION_HANDLER"
"""


class EngineError(Exception):
    """A program failed; the text is what it wrote."""


class OutOfReachError(EngineError):
    """Debian's mirror does not answer."""


def why_not_possible() -> str | None:
    """Return why no engine can run here, in one sentence; None if one can."""
    missing = [program for program in _NEEDED if shutil.which(program) is None]
    if missing:
        return f"this is no Debian with {', '.join(missing)}"
    if os.geteuid() != 0:
        return "only root can make namespaces and mounts"
    if subprocess.run(
        ["unshare", "-n", "-m", "-p", "-f", "true"], capture_output=True, check=False
    ).returncode:
        return "this machine does not allow namespaces"
    return None


def prepare(folder: Path) -> list[str]:
    """Fetch engine and image into `folder`; takes about a minute.

    Returns:
        The fetched packages, each with its version.

    Raises:
        OutOfReachError: the mirror does not answer.
        EngineError: something cannot be downloaded, or its signature or hash is wrong.
    """
    packages = _fetch_packages(folder)
    root = folder / "image"
    _make_root_file_system(folder, root)
    _install_runtime_client(root / "var/runtime")
    for name in ("var/task", "opt"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return packages


def lasting_paths(folder: Path) -> list[Path]:
    """Return what the end of an engine's namespaces does not remove: its control groups, and its folder.

    There is a group for each controller, or (version 2) one for all of them.
    """
    top = Path("/sys/fs/cgroup")
    return [*(group / folder.name for group in (top, *top.glob("*/"))), folder]


def find_leftovers(folder: Path) -> list[str]:
    """Return what an engine of this folder has left on the machine: processes, mounts, control groups, files."""
    mark = folder.name
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if mark in line]
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if mark.encode() in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                processes.append(f"process {process.name}")
    files = [path for path in (*lasting_paths(folder), *_USUAL_PATHS) if path.exists()]
    return [*processes, *mounts, *map(str, files)]


class Engine:
    """dockerd of a prepared folder, for a process that NAMESPACES starts.

    Attributes:
        environment: what its clients need.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.environment = {"PATH": _path(folder), "DOCKER_HOST": f"unix://{folder}/docker.sock"}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start it, and end it together with its containers.

        Raises:
            EngineError: it did not start.
        """
        folder, log_file = self._folder, self._folder / "dockerd.log"
        _cover_system_folders(folder)
        folders = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "dockerd.pid"}
        places = [f"{option}={folder / name}" for option, name in folders.items()]
        names = ("-H", self.environment["DOCKER_HOST"], "--cgroup-parent", f"/{folder.name}")
        libraries = [str(path) for path in (folder / "engine/usr/lib").glob("*-linux-gnu")]
        environment = self.environment | {
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "XTABLES_LIBDIR": os.pathsep.join(f"{path}/xtables" for path in libraries),
        }
        with log_file.open("wb") as log:
            process = subprocess.Popen(["dockerd", *places, *names], env=environment, stdout=log, stderr=log)
        try:
            self._wait_until_it_answers(process, log_file)
            yield
        finally:
            process.terminate()
            process.wait(_END_S)

    def docker(self, *arguments: str | Path) -> str:
        """Return what a command of the engine's client writes. Raises EngineError."""
        return run("docker", *arguments, environment=self.environment)

    def import_image(self, architecture: str) -> str:
        """Make the prepared image known to the engine by the name that SAM looks for, and return that name."""
        name = run(PROJECT / ".local/sam/bin/python", "-c", _IMAGE_OF_SAM, RUNTIME, architecture).strip()
        archive = self._folder / "image.tar"
        run("tar", "-C", self._folder / "image", "-cf", archive, ".")
        self.docker("import", archive, name)
        archive.unlink()
        return name

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes], log_file: Path) -> None:
        def answers() -> bool:
            with contextlib.suppress(EngineError):
                return bool(self.docker("version"))
            return False

        wait_until(lambda: answers() or process.poll() is not None, _START_TIMEOUT_S)
        if not answers():
            raise EngineError(f"dockerd did not start:\n{log_file.read_text(errors='replace')[-3000:]}")


def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Return what a program writes to standard output.

    Args:
        command: program and arguments.
        environment: all that it gets; default: this process's own.

    Raises:
        EngineError: it failed, or took longer than ten minutes.
    """
    try:
        done = subprocess.run(
            command,
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{command[0]}: {type(error).__name__}: {error}") from None
    if done.returncode:
        raise EngineError(
            f"{' '.join(map(str, command))} failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
        )
    return done.stdout


def _cover_system_folders(folder: Path) -> None:
    """Let the engine's usual places be in our folder: the mounts are visible in its namespace only."""
    shutil.copytree("/etc", folder / "etc", symlinks=True, ignore_dangling_symlinks=True)
    run("mount", "--bind", folder / "etc", "/etc")
    run("mount", "-t", "tmpfs", "tmpfs", "/run")


def _fetch_packages(folder: Path) -> list[str]:
    # With our own lists: the machine's may be old or missing, and are not changed.
    for name in ("lists/partial", "apt/archives/partial"):
        (folder / name).mkdir(parents=True)
    options = [f"Dir::State::Lists={folder}/lists", f"Dir::Cache={folder}/apt"]
    options += ["APT::Sandbox::User=root", "Debug::NoLocking=true"]
    apt = ["apt-get", "-qq", *(f"--option={option}" for option in options)]
    try:
        run(*apt, "update", "--error-on=any")
    except EngineError as error:
        about_signatures = re.search("sign|gpg", str(error), re.IGNORECASE)
        raise EngineError(str(error)) if about_signatures else OutOfReachError(str(error)) from None
    run(*apt, "install", "--download-only", "--no-install-recommends", "--yes", *_PACKAGES)
    archives = sorted((folder / "apt/archives").glob("*.deb"))
    for archive in archives:
        run("dpkg", "-x", archive, folder / "engine")
    if (variants := folder / "engine/usr/sbin/xtables-nft-multi").exists():
        for name in ("iptables", "ip6tables"):  # what installing the package would link
            variants.with_name(name).symlink_to(variants.name)
    show = ("dpkg-deb", "--show", "--showformat", "${Package} ${Version}")
    return [run(*show, archive) for archive in archives]


def _make_root_file_system(folder: Path, root: Path) -> None:
    indexes = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    mirror = next(uri for uri in indexes.splitlines() if "security" not in uri)
    environment = {**os.environ, "PATH": _path(folder)}
    if (scripts := folder / "engine/usr/share/debootstrap").exists():
        environment["DEBOOTSTRAP_DIR"] = str(scripts)
    # In namespaces, so that nothing that it mounts or starts outlives it.
    namespace = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    options = ("--force-check-gpg", f"--keyring={_KEYRING}", "--variant=minbase", f"--include={_INSIDE}")
    run(*namespace, "debootstrap", *options, _DEBIAN_WITH_RUNTIME, root, mirror, environment=environment)
    for name in _UNUSED:
        shutil.rmtree(root / name, ignore_errors=True)


def _install_runtime_client(folder: Path) -> None:
    locked = PROJECT / "tests/requirements.txt"
    pinned = re.search(r"^awslambdaric==[\w.]+", locked.read_text(), re.MULTILINE)
    assert pinned is not None  # noqa: S101 - the tests run the functions with it, too
    version, machine = RUNTIME.removeprefix("python"), f"{platform.machine()}-unknown-linux-gnu"
    uv = Path(sys.executable).with_name("uv")
    install = (uv, "pip", "install", "--require-hashes", "--only-binary=:all:")
    target = ("--python-version", version, "--python-platform", machine, "--target", folder)
    run(*install, *target, "-c", locked, pinned[0])
    (folder / "bootstrap").write_text(_BOOTSTRAP)
    (folder / "bootstrap").chmod(0o755)


def _path(folder: Path) -> str:
    unpacked = [str(folder / "engine" / name) for name in ("usr/bin", "usr/sbin")]
    return os.pathsep.join([*unpacked, os.environ.get("PATH", os.defpath)])
