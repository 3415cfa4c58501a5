"""The proof in containers says where it cannot run, and a wrong signature is no such place.

The proof itself is `make sam-local`.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from local import sam_local
from local.engine import EngineError, OutOfReachError, find_leftovers, prepare
from local.waiting import wait_until
from tests.programs import run_program

if TYPE_CHECKING:
    from pathlib import Path

NO_MIRROR = (
    "E: Failed to fetch http://mirror.invalid/dists/x/InRelease  Could not connect to mirror.invalid:80"
)
NO_KEY = "E: The repository is not signed. W: GPG error: the public key is not available: NO_PUBKEY 0E98404D386FA1D9"


def test_where_there_is_no_debian_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    ended = run_program(sys.executable, "-m", "local.sam_local", env=environment)

    assert ended.returncode == sam_local.NOT_POSSIBLE
    assert "not possible here: this is no Debian with apt-get" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("says", "kind"), [(NO_MIRROR, OutOfReachError), (NO_KEY, EngineError)])
def test_a_mirror_that_does_not_answer_is_no_failure_and_a_wrong_signature_is(
    says: str, kind: type[EngineError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(EngineError, match=r"mirror|NO_PUBKEY") as raised:
        prepare(tmp_path)

    assert type(raised.value) is kind


def test_it_does_not_take_the_files_of_a_local_cloud_that_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sam_local, "why_not_possible", lambda: None)
    monkeypatch.setattr(sam_local, "CONTAINER_FOLDER", tmp_path)

    assert sam_local.prove() == 1
    assert "end `make local` first" in capsys.readouterr().err


def test_what_is_left_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "token-broker-of-this-test"
    before = find_leftovers(folder)
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()", folder], stdin=subprocess.PIPE) as process:  # noqa: S603
        expected = {str(folder), f"process {process.pid}"}
        # The first moment of a program has no command line.
        assert wait_until(lambda: set(find_leftovers(folder)) - set(before) == expected)
        process.communicate()

    assert find_leftovers(tmp_path / "another") == before
