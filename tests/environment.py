"""A pytest plugin for every run of these tests, also where nothing but the client is installed."""

from __future__ import annotations

import os

import pytest


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
