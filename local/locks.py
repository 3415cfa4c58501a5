"""The locked requirements: `--write` resolves them again, `--check` fails when a lock doesn't answer its .in file.

The locks hold hashes and neither an index nor a path: they install from whatever index pip or uv is set up for.
The check resolves nothing new (what is locked is preferred), so that a release elsewhere cannot break it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LOCKS = (
    "local/requirements/uv",
    "local/requirements/sam",
    "local/requirements/cloud",
    "layers/common/requirements",
    "tests/requirements",
)
_OPTIONS = (
    *("--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"),
    *("--no-header", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"),
)


def resolve(lock: str, output: Path) -> None:
    """Resolve `<lock>.in` into `output`; what the file at `output` pins already stays where it can."""
    source = PROJECT / f"{lock}.in"
    subprocess.run(
        [Path(sys.executable).with_name("uv"), "pip", "compile", *_OPTIONS, source.name, "-o", output],
        cwd=source.parent,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def find_drift() -> list[str]:
    """Return the locks that resolving their .in file would change."""
    drifted = []
    with tempfile.TemporaryDirectory() as folder:
        for lock in LOCKS:
            locked = (PROJECT / f"{lock}.txt").read_text()
            output = Path(folder) / "lock.txt"
            output.write_text(locked)
            resolve(lock, output)
            if output.read_text() != locked:
                drifted.append(f"{lock}.txt")
    return drifted


def main() -> int:
    parser = argparse.ArgumentParser(prog="local.locks", description=__doc__.partition("\n")[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--write", action="store_true", help="resolve all locks again, to the newest releases")
    task.add_argument("--check", action="store_true", help="fail when a lock has drifted from its .in file")
    if parser.parse_args().write:
        for lock in LOCKS:
            output = PROJECT / f"{lock}.txt"
            output.unlink(missing_ok=True)
            resolve(lock, output)
        return 0
    drifted = find_drift()
    for name in drifted:
        print(f"{name} does not answer its .in file: run `make lock`", file=sys.stderr)
    return 1 if drifted else 0


if __name__ == "__main__":
    sys.exit(main())
