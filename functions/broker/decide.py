"""The rules: what one look at a connection's record calls for.

Pure functions: no I/O, no clock, no SDK. `issue_token.py` carries out what `decide` says; what an attempt to replace the
token writes is in `attempt.py`.
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
"""Codes of failures that no waiting mends."""


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
    """Look again, at the latest at this moment (epoch s)."""

    until_epoch_s: float


class Replace(NamedTuple):
    """Take the lock and replace the token."""

    need: Need


class Refuse(NamedTuple):
    """Tell the caller."""

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
        versions: VersionIds of the secret that this instance saw at its last look, if the upstream refuses it.
    """
    need = need_of(record, wanted, now)
    if need is None:
        return Serve()
    obstacle = next(_obstacles(record, wanted, need, now, deadline, versions), None)
    if obstacle is None:
        return Replace(need)
    return Serve() if is_usable(record, wanted, now) else obstacle


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

    `min_ttl_s` counts up to half of the lifetime. A token without an expiry is always due, for a look at its secret.
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
    """Return what a caller is told who has to do without a token because of a failure."""
    if failure.code == "secret_missing":
        # The same answer as for a connection that is not granted.
        return AccessDenied("no grant for this connection, or no such connection")
    if failure.kind is FailureKind.REFUSED or failure.code in _OPERATOR_MUST_ACT:
        return UpstreamRejected(
            f"the credential of this connection is refused ({failure.code}): an operator must act"
        )
    wait_s = failure.not_before_epoch_s - now
    return TemporarilyUnavailable(f"no token can be had now ({failure.code})", retry_after_s=whole(wait_s))


def whole(seconds: float) -> int:
    """Return seconds rounded up, for `Retry-After`: at least 1."""
    return max(1, math.ceil(seconds))


def is_locked(record: TokenRecord, now: float) -> bool:
    """Return whether somebody is replacing the token. A lock that claims more than a minute is no lock."""
    return record.lock is not None and 0 < record.lock.until_epoch_s - now <= lifetime.LONGEST_LOCK_S


def reports_within_a_day(record: TokenRecord, caller: str, now: float) -> list[float]:
    """Return when (epoch s) within 24 hours reports of this caller put a new token into service, oldest first."""
    return [at for at in record.reports.get(caller, ()) if 0 <= now - at < _DAY_S]


def _obstacles(
    record: TokenRecord, wanted: TokenWanted, need: Need, now: float, deadline: float, versions: Sequence[str]
) -> Iterator[Wait | Refuse]:
    """Yield what stands in the way of an exchange, in the order in which it counts."""
    if record.lock and is_locked(record, now):
        # Somebody is already replacing the token: nobody needs to be refused, as long as there is time to look again.
        is_time_left = deadline - now >= lifetime.AWS_CALL_S
        busy = TemporarilyUnavailable("the token is being replaced: ask again", retry_after_s=1)
        yield Wait(record.lock.until_epoch_s) if is_time_left else Refuse(busy)

    failure = record.failure
    is_mended = (
        failure is not None
        and failure.kind is FailureKind.REFUSED
        and not set(versions) <= set(record.refused_versions)
    )
    if failure and not is_mended and 0 < failure.not_before_epoch_s - now <= lifetime.LONGEST_NOT_BEFORE_S:
        is_time_left = deadline - failure.not_before_epoch_s >= lifetime.TO_LOCK_S
        yield Wait(failure.not_before_epoch_s) if is_time_left else Refuse(error_of(failure, now))

    if (left := record.exchanges_left(now)) < 1:
        problem = "too many exchanges for this connection: an operator should look why"
        wait_s = (1 - left) * record.exchange_interval_s
        yield Refuse(TemporarilyUnavailable(problem, retry_after_s=whole(wait_s)))

    reports = reports_within_a_day(record, wanted.caller, now)
    if need is Need.REPORTED and len(reports) >= lifetime.REPORTS_PER_DAY:
        problem = "too many tokens were replaced for this caller within a day: is something else the reason?"
        wait_s = min(lifetime.RETRY_AFTER_LIMIT_S, reports[0] + _DAY_S - now)
        yield Refuse(SlowDown(problem, retry_after_s=whole(wait_s)))

    if deadline - now < lifetime.TO_LOCK_S:  # nobody begins what he cannot finish
        problem = "no time is left to replace the token: ask again"
        yield Refuse(TemporarilyUnavailable(problem, retry_after_s=1))


def _is_reported(token: Token, wanted: TokenWanted, now: float) -> bool:
    is_young = 0 <= now - token.issued_at_epoch_s < lifetime.YOUNG_TOKEN_S
    return token.token_id == wanted.rejected_token_id and not is_young


def _refresh_not_before(record: TokenRecord, token: Token, now: float) -> float:
    """Return the record's refresh time, unless it claims more than any failure sets."""
    latest = token.expires_at_epoch_s or now + lifetime.REFRESH_RETRY_UNDATED_S
    return record.refresh_at_epoch_s if record.refresh_at_epoch_s <= latest else 0.0
