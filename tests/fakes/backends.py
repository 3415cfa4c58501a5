"""The two kinds of clients that the same checks run on: the fakes and moto."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from functions.broker.adapters.client_secret import ConnectionSecrets
from functions.broker.adapters.mint_ledger import MintLedger, read_mints
from functions.broker.adapters.token_store import TokenStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from token_broker.ledger_row import Mint

PREFIX = "token-broker/connections"


@dataclass
class Backend:
    """Clients of one kind, and the operator's hand on the secrets. Clients are Any: the fakes only resemble them."""

    dynamodb: Any
    kms: Any
    secretsmanager: Any
    key_arn: str
    rotate: Callable[[str, object], object]

    @property
    def store(self) -> TokenStore:
        return TokenStore(self.dynamodb, self.kms, table="tokens", key_arn=self.key_arn)

    @property
    def ledger(self) -> MintLedger:
        return MintLedger(self.dynamodb, table="tokens")

    @property
    def secrets(self) -> ConnectionSecrets:
        return ConnectionSecrets(self.secretsmanager, PREFIX, "https://api.digishare.ma/v1/oauth/token")

    def mints(self) -> list[Mint]:
        return read_mints(self.dynamodb, table="tokens", connection="digishare")


@dataclass
class Moto:
    """moto's clients: made once, since making them takes longer than all that is done with them."""

    dynamodb: Any
    kms: Any
    secretsmanager: Any
    key_arn: str

    def empty(self) -> None:
        """Start over with an empty table and no secrets."""
        for table in self.dynamodb.list_tables()["TableNames"]:
            self.dynamodb.delete_table(TableName=table)
        names = {"connection": "HASH", "record": "RANGE"}
        self.dynamodb.create_table(
            TableName="tokens",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in names.items()],
        )
        for secret in self.secretsmanager.list_secrets()["SecretList"]:
            self.secretsmanager.delete_secret(SecretId=secret["Name"], ForceDeleteWithoutRecovery=True)

    def rotate(self, connection: str, value: object) -> None:
        name, text = f"{PREFIX}/{connection}", value if isinstance(value, str) else None
        if text is None and not isinstance(value, bytes):
            text = json.dumps(value)
        content = {"SecretBinary": value} if text is None else {"SecretString": text}
        try:
            self.secretsmanager.create_secret(Name=name, **content)
        except self.secretsmanager.exceptions.ResourceExistsException:
            self.secretsmanager.put_secret_value(SecretId=name, **content)
