"""The fakes fail where a test says so, and count their calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from functions.broker.adapters.client_secret import ClientCredentials, ConnectionSecrets
from functions.broker.adapters.token_store import SealBrokenError, TokenStore
from functions.broker.ports import AwsBusyError, AwsRefusedError, AwsUnavailableError, MintFailedError
from functions.broker.token import FailureKind, Lock, SealedToken, TokenRecord
from local.fakes.aws import FakeKMS, FakeSecretsManager
from local.fakes.dynamodb import FakeDynamoDB
from local.fakes.upstream import FakeUpstream
from local.fakes.wire import Operation, Wire, aws_error, no_answer, no_connection
from token_broker.dynamodb_attributes import to_attribute
from token_broker.issued_token import Token

GOOD = ClientCredentials("c", "good", "https://api.digishare.ma/v1/oauth/token")


def new_store(wire: Wire) -> TokenStore:
    dynamodb: Any = FakeDynamoDB(wire)
    kms: Any = FakeKMS(wire)
    return TokenStore(dynamodb, kms, table="tokens", key_arn="x")


def acquire(store: TokenStore, seen: TokenRecord) -> TokenRecord | None:
    return store.write(seen, seen._replace(fence=seen.fence + 1, lock=Lock("a", 20.0)))


def test_hooks_fail_a_call_before_or_after_it_takes_effect_and_count_it() -> None:
    wire = Wire()
    store = new_store(wire)

    def refuse(operation: Operation) -> None:
        if operation.name == "dynamodb.update_item":
            raise no_connection()

    def lose(operation: Operation) -> bool | None:
        raise no_answer()

    seen = store.read("digishare")
    wire.before = refuse
    with pytest.raises(AwsUnavailableError, match="EndpointConnectionError"):
        acquire(store, seen)
    assert store.read("digishare") == TokenRecord("digishare")
    wire.before, wire.after = lambda _: None, lose
    with pytest.raises(AwsUnavailableError, match="ReadTimeoutError"):
        acquire(store, seen)
    wire.after = lambda _: None
    assert store.read("digishare").fence == 1
    assert wire.contacts == {"dynamodb.get_item": 3, "dynamodb.update_item": 2}


def test_an_answer_that_is_lost_once_makes_the_fake_apply_the_call_twice() -> None:
    wire = Wire()
    store = new_store(wire)
    seen = store.read("digishare")
    lost = iter([True, False])
    wire.after = lambda _: next(lost)
    assert acquire(store, seen) is None  # the second finds the first one's fence
    assert wire.contacts["dynamodb.update_item"] == 2
    wire.after = lambda _: None
    assert store.read("digishare").fence == 1


def test_the_upstream_issues_distinct_tokens_for_valid_secrets_only() -> None:
    upstream = FakeUpstream()
    upstream.secrets["c"] = {"good"}
    first, second = upstream.exchange(GOOD, 1.0), upstream.exchange(GOOD, 1.0)
    assert first.access_token != second.access_token
    with pytest.raises(MintFailedError, match="invalid_client") as refused:
        upstream.exchange(replace(GOOD, client_secret="bad"), 1.0)
    assert refused.value.kind is FailureKind.REFUSED
    assert upstream.mints == 2


def test_the_upstream_can_lose_an_answer_after_issuing() -> None:
    wire = Wire()
    upstream = FakeUpstream(wire)
    upstream.secrets["c"] = {"good"}

    def lose(operation: Operation) -> bool | None:
        raise MintFailedError("upstream_no_answer", FailureKind.MAY_HAVE_ISSUED)

    wire.after = lose
    with pytest.raises(MintFailedError, match="upstream_no_answer"):
        upstream.exchange(GOOD, 1.0)
    assert upstream.mints == 1


def test_a_read_that_is_not_consistent_misses_the_last_write() -> None:
    dynamodb: Any = FakeDynamoDB()
    key = {"connection": {"S": "digishare"}, "record": {"S": "token"}}
    for number in ("1", "2"):
        dynamodb.put_item(TableName="tokens", Item={**key, "fence": {"N": number}})
    found = [
        dynamodb.get_item(TableName="tokens", Key=key, **asked)["Item"]["fence"]["N"]
        for asked in ({}, {"ConsistentRead": False}, {"ConsistentRead": True})
    ]
    assert found == ["1", "1", "2"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("InvalidCiphertextException", SealBrokenError), ("IncorrectKeyException", SealBrokenError),
        ("DisabledException", AwsRefusedError), ("KMSInvalidStateException", AwsRefusedError),
        ("AccessDeniedException", AwsRefusedError), ("KeyUnavailableException", AwsUnavailableError),
        ("ThrottlingException", AwsBusyError),
    ],
)  # fmt: skip
def test_only_an_error_about_the_ciphertext_is_a_broken_seal(code: str, error: type[Exception]) -> None:
    wire = Wire()
    store = new_store(wire)
    token = Token("0" * 16, 0.0, None, None, None, "v1")

    def fail(_: Operation) -> None:
        raise aws_error(code)

    wire.before = fail
    with pytest.raises(error):
        store.open("digishare", SealedToken(token, b"sealed", 1))


@pytest.mark.parametrize(
    "failure", [aws_error("ThrottlingException"), aws_error("AccessDenied"), no_answer()]
)
def test_a_previous_version_that_cannot_be_read_now_is_none(failure: Exception) -> None:
    wire = Wire()
    fake: Any = FakeSecretsManager(wire)
    for secret in ("first", "second"):
        fake.put("connections/digishare", {"client_id": "c", "client_secret": secret})

    def fail(operation: Operation) -> None:
        if operation.request["VersionStage"] == "AWSPREVIOUS":
            raise failure

    wire.before = fail
    (stored,) = ConnectionSecrets(fake, "connections", "https://x").read("digishare")
    assert stored.stage == "AWSCURRENT"


def test_one_version_that_has_both_stages_is_read_once() -> None:
    fake: Any = FakeSecretsManager()
    fake.put("connections/digishare", {"client_id": "c", "client_secret": "s"})
    stages = fake._secrets["connections/digishare"].stages
    stages["AWSPREVIOUS"] = stages["AWSCURRENT"]
    assert len(ConnectionSecrets(fake, "connections", "https://x").read("digishare")) == 1


def test_a_secret_marked_for_deletion_cannot_be_read() -> None:
    fake: Any = FakeSecretsManager()
    fake.put("connections/digishare", {"client_id": "c", "client_secret": "s"})
    fake.delete("connections/digishare")
    with pytest.raises(MintFailedError, match="secret_missing"):
        ConnectionSecrets(fake, "connections", "https://x").read("digishare")


def test_what_dynamodb_cannot_store_is_refused_before_it_is_sent() -> None:
    with pytest.raises(TypeError, match=r"^set$"):
        to_attribute({"members": {1}})
