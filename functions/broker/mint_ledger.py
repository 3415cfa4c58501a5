"""The ledger: one row for every mint, because a token lives for a year and only a person can revoke it.

The row is written *before* the exchange, and again once its outcome is known: a holder that is cut off in between
leaves a row that says `begun`, which means that a token may exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from functions.broker.lifetime import LONGEST_LIFETIME_S
from functions.broker.token_record import call_store, from_attribute, to_attribute

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

FAILED_ROW_S = 7 * 86_400.0
"""How long a row is kept that stands for no token."""
_PREFIX = "mint#"


class Outcome(StrEnum):
    """What became of a mint."""

    BEGUN = "begun"
    """Not known: the one who minted was cut off, or the upstream's answer never came. A token may exist."""
    ISSUED = "issued"
    """A token that was published, or is just about to be."""
    ORPHAN = "orphan"
    """A token that exists upstream and that nobody is served: revoke it."""
    FAILED = "failed"
    """No token came into being."""


@dataclass(frozen=True, slots=True)
class Mint:
    """One row. Times are epoch seconds.

    Attributes:
        fence: the lock's fence, or 0 for a mint without the table.
        reason: why it was minted (`issue_token.Need`).
        secret_version: VersionId of the secret that was used, as far as it is known.
        token_id: "" while it is not known.
        generation: under which the token was published, 0 while it was not.
        expires_at_epoch_s: None where it is not known or there is none.
    """

    connection: str
    fence: int
    begun_at_epoch_s: float
    reason: str
    outcome: Outcome
    secret_version: str = ""
    token_id: str = ""
    generation: int = 0
    expires_at_epoch_s: float | None = None
    error: str = ""


class MintLedger:
    """The rows of all connections, in the token table.

    Args:
        dynamodb: a client with short time-outs and few attempts.
        table: name of the table.
    """

    def __init__(self, dynamodb: DynamoDBClient, *, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def write(self, mint: Mint) -> None:
        """Write the row of this mint, over the one that it had.

        Raises:
            StoreUnavailableError: DynamoDB is away.
        """
        row: dict[str, object] = {
            "connection": mint.connection,
            "record": f"{_PREFIX}{mint.fence:010d}" if mint.fence else f"{_PREFIX}direct#{mint.token_id}",
            "fence": mint.fence,
            "begun_at_epoch_s": mint.begun_at_epoch_s,
            "reason": mint.reason,
            "outcome": str(mint.outcome),
            "secret_version": mint.secret_version,
            "token_id": mint.token_id,
            "generation": mint.generation,
            "error": mint.error,
        }
        if mint.expires_at_epoch_s is not None:
            row["expires_at_epoch_s"] = mint.expires_at_epoch_s
        delete_after = _delete_after(mint)
        if delete_after is not None:
            row["delete_after_epoch_s"] = int(delete_after)
        item = {name: to_attribute(value) for name, value in row.items()}
        call_store(lambda: self._dynamodb.put_item(TableName=self._table, Item=item))


def read_mints(dynamodb: DynamoDBClient, *, table: str, connection: str) -> list[Mint]:
    """Return the rows of a connection, oldest fence first. For operators; the broker itself never reads them."""
    pages = dynamodb.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression="#connection = :connection AND begins_with(#record, :prefix)",
        ExpressionAttributeNames={"#connection": "connection", "#record": "record"},
        ExpressionAttributeValues={":connection": {"S": connection}, ":prefix": {"S": _PREFIX}},
    )
    return [_mint(item) for page in pages for item in page["Items"]]


def _delete_after(mint: Mint) -> float | None:
    """Return when the row has outlived its token; None for a token without a known expiry."""
    if mint.outcome is Outcome.FAILED:
        return mint.begun_at_epoch_s + FAILED_ROW_S
    if mint.outcome is Outcome.BEGUN:
        return mint.begun_at_epoch_s + LONGEST_LIFETIME_S
    return mint.expires_at_epoch_s


def _mint(item: dict[str, Any]) -> Mint:
    row = {name: from_attribute(value) for name, value in item.items()}
    return Mint(
        connection=row["connection"],
        fence=int(row["fence"]),
        begun_at_epoch_s=row["begun_at_epoch_s"],
        reason=row["reason"],
        outcome=Outcome(row["outcome"]),
        secret_version=row["secret_version"],
        token_id=row["token_id"],
        generation=int(row["generation"]),
        expires_at_epoch_s=row.get("expires_at_epoch_s"),
        error=row["error"],
    )
