"""`make wheel`: builds what callers install, the same bytes each time, and prints how to install exactly these bytes.

The name `token-broker` on the public index belongs to somebody else or to nobody, so an installation by the bare name
can install anything. So the wheel is installed by its hash.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING

from local.locks import PROJECT

if TYPE_CHECKING:
    from pathlib import Path


def build_wheel(folder: Path, sources: Path = PROJECT) -> Path:
    """Build the wheel of a checkout into a folder, as its only one; return the file, an absolute path."""
    folder = folder.resolve()
    command = [sys.executable, "-m", "hatchling", "build", "--clean", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=sources, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def requirement(wheel: Path, extras: str) -> str:
    """Return the requirement that pip and uv fulfil with this file alone; `extras` such as "cli" or "cli,httpx"."""
    return f"token-broker[{extras}] @ {wheel.as_uri()}#sha256={_sha256(wheel)}"


def main() -> int:
    wheel = build_wheel(PROJECT / "dist")
    version = wheel.name.split("-")[1]
    print(
        f"{wheel.relative_to(PROJECT)}\n"
        "\n"
        "Install this file ([cli] is the command line; others are [requests] and [httpx]):\n"
        f"  pip install '{requirement(wheel, 'cli')}'\n"
        "\n"
        "Or put it on an index of your own, and this into a requirements file (which then needs all others' hashes, too):\n"
        "  --index-url https://YOUR-INDEX/simple\n"
        f"  token-broker[cli]=={version} --hash=sha256:{_sha256(wheel)}\n"
        "\n"
        "Never `pip install token-broker`, never with --extra-index-url: on the public index the name is not ours."
    )
    return 0


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
