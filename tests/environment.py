"""A pytest plugin for every run of these tests, also where nothing but the client is installed."""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING

import pytest
from botocore.loaders import create_loader

if TYPE_CHECKING:
    from collections.abc import Iterator

BUDGETS_S = {
    "bench": 5,
    "broker": 75,
    "campaigns": 50,
    "cli": 90,
    "client": 50,
    "contract": 10,
    "fakes": 10,
    "faults": 175,
    "local_cloud": 220,
    "packaging": 40,
    "races": 75,
    "recipes": 140,
    "scenarios": 5,
    "simulation": 55,
    "unit": 35,
}
"""Seconds that the tests of a folder may take together, on two idle cores with three processes. The sum is 17 minutes,
which pass in 6. A folder that needs more takes it from another one."""

_took_s: defaultdict[str, float] = defaultdict(float)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _took_s[report.nodeid.split("/")[1]] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for suite, took_s in sorted(_took_s.items()):
        if took_s > BUDGETS_S.get(suite, 0):
            budget = (
                f"budget {BUDGETS_S[suite]} s" if suite in BUDGETS_S else "no budget in tests/environment.py"
            )
            terminalreporter.write_line(f"tests/{suite}: {took_s:.0f} s, {budget}")


@pytest.fixture(scope="session", autouse=True)
def shared_sdk_data() -> Iterator[None]:
    """All sessions share the SDK's service descriptions: reading them takes each session 60 to 100 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", cache(create_loader))
        yield


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the AWS credentials, settings or proxies of the machine that it runs on."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "TOKEN_BROKER_", "POWERTOOLS_", "REQUESTS_CA_")) or name.lower().endswith(
            "_proxy"
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
