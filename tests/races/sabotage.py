"""Planted faults: each breaks one promise, and a test shows that the race finds it. Called in the nursery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from functions.broker import issue_token
from functions.broker.token_need import Need
from functions.broker.token_store import TokenStore

if TYPE_CHECKING:
    from functions.broker.token_need import TokenWanted
    from functions.broker.token_record import TokenRecord


def lock_without_a_condition() -> None:
    """Everybody gets the lock."""
    write = TokenStore._write

    def write_anyway(self: TokenStore, connection: str, **step: Any) -> tuple[bool, TokenRecord]:
        if "lock_owner" in step["values"]:
            step |= {"condition": "attribute_exists(#fence) OR attribute_not_exists(#fence)", "expected": {}}
        return write(self, connection, **step)

    TokenStore._write = write_anyway  # type: ignore[method-assign] # the point of it


def lock_without_an_end() -> None:
    """A holder that dies keeps the lock for ever."""
    acquire_lock = TokenStore.acquire_lock

    def acquire_for_ever(self: TokenStore, seen: TokenRecord, **step: Any) -> tuple[bool, TokenRecord]:
        return acquire_lock(self, seen, **{**step, "lock_until_epoch_s": step["lock_until_epoch_s"] + 3600})

    TokenStore.acquire_lock = acquire_for_ever  # type: ignore[method-assign] # the point of it


def rejection_without_a_comparison() -> None:
    """Whatever token is reported, the present one is replaced."""
    need_of = issue_token.need_of  # type: ignore[attr-defined] # imported there by name

    def need_of_another_token(record: TokenRecord, wanted: TokenWanted, now: float, **limits: float) -> Need:
        need: Need = need_of(record, wanted, now, **limits)
        _, generation = seen.setdefault(id(wanted), (wanted, record.generation))
        is_reported = wanted.rejected_token_id is not None and record.generation == generation > 0
        return Need.REJECTED if is_reported else need

    seen: dict[int, tuple[TokenWanted, int]] = {}
    issue_token.need_of = need_of_another_token  # type: ignore[attr-defined] # the point of it
