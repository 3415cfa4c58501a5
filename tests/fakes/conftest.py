from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local.fakes.aws import FakeKMS, FakeSecretsManager
from local.fakes.dynamodb import FakeDynamoDB
from tests.conftest import SECRET_PREFIX, Account, new_account
from tests.fakes.backends import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def moto() -> Iterator[Account]:
    """One account for all tests of a module, because it takes longer to make than to use."""
    with pytest.MonkeyPatch.context() as patch, new_account(patch) as account:
        yield account


@pytest.fixture(params=["fakes", "moto"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "fakes":
        secrets = FakeSecretsManager()
        return Backend(
            FakeDynamoDB(),
            FakeKMS(key_arn="arn:fake"),
            secrets,
            "arn:fake",
            lambda name, value: secrets.put(f"{SECRET_PREFIX}/{name}", value),
        )
    moto: Account = request.getfixturevalue("moto")
    moto.empty()
    return Backend(moto.dynamodb, moto.kms, moto.secretsmanager, moto.key_arn, moto.put_secret)
