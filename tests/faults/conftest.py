"""An account in this process with the stack's resources, and brokers on it that outlive a single case."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws

from functions.broker import handler as broker_handler
from functions.broker import lifetime
from functions.broker.adapters.token_store import TokenStore
from functions.broker.assembly import assemble
from tests.conftest import CREDENTIAL, create_token_table
from tests.faults.instances import AWS_ENVIRONMENT, SHORT_EXCHANGE_S, Instances, ask
from tests.operator import Operator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local.fake_digishare import FakeDigishare


@pytest.fixture(scope="module")
def instances(digishare_server: FakeDigishare) -> Iterator[Instances]:
    digishare_server.reset()
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name, value in AWS_ENVIRONMENT.items():
            patch.setenv(name, value)
        # Every pause has its full length: see `ONE_ATTEMPT_S`.
        patch.setattr(random.SystemRandom, "random", lambda _: 1.0)
        session = boto3.Session()
        dynamodb = session.client("dynamodb")
        create_token_table(dynamodb)
        key_arn = session.client("kms").create_key()["KeyMetadata"]["Arn"]
        store = TokenStore(dynamodb, session.client("kms"), table="tokens", key_arn=key_arn)
        operator = Operator(store, dynamodb, session.client("secretsmanager"), "tokens", CREDENTIAL)
        environment = {
            "TOKEN_TABLE": "tokens",
            "TOKEN_KEY_ARN": key_arn,
            "SECRET_PREFIX": "token-broker/connections",
            "UPSTREAM_HOSTS": digishare_server.url.removeprefix("https://"),
            "UPSTREAM_CA_FILE": str(digishare_server.ca_file),
            "DEFAULT_TOKEN_URL": f"{digishare_server.url}/v1/oauth/token",
            "LEASE_SECONDS": "900",
            "CAMPAIGNS_ROLE": "campaigns-role",
        }
        brokers = [assemble(environment, broker_handler._audit()) for _ in range(2)]
        for broker in brokers:
            ask(broker, operator.new_connection())
        yield Instances(operator, environment, *brokers)


@pytest.fixture
def short_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange's time is shortened from 10 s: silence is quick, and a machine that stalls ends no attempt early."""
    monkeypatch.setattr(lifetime, "EXCHANGE_S", SHORT_EXCHANGE_S)
    monkeypatch.setattr(lifetime, "TO_SEND_S", SHORT_EXCHANGE_S + lifetime.PUBLISH_S)
