"""The two kinds of clients that the same checks run on: the fakes and moto."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from functions.broker.adapters.client_secret import ConnectionSecrets
from functions.broker.adapters.dynamodb import token_key
from functions.broker.adapters.mint_ledger import MintLedger, read_mints
from functions.broker.adapters.token_store import TokenStore
from tests.conftest import SECRET_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from token_broker.ledger_row import Mint


@dataclass
class Backend:
    """Clients of one kind, typed Any because the fakes only resemble them, and how to rotate a secret."""

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
        token_url = "https://api.digishare.ma/v1/oauth/token"
        return ConnectionSecrets(self.secretsmanager, SECRET_PREFIX, token_url)

    def mints(self) -> list[Mint]:
        return read_mints(self.dynamodb, table="tokens", connection="digishare")

    def item(self, record: str = "token") -> dict[str, Any]:
        key = token_key("digishare") | {"record": {"S": record}}
        return dict(self.dynamodb.get_item(TableName="tokens", Key=key, ConsistentRead=True)["Item"])
