"""Bugs planted in the broker, one at a time. Those that patch private names stand together at the end of each group."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from functions.broker import assembly, lifetime
from functions.broker.adapters import dynamodb, token_store
from functions.broker.adapters.mint_ledger import MintLedger, Outcome
from functions.broker.adapters.token_store import SealBrokenError, TokenStore
from functions.broker.issue_token import TokenIssuer
from functions.broker.mint_token import Candidate, Minter
from functions.broker.ports import AwsBusyError, AwsError, AwsUnavailableError
from functions.broker.replace_token import TokenReplacer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pytest

    from functions.broker.adapters.mint_ledger import Mint
    from functions.broker.decide import Need
    from functions.broker.token import ClearToken, Lock, SealedToken, TokenRecord

    Patch = Callable[[pytest.MonkeyPatch], None]


def part(mutant: type) -> Patch:
    """Replace what the mutant is a subclass of, where the policy is put together."""
    (name,) = {base.__name__ for base in mutant.__mro__} & {
        "TokenStore",
        "MintLedger",
        "Minter",
        "TokenReplacer",
        "TokenIssuer",
    }
    return lambda patch: patch.setattr(assembly, name, mutant)


def figure(name: str, value: float, of: Any = lifetime) -> Patch:
    """Change a figure."""
    return lambda patch: patch.setattr(of, name, value)


def figures(**values: float) -> Patch:
    """Change several figures."""

    def change(patch: pytest.MonkeyPatch) -> None:
        for name, value in values.items():
            patch.setattr(lifetime, name, value)

    return change


def function(of: Any, name: str, value: object) -> Patch:
    """Replace a function."""
    return lambda patch: patch.setattr(of, name, value)


# --- the item and its lock -----------------------------------------------------------------------------------------


class ReadsThatAreNotConsistent(TokenStore):
    """The item may be as it was before the last write."""

    def read(self, connection: str) -> TokenRecord:
        answer = self._dynamodb.get_item(TableName=self._table, Key=dynamodb.token_key(connection))
        return dynamodb.token_record(connection, answer.get("Item"))


class AnyWinner(TokenStore):
    """Who loses the race for the lock goes on as if it had won."""

    def acquire_lock(self, seen: TokenRecord, *, lock: Lock, **rest: Any) -> TokenRecord | None:
        won = super().acquire_lock(seen, lock=lock, **rest)
        return won or replace(self.read(seen.connection), lock=lock)


class LostLockIsNotRecognised(TokenStore):
    """An update whose answer never came is not looked for."""

    def acquire_lock(self, seen: TokenRecord, *, lock: Lock, **rest: Any) -> TokenRecord | None:
        try:
            return super().acquire_lock(seen, lock=lock, **rest)
        except AwsUnavailableError as error:
            raise AwsBusyError(str(error)) from None


class NothingTakenFromThePace(TokenStore):
    """A lock takes no exchange from the pace."""

    def acquire_lock(self, seen: TokenRecord, *, lock: Lock, **rest: Any) -> TokenRecord | None:
        return super().acquire_lock(seen, lock=lock, **(rest | {"pace": seen.pace}))


class DyingHolderLeavesNothing(TokenStore):
    """A lock does not say what failure it is if nothing follows."""

    def acquire_lock(self, seen: TokenRecord, *, lock: Lock, **rest: Any) -> TokenRecord | None:
        failure = replace(rest.pop("failure"), not_before_epoch_s=0.0)
        return super().acquire_lock(seen, lock=lock, failure=failure, **rest)


class DyingHolderIsFollowed(TokenStore):
    """A lock does not say when a usable token is refreshed if nothing follows."""

    def acquire_lock(self, seen: TokenRecord, *, lock: Lock, **rest: Any) -> TokenRecord | None:
        return super().acquire_lock(seen, lock=lock, **(rest | {"refresh_at_epoch_s": 0.0}))


class EverythingGivenBack(TokenStore):
    """An exchange that may have issued is given back to the pace."""

    def give_back(self, lock: TokenRecord, **rest: Any) -> None:
        super().give_back(lock, **(rest | {"pace": replace(lock.pace, left=lock.pace.left + 1)}))


class ReportsAreNotCounted(TokenStore):
    """Publishing forgets whose report it was."""

    def publish(self, lock: TokenRecord, token: SealedToken, **rest: Any) -> TokenRecord | None:
        return super().publish(lock, token, **(rest | {"reports": {}}))


class BrokenCiphertextIsServed(TokenStore):
    """What does not open is served as it is."""

    def open(self, connection: str, sealed: SealedToken) -> str:
        try:
            return super().open(connection, sealed)
        except SealBrokenError:
            return "garbled"


class KeyIsNotTried(TokenStore):
    """Nobody looks whether the key seals before an exchange."""

    def probe_key(self, connection: str) -> None:
        pass


class _Conditions(TokenStore):
    """Changes the conditions under which the item is written."""

    def _update(
        self,
        connection: str,
        values: Mapping[str, object],
        removed: Sequence[str],
        condition: str,
        expected: Mapping[str, object],
    ) -> TokenRecord:
        values, removed, condition = self.change(dict(values), removed, condition)
        expected = {name: value for name, value in expected.items() if f":{name}" in condition}
        return super()._update(connection, values, removed, condition, expected)

    def change(
        self, values: dict[str, object], removed: Sequence[str], condition: str
    ) -> tuple[dict[str, object], Sequence[str], str]:
        return values, removed, condition


def condition(old: str, new: str) -> Patch:
    """Write the item under another condition."""

    class Changed(_Conditions):
        def change(self, values: Any, removed: Any, condition: str) -> Any:
            return values, removed, condition.replace(old, new)

    return lambda patch: patch.setattr(assembly, "TokenStore", Changed)


class FenceIsNotRaised(_Conditions):
    """A lock leaves the fence as it is, so that two holders have the same one."""

    def change(self, values: Any, removed: Any, condition: str) -> Any:
        if "fence" in values:
            values["fence"] = max(1, values["fence"] - 1)
        return values, removed, condition


class LockIsNotRemoved(_Conditions):
    """Publishing and giving back leave the lock where it is."""

    def change(self, values: Any, removed: Any, condition: str) -> Any:
        return values, [name for name in removed if not name.startswith("lock_")], condition


class FailuresAreNotCleared(_Conditions):
    """Publishing leaves failures and refused versions where they are."""

    def change(self, values: Any, removed: Any, condition: str) -> Any:
        return values, [name for name in removed if name.startswith("lock_")], condition


def context(left_out: str) -> Patch:
    """Seal without a part of the context."""
    full = token_store._context

    def partial(*parts: Any) -> dict[str, str]:
        return {name: value for name, value in full(*parts).items() if name != left_out}

    return lambda patch: patch.setattr(token_store, "_context", partial)


# --- the ledger ----------------------------------------------------------------------------------------------------


class RowAfterTheExchange(MintLedger):
    """Nothing is written before the exchange."""

    def begin(self, mint: Mint) -> None:
        pass


class ExchangeWithoutItsRow(MintLedger):
    """The exchange is made although its row could not be written."""

    def begin(self, mint: Mint) -> None:
        with contextlib.suppress(AwsError):
            super().begin(mint)


class TokenWithoutItsRow(MintLedger):
    """A token is served although its row could not be written."""

    def complete(self, mint: Mint) -> None:
        with contextlib.suppress(AwsError):
            super().complete(mint)


class LostExchangeIsCalledFailed(MintLedger):
    """A row that stays `begun` is written as failed."""

    def begin(self, mint: Mint) -> None:
        super().begin(mint)
        super().complete(replace(mint, outcome=Outcome.FAILED))


class RowsByFenceAlone(MintLedger):
    """A row's key does not carry the owner, and rows are written over."""

    def _put(self, mint: Mint, condition: str) -> None:
        super()._put(
            replace(mint, owner="somebody"), "attribute_exists(#record) OR attribute_not_exists(#record)"
        )


# --- the exchange --------------------------------------------------------------------------------------------------


class RefusedListIsIgnored(Minter):
    """The current version is exchanged, whatever the upstream has said to it."""

    def prepare(self, connection: str, refused: Sequence[str]) -> Candidate:
        return super().prepare(connection, ())


class UnreadablePreviousIsRefused(Minter):
    """A version that cannot be read for once is taken for one that the upstream refuses."""

    seen: ClassVar[defaultdict[str, set[str]]] = defaultdict(set)

    def prepare(self, connection: str, refused: Sequence[str]) -> Candidate:
        readable, candidate = set(self.versions(connection)), super().prepare(connection, refused)
        missing, self.seen[connection] = self.seen[connection] - readable, readable
        return replace(candidate, refused_after=(*missing, *candidate.refused_after))


class ExpiryFromTheAnswer(Minter):
    """The lifetime is counted from the moment at which the answer came."""

    clock: Callable[[], float]

    def mint(self, candidate: Candidate, now: float) -> ClearToken:
        began = self.clock()
        clear = super().mint(candidate, now)
        expires_at = clear.token.expires_at_epoch_s
        if expires_at is None:
            return clear
        later = replace(clear.token, expires_at_epoch_s=expires_at + self.clock() - began)
        return replace(clear, token=later)


def expiry_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    assemble = assembly.assemble_policy

    def assemble_with_clock(settings: Any, clients: Any, exchange: Any, ports: Any) -> Any:
        def make(*parts: Any) -> Minter:
            minter = ExpiryFromTheAnswer(*parts)
            minter.clock = ports.clock
            return minter

        patch.setattr(assembly, "Minter", make)
        return assemble(settings, clients, exchange, ports)

    patch.setattr(assembly, "assemble_policy", assemble_with_clock)


class DeadlineIsLaterInside(TokenReplacer):
    """The deadline is looked at before an attempt, but not any more within it."""

    def replace(self, seen: Any, wanted: Any, need: Any, clock: Any, deadline: float) -> Any:
        return super().replace(seen, wanted, need, clock, deadline + 10.0)


class ReportedTokenIsForgotten(TokenReplacer):
    """An attempt does not know which token was reported."""

    def replace(self, seen: Any, wanted: Any, need: Need, clock: Any, deadline: float) -> Any:
        return super().replace(seen, replace(wanted, rejected_token_id=None), need, clock, deadline)


# --- who is served what --------------------------------------------------------------------------------------------


class ReportIsIgnored(TokenIssuer):
    """A caller's report changes nothing."""

    def issue(self, wanted: Any, deadline_epoch_s: float) -> Any:
        return super().issue(replace(wanted, rejected_token_id=None), deadline_epoch_s)


def any_min_ttl(patch: pytest.MonkeyPatch) -> None:
    """Let a caller ask for more validity than the longest lease."""
    fields = ("store", "replacer", "minter", "ports")

    def make(*parts: Any, longest_lease_s: float) -> TokenIssuer:
        return TokenIssuer(**dict(zip(fields, parts, strict=True)), longest_lease_s=1e9)

    patch.setattr(assembly, "TokenIssuer", make)
