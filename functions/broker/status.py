"""What `GET /status` says of a connection: everything but the token."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from functions.broker.decide import is_due_at, is_locked
from functions.broker.lifetime import SHORTEST_USABLE_S
from functions.broker.token import HOLDER_LOST

if TYPE_CHECKING:
    from functions.broker.token import TokenRecord

_LATEST_EPOCH_S = 253_402_300_799.0  # the year 9999, the last that ISO 8601 has here


def describe(record: TokenRecord, now: float) -> dict[str, object]:
    """Return the public facts of a record at `now` (epoch s); times are ISO 8601 in UTC, None where there is none.

    `state` is fresh, due, expired, or none where there is no token yet. A token whose expiry nobody knows is fresh.
    `last_error` is `current_secret_refused` where the token came from the secret's previous version.
    """
    token, failure = record.token.token if record.token else None, record.failure
    next_attempt_at = max(
        failure.not_before_epoch_s if failure else 0.0, record.refresh_at_epoch_s if token else 0.0
    )
    error, failures = (failure.code, failure.count) if failure else (None, 0)
    if error == HOLDER_LOST and is_locked(record, now):
        error, failures = None, failures - 1  # written with the lock in advance: it has not happened
    if token and token.version_stage != "AWSCURRENT":
        error = error or "current_secret_refused"
    return {
        "connection": record.connection,
        "state": state_of(record, now),
        "generation": record.generation,
        "token_id": token.token_id if token else None,
        "issued_at": _iso(token.issued_at_epoch_s) if token else None,
        "expires_at": _iso(token.expires_at_epoch_s) if token else None,
        "secret_version": token.secret_version if token else None,
        "next_attempt_at": _iso(next_attempt_at) if next_attempt_at > now else None,
        "being_replaced": is_locked(record, now),
        "last_error": error,
        "failures_in_a_row": failures,
        "exchanges_left": int(record.exchanges_left(now)),
    }


def state_of(record: TokenRecord, now: float) -> str:
    """Return fresh, due, expired or none."""
    token = record.token.token if record.token else None
    if token is None:
        return "none"
    if token.left_s(now) < SHORTEST_USABLE_S:
        return "expired"
    return "due" if token.expires_at_epoch_s is not None and is_due_at(token, now) else "fresh"


def _iso(epoch_s: float | None) -> str | None:
    if epoch_s is None:
        return None
    moment = datetime.fromtimestamp(min(max(0.0, epoch_s), _LATEST_EPOCH_S), UTC)
    return moment.isoformat(timespec="seconds")
