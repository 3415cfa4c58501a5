"""A run that reads the fake. Only waiting moves its clock."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from functions.campaigns.adapters.campaigns_api import CampaignsApi
from lambda_support.upstream_http import new_session
from local.digishare import faults
from local.digishare.contacts import CANARY_NAME, CANARY_PHONE_PREFIX
from local.digishare.model import Client, PersonalAccessToken
from local.fake_digishare import FakeDigishare
from tests.client.conftest import Clock, everything_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from functions.campaigns.walk import Page
    from local.digishare.faults import Fault

TOKEN, NEXT_TOKEN = "canary-token-1", "canary-token-2"
CANARIES = ("canary", CANARY_NAME, CANARY_PHONE_PREFIX)
PRIVATE = json.dumps({"title": "canary-title", "mobile": f"{CANARY_PHONE_PREFIX}0001", "name": CANARY_NAME})
LIMIT = 40
LONGEST_PAUSE_S = 30 * 1.25


@dataclass
class Reader:
    """A run that reads the fake, and its own `Tokens`: after a report it uses the next token.

    `events` says in which order it waited, and asked for and reported tokens.
    """

    digishare: FakeDigishare
    session: requests.Session
    clock: Clock
    end_s: float = 0.0
    tokens: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)

    def start(self, *tokens: str, time_left_s: float = 600.0) -> None:
        self.tokens, self.end_s = list(tokens), self.clock.now + time_left_s

    @property
    def api(self) -> CampaignsApi:
        return CampaignsApi(self.session, f"{self.digishare.url}/v1", self, self.time_left_s, self._wait)

    def time_left_s(self) -> float:
        return self.end_s - self.clock.now

    def _wait(self, seconds: float) -> None:
        self.events.append("wait")
        self.pauses_s.append(seconds)
        self.clock.now += seconds

    def token(self) -> str:
        self.events.append("ask")
        return self.tokens[0]

    def refused(self) -> None:
        self.events.append("report")
        self.tokens = self.tokens[1:] or self.tokens

    def spoil(self, fault: Fault, *, times: int | None = 1) -> None:
        self.digishare.fail("campaigns", fault, times=times)

    def read(self, number: int = 1, limit: int = LIMIT) -> Page:
        page = self.api.read_page(number, limit, None)
        assert page is not None
        return page

    def assert_reads(self, number: int = 1) -> None:
        """Check that the page has its campaigns, oldest first."""
        campaigns = list(self.digishare.campaign_statuses.items())
        assert self.read(number).statuses == dict(campaigns[(number - 1) * LIMIT : number * LIMIT])

    def failure(self, kind: type[Exception], number: int = 1, limit: int = LIMIT) -> str:
        """Return the error's text, having checked that neither it nor its causes show a canary."""
        with pytest.raises(kind) as raised:
            self.read(number, limit)
        assert_shows_no_canary(everything_of(raised.value))
        return str(raised.value)

    def assert_pauses_have_grown(self) -> None:
        for index, pause_s in enumerate(self.pauses_s):
            assert 0.75 <= pause_s / min(2.0**index, 30) <= 1.25


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FakeDigishare, requests.Session, Clock]]:
    clock = Clock()
    with FakeDigishare(clients=[Client("client-1", ("secret",))], clock=clock) as digishare:
        yield digishare, new_session(str(digishare.ca_file)), clock


@pytest.fixture
def reader(running: tuple[FakeDigishare, requests.Session, Clock]) -> Reader:
    reader = Reader(*running)
    reader.digishare.reset()
    reader.digishare.configure(contacts_per_campaign=1)
    reader.digishare.set_personal_access_tokens([PersonalAccessToken(TOKEN), PersonalAccessToken(NEXT_TOKEN)])
    reader.start(TOKEN, NEXT_TOKEN)
    return reader


def assert_shows_no_canary(text: str) -> None:
    assert not [canary for canary in CANARIES if canary in text]


def private(status: int, **headers: str) -> Fault:
    return faults.status(status, body=PRIVATE, headers={"X-Request": "canary-header", **headers})
