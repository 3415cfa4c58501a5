"""Runs the page's snippets as they are there. Only Digishare's address is another one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.programs import run_program
from tests.recipes.page import texts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RECIPES = texts("recipe")
CAMPAIGNS = 250
"""How many the fake Digishare has."""


def run(command: Sequence[str], environment: dict[str, str], folder: Path, timeout_s: float = 60) -> str:
    """Return what a program prints. It must end with status 0."""
    # `nice`: tests that measure time come first.
    options: Any = {"env": environment, "cwd": folder, "stdin": subprocess.DEVNULL}
    done = run_program("nice", *command, timeout_s=timeout_s, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def localised(text: str, environment: dict[str, str]) -> str:
    """Return a snippet that finds the local Digishare, and may send it the token."""
    origin = environment["DIGISHARE_BASE_URL"].removesuffix("/v1")
    return text.replace("https://api.digishare.ma", origin).replace(
        "(BrokerClient())", '(BrokerClient(), hosts=["127.0.0.1"])'
    )


def run_python(name: str, environment: dict[str, str], folder: Path, more: str = "") -> str:
    file = folder / "recipe.py"
    file.write_text(localised(RECIPES[name], environment) + more)
    return run([sys.executable, str(file)], environment, folder)


def run_shell(name: str, environment: dict[str, str], folder: Path) -> str:
    return run(["bash", "-euo", "pipefail", "-c", localised(RECIPES[name], environment)], environment, folder)


def uses_of_tokens(table: str, environment: dict[str, str], folder: Path, *options: str) -> dict[str, str]:
    """Return what the ledger says of each token of the environment's connection."""
    shown = run(["token-broker", "mints", "--table", table, "--json", *options], environment, folder)
    return {row["token_id"]: row["use"] for row in json.loads(shown)["mints"]}


def json_values(text: str) -> list[Any]:
    """Return the JSON values that stand one after the other in a text."""
    decoder, values, text = json.JSONDecoder(), [], text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].lstrip()
    return values
