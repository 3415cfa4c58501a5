"""One attempt to replace a connection's token: what can fail first, then lock, row, exchange, publish or give back.

Read `_Attempt.run` from the top. What never happens: an exchange without a row in the ledger, without the lock, or
without the time to finish it; a token served without its row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from functions.broker import lifetime
from functions.broker.adapters.mint_ledger import Mint, Outcome
from functions.broker.decide import Need, error_of, reports_within_a_day
from functions.broker.ports import AwsError, AwsRefusedError, AwsUnavailableError, MintFailedError
from functions.broker.token import HOLDER_LOST, Failure, FailureKind, Lock, Pace, SealedToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.broker.adapters.mint_ledger import MintLedger
    from functions.broker.adapters.token_store import TokenStore
    from functions.broker.decide import TokenWanted
    from functions.broker.mint_token import Candidate, Minter
    from functions.broker.ports import Ports, RequestClock
    from functions.broker.token import ClearToken, TokenRecord

Answer = TypeVar("Answer")

_PAUSE_S = 0.3


class PersonalTokenUnchangedError(Exception):
    """The secret still holds the personal access token that the item has. Nothing was done."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """A new token, and the record with it; None where another holder's token is everybody's."""

    clear: ClearToken
    record: TokenRecord | None


@dataclass(frozen=True, slots=True)
class TokenReplacer:
    """Makes new tokens everybody's. Decides nothing about who is served what; `TokenIssuer` does."""

    store: TokenStore
    ledger: MintLedger
    minter: Minter
    ports: Ports

    def replace(
        self, seen: TokenRecord, wanted: TokenWanted, need: Need, clock: RequestClock, deadline: float
    ) -> Replaced | None:
        """Make one attempt.

        Args:
            seen: the record that was decided on; nobody else has its lock.
            wanted: whose request it is.
            need: why.
            clock: the request's.
            deadline: of the request, epoch s.

        Returns:
            The new token; None if the record has to be looked at again: somebody else was faster, time went by, or
            the attempt failed and the record says so.

        Raises:
            PersonalTokenUnchangedError: there is nothing to replace it with.
            TokenBrokerError: there is no usable credential, and no item to write that into.
            AwsError: AWS did not do its part; nothing was issued.
        """
        return _Attempt(self, seen, wanted, need, clock, deadline, self.ports.new_id()).run()


@dataclass(frozen=True, slots=True)
class _Attempt:
    by: TokenReplacer
    seen: TokenRecord
    wanted: TokenWanted
    need: Need
    clock: RequestClock
    deadline: float
    owner: str

    def run(self) -> Replaced | None:
        try:
            candidate = self.by.minter.prepare(self.seen.connection, self.seen.refused_versions)
        except MintFailedError as failed:
            self._without_candidate(failed)
            return None
        self._refuse_unchanged(candidate)
        began = self.clock.now()
        self.by.store.probe_key(self.seen.connection)
        # Lock and row come before the exchange: where AWS is slow, the lock is that much longer. For three such calls,
        # because no two take exactly as long as each other.
        extra_s = min(lifetime.SLOW_AWS_S, 3 * (self.clock.now() - began) - lifetime.LOCK_TO_SEND_S)
        if self.deadline - self.clock.now() < lifetime.TO_LOCK_S:
            return None
        lock = self._acquire(lifetime.LOCK_S + max(0.0, extra_s))
        if lock is None:
            return None
        try:
            clear = self._mint(lock, candidate)
        except MintFailedError as failed:
            self._give_back(lock, failed, candidate)
            return None
        return self._publish(lock, candidate, clear)

    # --- before the lock ----------------------------------------------------------------------------------------

    def _without_candidate(self, failed: MintFailedError) -> None:
        """Remember that there is no credential, if there is an item to write it into."""
        if not self.seen.fence:
            self._notice("MintFailed", error=failed.code, problem=failed.problem)
            raise error_of(self._failure_after(failed, self.clock.now()), self.clock.now())
        if lock := self._acquire(lifetime.LOCK_S):
            self._give_back(lock, failed)

    def _refuse_unchanged(self, candidate: Candidate) -> None:
        old = self.seen.token
        if candidate.is_exchanged or old is None or self.need is Need.EXPIRED:
            return
        if self.by.minter.mint(candidate, self.clock.now()).token.token_id == old.token.token_id:
            raise PersonalTokenUnchangedError

    # --- lock, row, exchange --------------------------------------------------------------------------------------

    def _acquire(self, lock_s: float, own: TokenRecord | None = None) -> TokenRecord | None:
        """Take the lock, and write down the failure that this attempt is if nothing follows.

        Args:
            lock_s: how long the lock lasts.
            own: the record with a lock of this attempt, whose answer was lost. Nothing was tried under it: it is taken
                again, with all its time ahead and no second exchange from the pace.
        """
        now = self.clock.start_lock()
        until = now + lock_s
        failure = self._failure_after(MintFailedError(HOLDER_LOST, FailureKind.MAY_HAVE_ISSUED), until)
        if failure.count == 1:
            failure = replace(failure, not_before_epoch_s=until)  # the one who waits longest needs the time
        try:
            return self.by.store.acquire_lock(
                replace(self.seen, fence=own.fence, lock=own.lock) if own else self.seen,
                lock=Lock(self.owner, until),
                pace=Pace(self.seen.exchanges_left(now) - 1, now),
                failure=failure,
                refresh_at_epoch_s=self._refresh_at(now),
            )
        except AwsUnavailableError:
            if own or self.need is Need.REFRESH:  # with a usable token, nobody is slowed down any further
                raise
            there = self.by.store.read(self.seen.connection)
            if there.lock is None or there.lock.owner != self.owner:
                raise
        return self._acquire(lock_s, there)

    def _mint(self, lock: TokenRecord, candidate: Candidate) -> ClearToken:
        """Make the one exchange, between its two rows; return a token that brings us further."""
        row = Mint(
            connection=lock.connection,
            fence=lock.fence,
            owner=self.owner,
            begun_at_epoch_s=self.clock.now(),
            reason=str(self.need),
            caller=self.wanted.caller,
            secret_version=candidate.stored.version_id,
        )
        try:
            if candidate.is_exchanged:
                self._begin(lock, row)
            clear = self.by.minter.mint(candidate, self.clock.now())
        except MintFailedError as failed:
            if failed.kind is not FailureKind.MAY_HAVE_ISSUED:
                self._mark_failed(row, failed.code)
            raise
        jti = lifetime.jti_of(clear.access_token)
        row = replace(row, outcome=Outcome.ISSUED, token=clear.token, jti=jti)
        try:
            self._repeat(lambda: self.by.ledger.complete(row))
        except AwsError:
            # Without its row a token is served to nobody.
            raise MintFailedError("ledger_unavailable", FailureKind.MAY_HAVE_ISSUED) from None
        self._require_progress(clear)
        return clear

    def _begin(self, lock: TokenRecord, row: Mint) -> None:
        """Write the row `begun`, and look at the clock once more: the exchange is sent next."""
        try:
            self.by.ledger.begin(row)
        except AwsError as error:
            self._mark_failed(row, str(error))
            self._give_back(lock, None)
            raise
        assert lock.lock is not None  # noqa: S101 - from _acquire
        end = min(self.deadline, lock.lock.until_epoch_s - lifetime.CLOCK_DIFFERENCE_S)
        if end - self.clock.now() < lifetime.TO_SEND_S or self.clock.was_set_back():
            raise MintFailedError("too_late_to_send", FailureKind.NOTHING_ISSUED)

    def _mark_failed(self, row: Mint, code: str) -> None:
        """Say that no token was made; otherwise the row stays `begun`, which is the safe side."""
        failed = replace(row, outcome=Outcome.FAILED, error=code)
        self._try(lambda: self.by.ledger.complete(failed))

    def _require_progress(self, clear: ClearToken) -> None:
        now, new = self.clock.now(), clear.token
        old = self.seen.token.token if self.seen.token else None
        if new.left_s(now) < lifetime.SHORTEST_USABLE_S:
            raise MintFailedError("already_expired", FailureKind.MAY_HAVE_ISSUED)
        if old is None:
            return
        if new.token_id == old.token_id:
            gain_s = new.left_s(now) - old.left_s(now)
            lives_on = new.lifetime_s is not None and gain_s >= lifetime.SAME_TOKEN_GAIN_S
            if not lives_on or new.token_id == self.wanted.rejected_token_id:
                raise MintFailedError("same_token", FailureKind.NOTHING_ISSUED)
        elif self.need is Need.REFRESH and new.left_s(now) <= old.left_s(now) < math.inf:
            raise MintFailedError("no_later_expiry", FailureKind.MAY_HAVE_ISSUED)

    # --- publish, or give back ------------------------------------------------------------------------------------

    def _publish(self, lock: TokenRecord, candidate: Candidate, clear: ClearToken) -> Replaced:
        pace = lock.pace if candidate.is_exchanged else _one_more(lock.pace)
        store, reports = self.by.store, self._reports()
        facts = {"token_id": clear.token.token_id, "fence": lock.fence}
        try:
            # Sealed once: a publish whose answer was lost knows its own work by the ciphertext.
            sealed = self._repeat(
                lambda: store.seal(lock.connection, lock.fence, clear.token, clear.access_token)
            )
            record = self._repeat(lambda: store.publish(lock, sealed, reports=reports, pace=pace))
        except AwsError:
            # Whether it is published is not known. Starting over would cost another token; its caller is served.
            self._notice("PublishLost", **facts)
            unpublished = SealedToken(clear.token, b"", lock.fence)
            return Replaced(
                clear, replace(lock, token=unpublished, generation=lock.generation + 1, lock=None)
            )
        self._notice("Mint" if record else "PublishLost", **facts)
        if record and clear.token.version_stage != "AWSCURRENT":
            self._notice("PreviousSecretUsed", secret_version=clear.token.secret_version)
        return Replaced(clear, record)

    def _reports(self) -> dict[str, list[float]]:
        """Return the reports to remember; one that caused this exchange is the last."""
        now, seen = self.clock.now(), self.seen
        reports = {caller: reports_within_a_day(seen, caller, now) for caller in seen.reports}
        if self.need is Need.REPORTED:
            reports.setdefault(self.wanted.caller, []).append(now)
        return {caller: moments for caller, moments in reports.items() if moments}

    def _give_back(
        self, lock: TokenRecord, failed: MintFailedError | None, candidate: Candidate | None = None
    ) -> None:
        """Remove the lock; with a failure, so that everybody backs off, or as if nothing had been tried."""
        now, seen = self.clock.now(), self.seen
        failure, refresh_at, refused = seen.failure, seen.refresh_at_epoch_s, seen.refused_versions
        if failed:
            failure, refresh_at = self._failure_after(failed, now), self._refresh_at(now)
            self._notice("MintFailed", error=failed.code, problem=failed.problem, failures=failure.count)
        if candidate and failed and failed.kind is FailureKind.REFUSED:
            refresh_at, refused = 0.0, candidate.refused_after
            if failure and not candidate.is_last:
                # The next version, at once. Waits grow by rounds: this one counts when its last version is refused.
                failure = replace(failure, count=failure.count - 1, not_before_epoch_s=now)
        may_have_issued = failed is not None and failed.kind is FailureKind.MAY_HAVE_ISSUED
        pace = lock.pace if may_have_issued else _one_more(lock.pace)
        # If this fails, the lock ends by itself, and the item says already what it means that nothing followed.
        self._try(
            lambda: self.by.store.give_back(
                lock, failure=failure, refresh_at_epoch_s=refresh_at, refused_versions=refused, pace=pace
            )
        )

    def _failure_after(self, failed: MintFailedError, at: float) -> Failure:
        """Return what is to be remembered of a failure at that moment (epoch s)."""
        before, kind, old = self.seen.failure, failed.kind, self.seen.token
        # A refresh that fails has a time of its own for the next attempt, and must not make those wait who come when
        # the token has expired. Refusals are counted apart: their waits are minutes.
        is_refusal = kind is FailureKind.REFUSED
        is_next = before is not None and (before.kind is FailureKind.REFUSED) == is_refusal
        is_ahead_of_time = self.need is Need.REFRESH and not is_refusal
        count = before.count + 1 if before and is_next and not is_ahead_of_time else 1
        not_before = at + lifetime.backoff_s(kind, count, self.by.ports.randomness())
        if self.need is Need.REFRESH and old:
            not_before = min(not_before, max(at, at + old.token.left_s(at)))
        if failed.retry_after_s is not None:
            not_before = max(not_before, at + min(failed.retry_after_s, lifetime.RETRY_AFTER_LIMIT_S))
        return Failure(failed.code, kind, count, not_before)

    def _refresh_at(self, now: float) -> float:
        """Return when a usable token is refreshed again if this attempt brings no other."""
        if self.need is not Need.REFRESH or self.seen.token is None:
            return self.seen.refresh_at_epoch_s
        return now + lifetime.refresh_retry_s(self.seen.token.token.left_s(now))

    # --- means ----------------------------------------------------------------------------------------------------

    def _repeat(self, write: Callable[[], Answer]) -> Answer:
        """Repeat a write, with the token in hand, while AWS is busy or unavailable and there is time."""
        while True:
            try:
                return write()
            except AwsError as error:
                self._notice(error.event, error=str(error))
                pause_s = _PAUSE_S * (0.5 + self.by.ports.randomness())
                has_time = self.deadline - self.clock.now() - pause_s >= lifetime.AWS_CALL_S
                if isinstance(error, AwsRefusedError) or not has_time:
                    raise
            self.by.ports.sleep(pause_s)

    def _try(self, write: Callable[[], object]) -> None:
        """Write what others can do without."""
        try:
            write()
        except AwsError as error:
            self._notice(error.event, error=str(error))

    def _notice(self, event: str, **facts: object) -> None:
        self.by.ports.notice(event, {"connection": self.seen.connection, "reason": str(self.need), **facts})


def _one_more(pace: Pace) -> Pace:
    return replace(pace, left=pace.left + 1)
