"""Bugs planted in the broker, one at a time: the simulation has to find each of them, or it proves nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker import lifetime
from functions.broker.issue_token import IssuedToken, TokenIssuer
from functions.broker.mint_ledger import Mint, MintLedger, Outcome
from functions.broker.mint_token import MintedToken, Minter
from functions.broker.replace_token import TokenReplacer
from functions.broker.token_need import Need, TokenWanted
from functions.broker.token_store import TokenStore
from tests.simulation.explore import explore
from tests.simulation.instance import Parts
from tests.simulation.promises import BrokenPromiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from functions.broker.surroundings import Surroundings
    from functions.broker.token_record import TokenRecord
    from token_broker.errors import TokenBrokerError

MOST_RUNS = 400


# --- the fence -----------------------------------------------------------------------------------------------------


class PublishWithoutFence(TokenStore):
    """Whoever has minted publishes, newest fence or not."""

    def _write_as_holder(
        self, lock: TokenRecord, values: Mapping[str, object], removed: Sequence[str]
    ) -> tuple[bool, TokenRecord]:
        condition = "attribute_not_exists(#token_fence) OR #token_fence < :mine"
        return self._write(
            lock.connection,
            values=values,
            removed=removed,
            condition=condition,
            expected={":mine": lock.fence},
        )


class PublishWithoutCondition(TokenStore):
    """The last to write wins."""

    def _write_as_holder(
        self, lock: TokenRecord, values: Mapping[str, object], removed: Sequence[str]
    ) -> tuple[bool, TokenRecord]:
        return self._write(
            lock.connection,
            values=values,
            removed=removed,
            condition="attribute_exists(#fence)",
            expected={},
        )


class AcquireWithStaleFence(TokenStore):
    """The acquisition leaves the fence as it is, so that two holders have the same one."""

    def _write(
        self, connection: str, *, values: Mapping[str, object], expected: Mapping[str, object], **rest: Any
    ) -> tuple[bool, TokenRecord]:
        if ":seen_fence" in expected:
            values = {**values, "fence": expected[":seen_fence"]}
        return super()._write(connection, values=values, expected=expected, **rest)


# --- the lock ------------------------------------------------------------------------------------------------------


class TakeAnyLock(TokenStore):
    """A lock that has not ended counts for nothing."""

    def read(self, connection: str) -> TokenRecord:
        return replace(super().read(connection), lock_until_epoch_s=0.0)

    def acquire_lock(self, seen: TokenRecord, **lock: Any) -> tuple[bool, TokenRecord]:
        return super().acquire_lock(super().read(seen.connection), **lock)


class LockForEver(TokenStore):
    """A lock whose holder has died never ends."""

    def read(self, connection: str) -> TokenRecord:
        record = super().read(connection)
        return replace(record, lock_until_epoch_s=1e12) if record.lock_until_epoch_s else record


class AnyWinner(TokenStore):
    """Who finds the fence that it wanted thinks that it has won, whoever wrote it."""

    def acquire_lock(self, seen: TokenRecord, **lock: Any) -> tuple[bool, TokenRecord]:
        won, record = super().acquire_lock(seen, **lock)
        return won or record.fence == seen.fence + 1, record


class OwnWriteUnrecognised(TokenStore):
    """A refused condition is a lost race, although it was this very call's first sending that came first."""

    applied = False

    def _write(self, connection: str, **rest: Any) -> tuple[bool, TokenRecord]:
        self.applied, record = super()._write(connection, **rest)
        return self.applied, record

    def acquire_lock(self, seen: TokenRecord, **lock: Any) -> tuple[bool, TokenRecord]:
        _, record = super().acquire_lock(seen, **lock)
        return self.applied, record


class MintWhileLocked(TokenIssuer):
    """Does not wait for somebody else's lock: mints for itself, as if the table were away."""

    def _issue_from_table(self, wanted: TokenWanted, deadline_epoch_s: float) -> IssuedToken:
        if self._surroundings.clock() < self._store.read(wanted.connection).lock_until_epoch_s:
            return self._issue_without_table(wanted, deadline_epoch_s)
        return super()._issue_from_table(wanted, deadline_epoch_s)


class WaitTooLong(TokenIssuer):
    """Waits for half a minute more than there is."""

    def _issue_from_table(self, wanted: TokenWanted, deadline_epoch_s: float) -> IssuedToken:
        return super()._issue_from_table(wanted, deadline_epoch_s + 30.0)


class NoBackOff(TokenIssuer):
    """Asks a failing upstream again at once."""

    def _mint_obstacle(self, *record_and_need: Any) -> TokenBrokerError | None:
        return None


# --- the account ---------------------------------------------------------------------------------------------------


class RowAfterExchange(MintLedger):
    """Nothing is written before the exchange."""

    def write(self, mint: Mint) -> None:
        if mint.outcome is not Outcome.BEGUN:
            super().write(mint)


class SilentDirectMint(TokenReplacer):
    """Says nothing before a mint without the table. As the broker was before the simulation found it."""

    def __init__(
        self, store: TokenStore, ledger: MintLedger, minter: Minter, surroundings: Surroundings
    ) -> None:
        def notice(event: str, facts: dict[str, object]) -> None:
            if event != "DirectMintBegun":
                surroundings.notice(event, facts)

        super().__init__(store, ledger, minter, replace(surroundings, notice=notice))


class OrphanInService(TokenReplacer):
    """Calls a token an orphan that is in service, if the answer to its publish was lost. As the broker once was."""

    def _set_aside(self, row: Mint, record: TokenRecord) -> None:
        super()._set_aside(row, replace(record, token=None))


# --- the token's life ----------------------------------------------------------------------------------------------


class ExpiryFromTheAnswer(Minter):
    """Counts the lifetime from the moment at which the answer came."""

    def mint(self, connection: str, **rest: Any) -> MintedToken:
        minted, now = super().mint(connection, **rest), self._clock()
        assert minted.expires_at_epoch_s is not None
        later_s = now - minted.issued_at_epoch_s
        return replace(minted, expires_at_epoch_s=minted.expires_at_epoch_s + later_s)


@dataclass(frozen=True)
class Mutant:
    """What is changed, and which broken promise tells of it (a regular expression)."""

    tells: str
    parts: Parts | None = None
    patch: Callable[[pytest.MonkeyPatch], None] = lambda _: None
    adrift: bool = False


def constant(name: str, value: float) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(lifetime, name, value)


def serve_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = {Need.NOTHING, Need.REFRESH_AHEAD, Need.REFRESH_NOW, Need.EXPIRED}
    monkeypatch.setattr(Need, "leaves_a_usable_token", property(lambda need: need in usable))
    monkeypatch.setattr(IssuedToken, "has_expired", lambda _, now: False)


def spin_on_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IssuedToken, "has_expired", lambda _, now: True)


MUTANTS = {
    "publish without the fence": Mutant(
        "newer|published over", Parts(store=PublishWithoutFence), adrift=True
    ),
    "publish without any condition": Mutant(
        "newer|published over|twice|falls", Parts(store=PublishWithoutCondition), adrift=True
    ),
    "fence not raised": Mutant("given to two|somebody else", Parts(store=AcquireWithStaleFence)),
    "lock end ignored: taken too early": Mutant("before its end", Parts(store=TakeAnyLock)),
    "lock end ignored: never taken": Mutant("no token although|not answered", Parts(store=LockForEver)),
    "owner of the lock ignored": Mutant("without the lock", Parts(store=AnyWinner)),
    "own write not recognised": Mutant("waits for itself", Parts(store=OwnWriteUnrecognised)),
    "unlocked fallback": Mutant("without the lock", Parts(issuer=MintWhileLocked)),
    "deadline ignored": Mutant("deadline", Parts(issuer=WaitTooLong)),
    "back-off ignored": Mutant("back-off", Parts(issuer=NoBackOff)),
    "ledger row after the exchange": Mutant("nothing accounts", Parts(ledger=RowAfterExchange)),
    "direct mint unannounced": Mutant("nothing accounts", Parts(replacer=SilentDirectMint)),
    "published token called an orphan": Mutant("orphan", Parts(replacer=OrphanInService)),
    "expiry counted from the answer": Mutant("too long", Parts(minter=ExpiryFromTheAnswer)),
    "expired token served": Mutant("expired", patch=serve_expired),
    "a loop without a pause": Mutant("spins", patch=spin_on_expired),
    "memory trusted for longer": Mutant("memory is trusted", patch=constant("TRUST_S", 90.0)),
    "direct mints too often": Mutant("within a minute", patch=constant("DIRECT_MINT_INTERVAL_S", 10.0)),
    "rejected token served": Mutant("rejected", patch=constant("YOUNG_TOKEN_S", 600.0)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    mutant.patch(monkeypatch)

    with pytest.raises(BrokenPromiseError) as found:
        explore(range(MOST_RUNS), adrift=mutant.adrift, parts=mutant.parts)
    assert re.search(mutant.tells, found.value.promise), found.value.promise
