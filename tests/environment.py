"""A pytest plugin for every run of these tests, also where nothing but the client is installed."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import pytest
from botocore.loaders import create_loader

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def shared_sdk_data() -> Iterator[None]:
    """All sessions of the SDK share its service descriptions: each would read and parse 60 to 100 ms of JSON."""
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
