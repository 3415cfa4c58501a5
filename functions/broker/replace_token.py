"""One attempt to replace a connection's token: credential, lock, row, exchange, then publish or give back.

Read `_Attempt.run` from the top. There is never an exchange without a row in the ledger, without the lock, or without
the time to finish it, and no token is served without its row. What each step writes into the item is in `attempt.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from functions.broker import attempt, lifetime
from functions.broker.adapters.client_secret import PersonalAccessToken
from functions.broker.decide import Need, error_of
from functions.broker.ports import (
    AwsError,
    AwsRefusedError,
    AwsUnavailableError,
    MintFailedError,
    PersonalTokenUnchangedError,
)
from functions.broker.token import FailureKind, Lock, SealedToken
from token_broker.issued_token import ClearToken, Token, expiry_of, token_id_of
from token_broker.ledger_row import Mint

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.broker.adapters.client_secret import ConnectionSecrets, StoredCredential
    from functions.broker.adapters.mint_ledger import MintLedger
    from functions.broker.adapters.oauth_exchange import OAuthExchange
    from functions.broker.adapters.token_store import TokenStore
    from functions.broker.attempt import Candidate
    from functions.broker.decide import TokenWanted
    from functions.broker.ports import Ports, RequestClock
    from functions.broker.token import TokenRecord

Answer = TypeVar("Answer")

_PAUSE_S = 0.3


@dataclass(frozen=True, slots=True)
class TokenReplacer:
    """Replaces tokens; `TokenIssuer` decides who is served what."""

    store: TokenStore
    ledger: MintLedger
    secrets: ConnectionSecrets
    exchange: OAuthExchange
    ports: Ports

    def replace(
        self, seen: TokenRecord, wanted: TokenWanted, need: Need, clock: RequestClock
    ) -> tuple[ClearToken, TokenRecord | None] | None:
        """Make one attempt.

        Args:
            seen: the record that was decided on; nobody else has its lock.
            wanted: whose request it is.
            need: why.
            clock: the request's.

        Returns:
            The new token and the record with it; None for the record if another attempt has taken the lock meanwhile.
            None if the record has to be read again: somebody else was faster, too little time was left, or the
            attempt failed and the record says so.

        Raises:
            PersonalTokenUnchangedError: there is nothing to replace it with.
            TokenBrokerError: there is no usable credential, and no item to write that into.
            AwsError: an AWS call failed; nothing was issued.
        """
        return _Attempt(self, seen, wanted, need, clock).run()


@dataclass(frozen=True, slots=True)
class _Attempt:
    by: TokenReplacer
    seen: TokenRecord
    wanted: TokenWanted
    need: Need
    clock: RequestClock

    def run(self) -> tuple[ClearToken, TokenRecord | None] | None:
        candidate = self._prepare()
        if candidate is None:
            return None
        began = self.clock.now()
        self.by.store.probe_key(self.seen.connection)
        # Lock and row are written before the exchange. Where AWS is slow, the lock is longer: by the time of three calls
        # like the probe, not two, because calls do not all take equally long.
        extra_s = min(lifetime.SLOW_AWS_S, 3 * (self.clock.now() - began) - lifetime.LOCK_TO_SEND_S)
        if self.clock.left_s() < lifetime.TO_LOCK_S:
            return None
        locked = self._acquire(lifetime.LOCK_S + max(0.0, extra_s))
        if locked is None:
            return None
        try:
            clear = self._mint(locked, candidate)
        except MintFailedError as failed:
            self._give_back(locked, failed, candidate)
            return None
        except AwsError:
            self._try(lambda: self.by.store.write(locked, attempt.unlocked(locked, self.seen)))
            raise  # nothing was sent
        return self._publish(locked, candidate, clear)

    def _prepare(self) -> Candidate | None:
        """Return the next credential, ready for its exchange; None if there is none and the item says so now."""
        try:
            readable = self.by.secrets.read(self.seen.connection)
            candidate = attempt.next_candidate(readable, self.seen.refused_versions)
            credential, old = candidate.stored.credential, self.seen.token
            if not isinstance(credential, PersonalAccessToken):
                self.by.exchange.prepare(credential)
            else:
                token_id = token_id_of(credential.access_token)
                if old and old.token.token_id == token_id and self.need is not Need.EXPIRED:
                    raise PersonalTokenUnchangedError
        except MintFailedError as failed:
            if self.seen.fence:  # else a name that a caller invents would make an item
                if locked := self._acquire(lifetime.LOCK_S):
                    self._give_back(locked, failed)
                return None
            self._notice("MintFailed", error=failed.code, problem=failed.problem)
            now = self.clock.now()
            failure = attempt.failure_after(self.seen, self.need, failed, now, self.by.ports.randomness())
            raise error_of(failure, now) from None
        return candidate

    # --- lock, row, exchange --------------------------------------------------------------------------------------

    def _acquire(self, lock_s: float) -> TokenRecord | None:
        """Take the lock for so many seconds; None if somebody else was faster."""
        owner, before = self.by.ports.new_id(), self.seen
        while True:
            now = self.clock.start_lock()
            lock = Lock(owner, now + lock_s)
            free = attempt.unlocked(before, self.seen)
            locked = attempt.locked(free, self.need, lock, now, self.by.ports.randomness())
            try:
                return self.by.store.write(before, locked)
            except AwsUnavailableError:
                if before is not self.seen or self.need is Need.REFRESH:
                    raise  # a usable token is served without another try
                before = self.by.store.read(self.seen.connection)
                if before.lock is None or before.lock.owner != owner:
                    raise
                # The write has taken the lock, though its answer was lost. The lock is taken again, for its full time,
                # but the pace does not lose a second exchange.

    def _mint(self, locked: TokenRecord, candidate: Candidate) -> ClearToken:
        """Make the exchange, between the two writes of its row; return a token that is better than the old one."""
        row = Mint(
            connection=locked.connection,
            fence=locked.fence,
            owner=_lock_of(locked).owner,
            begun_at_epoch_s=self.clock.now(),
            reason=str(self.need),
            caller=self.wanted.caller,
            secret_version=candidate.stored.version_id,
        )
        try:
            clear = self._exchange(locked, row, candidate.stored)
        except MintFailedError as failed:
            if failed.kind is not FailureKind.MAY_HAVE_ISSUED:
                self._mark_failed(row, failed.code)
            raise
        except AwsError as error:
            self._mark_failed(row, str(error))  # the row may have been written nevertheless
            raise
        try:
            self._repeat(lambda: self.by.ledger.complete(row.issued(clear)))
        except AwsError:
            # A token without its row is served to nobody.
            raise MintFailedError("ledger_unavailable", FailureKind.MAY_HAVE_ISSUED) from None
        if reason := attempt.why_not_better(clear.token, self.seen, self.wanted, self.need, self.clock.now()):
            raise reason
        return clear

    def _exchange(self, locked: TokenRecord, row: Mint, stored: StoredCredential) -> ClearToken:
        """Return the credential's token: exchanged, or a personal one as it is."""
        credential, now = stored.credential, self.clock.now()
        expires_at, lifetime_s, scope = None, None, None
        if isinstance(credential, PersonalAccessToken):
            access_token = credential.access_token
        else:
            self.by.ledger.begin(row)
            now, end = self.clock.now(), _lock_of(locked).until_epoch_s - lifetime.CLOCK_DIFFERENCE_S
            if min(end, self.clock.deadline) - now < lifetime.TO_SEND_S or self.clock.was_set_back():
                raise MintFailedError("too_late_to_send", FailureKind.NOTHING_ISSUED)
            answer = self.by.exchange.exchange(credential, lifetime.EXCHANGE_S)
            access_token, scope = answer.access_token, answer.scope or credential.scope
            expires_at, lifetime_s = expiry_of(access_token, answer.expires_in, now)
        token_id = token_id_of(access_token)
        token = Token(token_id, now, expires_at, lifetime_s, scope, stored.version_id, stored.stage)
        return ClearToken(token.rounded(), access_token)

    # --- publish, or give back ------------------------------------------------------------------------------------

    def _publish(
        self, locked: TokenRecord, candidate: Candidate, clear: ClearToken
    ) -> tuple[ClearToken, TokenRecord | None]:
        store, seen, token = self.by.store, self.seen, clear.token
        reporter = self.wanted.caller if self.need is Need.REPORTED else None
        unsealed = SealedToken(token, b"", locked.fence)
        is_exchanged = not isinstance(candidate.stored.credential, PersonalAccessToken)
        pace = locked.pace if is_exchanged else seen.pace
        record = attempt.published(locked, unsealed, pace, reporter, self.clock.now())
        facts = {"token_id": token.token_id, "fence": locked.fence}
        try:
            # Sealed once: a publish that is repeated after a lost answer recognizes its own write by the ciphertext.
            sealed = self._repeat(
                lambda: store.seal(seen.connection, locked.fence, token, clear.access_token)
            )
            there = self._repeat(lambda: store.write(locked, record._replace(token=sealed)))
        except AwsError:
            # It may or may not be published. Starting over would cost another token, so this caller is served.
            self._notice("PublishLost", **facts)
            return clear, record
        self._notice("Mint" if there else "PublishLost", **facts)
        if there and token.version_stage != "AWSCURRENT":
            self._notice("PreviousSecretUsed", secret_version=token.secret_version)
        return clear, there

    def _give_back(
        self, locked: TokenRecord, failed: MintFailedError, candidate: Candidate | None = None
    ) -> None:
        """Remove the lock, and write down what the failure means for everybody's next attempt."""
        randomness = self.by.ports.randomness()
        record = attempt.given_back(
            locked, self.seen, self.need, failed, candidate, now=self.clock.now(), randomness=randomness
        )
        failures = record.failure.count if record.failure else 0
        self._notice("MintFailed", error=failed.code, problem=failed.problem, failures=failures)
        # If this write fails, the lock ends by itself, and the item has the failure that was written with the lock.
        self._try(lambda: self.by.store.write(locked, record))

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _repeat(self, write: Callable[[], Answer]) -> Answer:
        """Repeat a write for a token that was issued, while AWS is busy or unavailable and there is time."""
        while True:
            try:
                return write()
            except AwsError as error:
                self._notice(error.event, error=str(error))
                pause_s = _PAUSE_S * (0.5 + self.by.ports.randomness())
                if isinstance(error, AwsRefusedError) or self.clock.left_s() - pause_s < lifetime.AWS_CALL_S:
                    raise
            self.by.ports.sleep(pause_s)

    def _try(self, write: Callable[[], object]) -> None:
        """Try a write that may fail."""
        try:
            write()
        except AwsError as error:
            self._notice(error.event, error=str(error))

    def _mark_failed(self, row: Mint, error: str) -> None:
        """Write that no token was made; if that fails, the row stays `begun`, which is safe: a token may exist."""
        self._try(lambda: self.by.ledger.complete(row.failed(error)))

    def _notice(self, event: str, **facts: object) -> None:
        facts = {"connection": self.seen.connection, "reason": str(self.need), **facts}
        self.by.ports.notice(event, facts)


def _lock_of(locked: TokenRecord) -> Lock:
    assert locked.lock is not None  # noqa: S101 - from _Attempt._acquire
    return locked.lock
