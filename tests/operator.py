"""What an operator sees and does in AWS. No fault of a test applies to it."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from functions.broker.adapters.dynamodb import token_key
from functions.broker.adapters.mint_ledger import read_mints
from token_broker.dynamodb_attributes import FORMAT, plain_token, to_attribute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from functions.broker.adapters.token_store import TokenStore
    from functions.broker.token import TokenRecord
    from token_broker.ledger_row import Mint


@dataclass(frozen=True)
class Operator:
    """Has every right to the token table and the secrets. The upstream accepts `credential`."""

    store: TokenStore
    dynamodb: DynamoDBClient
    secrets_manager: SecretsManagerClient
    table: str
    credential: Mapping[str, str]

    def new_connection(self, **secret: str) -> str:
        """Return the name of a new connection. Its credential is right unless `secret` says otherwise."""
        connection = f"case-{uuid.uuid4().hex[:12]}"
        self.secrets_manager.create_secret(
            Name=f"token-broker/connections/{connection}",
            SecretString=json.dumps({**self.credential, **secret}),
        )
        return connection

    def record(self, connection: str) -> TokenRecord:
        return self.store.read(connection)

    def rows(self, connection: str) -> list[Mint]:
        return read_mints(self.dynamodb, table=self.table, connection=connection)

    def issued(self, connection: str) -> list[str]:
        """Return the ids of the tokens in the ledger."""
        return [row.token.token_id for row in self.rows(connection) if row.token]

    def change(self, connection: str, values: Mapping[str, object]) -> None:
        """Set members of the item, such as "failure.not_before_epoch_s"."""
        steps = {name for path in values for name in path.split(".")}
        sets = [f"#{path.replace('.', '.#')} = :{number}" for number, path in enumerate(values)]
        attributes = {f":{number}": to_attribute(value) for number, value in enumerate(values.values())}
        self.dynamodb.update_item(
            TableName=self.table,
            Key=token_key(connection),
            UpdateExpression=f"SET {', '.join(sets)}",
            ExpressionAttributeNames={f"#{step}": step for step in steps},
            ExpressionAttributeValues=attributes,
        )

    def delete(self, connection: str) -> None:
        self.dynamodb.delete_item(TableName=self.table, Key=token_key(connection))

    def end_lock(self, connection: str) -> None:
        """End the lock, and the back-off that follows if its holder is lost."""
        past = time.time() - 1
        self.change(connection, {"lock_until_epoch_s": past, "failure.not_before_epoch_s": past})

    def leave_nothing(self, connection: str) -> None:
        """Write an item without a token."""
        values = {"format": FORMAT, "fence": 1, "generation": 0}
        item = token_key(connection) | {name: to_attribute(value) for name, value in values.items()}
        self.dynamodb.put_item(TableName=self.table, Item=item)

    def leave(self, connection: str, left_s: float, refresh_in_s: float = 0.0) -> None:
        """Make the token one of 1000 s with `left_s` left (due below 200), not to be refreshed for `refresh_in_s`."""
        now, sealed = time.time(), self.record(connection).token
        assert sealed is not None
        token = sealed.token._replace(
            issued_at_epoch_s=round(now + left_s - 1000, 3),
            expires_at_epoch_s=round(now + left_s, 3),
            lifetime_s=1000.0,
        )
        access_token = self.store.open(connection, sealed)
        sealed = self.store.seal(connection, sealed.fence, token, access_token)
        attribute = {**plain_token(token), "sealed": sealed.sealed, "fence": sealed.fence}
        self.change(connection, {"token": attribute, "refresh_at_epoch_s": now + refresh_in_s})
