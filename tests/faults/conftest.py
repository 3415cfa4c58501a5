"""An account in this process with the stack's resources, and brokers that all cases share."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from functions.broker import handler as broker_handler
from functions.broker import lifetime
from functions.broker.adapters.token_store import TokenStore
from functions.broker.assembly import assemble
from tests.conftest import CREDENTIAL, new_account
from tests.faults.instances import SHORT_EXCHANGE_S, Instances, ask
from tests.operator import Operator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local.fake_digishare import FakeDigishare


@pytest.fixture(scope="module")
def instances(digishare_server: FakeDigishare) -> Iterator[Instances]:
    digishare_server.reset()
    with pytest.MonkeyPatch.context() as patch, new_account(patch) as account:
        # Every pause has its full length: see `ONE_ATTEMPT_S`.
        patch.setattr(random.SystemRandom, "random", lambda _: 1.0)
        store = TokenStore(account.dynamodb, account.kms, table=account.table, key_arn=account.key_arn)
        operator = Operator(store, account.dynamodb, account.secretsmanager, account.table, CREDENTIAL)
        environment = account.broker_environment(digishare_server)
        brokers = [assemble(environment, broker_handler._audit()) for _ in range(2)]
        for broker in brokers:
            ask(broker, operator.new_connection())
        yield Instances(operator, environment, *brokers)


@pytest.fixture
def short_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange has less than its 10 s, so that silence is short; a slow machine still ends no attempt early."""
    monkeypatch.setattr(lifetime, "EXCHANGE_S", SHORT_EXCHANGE_S)
    monkeypatch.setattr(lifetime, "TO_SEND_S", SHORT_EXCHANGE_S + lifetime.PUBLISH_S)
