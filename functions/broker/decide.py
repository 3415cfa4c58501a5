"""The rules: what a connection's record calls for.

Pure functions: no I/O, no clock, no SDK. `issue_token.py` carries out what `decide` returns; `attempt.py` computes what
an attempt to replace the token writes.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from functions.broker import lifetime
from functions.broker.token import FailureKind
from token_broker.errors import AccessDenied, SlowDown, TemporarilyUnavailable, UpstreamRejected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from functions.broker.token import Failure, TokenRecord
    from token_broker.errors import TokenBrokerError
    from token_broker.issued_token import Token

_DAY_S = 86_400.0
_OPERATOR_MUST_ACT = frozenset({"secret_malformed", "token_url_malformed", "token_url_not_allowed"})
"""Codes of failures that waiting does not end."""


class Need(StrEnum):
    """Why a token is replaced; the value is the reason in the ledger."""

    REFRESH = "refresh"
    NO_TOKEN = "no_token"  # noqa: S105 - a reason, not a credential
    EXPIRED = "expired"
    REPORTED = "reported"


class TokenWanted(NamedTuple):
    """What a caller asks for.

    Attributes:
        min_ttl_s: validity that the caller needs, at most the longest lease.
        rejected_token_id: the upstream answered 401 to this token.
        caller: account and role or user, for counting its reports.
    """

    connection: str
    min_ttl_s: float = 0.0
    rejected_token_id: str | None = None
    caller: str = ""


class Serve(NamedTuple):
    """The record's token, as it is."""


class Wait(NamedTuple):
    """Read the record again, at this moment (epoch s) at the latest."""

    until_epoch_s: float


class Replace(NamedTuple):
    """Take the lock and replace the token."""

    need: Need


class Refuse(NamedTuple):
    """Answer with this error."""

    error: TokenBrokerError


Decision = Serve | Wait | Replace | Refuse


def decide(
    record: TokenRecord, wanted: TokenWanted, now: float, deadline: float, versions: Sequence[str] = ()
) -> Decision:
    """Return what the record calls for.

    Args:
        record: as read.
        wanted: whose request it is.
        now: epoch s.
        deadline: epoch s; the answer has to be there by then.
        versions: VersionIds of the secret when this instance last read it, if the upstream refuses the secret.
    """
    need = need_of(record, wanted, now)
    if need is None:
        return Serve()
    instead = next(_wait_or_refuse(record, wanted, need, now, deadline, versions), None)
    if instead is None:
        return Replace(need)
    return Serve() if is_usable(record, wanted, now) else instead


def need_of(record: TokenRecord, wanted: TokenWanted, now: float) -> Need | None:
    """Return why the token should be replaced; None where it should not."""
    if record.token is None:
        return Need.NO_TOKEN
    token = record.token.token
    if token.left_s(now) < lifetime.SHORTEST_USABLE_S:
        return Need.EXPIRED
    if _is_reported(token, wanted, now):
        return Need.REPORTED
    is_due = is_due_at(token, now, wanted.min_ttl_s) and now >= _refresh_not_before(record, token, now)
    return Need.REFRESH if is_due else None


def is_due_at(token: Token, now: float, min_ttl_s: float = 0.0) -> bool:
    """Return whether less is left than the refresh margin, or than a caller needs.

    `min_ttl_s` counts up to half of the lifetime. A token without an expiry is always due, so that its secret is read.
    """
    needed_s = max(lifetime.refresh_margin_s(token.span_s), min(min_ttl_s, token.span_s / 2))
    return token.expires_at_epoch_s is None or token.left_s(now) < needed_s


def is_usable(record: TokenRecord, wanted: TokenWanted, now: float) -> bool:
    """Return whether the record's token may be served to this caller."""
    token = record.token.token if record.token else None
    return (
        token is not None
        and token.left_s(now) >= lifetime.SHORTEST_USABLE_S
        and not _is_reported(token, wanted, now)
    )


def error_of(failure: Failure, now: float) -> TokenBrokerError:
    """Return the error for a caller that gets no token because of a failure."""
    if failure.code == "secret_missing":
        # The same answer as for a connection that is not granted.
        return AccessDenied("no grant for this connection, or no such connection")
    if failure.kind is FailureKind.REFUSED or failure.code in _OPERATOR_MUST_ACT:
        return UpstreamRejected(
            f"the credential of this connection is refused ({failure.code}): an operator must act"
        )
    wait_s = failure.not_before_epoch_s - now
    return TemporarilyUnavailable(f"no token is available now ({failure.code})", retry_after_s=whole(wait_s))


def whole(seconds: float) -> int:
    """Return seconds rounded up, for `Retry-After`: at least 1."""
    return max(1, math.ceil(seconds))


def is_locked(record: TokenRecord, now: float) -> bool:
    """Return whether somebody is replacing the token. A lock that claims more than a minute is no lock."""
    return record.lock is not None and 0 < record.lock.until_epoch_s - now <= lifetime.LONGEST_LOCK_S


def reports_within_a_day(record: TokenRecord, caller: str, now: float) -> list[float]:
    """Return when (epoch s) within 24 hours reports of this caller put a new token into service, oldest first."""
    return [at for at in record.reports.get(caller, ()) if 0 <= now - at < _DAY_S]


def _wait_or_refuse(
    record: TokenRecord, wanted: TokenWanted, need: Need, now: float, deadline: float, versions: Sequence[str]
) -> Iterator[Wait | Refuse]:
    """Yield the decisions that rule out an exchange now; the first one counts."""
    if record.lock and is_locked(record, now):
        # Somebody is already replacing the token: the caller waits as long as there is time for another read.
        is_time_left = deadline - now >= lifetime.AWS_CALL_S
        busy = TemporarilyUnavailable("the token is being replaced: ask again", retry_after_s=1)
        yield Wait(record.lock.until_epoch_s) if is_time_left else Refuse(busy)

    failure = record.failure
    is_changed = (
        failure is not None
        and failure.kind is FailureKind.REFUSED
        and not set(versions) <= set(record.refused_versions)
    )
    if failure and not is_changed and 0 < failure.not_before_epoch_s - now <= lifetime.LONGEST_NOT_BEFORE_S:
        is_time_left = deadline - failure.not_before_epoch_s >= lifetime.TO_LOCK_S
        yield Wait(failure.not_before_epoch_s) if is_time_left else Refuse(error_of(failure, now))

    if (left := record.exchanges_left(now)) < 1:
        problem = "too many exchanges for this connection: an operator should find out why"
        wait_s = (1 - left) * record.exchange_interval_s
        yield Refuse(TemporarilyUnavailable(problem, retry_after_s=whole(wait_s)))

    reports = reports_within_a_day(record, wanted.caller, now)
    if need is Need.REPORTED and len(reports) >= lifetime.REPORTS_PER_DAY:
        problem = (
            "too many tokens were replaced for this caller within a day: do the 401s have another cause?"
        )
        wait_s = min(lifetime.RETRY_AFTER_LIMIT_S, reports[0] + _DAY_S - now)
        yield Refuse(SlowDown(problem, retry_after_s=whole(wait_s)))

    if deadline - now < lifetime.TO_LOCK_S:  # an exchange that cannot be finished is not begun
        problem = "no time is left to replace the token: ask again"
        yield Refuse(TemporarilyUnavailable(problem, retry_after_s=1))


def _is_reported(token: Token, wanted: TokenWanted, now: float) -> bool:
    is_young = 0 <= now - token.issued_at_epoch_s < lifetime.YOUNG_TOKEN_S
    return token.token_id == wanted.rejected_token_id and not is_young


def _refresh_not_before(record: TokenRecord, token: Token, now: float) -> float:
    """Return the record's refresh time; 0 if it is later than any failure sets it."""
    latest = token.expires_at_epoch_s or now + lifetime.REFRESH_RETRY_UNDATED_S
    return record.refresh_at_epoch_s if record.refresh_at_epoch_s <= latest else 0.0
