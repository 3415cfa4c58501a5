"""One row of the ledger, which records one exchange, and how long it stays: for the broker and for the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from token_broker.dynamodb_attributes import FORMAT, plain_token, to_attribute
from token_broker.issued_token import LONGEST_LIFETIME_S, jti_of

if TYPE_CHECKING:
    from token_broker.issued_token import ClearToken, Token

FAILED_ROW_S = 7 * 86_400.0
"""How long a row without a token stays."""
_DAY_S = 86_400.0
ROW_PREFIX = "mint#"
"""The sort key of each row begins with this."""


class Outcome(StrEnum):
    """What became of an exchange."""

    BEGUN = "begun"
    """Not known: the holder was cut off, or the upstream's answer never came. A token may exist."""
    ISSUED = "issued"
    """A token exists, or did until it expired."""
    FAILED = "failed"
    """No token was made."""


@dataclass(frozen=True, slots=True)
class Mint:
    """One row. Times are epoch seconds.

    Attributes:
        fence, owner: of the lock under which the exchange was made; both are in the row's key, so that a table that
            was restored never leads to another exchange's row.
        reason: why it was made (`decide.Need`).
        caller: whose request it was.
        secret_version: VersionId of the secret that was used.
        token: None while it is not known.
        jti: the token's own name at the upstream where it is a JWT that has one, else "". Unverified.
        error: why no token was made.
    """

    connection: str
    fence: int
    owner: str
    begun_at_epoch_s: float
    reason: str
    caller: str
    secret_version: str
    outcome: Outcome = Outcome.BEGUN
    token: Token | None = None
    jti: str = ""
    error: str = ""

    def issued(self, clear: ClearToken) -> Mint:
        """Return the row of the exchange that brought this token."""
        jti = jti_of(clear.access_token)
        return replace(self, outcome=Outcome.ISSUED, token=clear.token, jti=jti)

    def failed(self, error: str) -> Mint:
        """Return the row of an exchange that certainly made no token."""
        return replace(self, outcome=Outcome.FAILED, error=error)


def item_of(mint: Mint) -> dict[str, Any]:
    """Return the row as a DynamoDB item."""
    row: dict[str, object] = {
        "connection": mint.connection,
        "record": f"{ROW_PREFIX}{mint.fence:010d}#{mint.owner}",
        "format": FORMAT,
        "fence": mint.fence,
        "owner": mint.owner,
        "begun_at_epoch_s": mint.begun_at_epoch_s,
        "reason": mint.reason,
        "caller": mint.caller,
        "secret_version": mint.secret_version,
        "outcome": str(mint.outcome),
        "jti": mint.jti,
        "error": mint.error,
        **(plain_token(mint.token) if mint.token else {}),
    }
    delete_at = delete_after(mint)
    if delete_at is not None:
        row["delete_after_epoch_s"] = int(delete_at)
    return {name: to_attribute(value) for name, value in row.items()}


def delete_after(mint: Mint) -> float | None:
    """Return when the row has outlived its token; None for a token without an expiry."""
    if mint.outcome is Outcome.FAILED:
        return mint.begun_at_epoch_s + FAILED_ROW_S
    token = mint.token
    if token is None or (token.lifetime_s is None and token.expires_at_epoch_s is not None):
        return mint.begun_at_epoch_s + LONGEST_LIFETIME_S + _DAY_S
    return None if token.expires_at_epoch_s is None else token.expires_at_epoch_s + _DAY_S
