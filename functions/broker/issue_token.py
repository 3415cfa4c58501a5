"""The policy: which token a caller gets, and whether it has to be replaced first.

Read `TokenIssuer.issue` from the top: memory, then the table, then a mint under the lock. What is due when is in
`token_need.py` and `lifetime.py`, the lock in `token_store.py`, the mint in `replace_token.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from functions.broker import lifetime
from functions.broker.mint_token import MintFailedError
from functions.broker.replace_token import recent_rejections
from functions.broker.token_need import Need, need_of, state_of
from functions.broker.token_record import (
    Failure,
    PublishedToken,
    StoreBusyError,
    StoreUnavailableError,
    TokenRecord,
)
from functions.broker.token_store import SealBrokenError
from token_broker.errors import AccessDenied, SlowDown, TemporarilyUnavailable, UpstreamRejected

if TYPE_CHECKING:
    from functions.broker.mint_token import MintedToken
    from functions.broker.replace_token import TokenReplacer
    from functions.broker.surroundings import Surroundings
    from functions.broker.token_need import TokenWanted
    from functions.broker.token_store import TokenStore
    from token_broker.errors import TokenBrokerError

Source = Literal["memory", "table", "mint", "direct"]
_HOUR_S, _DAY_S = 3_600.0, 86_400.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.4
_SHORTEST_MINT_S = 1.0
_BUSY_PAUSES, _BUSY_PAUSE_S = 3, 1.0


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """What a caller gets. `expires_at_epoch_s` is the token's own expiry, None where none is known."""

    access_token: str = field(repr=False)
    token_id: str
    generation: int
    expires_at_epoch_s: float | None
    scope: str | None
    source: Source

    def has_expired(self, now: float) -> bool:
        """Whether it has at `now` (epoch s)."""
        return self.expires_at_epoch_s is not None and self.expires_at_epoch_s <= now


@dataclass(frozen=True, slots=True)
class _Held:
    """A token in this instance's memory, and the record that it came with."""

    record: TokenRecord
    token: PublishedToken
    access_token: str = field(repr=False)
    checked_at_epoch_s: float


class TokenIssuer:
    """Issues tokens of all connections, for one instance of the function. Serves one request at a time.

    Args:
        store: the shared copy, and the lock.
        replacer: how a token is replaced.
        surroundings: time and chance.
        longest_lease_s: longest lease.
        daily_mint_ceiling: most mints a connection and UTC day.
    """

    def __init__(
        self,
        store: TokenStore,
        replacer: TokenReplacer,
        surroundings: Surroundings,
        *,
        longest_lease_s: float,
        daily_mint_ceiling: int,
    ) -> None:
        self._store = store
        self._replacer = replacer
        self._surroundings = surroundings
        self._longest_lease_s = longest_lease_s
        self._daily_mint_ceiling = daily_mint_ceiling
        self._held: dict[str, _Held] = {}
        self._minted_alone_at_epoch_s: dict[str, float] = {}

    def issue(self, wanted: TokenWanted, deadline_epoch_s: float) -> IssuedToken:
        """Return a token that is valid now; blocks until the deadline at most.

        Raises:
            AccessDenied: there is no such connection.
            SlowDown: this caller has had too many tokens replaced.
            UpstreamRejected: the upstream refuses our credential.
            TemporarilyUnavailable: no valid token is left, and none can be had now.
        """
        now = self._surroundings.clock()
        held = self._held.get(wanted.connection)
        if held and wanted.rejected_token_id is None:
            trusted = 0 <= now - held.checked_at_epoch_s < lifetime.TRUST_S
            if trusted and self._may_be_served(held.record, wanted, now, deadline_epoch_s):
                return _issued(held, "memory")
        pauses_left = _BUSY_PAUSES
        while True:
            try:
                return self._issue_from_table(wanted, deadline_epoch_s)
            except StoreUnavailableError as error:
                self._notice_store_unavailable(wanted.connection, error)
                # A table that is only busy has a token, or somebody is about to put one there: a fleet that starts
                # all at once and minted past it would leave a token for every instance.
                if not isinstance(error, StoreBusyError) or self._holds_a_usable_token(wanted):
                    return self._issue_without_table(wanted, deadline_epoch_s)
            pause_s = _BUSY_PAUSE_S * (0.5 + self._surroundings.randomness())
            if not pauses_left or self._surroundings.clock() + pause_s >= deadline_epoch_s:
                raise TemporarilyUnavailable("the token store is busy: ask again", retry_after_s=1)
            pauses_left -= 1
            self._surroundings.sleep(pause_s)

    def _holds_a_usable_token(self, wanted: TokenWanted) -> bool:
        held = self._held.get(wanted.connection)
        if held and self._need(held.record, wanted, self._surroundings.clock()).leaves_a_usable_token:
            return True
        kept = self._replacer.kept(wanted.connection)
        return kept is not None and kept.token_id != wanted.rejected_token_id

    def _may_be_served(
        self, record: TokenRecord, wanted: TokenWanted, now: float, deadline_epoch_s: float
    ) -> bool:
        """Whether the record's token is to be served as it is: nothing is due, or nothing can be done about it."""
        need = self._need(record, wanted, now)
        if need is Need.REFRESH_AHEAD and now < record.lock_until_epoch_s:
            return True
        obstacle = self._obstacle(record, wanted, need, now, deadline_epoch_s)
        return need is Need.NOTHING or (need.leaves_a_usable_token and obstacle is not None)

    def _notice_store_unavailable(self, connection: str, error: StoreUnavailableError) -> None:
        self._surroundings.notice("StoreUnavailable", {"connection": connection, "error": str(error)})

    # --- with the table -----------------------------------------------------------------------------------------

    def _issue_from_table(self, wanted: TokenWanted, deadline_epoch_s: float) -> IssuedToken:
        checked_at = self._surroundings.clock()
        record = self._store.read(wanted.connection)
        source: Source = "table"
        pause_s = _FIRST_PAUSE_S
        unreadable: PublishedToken | None = None
        while True:
            now = self._surroundings.clock()
            is_unreadable = unreadable is not None and record.token == unreadable
            need = Need.NO_TOKEN if is_unreadable else self._need(record, wanted, now)
            obstacle = self._obstacle(record, wanted, need, now, deadline_epoch_s)
            if not is_unreadable and self._may_be_served(record, wanted, now, deadline_epoch_s):
                try:
                    issued = self._serve(record, source, checked_at)
                except SealBrokenError:
                    # Somebody has tampered with the item: its token is as good as none.
                    unreadable = record.token
                    self._surroundings.notice("SealBroken", {"connection": record.connection})
                else:
                    # Unsealing takes its time: the token may have expired meanwhile.
                    if not issued.has_expired(self._surroundings.clock()):
                        return issued
            elif obstacle:
                raise obstacle
            elif now < record.lock_until_epoch_s:
                self._surroundings.sleep(
                    min(pause_s, record.lock_until_epoch_s - now, deadline_epoch_s - now)
                )
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) * (0.75 + 0.25 * self._surroundings.randomness())
                checked_at = self._surroundings.clock()
                record = self._store.read(wanted.connection)
            else:
                checked_at = now
                record, minted = self._contend(record, wanted, need, deadline_epoch_s)
                if minted:
                    self._hold(record, minted.access_token, checked_at)
                    source = "mint"

    def _need(self, record: TokenRecord, wanted: TokenWanted, now: float) -> Need:
        return need_of(record, wanted, now, longest_lease_s=self._longest_lease_s)

    def _obstacle(
        self, record: TokenRecord, wanted: TokenWanted, need: Need, now: float, deadline_epoch_s: float
    ) -> TokenBrokerError | None:
        """Return why a mint that is needed cannot go ahead, or be waited for, now; None where it can."""
        if need is Need.NOTHING:
            return None
        locked = now < record.lock_until_epoch_s
        if now >= deadline_epoch_s - (0 if locked else lifetime.STORE_BUDGET_S + _SHORTEST_MINT_S):
            return TemporarilyUnavailable("the token is being replaced: ask again", retry_after_s=1)
        if need in {Need.NO_TOKEN, Need.EXPIRED} and self._replacer.kept(wanted.connection):
            return None  # it only has to be published
        return self._mint_obstacle(record, wanted, need, now)

    def _mint_obstacle(
        self, record: TokenRecord, wanted: TokenWanted, need: Need, now: float
    ) -> TokenBrokerError | None:
        if record.failure and now < record.next_attempt_at_epoch_s:
            wait_s = record.next_attempt_at_epoch_s - now
            return _error_of(record.failure.code, wait_s, terminal=record.failure.terminal)
        locked = now < record.lock_until_epoch_s
        if record.mints_on(_day(now)) >= self._daily_mint_ceiling and not locked:
            return TemporarilyUnavailable(
                "the daily ceiling of exchanges for this connection is reached: an operator should look why",
                retry_after_s=_whole(min(_DAY_S - now % _DAY_S, _HOUR_S)),
            )
        if need is Need.REJECTED:
            recent = recent_rejections(record, wanted.caller, now)
            if len(recent) >= lifetime.REJECTIONS_PER_HOUR:
                return SlowDown(
                    "too many tokens were replaced for this caller within an hour: is something else the reason?",
                    retry_after_s=_whole(recent[0] + _HOUR_S - now),
                )
        return None

    def _contend(
        self, record: TokenRecord, wanted: TokenWanted, need: Need, deadline_epoch_s: float
    ) -> tuple[TokenRecord, MintedToken | None]:
        """Try for the lock; with it, replace the token. Return the record as it is then."""
        now = self._surroundings.clock()
        budget_s = lifetime.SOFT_MINT_BUDGET_S if need is Need.REFRESH_AHEAD else lifetime.MINT_BUDGET_S
        try:
            won, lock = self._store.acquire_lock(
                record,
                owner=self._surroundings.new_id(),
                lock_until_epoch_s=now + lifetime.lock_length_s(budget_s),
                day=_day(now),
            )
            if not won:
                return lock, None
            mint_until_epoch_s = min(now + budget_s, deadline_epoch_s - lifetime.STORE_BUDGET_S)
            return self._replacer.replace(lock, wanted, need, mint_until_epoch_s)
        except StoreUnavailableError as error:
            if not need.leaves_a_usable_token:
                raise
            # No reason to mint without the lock: the token that was read is still good.
            self._notice_store_unavailable(wanted.connection, error)
            return _put_off(record, now), None

    def _serve(self, record: TokenRecord, source: Source, checked_at_epoch_s: float) -> IssuedToken:
        """Return the token of a record that was checked then; decrypts only what this instance does not hold yet."""
        assert record.token is not None  # noqa: S101 - whoever serves has seen it
        held = self._held.get(record.connection)
        if held and held.token.fence == record.token.fence and held.token.token_id == record.token.token_id:
            access_token = held.access_token
        else:
            access_token = self._store.open(record.connection, record.token)
        held = self._hold(record, access_token, checked_at_epoch_s)
        # What is kept may still take the place of a token that is to be replaced.
        if state_of(record, self._surroundings.clock()) is lifetime.TokenState.FRESH:
            self._replacer.settle(record)
        return _issued(held, source)

    def _hold(self, record: TokenRecord, access_token: str, checked_at_epoch_s: float) -> _Held:
        assert record.token is not None  # noqa: S101 - only records with a token are held
        held = _Held(record, record.token, access_token, checked_at_epoch_s)
        self._held[record.connection] = held
        return held

    # --- without the table --------------------------------------------------------------------------------------

    def _issue_without_table(self, wanted: TokenWanted, deadline_epoch_s: float) -> IssuedToken:
        """Serve what memory holds; failing that, mint for this instance alone, at most once a minute."""
        now = self._surroundings.clock()
        held = self._held.get(wanted.connection)
        if held and self._need(held.record, wanted, now).leaves_a_usable_token:
            # As good as checked: nobody else waits for the time-outs of a table that is away until a minute is over.
            held = replace(held, record=_put_off(held.record, now), checked_at_epoch_s=now)
            self._held[wanted.connection] = held
            return _issued(held, "memory")
        minted = self._replacer.kept(wanted.connection)
        if minted is None or minted.token_id == wanted.rejected_token_id:
            minted = self._mint_alone(wanted.connection, now, deadline_epoch_s)
        held = _held_alone(wanted.connection, minted, now)
        issued = _issued(held, "direct")
        if issued.has_expired(self._surroundings.clock()):
            raise _error_of("already_expired", lifetime.DIRECT_MINT_INTERVAL_S, terminal=False)
        self._held[wanted.connection] = held
        return issued

    def _mint_alone(self, connection: str, now: float, deadline_epoch_s: float) -> MintedToken:
        since_last_s = now - self._minted_alone_at_epoch_s.get(connection, 0.0)
        if 0 <= since_last_s < lifetime.DIRECT_MINT_INTERVAL_S:
            raise TemporarilyUnavailable(
                "the token store is away",
                retry_after_s=_whole(lifetime.DIRECT_MINT_INTERVAL_S - since_last_s),
            )
        mint_until_epoch_s = min(now + lifetime.MINT_BUDGET_S, deadline_epoch_s - lifetime.STORE_BUDGET_S)
        if mint_until_epoch_s - now < _SHORTEST_MINT_S:
            raise TemporarilyUnavailable("the token store is away: ask again", retry_after_s=1)
        self._minted_alone_at_epoch_s[connection] = now
        try:
            minted = self._replacer.mint_alone(connection, mint_until_epoch_s)
        except MintFailedError as error:
            self._surroundings.notice("MintFailed", {"connection": connection, "error": error.code})
            raise _error_of(error.code, lifetime.DIRECT_MINT_INTERVAL_S, terminal=error.terminal) from None
        # The ledger may be away with the table: until it is back, this line is the account of the token.
        self._surroundings.notice("DirectMint", {"connection": connection, "token_id": minted.token_id})
        return minted


def _put_off(record: TokenRecord, now: float) -> TokenRecord:
    """Return the record as if a mint had just failed: for this instance's memory only, the table hears nothing."""
    failure = Failure("store_unavailable", terminal=False, secret_version="", count=0, at_epoch_s=now)
    return replace(record, failure=failure, next_attempt_at_epoch_s=now + lifetime.TRUST_S)


def _held_alone(connection: str, minted: MintedToken, now: float) -> _Held:
    """Return a token that only this instance knows, in the shape of one from the table."""
    token = PublishedToken(
        token_id=minted.token_id,
        sealed=b"",
        fence=0,
        generation=0,
        issued_at_epoch_s=minted.issued_at_epoch_s,
        expires_at_epoch_s=minted.expires_at_epoch_s,
        lifetime_s=minted.lifetime_s,
        scope=minted.scope,
        secret_version=minted.secret_version,
    )
    return _Held(TokenRecord(connection, token=token), token, minted.access_token, now)


def _error_of(code: str, wait_s: float, *, terminal: bool) -> TokenBrokerError:
    if code == "secret_missing":
        # The same answer as for a connection that is not granted.
        return AccessDenied("no grant for this connection, or no such connection")
    if terminal:
        return UpstreamRejected(
            f"the credential of this connection is refused ({code}): an operator must act"
        )
    return TemporarilyUnavailable(f"no token can be had now ({code})", retry_after_s=_whole(wait_s))


def _issued(held: _Held, source: Source) -> IssuedToken:
    token = held.token
    return IssuedToken(
        access_token=held.access_token,
        token_id=token.token_id,
        generation=token.generation,
        expires_at_epoch_s=token.expires_at_epoch_s,
        scope=token.scope,
        source=source,
    )


def _day(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


def _whole(seconds: float) -> int:
    """Return seconds rounded up, for `Retry-After`: at least 1."""
    return max(1, int(-(-seconds // 1)))
