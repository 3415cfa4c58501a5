"""The hosted runner does what `.ci/run` does, with rights to read alone, and audits every locked file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.locks import LOCKS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / ".github/workflows/ci.yml").read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
# Old on purpose; what it locks is installed by tests alone.
NOT_AUDITED = {"tests/client/lowest.txt"}


def commands(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def test_every_action_is_pinned_by_its_commit_and_names_its_version() -> None:
    used = re.findall(r"^\s*(?:- )?uses: *(.*)$", TEXT, re.MULTILINE)

    assert len(used) == sum("uses" in step for job in JOBS.values() for step in job["steps"]) > 0
    for action in used:
        assert re.fullmatch(r"[\w-]+(/[\w-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


def test_the_hosted_runner_runs_what_every_machine_runs() -> None:
    assert commands("ci") == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "if" not in JOBS["ci"]
    assert "continue-on-error" not in TEXT


def test_no_job_may_write_and_no_checkout_stores_credentials() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    for job in JOBS.values():
        assert "permissions" not in job
        (checkout,) = (step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@"))
        assert checkout["with"] == {"persist-credentials": False}
    assert "secrets." not in TEXT
    assert "pull_request_target" not in TEXT


def test_a_newer_run_of_a_branch_ends_the_older_and_none_runs_forever() -> None:
    assert WORKFLOW["concurrency"] == {
        "group": "${{ github.workflow }}-${{ github.ref }}",
        "cancel-in-progress": True,
    }
    assert all(0 < job["timeout-minutes"] <= 90 for job in JOBS.values())


def test_every_locked_file_is_audited_also_every_week() -> None:
    folders = (ROOT / folder for folder in ("bench", "functions", "layers", "local", "tests"))
    files = (file for folder in folders for file in folder.rglob("*.txt"))
    locked = {str(file.relative_to(ROOT)) for file in files if "--hash=sha256:" in file.read_text()}
    audited = JOBS["audit"]["strategy"]["matrix"]["lock"]
    (moment,) = WORKFLOW[True]["schedule"]  # YAML reads the key `on` so

    assert locked == set(LOCKS)
    assert sorted(audited) == sorted(locked - NOT_AUDITED)
    assert commands("audit")[-1].endswith(" -r ${{ matrix.lock }}")
    assert re.fullmatch(r"\d+ \d+ \* \* \d", moment["cron"])


@pytest.mark.parametrize("command", commands("audit"))
def test_the_audit_takes_nothing_without_its_hash(command: str) -> None:
    assert "--require-hashes" in command
    assert not re.search(r"index|https?:", command)
