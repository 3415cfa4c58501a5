"""Running a program to its end."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

from local.locks import PROJECT

if TYPE_CHECKING:
    from pathlib import Path


def run_program(
    *command: str | Path, timeout_s: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run it, by default in the project's folder; its output is text, and no exit status is an error."""
    options = {"cwd": PROJECT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(command, text=True, timeout=timeout_s, check=False, **options)  # noqa: S603 - the project's own
