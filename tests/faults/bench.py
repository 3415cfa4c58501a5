"""Brokers in this process, set up once for many cases: each case has a connection of its own, which nobody knows yet."""

from __future__ import annotations

import json
import sys
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker import handler as broker_handler
from functions.broker.mint_ledger import read_mints
from functions.broker.token_record import to_attribute, token_key, token_record
from tests.conftest import CANARY_CLIENT_ID, CANARY_SECRET, LambdaContext, new_event

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from functions.broker.assembly import Broker
    from functions.broker.mint_ledger import Mint
    from functions.broker.token_record import TokenRecord

CALLER = "arn:aws:sts::000000000000:assumed-role/local-tester/session"
"""Granted every connection."""


@dataclass(frozen=True)
class Timed:
    """A handler's answer, and how long it took."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]
    took_s: float

    @property
    def token_id(self) -> str:
        return str(self.body["token_id"])


def ask(broker: Broker, connection: str, **fields: object) -> Timed:
    """Send `POST /token` through the handler of this instance."""
    event = new_event(user_arn=CALLER, body={"connection": connection, **fields})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker_handler, "_broker", lambda: broker)
        started_s = time.monotonic()
        answer = broker_handler.lambda_handler(
            event,
            LambdaContext(),  # type: ignore[arg-type] # the handler reads only these members
        )
        took_s = time.monotonic() - started_s
    assert CANARY_SECRET not in json.dumps(answer)
    return Timed(answer["statusCode"], answer["headers"], json.loads(answer["body"]), took_s)


@dataclass(frozen=True)
class Operator:
    """What an operator sees and does in AWS, past every fault."""

    dynamodb: DynamoDBClient
    secrets_manager: SecretsManagerClient
    table: str

    def new_connection(self, **secret: str) -> str:
        """Return the name of a connection that nobody has used; its credential is right unless `secret` says otherwise."""
        connection = f"case-{uuid.uuid4().hex[:12]}"
        value = {"client_id": CANARY_CLIENT_ID, "client_secret": CANARY_SECRET, **secret}
        self.secrets_manager.create_secret(
            Name=f"token-broker/connections/{connection}", SecretString=json.dumps(value)
        )
        return connection

    def record(self, connection: str) -> TokenRecord:
        answer = self.dynamodb.get_item(TableName=self.table, Key=token_key(connection), ConsistentRead=True)
        return token_record(connection, answer.get("Item"))

    def rows(self, connection: str) -> list[Mint]:
        return read_mints(self.dynamodb, table=self.table, connection=connection)

    def change(self, connection: str, **values: float) -> None:
        self.dynamodb.update_item(
            TableName=self.table,
            Key=token_key(connection),
            UpdateExpression="SET " + ", ".join(f"{name} = :{name}" for name in values),
            ExpressionAttributeValues={f":{name}": to_attribute(value) for name, value in values.items()},
        )

    def leave(self, connection: str, remaining_s: float) -> None:
        """Let the token be one of 1000 s, of which so many are left: soft from about 200, hard from 50 on."""
        now = time.time()
        self.change(
            connection,
            issued_at_epoch_s=now + remaining_s - 1000,
            expires_at_epoch_s=now + remaining_s,
            lifetime_s=1000.0,
        )


def set_constants(monkeypatch: pytest.MonkeyPatch, **constants: float) -> None:
    """Give the broker's constants other values, wherever they are imported."""
    modules = [module for name, module in sys.modules.items() if name.startswith("functions.broker.")]
    for name, value in constants.items():
        holders = [module for module in modules if hasattr(module, name)]
        assert holders, name
        for module in holders:
            monkeypatch.setattr(module, name, value)
