from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws

from local.fakes.aws import FakeKMS, FakeSecretsManager
from local.fakes.dynamodb import FakeDynamoDB
from tests.fakes.backends import PREFIX, Backend, Moto

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    session = boto3.Session("testing", "testing", region_name="eu-west-3")
    with mock_aws():
        kms = session.client("kms")
        yield Moto(
            session.client("dynamodb"),
            kms,
            session.client("secretsmanager"),
            kms.create_key()["KeyMetadata"]["Arn"],
        )


@pytest.fixture(params=["fakes", "moto"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "fakes":
        secrets = FakeSecretsManager()
        return Backend(
            FakeDynamoDB(),
            FakeKMS(key_arn="arn:fake"),
            secrets,
            "arn:fake",
            lambda name, value: secrets.put(f"{PREFIX}/{name}", value),
        )
    moto: Moto = request.getfixturevalue("moto")
    moto.empty()
    return Backend(moto.dynamodb, moto.kms, moto.secretsmanager, moto.key_arn, moto.rotate)
