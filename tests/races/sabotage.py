"""Planted faults. Each breaks one promise, and a test shows that this is noticed. The nursery calls them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from functions.broker import decide, lifetime
from functions.broker.adapters.mint_ledger import MintLedger
from functions.broker.adapters.token_store import TokenStore
from functions.broker.ports import AwsError

if TYPE_CHECKING:
    from functions.broker.decide import TokenWanted
    from functions.broker.token import TokenRecord
    from token_broker.issued_token import Token
    from token_broker.ledger_row import Mint

_ALWAYS = "attribute_exists(#fence) OR attribute_not_exists(#fence)"


def lock_without_a_condition() -> None:
    """Everybody gets the lock."""
    _replace_condition("lock_owner", _ALWAYS)


def lock_without_comparing_its_owner() -> None:
    """Everybody who saw the same fence gets the lock, even if another owner has that fence by now."""
    _replace_condition("lock_owner", "#fence = :seen_fence", needs="seen_owner")


def publish_without_a_condition() -> None:
    """Everybody who once had the lock may publish."""
    _replace_condition("token", _ALWAYS)


def exchange_without_a_row() -> None:
    """The exchange is sent even if its row could not be written."""
    begin = MintLedger.begin

    def begin_carelessly(self: MintLedger, mint: Mint) -> None:
        with suppress(AwsError):
            begin(self, mint)

    MintLedger.begin = begin_carelessly  # type: ignore[method-assign] # the point of it


def lock_without_an_end() -> None:
    """After a holder has died, everybody waits for a minute."""
    lifetime.LOCK_S = lifetime.LONGEST_LOCK_S - 1


def send_without_a_look_at_the_clock() -> None:
    """However late it is, the exchange is sent."""
    lifetime.TO_SEND_S = 0.0


def report_without_a_comparison() -> None:
    """Whatever token is reported, the present one is replaced."""

    def is_reported(token: Token, wanted: TokenWanted, now: float) -> bool:
        return wanted.rejected_token_id is not None

    decide._is_reported = is_reported


def _replace_condition(written: str, condition: str, needs: str = "") -> None:
    """Let every update that writes `written`, and compares `needs`, have another condition."""
    update = TokenStore._update

    def update_carelessly(self: TokenStore, *step: Any) -> TokenRecord:
        connection, values, removed, right_condition, expected = step
        if written not in values or (needs and needs not in expected):
            return update(self, connection, values, removed, right_condition, expected)
        used = {name: value for name, value in expected.items() if f":{name}" in condition}
        return update(self, connection, values, removed, condition, used)

    TokenStore._update = update_carelessly  # type: ignore[assignment,method-assign] # the point of it
