"""Runs commands one after the other, each as a fork of this process, so that Python starts only once.

A fork has the arguments, the environment, the standard streams and the end of a process of its own. `run_each` of
`tests/cli/conftest.py` starts it with a folder, in which what is written to `out` and `err` is read and emptied.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import boto3
import botocore.session
import shtab  # noqa: F401 - loaded for all forks
from botocore.loaders import create_loader

from token_broker.cli import api, connections, doctor, ledger, main, tokens  # noqa: F401 - loaded for all forks


def run_forked(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    """Return the exit code of one command and what it wrote, a character a byte."""
    with suppress(OSError):  # closed, or no file
        os.lseek(0, 0, os.SEEK_SET)
    child = os.fork()
    if not child:
        sys.exit(main(arguments))
    _, status = os.waitpid(child, 0)
    out, err = ((folder / name).read_bytes().decode("latin-1") for name in ("out", "err"))
    for name in ("out", "err"):
        os.truncate(folder / name, 0)
    return os.waitstatus_to_exitcode(status), out, err


if __name__ == "__main__":
    botocore.session.create_loader = cache(create_loader)
    for service in ("cloudformation", "dynamodb", "secretsmanager", "sts"):
        boto3.client(service, region_name="eu-west-3")
    gc.freeze()  # without this, the last collection of each fork would visit, and so copy, all of it
    folder = Path(sys.argv[1])
    commands = json.loads((folder / "commands").read_text())
    (folder / "ended").write_text(json.dumps([run_forked(command, folder) for command in commands]))
