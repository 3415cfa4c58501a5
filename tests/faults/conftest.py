"""An account in this process with the stack's resources, and brokers on it that outlive a single case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws

from functions.broker import handler as broker_handler
from functions.broker.assembly import assemble
from tests.conftest import REGION
from tests.faults.bench import Operator, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from functions.broker.assembly import Broker
    from local.fake_digishare import FakeDigishare

_AWS_ENVIRONMENT = {
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
}


@dataclass(frozen=True)
class Bench:
    """Two instances, warm but for the connection that a case brings along, and the account that they share."""

    operator: Operator
    environment: dict[str, str]
    one: Broker
    other: Broker

    def start(self, **environment: str) -> Broker:
        """Return an instance that is set up differently."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in _AWS_ENVIRONMENT.items():
                patch.setenv(name, value)
            broker = assemble({**self.environment, **environment}, broker_handler._audit())
            # Its client of Secrets Manager is made at the first mint, from the region in the environment.
            ask(broker, self.operator.new_connection())
        return broker


@pytest.fixture(scope="module")
def bench(digishare_server: FakeDigishare) -> Iterator[Bench]:
    digishare_server.reset()
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name, value in _AWS_ENVIRONMENT.items():
            patch.setenv(name, value)
        session = boto3.Session()
        dynamodb = session.client("dynamodb")
        dynamodb.create_table(
            TableName="tokens",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": "connection", "AttributeType": "S"},
                {"AttributeName": "record", "AttributeType": "S"},
            ],
            KeySchema=[
                {"AttributeName": "connection", "KeyType": "HASH"},
                {"AttributeName": "record", "KeyType": "RANGE"},
            ],
        )
        operator = Operator(dynamodb, session.client("secretsmanager"), "tokens")
        environment = {
            "TOKEN_TABLE": "tokens",
            "TOKEN_KEY_ARN": session.client("kms").create_key()["KeyMetadata"]["Arn"],
            "SECRET_PREFIX": "token-broker/connections",
            "UPSTREAM_HOSTS": digishare_server.url.removeprefix("https://"),
            "UPSTREAM_CA_FILE": str(digishare_server.ca_file),
            "DEFAULT_TOKEN_URL": f"{digishare_server.url}/v1/oauth/token",
            "LEASE_SECONDS": "900",
            "DAILY_MINT_CEILING": "24",
        }
        brokers = [assemble(environment, broker_handler._audit()) for _ in range(2)]
        for broker in brokers:
            ask(broker, operator.new_connection())
        yield Bench(operator, environment, *brokers)
