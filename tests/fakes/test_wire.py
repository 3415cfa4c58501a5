"""Faults are injected, and calls counted, where a test says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from functions.broker.adapters.oauth_exchange import ExchangeError
from functions.broker.client_secret import ClientCredentials, ConnectionSecrets, SecretMissingError
from functions.broker.token import FailureKind
from functions.broker.token_record import StoreUnavailableError, TokenRecord
from functions.broker.token_store import TokenStore
from tests.fakes.aws import FakeDynamoDB, FakeKMS, FakeSecretsManager
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Operation, Wire, aws_error, no_answer, no_connection


def acquire(store: TokenStore, seen: TokenRecord | None = None) -> tuple[bool, TokenRecord]:
    seen = seen or store.read("digishare")
    return store.acquire_lock(seen, owner="a", lock_until_epoch_s=20.0, day="2027-01-15")


def test_hooks_fail_a_call_before_or_after_it_takes_effect_and_count_it() -> None:
    wire = Wire()
    dynamodb: Any = FakeDynamoDB(wire)
    store = TokenStore(dynamodb, FakeKMS(wire), table="tokens", key_arn="x")  # type: ignore[arg-type] # a fake

    def refuse(operation: Operation) -> None:
        if operation.name == "dynamodb.update_item":
            raise no_connection()

    def lose(operation: Operation) -> bool | None:
        raise no_answer()

    wire.before = refuse
    with pytest.raises(StoreUnavailableError, match="EndpointConnectionError"):
        acquire(store)
    assert not dynamodb.items
    seen = store.read("digishare")
    wire.before, wire.after = lambda _: None, lose
    with pytest.raises(StoreUnavailableError, match="ReadTimeoutError"):
        acquire(store, seen)
    wire.after = lambda _: None
    assert store.read("digishare").fence == 1
    assert wire.contacts == {"dynamodb.get_item": 3, "dynamodb.update_item": 2}
    assert wire.contacts_of("kms") == 0


def test_an_answer_that_is_lost_once_makes_the_fake_apply_the_call_twice() -> None:
    wire = Wire()
    dynamodb: Any = FakeDynamoDB(wire)
    store = TokenStore(dynamodb, FakeKMS(wire), table="tokens", key_arn="x")  # type: ignore[arg-type] # a fake
    seen = store.read("digishare")
    lost = iter([True, False])
    wire.after = lambda _: next(lost)
    won, record = acquire(store, seen)
    assert (won, record.fence) == (True, 1)
    assert wire.contacts["dynamodb.update_item"] == 2


def test_the_upstream_issues_distinct_tokens_for_valid_secrets_only() -> None:
    upstream = FakeUpstream()
    upstream.secrets["c"] = {"good"}
    good = ClientCredentials("c", "good", "https://api.digishare.ma/v1/oauth/token")
    first, second = upstream.exchange(good, 1.0), upstream.exchange(good, 1.0)
    assert first.access_token != second.access_token
    with pytest.raises(ExchangeError, match="invalid_client"):
        upstream.exchange(replace(good, client_secret="bad"), 1.0)
    upstream.revoke(upstream.issued[0].token_id)
    assert (upstream.accepts(first.access_token), upstream.accepts(second.access_token)) == (False, True)
    assert upstream.mints == 2


def test_the_upstream_can_lose_an_answer_after_minting() -> None:
    wire = Wire()
    upstream = FakeUpstream(wire)
    upstream.secrets["c"] = {"good"}

    def lose(operation: Operation) -> bool | None:
        raise ExchangeError("upstream_no_answer", FailureKind.MAY_HAVE_ISSUED)

    wire.after = lose
    with pytest.raises(ExchangeError, match="upstream_no_answer"):
        upstream.exchange(ClientCredentials("c", "good", "https://x"), 1.0)
    assert upstream.mints == 1


def test_a_secret_marked_for_deletion_cannot_be_read() -> None:
    fake = FakeSecretsManager()
    client: Any = fake
    fake.put("connections/digishare", {"client_id": "c", "client_secret": "s"})
    fake.delete("connections/digishare")
    with pytest.raises(SecretMissingError):
        ConnectionSecrets(lambda: client, "connections", "https://x").read("digishare")


def test_an_injected_error_carries_its_code() -> None:
    assert aws_error("ThrottlingException").response["Error"]["Code"] == "ThrottlingException"
