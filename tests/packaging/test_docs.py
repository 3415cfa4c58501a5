"""The documents' figures are the code's."""

from __future__ import annotations

import re
from pathlib import Path

from functions.broker import lifetime

ROOT = Path(__file__).parents[2]


def test_the_table_of_figures_is_true() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|", text, re.MULTILINE))

    assert len(rows) > 15
    assert {name: float(value) for name, value in rows.items()} == {
        name: float(getattr(lifetime, name)) for name in rows
    }


def test_the_locks_length_is_as_documented_and_ends_within_the_functions_run_time() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    template = (ROOT / "template.yaml").read_text()
    timeout_s = float(re.findall(r"Timeout: (\d+)", template)[0])
    longest, shorter = (
        lifetime.lock_length_s(budget) for budget in (lifetime.MINT_BUDGET_S, lifetime.SOFT_MINT_BUDGET_S)
    )

    assert f"{longest:.0f} s, or {shorter:.0f} s for a refresh ahead of time" in text
    assert longest + lifetime.STORE_BUDGET_S < timeout_s


def test_every_make_task_of_the_readme_exists() -> None:
    tasks = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?m)(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text()))

    assert {"demo", "test", "local", "invoke", "check", "build", "deploy"} <= named <= tasks
