"""The interpreters of this machine: what `local/find-python` finds, for programs in Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

LAMBDA_PYTHON: Final = "3.13"
"""What the deployed functions run on; this machine may run another."""


def find_python(version: str) -> str | None:
    """Return the path of an interpreter of a minor version, None where there is none; nothing is downloaded.

    The interpreter of this environment is found, too, wherever it is.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found = subprocess.run(
        [Path(__file__).with_name("find-python"), version],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None
