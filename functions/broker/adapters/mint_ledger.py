"""The ledger: one row for every exchange, because a token lives for a year and only a person can revoke it.

The row is written *before* the exchange, and again once its outcome is known. A holder that is cut off in between
leaves a row that says `begun`, which means that a token may exist. The rows do not say which token is in service: the
item does, by token id. Every other `issued` row is a token to revoke once the longest lease has passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from functions.broker.adapters.aws_calls import ConditionFailedError, call_aws
from functions.broker.ports import AwsRefusedError
from token_broker.dynamodb_attributes import from_attribute, token_from
from token_broker.ledger_row import ROW_PREFIX, Mint, Outcome, item_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


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
        names = ("record",) if "#record" in condition else ("token_id",)
        request: dict[str, Any] = {
            "TableName": self._table,
            "Item": item_of(mint),
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
        ExpressionAttributeValues={":connection": {"S": connection}, ":prefix": {"S": ROW_PREFIX}},
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
