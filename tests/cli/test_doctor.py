"""`token-broker doctor` and faults of this machine. The others are in tests/recipes/test_doctor.py."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.client.fake_broker import FakeBroker


def fault_of(findings: list[dict[str, Any]]) -> dict[str, Any]:
    (fault,) = (finding for finding in findings if finding["verdict"] == "fault")
    return fault


def test_a_source_of_credentials_that_hangs_is_told_in_time_and_asked_once(
    run: Run, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(
        f"[default]\ncredential_process = sh -c 'echo >> {tmp_path}/starts; exec sleep 5'\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setattr("token_broker.cli.doctor._TIME_BUDGET_S", 0.5)

    started_s = time.monotonic()
    fault = fault_of(run("doctor", "--json").value["findings"])
    assert time.monotonic() - started_s < 4
    assert fault["topic"] == "credentials"
    assert "does not answer in time" in fault["text"]
    assert len((tmp_path / "starts").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("REQUESTS_CA_BUNDLE", "nowhere.pem"), ("HTTPS_PROXY", "http://me:canary-password@:x")],
)
def test_a_setting_that_cannot_be_used_is_named(
    run: Run, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    ended = run("doctor", "--json", "--url", "https://localhost:1/")
    fault = fault_of(ended.value["findings"])
    assert fault["topic"] == "network"
    assert name in fault["text"]
    assert "canary-password" not in ended.out + ended.err


def test_an_unknown_region_is_a_fault(run: Run, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")

    assert fault_of(run("doctor", "--json").value["findings"])["topic"] == "region"
