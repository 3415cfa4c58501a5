"""What the present token calls for, seen by one caller. Pure rules over a record: no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from functions.broker import lifetime
from functions.broker.lifetime import TokenState

if TYPE_CHECKING:
    from functions.broker.token_record import TokenRecord


class Need(StrEnum):
    """What is due; the value is the reason in the ledger."""

    NOTHING = "nothing"
    REFRESH_AHEAD = "refresh_ahead"
    REFRESH_NOW = "refresh_now"
    NO_TOKEN = "no_token"  # noqa: S105 - a reason, not a credential
    EXPIRED = "expired"
    REJECTED = "rejected"

    @property
    def leaves_a_usable_token(self) -> bool:
        """Whether the present token may be served if it cannot be replaced."""
        return self in {Need.NOTHING, Need.REFRESH_AHEAD, Need.REFRESH_NOW}


@dataclass(frozen=True, slots=True)
class TokenWanted:
    """What a caller asks for.

    Attributes:
        min_ttl_s: validity that the caller needs; counts up to the longest lease and the soft margin, so that
            nobody can force mints with it.
        rejected_token_id: the upstream answered 401 to this token.
        caller: account and role or user, for counting its rejections.
    """

    connection: str
    min_ttl_s: float = 0.0
    rejected_token_id: str | None = None
    caller: str = ""


def state_of(record: TokenRecord, now: float) -> TokenState | None:
    """Return the state of the record's token at `now` (epoch s), or None where there is no token.

    A token without a known expiry is fresh until its secret is to be looked at again, and soft from then on.
    """
    token = record.token
    if token is None:
        return None
    if token.expires_at_epoch_s is None:
        return TokenState.FRESH if now < record.next_refresh_at_epoch_s else TokenState.SOFT
    return lifetime.state_of(
        remaining_s=token.expires_at_epoch_s - now,
        lifetime_s=token.lifetime_s,
        connection=record.connection,
        generation=token.generation,
    )


def need_of(record: TokenRecord, wanted: TokenWanted, now: float, *, longest_lease_s: float) -> Need:
    """Return what the record calls for at `now` (epoch s)."""
    token, state = record.token, state_of(record, now)
    if token is None:
        return Need.NO_TOKEN
    if state is TokenState.EXPIRED:
        return Need.EXPIRED
    if token.token_id == wanted.rejected_token_id and now - token.issued_at_epoch_s >= lifetime.YOUNG_TOKEN_S:
        return Need.REJECTED
    if state is TokenState.HARD:
        return Need.REFRESH_NOW
    if token.expires_at_epoch_s is not None:
        soft_margin_s = lifetime.soft_margin_s(token.lifetime_s, record.connection, token.generation)
        needed_s = min(wanted.min_ttl_s, longest_lease_s, soft_margin_s)
        if token.expires_at_epoch_s - now < needed_s:
            return Need.REFRESH_NOW
    refresh_due = now >= max(record.next_refresh_at_epoch_s, record.next_attempt_at_epoch_s)
    return Need.REFRESH_AHEAD if state is TokenState.SOFT and refresh_due else Need.NOTHING
