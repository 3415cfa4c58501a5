"""`make build`: runs `sam build`, and says which artefacts have no byte code. The local cloud builds the same way."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from local.locks import PROJECT
from local.pythons import LAMBDA_PYTHON, find_python

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SAM: Final = str(PROJECT / ".local/sam/bin/sam")
_LOG: Final = PROJECT / ".local/build.log"


class Run(Protocol):
    """Runs a program to its end, with these variables in addition to those that it gets anyway; raises if it fails."""

    def __call__(self, command: Sequence[str], **variables: str) -> None: ...


@contextmanager
def alone_with_the_build(project: Path = PROJECT) -> Iterator[None]:
    """Wait until no other program builds in this folder or reads what was built."""
    folder = project / ".aws-sam"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)  # noqa: FBT003 - it takes no names
        yield


def build(run: Run, project: Path = PROJECT) -> None:
    """Have `run` build the folder's template into its `.aws-sam/build`; quick when nothing has changed."""
    # SAM's makefile builder runs the first `python3` on the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    lambda_python = find_python(LAMBDA_PYTHON) or ""
    # The Python that makes byte code names the cache, so that an artefact without byte code is not taken from it.
    cache = f"{project}/.aws-sam/cache{lambda_python}"
    folders = ("--build-dir", f"{project}/.aws-sam/build", "--cache-dir", cache)
    with alone_with_the_build(project):
        run(
            [SAM, "build", "--cached", "--template-file", f"{project}/template.yaml", *folders],
            SAM_CLI_TELEMETRY="0",
            PATH=path,
            LAMBDA_PYTHON_COMMAND=lambda_python or f"python{LAMBDA_PYTHON}",
        )


def describe_missing_byte_code(project: Path = PROJECT) -> str:
    """Return a note about the built artefacts that have no byte code, "" where all have it."""
    tag = f"cpython-{LAMBDA_PYTHON.replace('.', '')}"
    folders = sorted(folder for folder in (project / ".aws-sam/build").iterdir() if folder.is_dir())
    without = [folder.name for folder in folders if not any(folder.rglob(f"*.{tag}.pyc"))]
    if not without:
        return ""
    return (
        f"note: {', '.join(without)} without byte code: every start takes over twice as long.\n"
        f"  Get a Python {LAMBDA_PYTHON} and build again: `make python`, or any on PATH that can make environments. Or deploy\n"
        "  what a container has built: `sam build --use-container --no-cached`, then `sam deploy`."
    )


def _run_with_log(command: Sequence[str], **variables: str) -> None:
    with _LOG.open("wb") as log:
        environment = {**os.environ, **variables}
        # The program inherits the lock: if this process is killed, nobody else builds before the program has ended.
        subprocess.run(command, env=environment, stdout=log, stderr=log, close_fds=False, check=True)


def main() -> int:
    try:
        build(_run_with_log)
    except subprocess.CalledProcessError:
        sys.stderr.write(_LOG.read_text(errors="replace"))
        return 1
    if note := describe_missing_byte_code():
        print(note, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
