"""Fixtures that all tests share: a moto account with the stack's resources, the fake Digishare, the real broker."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from functions.broker import handler as broker_handler
from functions.broker.adapters.token_store import TokenStore
from functions.broker.assembly import assemble
from functions.broker.audit import SERVICE
from local.cloud import LocalCloud
from local.digishare.model import Client
from local.fake_digishare import FakeDigishare
from local.instances import Nursery
from local.samples import EVENTS
from tests.operator import Operator

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

REGION = "eu-west-3"
ACCOUNT = "000000000000"
"""The local cloud's: the deployed grants let its callers in."""
CANARY_SECRET = "canary-client-secret-5f1c"
CANARY_CLIENT_ID = "client-1"
CREDENTIAL = {"client_id": CANARY_CLIENT_ID, "client_secret": CANARY_SECRET}


@dataclass
class LambdaContext:
    """What the handlers read of Lambda's context object."""

    remaining_ms: int = 31_000
    aws_request_id: str = "request-1"
    function_name: str = "broker"

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


@pytest.fixture(scope="session")
def digishare_server() -> Iterator[FakeDigishare]:
    with FakeDigishare(clients=[Client(CANARY_CLIENT_ID, (CANARY_SECRET,))]) as server:
        yield server


@pytest.fixture(scope="session")
def cloud() -> Iterator[LocalCloud]:
    """The local cloud with the built stack deployed, and a right client secret for `digishare`: one for all tests.

    Tests that change more than their own connection put it back.
    """
    with LocalCloud(say=lambda _: None) as running:
        running.deploy(LeaseSeconds="900")
        running.steer_digishare(
            "PUT", "/clients", [{"client_id": CANARY_CLIENT_ID, "secrets": [CANARY_SECRET]}]
        )
        running.put_connection("digishare", CREDENTIAL)
        yield running


@pytest.fixture(scope="session")
def instance_environment(cloud: LocalCloud) -> dict[str, str]:
    """What the cloud's broker needs as a process, with the rights of its own role."""
    return cloud.function_environment("BrokerFunctionName")


@pytest.fixture(scope="module")
def nursery(
    instance_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nursery]:
    """The cloud's broker as processes."""
    with Nursery(instance_environment, tmp_path_factory.mktemp("instances") / "log") as nursery:
        yield nursery


@pytest.fixture(scope="session")
def operator(cloud: LocalCloud, instance_environment: dict[str, str]) -> Operator:
    """An operator of the local cloud."""
    dynamodb, table = cloud.client("dynamodb"), instance_environment["TOKEN_TABLE"]
    key_arn = instance_environment["TOKEN_KEY_ARN"]
    store = TokenStore(dynamodb, cloud.client("kms"), table=table, key_arn=key_arn)
    return Operator(store, dynamodb, cloud.client("secretsmanager"), table, CREDENTIAL)


@pytest.fixture
def slow_upstream(cloud: LocalCloud) -> Iterator[None]:
    """Every exchange takes three seconds; the token is there at once, its answer is not."""
    slow = {"target": "token", "kind": "delay", "delay_ms": 3000, "times": None}
    cloud.steer_digishare("POST", "/faults", slow)
    yield
    cloud.steer_digishare("DELETE", "/faults")


@pytest.fixture
def digishare(digishare_server: FakeDigishare) -> FakeDigishare:
    """The fake as if it had just started."""
    digishare_server.reset()
    return digishare_server


@dataclass
class Account:
    """The stack's resources in an account that exists in this process only."""

    table: str
    key_arn: str

    def put_secret(self, connection: str, value: object) -> None:
        """Create the connection's secret, or give it a new version."""
        client = boto3.client("secretsmanager")
        name = f"token-broker/connections/{connection}"
        text = value if isinstance(value, str) else json.dumps(value)
        try:
            client.create_secret(Name=name, SecretString=text)
        except client.exceptions.ResourceExistsException:
            client.put_secret_value(SecretId=name, SecretString=text)

    def item(self, connection: str = "digishare", record: str = "token") -> dict[str, Any]:
        key = {"connection": {"S": connection}, "record": {"S": record}}
        answer = boto3.client("dynamodb").get_item(TableName=self.table, Key=key, ConsistentRead=True)
        return dict(answer.get("Item", {}))

    def items(self) -> list[dict[str, Any]]:
        """Return all that the table holds."""
        return [dict(item) for item in boto3.client("dynamodb").scan(TableName=self.table)["Items"]]


def create_token_table(dynamodb: DynamoDBClient) -> None:
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


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("MOTO_ACCOUNT_ID", ACCOUNT)
    with mock_aws():
        create_token_table(boto3.client("dynamodb"))
        key = boto3.client("kms").create_key()
        made = Account("tokens", key["KeyMetadata"]["Arn"])
        made.put_secret("digishare", CREDENTIAL)
        yield made


Invoke = Callable[..., dict[str, Any]]


class _PresentOutput(io.TextIOBase):
    """Standard output as it is when something is written."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)


@pytest.fixture
def fresh_log() -> None:
    """The broker's logger writes to this test's output, and not to that of the test in which it was made."""
    for handler in logging.getLogger(SERVICE).handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.stream = _PresentOutput()


@pytest.fixture
def new_broker(
    account: Account, digishare: FakeDigishare, fresh_log: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Invoke]:
    """Return a starter of fresh instances; each answers `invoke(event)` or `invoke(body={...}, user_arn=...)`."""
    host = digishare.url.removeprefix("https://")
    environment = {
        "TOKEN_TABLE": account.table,
        "TOKEN_KEY_ARN": account.key_arn,
        "SECRET_PREFIX": "token-broker/connections",
        "UPSTREAM_HOSTS": host,
        "UPSTREAM_CA_FILE": str(digishare.ca_file),
        "DEFAULT_TOKEN_URL": f"{digishare.url}/v1/oauth/token",
        "LEASE_SECONDS": "900",
        "CAMPAIGNS_ROLE": "campaigns-role",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def start() -> Invoke:
        broker = assemble(os.environ, broker_handler._audit())

        def invoke(
            event: dict[str, Any] | None = None, *, context: LambdaContext | None = None, **changes: Any
        ) -> dict[str, Any]:
            monkeypatch.setattr(broker_handler, "_broker", lambda: broker)
            return broker_handler.lambda_handler(
                new_event(**changes) if event is None else event,
                context or LambdaContext(),  # type: ignore[arg-type] # the handler reads only these members
            )

        return invoke

    return start


@pytest.fixture
def invoke(new_broker: Callable[[], Invoke]) -> Invoke:
    """One instance of the broker, cold."""
    return new_broker()


def new_event(
    *,
    body: object = None,
    method: str = "POST",
    path: str = "/token",
    user_arn: str | None = f"arn:aws:sts::{ACCOUNT}:assumed-role/local-orders/session-1",
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return a Function URL event as the sample in `events/` has it, with these members changed."""
    event: dict[str, Any] = json.loads((EVENTS / "token-default.json").read_text())
    event["rawPath"] = path
    event["requestContext"]["http"] |= {"method": method, "path": path}
    event["requestContext"]["authorizer"]["iam"]["userArn"] = user_arn
    event["headers"] |= headers or {}
    event.pop("body", None)
    if body is not None:
        event["body"] = body if isinstance(body, str) else json.dumps(body)
    if query is not None:
        event["queryStringParameters"] = query
    return event
