"""How bugs are planted in the broker, and those bugs that are more than a line."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from functions.broker import attempt, lifetime, replace_token
from functions.broker.adapters import dynamodb
from functions.broker.adapters.token_store import SealBrokenError, TokenStore
from functions.broker.ports import AwsBusyError, AwsError, AwsUnavailableError
from token_broker.issued_token import ClearToken
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from functions.broker.adapters.mint_ledger import MintLedger
    from functions.broker.attempt import Candidate
    from functions.broker.ports import RequestClock
    from functions.broker.token import SealedToken, TokenRecord
    from token_broker.ledger_row import Mint

    Patch = Callable[[pytest.MonkeyPatch], None]
    Write = Callable[[TokenStore, TokenRecord, TokenRecord], TokenRecord | None]
    Change = Callable[[TokenRecord, TokenRecord], TokenRecord]


def replaced(of: Any, name: str, value: object) -> Patch:
    """Replace a function or a figure."""
    return lambda patch: patch.setattr(of, name, value)


def figures(**values: float) -> Patch:
    """Change figures of the policy."""

    def change(patch: pytest.MonkeyPatch) -> None:
        for name, value in values.items():
            patch.setattr(lifetime, name, value)

    return change


def wrapped(of: Any, name: str, bug: Callable[..., object]) -> Patch:
    """Call the bug instead of a function or method, which is its first argument."""
    right = getattr(of, name)
    return replaced(of, name, lambda *arguments: bug(right, *arguments))


# --- the item and its lock -----------------------------------------------------------------------------------------


def read_inconsistently(store: TokenStore, connection: str) -> TokenRecord:
    """The item may be as it was before the last write."""
    answer = store._dynamodb.get_item(TableName=store._table, Key=dynamodb.token_key(connection))
    return dynamodb.token_record(connection, answer.get("Item"))


def all_win(write: Write, store: TokenStore, before: TokenRecord, after: TokenRecord) -> TokenRecord | None:
    """Who loses the race for the lock goes on as if it had won."""
    won = write(store, before, after)
    return store.read(after.connection)._replace(lock=after.lock) if after.lock and not won else won


def take_lost_for_busy(write: Callable[..., TokenRecord | None], *arguments: Any) -> TokenRecord | None:
    """An update whose answer never came is not looked for."""
    try:
        return write(*arguments)
    except AwsUnavailableError as error:
        raise AwsBusyError(str(error)) from None


def same(_: TokenRecord, after: TokenRecord) -> TokenRecord:
    return after


def written(*, locked: Change = same, published: Change = same, given_back: Change = same) -> Patch:
    """Change what is written by those who take the lock, publish, or give back."""

    def bug(write: Write, store: TokenStore, before: TokenRecord, after: TokenRecord) -> TokenRecord | None:
        change = locked if after.lock else published if after.token != before.token else given_back
        return write(store, before, change(before, after))

    return wrapped(TokenStore, "write", bug)


nothing_taken_from_the_pace = written(locked=lambda before, after: after._replace(pace=before.pace))


def leave_no_failure(_: TokenRecord, after: TokenRecord) -> TokenRecord:
    """A lock leaves no failure if its holder dies."""
    assert after.failure
    return after._replace(failure=after.failure._replace(not_before_epoch_s=0.0))


def give_exchange_back(before: TokenRecord, after: TokenRecord) -> TokenRecord:
    """An exchange that may have issued is given back to the pace."""
    return after._replace(pace=before.pace._replace(left=before.pace.left + 1))


def leave_lock(before: TokenRecord, after: TokenRecord) -> TokenRecord:
    return after._replace(lock=before.lock)


def leave_failure(before: TokenRecord, after: TokenRecord) -> TokenRecord:
    names = ("failure", "refresh_at_epoch_s", "refused_versions")
    return after._replace(**{name: getattr(before, name) for name in names})


def remove_locks_only(
    update: Callable[..., object], store: TokenStore, connection: str, values: Any, removed: Any, *more: Any
) -> object:
    """What a record no longer has stays in the item."""
    return update(store, connection, values, [name for name in removed if name.startswith("lock_")], *more)


def serve_broken(open_: Callable[..., str], store: TokenStore, connection: str, sealed: SealedToken) -> str:
    """What does not open is served as it is."""
    try:
        return open_(store, connection, sealed)
    except SealBrokenError:
        return "garbled"


def condition(old: str, new: str, *, of: str = "lock_owner") -> Patch:
    """Write the item under another condition where a member is written: by default, where the lock is taken."""

    def update_changed(update: Any, store: TokenStore, connection: str, values: Any, *more: Any) -> object:
        removed, condition, expected = more
        if of in values:
            condition = condition.replace(old, new)
            expected = {name: value for name, value in expected.items() if f":{name}" in condition}
        return update(store, connection, values, removed, condition, expected)

    return wrapped(TokenStore, "_update", update_changed)


# --- the ledger ----------------------------------------------------------------------------------------------------


def go_on(call: Callable[..., object], *arguments: Any) -> None:
    """A row that could not be written is ignored."""
    with contextlib.suppress(AwsError):
        call(*arguments)


def begin_as_failed(begin: Callable[..., None], ledger: MintLedger, mint: Mint) -> None:
    """A row that stays `begun` is written as failed."""
    begin(ledger, mint)
    ledger.complete(replace(mint, outcome=Outcome.FAILED))


def put_by_fence_alone(put: Callable[..., None], ledger: MintLedger, mint: Mint, _: str) -> None:
    """A row's key does not have the owner, and rows are written over."""
    put(ledger, replace(mint, owner="somebody"), "attribute_exists(#record) OR attribute_not_exists(#record)")


# --- the exchange --------------------------------------------------------------------------------------------------


def refuse_unreadable(patch: pytest.MonkeyPatch) -> None:
    """Take a version that cannot be read for once for one that the upstream refuses."""
    seen: set[str] = set()

    def choose_carelessly(choose: Callable[..., Candidate], readable: Any, refused: Any) -> Candidate:
        candidate, ids = choose(readable, refused), {stored.version_id for stored in readable}
        missing = seen - ids
        seen.update(ids)
        return candidate._replace(refused_after=(*missing, *candidate.refused_after))

    wrapped(attempt, "next_candidate", choose_carelessly)(patch)


def later_deadline(clock: RequestClock) -> RequestClock:
    """Return a clock whose request has more time."""
    later = copy.copy(clock)
    later.deadline += 10.0
    return later


def attempted(name: str, change: Callable[[Any], Any]) -> Patch:
    """Let every attempt have another value of a field."""
    return wrapped(
        replace_token._Attempt,
        "run",
        lambda run, this: run(replace(this, **{name: change(getattr(this, name))})),
    )


def count_from_answer(exchange: Callable[..., ClearToken], this: Any, *parts: Any) -> ClearToken:
    """Count the lifetime from the moment at which the answer came."""
    began = this.by.ports.clock()
    clear = exchange(this, *parts)
    expires_at = clear.token.expires_at_epoch_s
    if expires_at is None:
        return clear
    later = clear.token._replace(expires_at_epoch_s=expires_at + this.by.ports.clock() - began)
    return ClearToken(later, clear.access_token)


# --- who is served what --------------------------------------------------------------------------------------------


def ignore_report(issue: Callable[..., object], issuer: Any, wanted: Any, deadline_epoch_s: float) -> object:
    """A caller's report changes nothing."""
    return issue(issuer, wanted._replace(rejected_token_id=None), deadline_epoch_s)


def believe_any_min_ttl(issue: Callable[..., object], issuer: Any, *request: Any) -> object:
    """A caller may ask for more validity than the longest lease."""
    issuer.longest_lease_s = 1e9
    return issue(issuer, *request)


def trust_from_answer(keep: Callable[..., object], request: Any, *parts: Any) -> object:
    """Trust memory from the answer, by the request's clock, and not from the look at the item by the wall clock."""
    request.looked_at_epoch_s = request.clock.now()
    return keep(request, *parts)
