"""The ledger: one row for every exchange, because a token lives for a year and only a person can revoke it.

The row is written *before* the exchange, and again once its outcome is known: a holder that is cut off in between
leaves a row that says `begun`, which means that a token may exist. Whether a token is in service is not written
down: the item says it, by token id. Every other `issued` row is a token to revoke once the longest lease has passed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from functions.broker.adapters.aws_calls import ConditionFailedError, call_aws
from functions.broker.adapters.dynamodb import FORMAT, from_attribute, plain_token, to_attribute, token_from
from functions.broker.lifetime import LONGEST_LIFETIME_S, jti_of
from functions.broker.ports import AwsRefusedError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from functions.broker.token import ClearToken, Token

FAILED_ROW_S = 7 * 86_400.0
"""How long a row is kept that stands for no token."""
_DAY_S = 86_400.0
_PREFIX = "mint#"


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


class MintLedger:
    """The rows of all connections, in the token table.

    Args:
        dynamodb: a client with short time-outs that repeats nothing.
        table: name of the table.
    """

    def __init__(self, dynamodb: DynamoDBClient, *, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def begin(self, mint: Mint) -> None:
        """Write the row before the exchange.

        Raises:
            AwsError: it is not certain that it was written: there must be no exchange.
        """
        self._put(mint, "attribute_not_exists(#record)")

    def complete(self, mint: Mint) -> None:
        """Write the row's outcome; may be repeated. A row's token never changes.

        Raises:
            AwsError: it is not certain that it was written.
        """
        self._put(mint, "attribute_not_exists(#token_id) OR #token_id = :token_id")

    def _put(self, mint: Mint, condition: str) -> None:
        row = {name: to_attribute(value) for name, value in _plain(mint).items()}
        names = ("record",) if "#record" in condition else ("token_id",)
        request: dict[str, Any] = {
            "TableName": self._table,
            "Item": row,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": {f"#{name}": name for name in names},
        }
        if ":token_id" in condition:
            request["ExpressionAttributeValues"] = {
                ":token_id": {"S": mint.token.token_id if mint.token else ""}
            }
        try:
            call_aws(lambda: self._dynamodb.put_item(**request))
        except ConditionFailedError:
            raise AwsRefusedError("RowOfAnotherToken") from None


def read_mints(dynamodb: DynamoDBClient, *, table: str, connection: str) -> list[Mint]:
    """Return the rows of a connection, oldest fence first. For operators; the broker itself never reads them."""
    pages = dynamodb.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression="#connection = :connection AND begins_with(#record, :prefix)",
        ExpressionAttributeNames={"#connection": "connection", "#record": "record"},
        ExpressionAttributeValues={":connection": {"S": connection}, ":prefix": {"S": _PREFIX}},
    )
    return [mint_of(item) for page in pages for item in page["Items"]]


def mint_of(item: dict[str, Any]) -> Mint:
    """Return the row of a DynamoDB item."""
    row = {name: from_attribute(value) for name, value in item.items()}
    return Mint(
        connection=row["connection"],
        fence=int(row["fence"]),
        owner=row["owner"],
        begun_at_epoch_s=row["begun_at_epoch_s"],
        reason=row["reason"],
        caller=row["caller"],
        secret_version=row["secret_version"],
        outcome=Outcome(row["outcome"]),
        token=token_from(row) if "token_id" in row else None,
        jti=row["jti"],
        error=row["error"],
    )


def _plain(mint: Mint) -> dict[str, object]:
    row: dict[str, object] = {
        "connection": mint.connection,
        "record": f"{_PREFIX}{mint.fence:010d}#{mint.owner}",
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
    delete_after = _delete_after(mint)
    if delete_after is not None:
        row["delete_after_epoch_s"] = int(delete_after)
    return row


def _delete_after(mint: Mint) -> float | None:
    """Return when the row has outlived its token; None for a token without an expiry."""
    if mint.outcome is Outcome.FAILED:
        return mint.begun_at_epoch_s + FAILED_ROW_S
    token = mint.token
    if token is None or (token.lifetime_s is None and token.expires_at_epoch_s is not None):
        return mint.begun_at_epoch_s + LONGEST_LIFETIME_S + _DAY_S
    return None if token.expires_at_epoch_s is None else token.expires_at_epoch_s + _DAY_S
