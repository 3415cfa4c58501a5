"""Replaces a connection's token: one mint under the lock, published, accounted for, or its failure remembered."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from functions.broker import lifetime
from functions.broker.mint_ledger import Mint, Outcome
from functions.broker.mint_token import MintFailedError
from functions.broker.token_need import Need
from functions.broker.token_record import Failure, PublishedToken, StoreBusyError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from functions.broker.mint_ledger import MintLedger
    from functions.broker.mint_token import MintedToken, Minter
    from functions.broker.surroundings import Surroundings
    from functions.broker.token_need import TokenWanted
    from functions.broker.token_record import TokenRecord
    from functions.broker.token_store import TokenStore

Answer = TypeVar("Answer")

_HOUR_S = 3_600.0
_BUSY_PAUSE_S = 0.3


@dataclass(frozen=True, slots=True)
class _Kept:
    """A token that this instance holds and could not publish, with its row of the ledger.

    `tried_fence` is the fence under which a publish was sent whose answer never came: while that is the newest, the
    token may still come into service. Once `written_off`, it must never come into service any more: the row that calls
    it an orphan may be on its way.
    """

    minted: MintedToken
    row: Mint
    tried_fence: int = 0
    written_off: bool = False


class TokenReplacer:
    """Makes new tokens everybody's. Decides nothing about who is served what; `TokenIssuer` does."""

    def __init__(
        self, store: TokenStore, ledger: MintLedger, minter: Minter, surroundings: Surroundings
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._minter = minter
        self._surroundings = surroundings
        self._kept: dict[str, _Kept] = {}

    def replace(
        self, lock: TokenRecord, wanted: TokenWanted, need: Need, deadline_epoch_s: float
    ) -> tuple[TokenRecord, MintedToken | None]:
        """Mint and publish under a lock that is ours, or give it back.

        Args:
            lock: what `TokenStore.acquire_lock` returned.
            wanted: whose request it is.
            need: why.
            deadline_epoch_s: no exchange goes on beyond this.

        Returns:
            The record as it is then, and the token if it is the one published.

        Raises:
            StoreUnavailableError: the table or the key went away meanwhile.
        """
        row = Mint(lock.connection, lock.fence, self._surroundings.clock(), str(need), Outcome.BEGUN)
        kept_before = self._kept.get(lock.connection)
        try:
            minted, row = self._mint(lock, row, need, deadline_epoch_s)
            return self._publish(lock, wanted, need, minted, row)
        except MintFailedError as error:
            return self._remember_failure(lock, row, error), None
        except StoreUnavailableError:
            # So that the others needn't wait for the lock's end; if this fails too, it lapses by itself.
            with suppress(StoreUnavailableError):
                kept = self._kept.get(lock.connection)
                minted_before = kept_before.minted if kept_before else None
                minted_now = kept is not None and kept.minted is not minted_before
                self._give_back(lock, lock.failure, minted=minted_now)
            raise

    def mint_alone(self, connection: str, deadline_epoch_s: float) -> MintedToken:
        """Mint for this instance while the table is away; what it still holds from before is used first.

        Raises:
            MintFailedError: no token.
        """
        minted = self._minter.mint(
            connection,
            refused_version=None,
            # Whoever is cut off during the exchange leaves at least this line: a token may exist.
            before_exchange=lambda secret_version: self._surroundings.notice(
                "DirectMintBegun", {"connection": connection, "secret_version": secret_version}
            ),
            deadline_epoch_s=deadline_epoch_s,
        )
        row = Mint(connection, 0, minted.issued_at_epoch_s, "table_away", Outcome.ISSUED)
        row = _completed(row, minted, generation=0)
        self._kept[connection] = _Kept(minted, row)
        # It may be only the key that is away, or only reading: accounted for at once where that is possible.
        with suppress(StoreUnavailableError):
            self._ledger.write(row)
        return minted

    def kept(self, connection: str) -> MintedToken | None:
        """Return the valid token that this instance holds and could not publish, if there is one."""
        kept = self._kept.get(connection)
        now = self._surroundings.clock()
        return kept.minted if kept and not kept.written_off and _is_valid(kept.minted, now) else None

    def settle(self, record: TokenRecord) -> None:
        """Account for a token that could not be published, now that another one serves everybody.

        Raises:
            StoreUnavailableError: DynamoDB is away.
        """
        kept = self._kept.get(record.connection)
        if kept and record.token and record.fence != kept.tried_fence:
            self._set_aside(kept.row, record)

    def _mint(
        self, lock: TokenRecord, row: Mint, need: Need, deadline_epoch_s: float
    ) -> tuple[MintedToken, Mint]:
        """Return a token and its row of the ledger, completed but not yet written so."""
        kept = self._kept.get(lock.connection)
        if kept:
            no_progress = _no_progress(lock, kept.minted, need, self._surroundings.clock())
            if no_progress is None and not kept.written_off:
                return kept.minted, replace(kept.row, generation=lock.generation + 1)
            self._set_aside(kept.row, lock)

        def begin(secret_version: str) -> None:
            # What could not be kept is not minted: this proves that the key and the table are there.
            self._store.seal(lock.connection, lock.fence, "probe")
            self._ledger.write(replace(row, secret_version=secret_version))

        minted = self._minter.mint(
            lock.connection,
            refused_version=lock.failure.secret_version if lock.failure and lock.failure.terminal else None,
            before_exchange=begin,
            deadline_epoch_s=deadline_epoch_s,
        )
        row = _completed(row, minted, generation=lock.generation + 1)
        if minted.exchanged:
            self._kept[lock.connection] = _Kept(minted, row)
        return minted, row

    def _publish(
        self, lock: TokenRecord, wanted: TokenWanted, need: Need, minted: MintedToken, row: Mint
    ) -> tuple[TokenRecord, MintedToken | None]:
        now = self._surroundings.clock()
        no_progress = _no_progress(lock, minted, need, now)
        if no_progress == "unchanged":
            return self._give_back(lock, None, minted=False), None
        if no_progress:
            self._set_aside(row, lock)
            raise MintFailedError(
                no_progress,
                terminal=not minted.exchanged,
                secret_version=minted.secret_version,
                may_have_minted=no_progress != "same_token",
            )
        sealed = self._store.seal(lock.connection, lock.fence, minted.access_token)
        self._ledger.write(row)
        if minted.exchanged:
            self._kept[lock.connection] = _Kept(minted, row, tried_fence=lock.fence)
        won, record = self._when_not_busy(
            lambda: self._store.publish(
                lock,
                _as_published(minted, lock, sealed),
                next_refresh_at_epoch_s=0.0
                if minted.expires_at_epoch_s
                else now + lifetime.UNDATED_RECHECK_S,
                rejections=_rejections_after(lock, wanted.caller if need is Need.REJECTED else None, now),
            )
        )
        if not won:
            self._set_aside(row, record)
            return record, None
        self._kept.pop(lock.connection, None)
        self._surroundings.notice("Mint", _described(row))
        return record, minted

    def _when_not_busy(self, write: Callable[[], Answer]) -> Answer:
        """Repeat a write that is throttled for as long as the lock allows for: all others wait for its outcome."""
        give_up_at_epoch_s = self._surroundings.clock() + lifetime.STORE_BUDGET_S / 2
        while True:
            try:
                return write()
            except StoreBusyError:
                if self._surroundings.clock() >= give_up_at_epoch_s:
                    raise
            self._surroundings.sleep(_BUSY_PAUSE_S * (0.5 + self._surroundings.randomness()))

    def _remember_failure(self, lock: TokenRecord, row: Mint, error: MintFailedError) -> TokenRecord:
        """Write down why there is no token, so that everybody backs off; return the record as it is then."""
        before = lock.failure
        # Looked at once a minute for as long as nobody acts: not worth a row each time.
        known = error.terminal and before is not None and before.secret_version == error.secret_version
        failure = Failure(
            code=before.code if before and error.code == "credential_refused" else error.code,
            terminal=error.terminal,
            secret_version=error.secret_version,
            count=before.count + 1 if before else 1,
            at_epoch_s=self._surroundings.clock(),
        )
        self._surroundings.notice(
            "MintFailed", {**_described(row), "error": failure.code, "failures": failure.count}
        )
        if error.secret_version and not error.may_have_minted and not known:
            row = replace(
                row, outcome=Outcome.FAILED, secret_version=error.secret_version, error=failure.code
            )
            # Without it the row stays `begun`, which is the safe side; that everybody backs off matters more.
            with suppress(StoreUnavailableError):
                self._ledger.write(row)
        wait_s = lifetime.backoff_s(failure.count, self._surroundings.randomness())
        if error.terminal:
            wait_s = lifetime.CLOSED_CIRCUIT_LOOK_S
        if error.retry_after_s is not None:
            wait_s = max(wait_s, min(error.retry_after_s, lifetime.RETRY_AFTER_LIMIT_S))
        return self._give_back(lock, failure, minted=error.may_have_minted, attempt_in_s=wait_s)

    def _give_back(
        self, lock: TokenRecord, failure: Failure | None, *, minted: bool, attempt_in_s: float = 0.0
    ) -> TokenRecord:
        now = self._surroundings.clock()
        spread_s = lifetime.SOFT_RETRY_LAST_S - lifetime.SOFT_RETRY_FIRST_S
        refresh_in_s = lifetime.SOFT_RETRY_FIRST_S + spread_s * self._surroundings.randomness()
        if failure is None and lock.token and lock.token.expires_at_epoch_s is None:
            refresh_in_s = lifetime.UNDATED_RECHECK_S
        return self._store.give_back(
            lock,
            failure=failure,
            next_attempt_at_epoch_s=now + attempt_in_s if failure else 0.0,
            next_refresh_at_epoch_s=now + refresh_in_s,
            minted=minted,
        )

    def _set_aside(self, row: Mint, record: TokenRecord) -> None:
        """Give up a token: it is an orphan, unless it is the very one in service, which nobody must revoke."""
        if record.token is None or record.token.token_id != row.token_id:
            if kept := self._kept.get(row.connection):
                self._kept[row.connection] = replace(kept, written_off=True)
            self._ledger.write(replace(row, outcome=Outcome.ORPHAN, generation=0))
            self._surroundings.notice("Orphan", _described(row))
        self._kept.pop(row.connection, None)


def recent_rejections(lock: TokenRecord, caller: str, now: float) -> list[float]:
    """Return when (epoch s) within the last hour this caller has had a token replaced, oldest first."""
    return _within_hour(lock.rejections.get(caller, ()), now)


def _rejections_after(lock: TokenRecord, caller: str | None, now: float) -> dict[str, list[float]]:
    """Return the rejections to remember from now on; `caller` has just had a token replaced."""
    kept = {known: _within_hour(at, now) for known, at in lock.rejections.items()}
    if caller is not None:
        kept[caller] = [*kept.get(caller, ()), now]
    return {known: at for known, at in kept.items() if at}


def _within_hour(at_epoch_s: Sequence[float], now: float) -> list[float]:
    return [at for at in at_epoch_s if now - at < _HOUR_S]


def _no_progress(lock: TokenRecord, minted: MintedToken, need: Need, now: float) -> str | None:
    """Return in which way a mint has not brought us further, or None if it has."""
    old = lock.token
    if not _is_valid(minted, now):
        return "already_expired"
    if old is None or need in {Need.NO_TOKEN, Need.EXPIRED}:
        return None
    if minted.token_id == old.token_id:
        # A personal access token that is still the same is fine, unless the upstream refuses it.
        unchanged = not minted.exchanged and need is not Need.REJECTED
        return "unchanged" if unchanged else "same_token"
    if need is Need.REJECTED or minted.expires_at_epoch_s is None or old.expires_at_epoch_s is None:
        return None
    return "no_later_expiry" if minted.expires_at_epoch_s <= old.expires_at_epoch_s else None


def _as_published(minted: MintedToken, lock: TokenRecord, sealed: bytes) -> PublishedToken:
    return PublishedToken(
        token_id=minted.token_id,
        sealed=sealed,
        fence=lock.fence,
        generation=lock.generation + 1,
        issued_at_epoch_s=minted.issued_at_epoch_s,
        expires_at_epoch_s=minted.expires_at_epoch_s,
        lifetime_s=minted.lifetime_s,
        scope=minted.scope,
        secret_version=minted.secret_version,
    )


def _completed(row: Mint, minted: MintedToken, *, generation: int) -> Mint:
    return replace(
        row,
        outcome=Outcome.ISSUED,
        secret_version=minted.secret_version,
        token_id=minted.token_id,
        generation=generation,
        expires_at_epoch_s=minted.expires_at_epoch_s,
    )


def _described(row: Mint) -> dict[str, object]:
    return {
        "connection": row.connection,
        "fence": row.fence,
        "reason": row.reason,
        "token_id": row.token_id,
        "secret_version": row.secret_version,
    }


def _is_valid(minted: MintedToken, now: float) -> bool:
    return minted.expires_at_epoch_s is None or minted.expires_at_epoch_s > now
