"""`GET /status` tells everything but the token."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from functions.broker.status import describe
from functions.broker.token import HOLDER_LOST, Failure, FailureKind, Lock, Pace, SealedToken, TokenRecord
from token_broker.issued_token import Token

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()
TOKEN = Token("0123456789abcdef", NOW - 5000, NOW + 5000, 10_000, "campaigns:read", "v1")
SEALED = SealedToken(TOKEN, b"sealed-canary", fence=7)
RECORD = TokenRecord(
    "digishare", SEALED, generation=4, fence=7, pace=Pace(20.5, NOW), reports={"1:role/caller-canary": [NOW]}
)
FAILURE = Failure("upstream_500", FailureKind.MAY_HAVE_ISSUED, count=2, not_before_epoch_s=NOW + 4)


def with_token(**changes: Any) -> TokenRecord:
    return RECORD._replace(token=SEALED._replace(token=TOKEN._replace(**changes)))


NEVER = {
    "connection": "digishare", "state": "none", "generation": 0, "token_id": None, "issued_at": None,
    "expires_at": None,
    "secret_version": None, "next_attempt_at": None, "being_replaced": False, "last_error": None,
    "failures_in_a_row": 0,
    "exchanges_left": 24,
}  # fmt: skip


def test_a_connection_that_never_had_a_token_has_state_none() -> None:
    assert describe(TokenRecord("digishare"), NOW) == NEVER


def test_a_token_in_service_is_described() -> None:
    assert describe(RECORD, NOW) == NEVER | {
        "state": "fresh", "generation": 4, "token_id": "0123456789abcdef",
        "issued_at": "2026-11-23T10:36:40+00:00",
        "expires_at": "2026-11-23T13:23:20+00:00", "secret_version": "v1", "exchanges_left": 20,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("later_s", "state"),
    [(0, "fresh"), (2999, "fresh"), (3001, "due"), (4998, "due"), (4999.5, "expired"), (99_999, "expired")],
)
def test_the_state_is_that_of_the_moment(later_s: float, state: str) -> None:
    assert describe(RECORD, NOW + later_s)["state"] == state


def test_the_pace_gains_exchanges_while_time_passes() -> None:
    found = [describe(RECORD, NOW + later_s)["exchanges_left"] for later_s in (0, 449, 451, 10**6)]
    assert found == [20, 20, 21, 24]


def test_a_token_without_a_known_expiry_is_fresh() -> None:
    described = describe(with_token(expires_at_epoch_s=None, lifetime_s=None), NOW + 10**8)

    assert (described["state"], described["expires_at"]) == ("fresh", None)


def test_a_failure_is_told_with_the_next_attempt() -> None:
    described = describe(RECORD._replace(failure=FAILURE, refresh_at_epoch_s=NOW + 450), NOW)

    assert (described["last_error"], described["failures_in_a_row"]) == ("upstream_500", 2)
    assert described["next_attempt_at"] == "2026-11-23T12:07:30+00:00"


def test_without_a_token_only_the_back_off_is_waited_for() -> None:
    record = TokenRecord("digishare", failure=FAILURE, refresh_at_epoch_s=NOW + 450)

    assert describe(record, NOW)["next_attempt_at"] == "2026-11-23T12:00:04+00:00"


def test_what_is_past_is_not_waited_for() -> None:
    record = RECORD._replace(failure=FAILURE._replace(not_before_epoch_s=NOW - 1), refresh_at_epoch_s=NOW)

    assert describe(record, NOW)["next_attempt_at"] is None


@pytest.mark.parametrize(("until_s", "being_replaced"), [(5, True), (0, False), (-5, False), (61, False)])
def test_a_lock_counts_until_its_end_or_for_a_minute_at_most(until_s: float, *, being_replaced: bool) -> None:
    record = RECORD._replace(lock=Lock("owner-canary", NOW + until_s))

    assert describe(record, NOW)["being_replaced"] is being_replaced


@pytest.mark.parametrize(
    ("until_s", "told"),
    [(14.5, (True, None, 2)), (0.0, (False, HOLDER_LOST, 3))],
    ids=["while it may still follow", "after the lock's end"],
)
def test_a_lost_holder_is_told_after_its_lock(until_s: float, told: tuple[bool, str | None, int]) -> None:
    failure = Failure(HOLDER_LOST, FailureKind.MAY_HAVE_ISSUED, 3, not_before_epoch_s=NOW + until_s)
    status = describe(RECORD._replace(lock=Lock("owner", NOW + until_s), failure=failure), NOW)

    assert (status["being_replaced"], status["last_error"], status["failures_in_a_row"]) == told


def test_a_token_of_the_previous_secret_version_is_said_to_be_one() -> None:
    previous = with_token(version_stage="AWSPREVIOUS")

    assert describe(previous, NOW)["last_error"] == "current_secret_refused"
    assert describe(previous._replace(failure=FAILURE), NOW)["last_error"] == "upstream_500"


@pytest.mark.parametrize("absurd", [-1e300, 1e300, 253_402_300_800.0, math.inf])
def test_times_that_no_date_can_express_are_no_error(absurd: float) -> None:
    record = with_token(issued_at_epoch_s=-absurd, expires_at_epoch_s=absurd)

    assert json.dumps(describe(record._replace(refresh_at_epoch_s=absurd), NOW))


def test_the_status_has_no_token_no_ciphertext_and_no_reporter() -> None:
    record = RECORD._replace(failure=FAILURE, lock=Lock("owner-canary", NOW + 5))
    text = json.dumps(describe(record, NOW))

    assert "canary" not in text
    assert "sealed" not in text
    assert "access_token" not in text
    assert "canary" not in repr(SEALED)


def test_every_field_of_the_record_was_considered() -> None:
    # A new field fails this test, so that its author decides whether the status shows it.
    assert set(TokenRecord._fields) == {
        "connection", "token", "generation", "fence", "lock", "pace", "failure", "refresh_at_epoch_s",
        "refused_versions", "reports",
    }  # fmt: skip
