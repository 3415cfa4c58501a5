"""What `GET /status` tells of a connection: everything but the token."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from functions.broker.token_need import state_of

if TYPE_CHECKING:
    from functions.broker.token_record import TokenRecord


def describe(record: TokenRecord, now: float) -> dict[str, object]:
    """Return the public facts of a record at `now` (epoch s); times are ISO 8601 in UTC, None where there is none.

    `state` is fresh, soft, hard, expired, or none where there is no token yet.
    """
    token, failure = record.token, record.failure
    waiting = max(record.next_attempt_at_epoch_s, record.next_refresh_at_epoch_s if token else 0.0)
    return {
        "connection": record.connection,
        "state": str(state_of(record, now) or "none"),
        "generation": record.generation,
        "token_id": token.token_id if token else None,
        "issued_at": _iso(token.issued_at_epoch_s) if token else None,
        "expires_at": _iso(token.expires_at_epoch_s) if token else None,
        "secret_version": token.secret_version if token else None,
        "next_attempt_at": _iso(waiting) if waiting > now else None,
        "being_replaced": now < record.lock_until_epoch_s,
        "last_error": failure.code if failure else None,
        "failures_in_a_row": failure.count if failure else 0,
        "mints_today": record.mints_on(datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")),
    }


def _iso(epoch_s: float | None) -> str | None:
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds")
