"""The fake on its own socket, and the requests of its tests."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx
import pytest

from local.digishare.model import Client, PersonalAccessToken
from local.digishare.server import FakeDigishare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET, OLD_SECRET, PERSONAL = "canary-secret-new", "canary-secret-old", "canary-personal-token"
CLIENTS = [Client("broker", (SECRET, OLD_SECRET))]
CREDENTIALS = {"grant_type": "client_credentials", "client_id": "broker", "client_secret": SECRET}
JSON = {"Accept": "application/json"}


class Clock:
    now_epoch_s = 1_800_000_000.5

    def __call__(self) -> float:
        return self.now_epoch_s


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def running(clock: Clock) -> Iterator[FakeDigishare]:
    personal = [PersonalAccessToken(PERSONAL)]
    with FakeDigishare(clients=CLIENTS, personal_access_tokens=personal, clock=clock) as digishare:
        yield digishare


@pytest.fixture
def digishare(running: FakeDigishare) -> FakeDigishare:
    running.reset()
    return running


@pytest.fixture
def http(digishare: FakeDigishare) -> Iterator[httpx.Client]:
    with connect(digishare.url, digishare.ca_file) as client:
        yield client


def connect(url: str, ca_file: Path, *, timeout_s: float = 5.0) -> httpx.Client:
    trust = ssl.create_default_context(cafile=str(ca_file))
    return httpx.Client(base_url=url, verify=trust, headers=JSON, timeout=timeout_s, trust_env=False)


def mint(http: httpx.Client, **changes: object) -> httpx.Response:
    fields = {name: value for name, value in (CREDENTIALS | changes).items() if value is not None}
    return http.post("/v1/oauth/token", json=fields)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def list_page(http: httpx.Client, token: str = PERSONAL, **query: object) -> httpx.Response:
    params = {name: str(each) for name, each in query.items()}
    return http.get("/v1/campaigns", params=params, headers=bearer(token))
