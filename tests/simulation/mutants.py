"""Bugs planted in the broker, one at a time. Those that patch private names stand together at the end of each group."""

from __future__ import annotations

import contextlib
import copy
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from functions.broker import assembly, attempt, lifetime, replace_token
from functions.broker.adapters import dynamodb, token_store
from functions.broker.adapters.mint_ledger import MintLedger
from functions.broker.adapters.token_store import SealBrokenError, TokenStore
from functions.broker.issue_token import TokenIssuer
from functions.broker.ports import AwsBusyError, AwsError, AwsUnavailableError
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest

    from functions.broker.adapters.client_secret import StoredCredential
    from functions.broker.ports import RequestClock
    from functions.broker.token import SealedToken, TokenRecord
    from token_broker.issued_token import ClearToken
    from token_broker.ledger_row import Mint

    Patch = Callable[[pytest.MonkeyPatch], None]


def part(mutant: type) -> Patch:
    """Replace what the mutant is a subclass of, where the policy is put together or takes it from."""
    original = next(base for base in mutant.__mro__ if base.__module__.startswith("functions."))

    def change(patch: pytest.MonkeyPatch) -> None:
        for module in (assembly, sys.modules[original.__module__]):
            if hasattr(module, original.__name__):
                patch.setattr(module, original.__name__, mutant)

    return change


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

    def write(self, before: TokenRecord, after: TokenRecord) -> TokenRecord | None:
        won = super().write(before, after)
        return replace(self.read(after.connection), lock=after.lock) if after.lock and not won else won


class LostLockIsNotRecognised(TokenStore):
    """An update whose answer never came is not looked for."""

    def write(self, before: TokenRecord, after: TokenRecord) -> TokenRecord | None:
        try:
            return super().write(before, after)
        except AwsUnavailableError as error:
            raise AwsBusyError(str(error)) from None


class _Written(TokenStore):
    """Changes what is written: by those who take the lock, publish, or give back."""

    def write(self, before: TokenRecord, after: TokenRecord) -> TokenRecord | None:
        if after.lock:
            after = self.locked(before, after)
        elif after.token != before.token:
            after = self.published(before, after)
        else:
            after = self.given_back(before, after)
        return super().write(before, after)

    def locked(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        return after

    def published(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        return after

    def given_back(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        return after


class NothingTakenFromThePace(_Written):
    """A lock takes no exchange from the pace."""

    def locked(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        return replace(after, pace=before.pace)


class DyingHolderLeavesNothing(_Written):
    """A lock does not say what failure it is if nothing follows."""

    def locked(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        assert after.failure
        return replace(after, failure=replace(after.failure, not_before_epoch_s=0.0))


class DyingHolderIsFollowed(_Written):
    """A lock does not say when a usable token is refreshed if nothing follows."""

    def locked(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        return replace(after, refresh_at_epoch_s=0.0)


class EverythingGivenBack(_Written):
    """An exchange that may have issued is given back to the pace."""

    def given_back(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        return replace(after, pace=before.pace._replace(left=before.pace.left + 1))


class ReportsAreNotCounted(_Written):
    """Publishing forgets whose report it was."""

    def published(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        return replace(after, reports={})


class FenceIsNotRaised(_Written):
    """A lock leaves the fence as it is, so that two holders have the same one."""

    def locked(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        return replace(after, fence=max(1, before.fence))


class LockIsNotRemoved(_Written):
    """Publishing and giving back leave the lock where it is."""

    def published(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        return replace(after, lock=before.lock)

    given_back = published


class FailuresAreNotCleared(_Written):
    """Publishing leaves failures and refused versions where they are."""

    def published(self, before: TokenRecord, after: TokenRecord) -> TokenRecord:
        return replace(
            after,
            failure=before.failure,
            refresh_at_epoch_s=before.refresh_at_epoch_s,
            refused_versions=before.refused_versions,
        )


class OnlyWhatIsSetIsWritten(TokenStore):
    """What a record no longer has stays in the item."""

    def _update(
        self, connection: str, values: Any, removed: Any, condition: str, expected: Any
    ) -> TokenRecord:
        kept = [name for name in removed if name.startswith("lock_")]
        return super()._update(connection, values, kept, condition, expected)


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


def condition(old: str, new: str, *, of: str = "lock_owner") -> Patch:
    """Write the item under another condition where a member is written: by default, where the lock is taken."""

    class Changed(TokenStore):
        def _update(
            self, connection: str, values: Any, removed: Any, condition: str, expected: Any
        ) -> TokenRecord:
            if of in values:
                condition = condition.replace(old, new)
                expected = {name: value for name, value in expected.items() if f":{name}" in condition}
            return super()._update(connection, values, removed, condition, expected)

    return lambda patch: patch.setattr(assembly, "TokenStore", Changed)


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


def refused_list_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Exchange the current version, whatever the upstream has said to it."""
    choose = attempt.next_candidate
    patch.setattr(attempt, "next_candidate", lambda readable, refused: choose(readable, ()))


def unreadable_previous_is_refused(patch: pytest.MonkeyPatch) -> None:
    """Take a version that cannot be read for once for one that the upstream refuses."""
    choose, seen = attempt.next_candidate, set[str]()

    def careless(readable: Sequence[StoredCredential], refused: Sequence[str]) -> attempt.Candidate:
        candidate, ids = choose(readable, refused), {stored.version_id for stored in readable}
        missing = seen - ids
        seen.update(ids)
        return candidate._replace(refused_after=(*missing, *candidate.refused_after))

    patch.setattr(attempt, "next_candidate", careless)


def later_deadline(clock: RequestClock) -> RequestClock:
    """Return a clock whose request has more time."""
    later = copy.copy(clock)
    later.deadline += 10.0
    return later


def attempted(name: str, change: Callable[[Any], Any]) -> Patch:
    """Let every attempt have another value of a field."""
    run = replace_token._Attempt.run

    def run_changed(self: Any) -> Any:
        return run(replace(self, **{name: change(getattr(self, name))}))

    return lambda patch: patch.setattr(replace_token._Attempt, "run", run_changed)


def expiry_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """Count the lifetime from the moment at which the answer came."""
    exchange = replace_token._Attempt._exchange

    def exchange_and_count(self: Any, *parts: Any) -> ClearToken:
        began = self.by.ports.clock()
        clear = exchange(self, *parts)
        expires_at = clear.token.expires_at_epoch_s
        if expires_at is None:
            return clear
        later = replace(clear.token, expires_at_epoch_s=expires_at + self.by.ports.clock() - began)
        return replace(clear, token=later)

    patch.setattr(replace_token._Attempt, "_exchange", exchange_and_count)


# --- who is served what --------------------------------------------------------------------------------------------


class ReportIsIgnored(TokenIssuer):
    """A caller's report changes nothing."""

    def issue(self, wanted: Any, deadline_epoch_s: float) -> Any:
        return super().issue(wanted._replace(rejected_token_id=None), deadline_epoch_s)


def any_min_ttl(patch: pytest.MonkeyPatch) -> None:
    """Let a caller ask for more validity than the longest lease."""

    def make(store: Any, replacer: Any, ports: Any, longest_lease_s: float) -> TokenIssuer:
        return TokenIssuer(store, replacer, ports, longest_lease_s=1e9)

    patch.setattr(assembly, "TokenIssuer", make)
