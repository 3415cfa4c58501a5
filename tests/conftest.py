"""Fixtures that all tests share: a moto account with the stack's resources, the fake Digishare, the real broker."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    from mypy_boto3_dynamodb.literals import KeyTypeType
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

REGION = "eu-west-3"
ACCOUNT = "000000000000"
"""The local cloud's account, whose callers the deployed grants allow."""
AWS_ENVIRONMENT = {
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "MOTO_ACCOUNT_ID": ACCOUNT,
}
SECRET_PREFIX = "token-broker/connections"
CANARY_SECRET = "canary-client-secret-5f1c"
CANARY_CLIENT_ID = "client-1"
CREDENTIAL = {"client_id": CANARY_CLIENT_ID, "client_secret": CANARY_SECRET}
CANARY_CLIENT = {"client_id": CANARY_CLIENT_ID, "secrets": [CANARY_SECRET]}
"""The same for the fake Digishare's admin API."""


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

    A test that changes more than its own connection restores it.
    """
    with LocalCloud(say=lambda _: None) as running:
        running.deploy(LeaseSeconds="900")
        running.steer_digishare("PUT", "/clients", [CANARY_CLIENT])
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
    """The token of an exchange is issued at once, but its answer takes three seconds."""
    slow = {"target": "token", "kind": "delay", "delay_ms": 3000, "times": None}
    cloud.steer_digishare("POST", "/faults", slow)
    yield
    cloud.steer_digishare("DELETE", "/faults")


@pytest.fixture
def digishare(digishare_server: FakeDigishare) -> FakeDigishare:
    """The fake as if it had just started."""
    digishare_server.reset()
    return digishare_server


@dataclass(frozen=True)
class Account:
    """The stack's resources in an account that exists in this process only."""

    dynamodb: DynamoDBClient
    kms: KMSClient
    secretsmanager: SecretsManagerClient
    key_arn: str
    table: str = "tokens"

    def put_secret(self, connection: str, value: object) -> None:
        """Create the connection's secret, or give it a new version: text, bytes, or what JSON can hold."""
        name = f"{SECRET_PREFIX}/{connection}"
        kind = "SecretBinary" if isinstance(value, bytes) else "SecretString"
        content: Any = {kind: value if isinstance(value, str | bytes) else json.dumps(value)}
        try:
            self.secretsmanager.create_secret(Name=name, **content)
        except self.secretsmanager.exceptions.ResourceExistsException:
            self.secretsmanager.put_secret_value(SecretId=name, **content)

    def item(self, connection: str = "digishare", record: str = "token") -> dict[str, Any]:
        key = {"connection": {"S": connection}, "record": {"S": record}}
        answer = self.dynamodb.get_item(TableName=self.table, Key=key, ConsistentRead=True)
        return dict(answer.get("Item", {}))

    def items(self) -> list[dict[str, Any]]:
        """Return everything in the table."""
        return [dict(item) for item in self.dynamodb.scan(TableName=self.table)["Items"]]

    def empty(self) -> None:
        """Start over with an empty table and no secrets."""
        self.dynamodb.delete_table(TableName=self.table)
        create_token_table(self.dynamodb)
        for secret in self.secretsmanager.list_secrets()["SecretList"]:
            self.secretsmanager.delete_secret(SecretId=secret["Name"], ForceDeleteWithoutRecovery=True)

    def broker_environment(self, digishare: FakeDigishare) -> dict[str, str]:
        """Return what a broker needs in its environment."""
        return {
            "TOKEN_TABLE": self.table,
            "TOKEN_KEY_ARN": self.key_arn,
            "SECRET_PREFIX": SECRET_PREFIX,
            "UPSTREAM_HOSTS": digishare.url.removeprefix("https://"),
            "UPSTREAM_CA_FILE": str(digishare.ca_file),
            "DEFAULT_TOKEN_URL": f"{digishare.url}/v1/oauth/token",
            "LEASE_SECONDS": "900",
            "CAMPAIGNS_ROLE": "campaigns-role",
        }


def create_token_table(dynamodb: DynamoDBClient) -> None:
    create_table(dynamodb, "tokens", {"connection": "HASH", "record": "RANGE"})


def create_table(dynamodb: DynamoDBClient, name: str, keys: Mapping[str, KeyTypeType]) -> None:
    """Create a table whose keys are text."""
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys.items()],
    )


@contextmanager
def new_account(patch: pytest.MonkeyPatch) -> Iterator[Account]:
    """Yield an account with an empty table, a key and no secret; `patch` puts its credentials into the environment."""
    for name, value in AWS_ENVIRONMENT.items():
        patch.setenv(name, value)
    with mock_aws():
        # From the default session: a new one would read the SDK's data again for every test.
        dynamodb, kms = boto3.client("dynamodb"), boto3.client("kms")
        create_token_table(dynamodb)
        key_arn = kms.create_key()["KeyMetadata"]["Arn"]
        yield Account(dynamodb, kms, boto3.client("secretsmanager"), key_arn)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    with new_account(monkeypatch) as made:
        made.put_secret("digishare", CREDENTIAL)
        yield made


Invoke = Callable[..., dict[str, Any]]


class _PresentOutput(io.TextIOBase):
    """Whatever `sys.stdout` is at the moment of a write."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)


@pytest.fixture
def fresh_log() -> None:
    """The broker's logger writes to this test's output, not to that of the test that made the logger."""
    for handler in logging.getLogger(SERVICE).handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.stream = _PresentOutput()


@pytest.fixture
def new_broker(
    account: Account, digishare: FakeDigishare, fresh_log: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Invoke]:
    """Return a starter of fresh instances; each answers `invoke(event)` or `invoke(body={...}, user_arn=...)`."""
    for name, value in account.broker_environment(digishare).items():
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
