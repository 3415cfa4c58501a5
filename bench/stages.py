"""Lays out handlers as Lambda would see them: copies of the built artefacts, with byte code for this interpreter.

The artefacts have byte code for Lambda's Python, or none. The copies get it for the Python that measures, in the same
form (unchecked hash), so that what is deployed is compared, without the time of compiling it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = PROJECT / ".aws-sam/build"
_RUNTIME_PACKAGES: Final = ("awslambdaric", "simplejson", "snapshot_restore_py.py", "runtime_client")
# As published: only the broker cuts packages down; tutorials do not.
_PUBLISHED_PACKAGES: Final = (
    "aws_lambda_powertools", "aws_xray_sdk", "boto3", "botocore", "certifi", "charset_normalizer", "dateutil", "idna",
    "jmespath", "requests", "s3transfer", "six.py", "typing_extensions.py", "urllib3", "wrapt",
)  # fmt: skip


class NotBuiltError(Exception):
    """There is nothing to measure; the text says what to run."""


class Artefacts:
    """Copies of what is deployed, in one folder.

    Attributes:
        function: the broker's own code.
        layer: the shared layer's `python` folder.
        runtime: the runtime interface client, which Lambda has in its image.
        python, packages: the interpreter, and the folder of its environment's packages.
        harness: our own code that runs inside a measured process.
        references: the reference handlers, and the packages that they need, as published.
    """

    def __init__(self, folder: Path, python: Path) -> None:
        """Copy and compile everything into an empty folder; takes some ten seconds.

        Args:
            folder: an empty one.
            python: the interpreter that will run it; its environment has the runtime interface client and the
                packages that the reference handlers need.

        Raises:
            NotBuiltError: the artefacts or a package that the reference handlers need are missing.
        """
        if not (BUILD / "BrokerFunction").is_dir() or not (BUILD / "CommonLayer/python").is_dir():
            raise NotBuiltError("nothing is built: run `make build` first")
        self.folder = folder
        self.python = python
        self.packages = _packages_of(python)
        self.function, self.layer = folder / "function", folder / "layer"
        self.runtime, self.references = folder / "runtime", folder / "references"
        _copy(BUILD / "BrokerFunction", self.function)
        _copy(BUILD / "CommonLayer/python", self.layer)
        _copy(PROJECT / "bench/handlers", self.references / "bench/handlers")
        self.harness = folder / "harness"
        (self.harness / "local").mkdir(parents=True)
        shutil.copy2(PROJECT / "local/nursery.py", self.harness / "local")
        for package in _RUNTIME_PACKAGES:
            _install(self.packages, package, self.runtime)
        for package in _PUBLISHED_PACKAGES:
            _install(self.packages, package, self.references)
        self.add_byte_code(folder)

    def add_byte_code(self, folder: Path) -> None:
        """Compile everything in a folder for the interpreter; it uses the result without checking the sources."""
        compiler = ("-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
        command = [str(self.python), *compiler, str(folder)]
        # Its status is ignored, because some packages contain templates that no Python compiles.
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def copy_without_byte_code(source: Path, target: Path) -> Path:
    """Link (not copy) a folder's files but for the byte code; return the target."""
    _copy(source, target, link=True)
    return target


def _copy(source: Path, target: Path, *, link: bool = False) -> None:
    shutil.copytree(
        source,
        target,
        ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
        copy_function=os.link if link else shutil.copy2,
    )


def _packages_of(python: Path) -> Path:
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    return Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())


def _install(packages: Path, name: str, place: Path) -> None:
    """Copy a package or module: a folder, a file, or a compiled module by its bare name."""
    place.mkdir(exist_ok=True)
    for found in (packages / name, *packages.glob(f"{name}.*.so")):
        if found.is_dir():
            _copy(found, place / name)
            return
        if found.is_file():
            shutil.copy2(found, place)
            return
    raise NotBuiltError(f"{name} is not installed in {packages}: run `make setup`")
