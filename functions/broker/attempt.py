"""The record after each step of an attempt to replace a token: `locked`, then `published`, `given_back` or `unlocked`.

Pure functions: no I/O, no clock, no SDK. Only `replace_token.py`, which makes the attempt, loads this module.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from functions.broker import lifetime
from functions.broker.decide import Need, reports_within_a_day
from functions.broker.ports import MintFailedError
from functions.broker.token import HOLDER_LOST, Failure, FailureKind, Pace, TokenRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from functions.broker.adapters.client_secret import StoredCredential
    from functions.broker.decide import TokenWanted
    from functions.broker.token import Lock, SealedToken
    from token_broker.issued_token import Token


class Candidate(NamedTuple):
    """The version of the secret to exchange next.

    Attributes:
        refused_after: VersionIds that the upstream has refused in this round once this one is refused, too.
        is_last: whether that leaves no version to try.
    """

    stored: StoredCredential
    refused_after: tuple[str, ...]
    is_last: bool


def next_candidate(readable: Sequence[StoredCredential], refused: Sequence[str]) -> Candidate:
    """Return the first version (current, then previous) that is not refused; the current one if all are."""
    untried = [stored for stored in readable if stored.version_id not in refused] or list(readable)
    before = tuple(stored.version_id for stored in readable if stored not in untried)
    return Candidate(untried[0], (*before, untried[0].version_id), is_last=len(untried) == 1)


def locked(free: TokenRecord, need: Need, lock: Lock, now: float, randomness: float) -> TokenRecord:
    """Return a record with a lock, one exchange less in the pace, and the failure that counts if the holder is lost."""
    until = lock.until_epoch_s
    failed = MintFailedError(HOLDER_LOST, FailureKind.MAY_HAVE_ISSUED)
    lost = failure_after(free, need, failed, until, randomness)
    if lost.count == 1:
        lost = lost._replace(not_before_epoch_s=until)  # the longest wait leaves no time for more
    return free._replace(
        fence=free.fence + 1,
        lock=lock,
        pace=Pace(free.exchanges_left(now) - 1, now),
        failure=lost,
        refresh_at_epoch_s=_refresh_after(free, need, now),
    )


def unlocked(locked_record: TokenRecord, seen: TokenRecord) -> TokenRecord:
    """Return a record without its lock, as if nothing had been tried since `seen` was read."""
    return locked_record._replace(
        lock=None, pace=seen.pace, failure=seen.failure, refresh_at_epoch_s=seen.refresh_at_epoch_s
    )


def published(
    locked_record: TokenRecord, token: SealedToken, pace: Pace, reporter: str | None, now: float
) -> TokenRecord:
    """Return a record with a new token: no lock, no failures. `reporter` is the caller whose report caused it."""
    reports = {caller: reports_within_a_day(locked_record, caller, now) for caller in locked_record.reports}
    if reporter is not None:
        reports.setdefault(reporter, []).append(now)
    return TokenRecord(
        locked_record.connection,
        token,
        generation=locked_record.generation + 1,
        fence=locked_record.fence,
        pace=pace,
        reports={caller: moments for caller, moments in reports.items() if moments},
    )


def given_back(
    locked_record: TokenRecord,
    seen: TokenRecord,
    need: Need,
    failed: MintFailedError,
    candidate: Candidate | None,
    *,
    now: float,
    randomness: float,
) -> TokenRecord:
    """Return a record without its lock, with what the failure means for the next attempt."""
    record = unlocked(locked_record, seen)
    failure, refresh_at = failure_after(seen, need, failed, now, randomness), _refresh_after(seen, need, now)
    if candidate and failed.kind is FailureKind.REFUSED:
        refresh_at, record = 0.0, record._replace(refused_versions=candidate.refused_after)
        if not candidate.is_last:
            # The next version is tried at once. Waits grow with rounds; a round counts once its last version is refused.
            failure = failure._replace(count=failure.count - 1, not_before_epoch_s=now)
    pace = locked_record.pace if failed.kind is FailureKind.MAY_HAVE_ISSUED else seen.pace
    return record._replace(pace=pace, failure=failure, refresh_at_epoch_s=refresh_at)


def failure_after(
    seen: TokenRecord, need: Need, failed: MintFailedError, at: float, randomness: float
) -> Failure:
    """Return what is to be remembered of a failure at that moment (epoch s)."""
    before, kind, old = seen.failure, failed.kind, seen.token
    # A failed refresh has its own time for the next attempt (`refresh_at_epoch_s`), and must not delay callers once the
    # token has expired. Refusals are counted separately, because their waits are minutes.
    is_refusal = kind is FailureKind.REFUSED
    is_next = before is not None and (before.kind is FailureKind.REFUSED) == is_refusal
    is_ahead_of_time = need is Need.REFRESH and not is_refusal
    count = max(0, before.count) + 1 if before and is_next and not is_ahead_of_time else 1
    not_before = at + lifetime.backoff_s(kind, count, randomness)
    if need is Need.REFRESH and old:
        not_before = min(not_before, max(at, at + old.token.left_s(at)))
    if failed.retry_after_s is not None:
        not_before = max(not_before, at + min(failed.retry_after_s, lifetime.RETRY_AFTER_LIMIT_S))
    return Failure(failed.code, kind, count, not_before)


def why_not_better(
    new: Token, seen: TokenRecord, wanted: TokenWanted, need: Need, now: float
) -> MintFailedError | None:
    """Return why a token that was issued is no better than the old one; None if it is better."""
    old = seen.token.token if seen.token else None
    if new.left_s(now) < lifetime.SHORTEST_USABLE_S:
        return MintFailedError("already_expired", FailureKind.MAY_HAVE_ISSUED)
    if old and new.token_id == old.token_id:
        lives_on = (
            new.lifetime_s is not None and new.left_s(now) - old.left_s(now) >= lifetime.SAME_TOKEN_GAIN_S
        )
        if not lives_on or new.token_id == wanted.rejected_token_id:
            return MintFailedError("same_token", FailureKind.NOTHING_ISSUED)
    elif old and need is Need.REFRESH and new.left_s(now) <= old.left_s(now) < math.inf:
        return MintFailedError("no_later_expiry", FailureKind.MAY_HAVE_ISSUED)
    return None


def _refresh_after(seen: TokenRecord, need: Need, now: float) -> float:
    """Return when a usable token is refreshed again if an attempt brings no other."""
    if need is not Need.REFRESH or seen.token is None:
        return seen.refresh_at_epoch_s
    return now + lifetime.refresh_retry_s(seen.token.token.left_s(now))
