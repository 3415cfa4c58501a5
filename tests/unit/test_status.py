"""`GET /status` tells everything but the token."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest

from functions.broker.status import describe
from functions.broker.token_record import Failure, PublishedToken, TokenRecord

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()
SEALED = b"sealed-canary"
TOKEN = PublishedToken(
    token_id="0123456789abcdef",
    sealed=SEALED,
    fence=7,
    generation=4,
    issued_at_epoch_s=NOW - 5000,
    expires_at_epoch_s=NOW + 5000,
    lifetime_s=10_000,
    scope="campaigns:read",
    secret_version="v1",
)
RECORD = TokenRecord(
    "digishare", TOKEN, fence=7, lock_owner="owner-canary", mints_day="2026-11-23", mints_today=3,
    rejections={"111111111111:role/caller-canary": [NOW]},
)  # fmt: skip
FAILURE = Failure("upstream_500", terminal=False, secret_version="v1", count=2, at_epoch_s=NOW - 1)


def test_a_connection_that_never_had_a_token() -> None:
    assert describe(TokenRecord("digishare"), NOW) == {
        "connection": "digishare",
        "state": "none",
        "generation": 0,
        "token_id": None,
        "issued_at": None,
        "expires_at": None,
        "secret_version": None,
        "next_attempt_at": None,
        "being_replaced": False,
        "last_error": None,
        "failures_in_a_row": 0,
        "mints_today": 0,
    }


def test_a_token_in_service() -> None:
    assert describe(RECORD, NOW) == {
        "connection": "digishare",
        "state": "fresh",
        "generation": 4,
        "token_id": "0123456789abcdef",
        "issued_at": "2026-11-23T10:36:40+00:00",
        "expires_at": "2026-11-23T13:23:20+00:00",
        "secret_version": "v1",
        "next_attempt_at": None,
        "being_replaced": False,
        "last_error": None,
        "failures_in_a_row": 0,
        "mints_today": 3,
    }


@pytest.mark.parametrize(
    ("later_s", "state"),
    [(0, "fresh"), (3500, "soft"), (4800, "hard"), (5000, "expired"), (99_999, "expired")],
)
def test_the_state_is_that_of_the_moment(later_s: float, state: str) -> None:
    assert describe(RECORD, NOW + later_s)["state"] == state


def test_a_token_without_a_known_expiry() -> None:
    record = replace(
        RECORD, token=replace(TOKEN, expires_at_epoch_s=None, lifetime_s=0), next_refresh_at_epoch_s=NOW + 60
    )
    described = describe(record, NOW)

    assert (described["state"], described["expires_at"]) == ("fresh", None)
    assert described["next_attempt_at"] == "2026-11-23T12:01:00+00:00"
    assert describe(record, NOW + 60)["state"] == "soft"


def test_failures_and_the_next_attempt() -> None:
    record = replace(
        RECORD, failure=FAILURE, next_attempt_at_epoch_s=NOW + 4, next_refresh_at_epoch_s=NOW + 450
    )
    described = describe(record, NOW)

    assert (described["last_error"], described["failures_in_a_row"]) == ("upstream_500", 2)
    assert described["next_attempt_at"] == "2026-11-23T12:07:30+00:00"


def test_without_a_token_only_the_back_off_is_waited_for() -> None:
    record = TokenRecord(
        "digishare", failure=FAILURE, next_attempt_at_epoch_s=NOW + 4, next_refresh_at_epoch_s=NOW + 450
    )

    assert describe(record, NOW)["next_attempt_at"] == "2026-11-23T12:00:04+00:00"


def test_what_is_past_is_not_waited_for() -> None:
    record = replace(RECORD, next_attempt_at_epoch_s=NOW - 1, next_refresh_at_epoch_s=NOW)

    assert describe(record, NOW)["next_attempt_at"] is None


@pytest.mark.parametrize(("until_s", "being_replaced"), [(5, True), (0, False), (-5, False)])
def test_a_lock_that_is_held(until_s: float, *, being_replaced: bool) -> None:
    record = replace(RECORD, lock_until_epoch_s=NOW + until_s)

    assert describe(record, NOW)["being_replaced"] is being_replaced


def test_yesterdays_mints_do_not_count() -> None:
    assert describe(RECORD, NOW + 86_400)["mints_today"] == 0


def test_never_a_token_nor_its_ciphertext_nor_who_reported_it() -> None:
    record = replace(RECORD, failure=FAILURE, lock_until_epoch_s=NOW + 5)
    text = json.dumps(describe(record, NOW))

    assert "canary" not in text
    assert "sealed" not in text
    assert "access_token" not in text
    assert "canary" not in repr(TOKEN)


def test_every_field_of_the_record_was_considered() -> None:
    # A field that is added later must be looked at here before it can be shown, or forgotten.
    assert {field.name for field in fields(TokenRecord)} == {
        "connection", "token", "fence", "lock_owner", "lock_until_epoch_s", "next_refresh_at_epoch_s",
        "next_attempt_at_epoch_s", "failure", "mints_day", "mints_today", "rejections",
    }  # fmt: skip
