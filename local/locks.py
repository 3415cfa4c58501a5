"""The locked requirements of pyproject.toml: `--write` resolves them again, `--check` fails when a lock does not fit it.

The locks contain hashes and neither an index nor a path: they install from the index that pip or uv is set up for.
The check prefers the locked versions, so that a new release of a package cannot break it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

PROJECT = Path(__file__).resolve().parent.parent
# Every lock, and the part of pyproject.toml that it locks, in uv's terms; paths from the project's root.
LOCKS: Final = {
    "local/requirements/uv.txt": ("--group", "uv"),
    "local/requirements/sam.txt": ("--group", "sam"),
    "local/requirements/cloud.txt": ("--group", "local-aws"),
    "local/requirements/audit.txt": ("--group", "audit"),
    "layers/common/requirements.txt": ("--group", "functions"),
    "tests/requirements.txt": ("pyproject.toml", "--all-extras", "--group", "tests"),
    "tests/client/requirements.txt": ("--group", "client-tests"),
    # The oldest versions that the wheel says it works with.
    "tests/client/lowest.txt": ("pyproject.toml", "--all-extras", "--resolution", "lowest-direct"),
}
_OPTIONS = (
    *("--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"),
    *("--no-header", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"),
)


def resolve(lock: str, output: Path) -> None:
    """Resolve one of LOCKS into `output`; versions that the file at `output` pins already stay if they fit."""
    subprocess.run(
        [Path(sys.executable).with_name("uv"), "pip", "compile", *_OPTIONS, *LOCKS[lock], "-o", output],
        cwd=PROJECT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def find_drift() -> list[str]:
    """Return the locks that resolving pyproject.toml would change."""
    drifted = []
    with tempfile.TemporaryDirectory() as folder:
        for lock in LOCKS:
            locked = (PROJECT / lock).read_text()
            output = Path(folder) / "lock.txt"
            output.write_text(locked)
            resolve(lock, output)
            if output.read_text() != locked:
                drifted.append(lock)
    return drifted


def main() -> int:
    parser = argparse.ArgumentParser(prog="local.locks", description=__doc__.partition("\n")[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--write", action="store_true", help="resolve all locks again, to the newest releases")
    task.add_argument("--check", action="store_true", help="fail when a lock has drifted from its source")
    if parser.parse_args().write:
        for lock in LOCKS:
            output = PROJECT / lock
            output.unlink(missing_ok=True)
            resolve(lock, output)
        return 0
    drifted = find_drift()
    for name in drifted:
        print(f"{name} does not fit pyproject.toml: run `make lock`", file=sys.stderr)
    return 1 if drifted else 0


if __name__ == "__main__":
    sys.exit(main())
