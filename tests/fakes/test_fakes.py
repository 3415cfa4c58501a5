"""The fakes keep the promises that moto keeps: the same checks run on both, and random calls get the same answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from functions.broker.client_secret import (
    ClientCredentials,
    ConnectionSecrets,
    SecretMalformedError,
    SecretMissingError,
)
from functions.broker.mint_ledger import Mint, MintLedger, Outcome, read_mints
from functions.broker.oauth_exchange import ExchangeError
from functions.broker.token_record import Failure, PublishedToken, StoreUnavailableError, TokenRecord
from functions.broker.token_store import SealBrokenError, TokenStore
from tests.fakes.aws import FakeDynamoDB, FakeKMS, FakeSecretsManager
from tests.fakes.expressions import UnknownExpressionError
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Operation, Wire, aws_error, no_answer, no_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOW = 1_800_000_000.0
DAY = "2027-01-15"
PREFIX = "token-broker/connections"


@dataclass
class Backend:
    """Clients of one kind, and the operator's hand on the secrets. Clients are Any: the fakes only resemble them."""

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
        return ConnectionSecrets(
            lambda: self.secretsmanager, PREFIX, "https://api.digishare.ma/v1/oauth/token"
        )

    def mints(self) -> list[Mint]:
        return read_mints(self.dynamodb, table="tokens", connection="digishare")


@dataclass
class Moto:
    """moto's clients: made once, since making them takes longer than all that is done with them."""

    dynamodb: Any
    kms: Any
    secretsmanager: Any
    key_arn: str

    def empty(self) -> None:
        """Start over with an empty table and no secrets."""
        for table in self.dynamodb.list_tables()["TableNames"]:
            self.dynamodb.delete_table(TableName=table)
        names = {"connection": "HASH", "record": "RANGE"}
        self.dynamodb.create_table(
            TableName="tokens",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in names.items()],
        )
        for secret in self.secretsmanager.list_secrets()["SecretList"]:
            self.secretsmanager.delete_secret(SecretId=secret["Name"], ForceDeleteWithoutRecovery=True)

    def rotate(self, connection: str, value: object) -> None:
        name, text = f"{PREFIX}/{connection}", value if isinstance(value, str) else json.dumps(value)
        try:
            self.secretsmanager.create_secret(Name=name, SecretString=text)
        except self.secretsmanager.exceptions.ResourceExistsException:
            self.secretsmanager.put_secret_value(SecretId=name, SecretString=text)


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


class Resending:
    """A client whose every write is sent twice, the first answer being lost: what the SDK does after a cut connection."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, operation: str) -> Any:
        send = getattr(self._client, operation)
        if operation not in {"update_item", "put_item"}:
            return send

        def send_twice(**request: Any) -> Any:
            send(**request)
            return send(**request)

        return send_twice


def acquire(
    store: TokenStore, seen: TokenRecord | None = None, *, owner: str = "a"
) -> tuple[bool, TokenRecord]:
    return store.acquire_lock(
        seen or store.read("digishare"), owner=owner, lock_until_epoch_s=NOW + 20.1234, day=DAY
    )


def token_of(lock: TokenRecord, sealed: bytes = b"sealed", **changes: Any) -> PublishedToken:
    token = PublishedToken(
        token_id=f"{lock.fence:016x}",
        sealed=sealed,
        fence=lock.fence,
        generation=lock.generation + 1,
        issued_at_epoch_s=NOW,
        expires_at_epoch_s=NOW + 3600,
        lifetime_s=3600.0,
        scope="campaigns",
        secret_version="v1",
    )
    return replace(token, **changes)


def publish(
    store: TokenStore, lock: TokenRecord, token: PublishedToken | None = None
) -> tuple[bool, TokenRecord]:
    rejections = {"1:role/r": [NOW - 1.0, NOW]}
    return store.publish(lock, token or token_of(lock), next_refresh_at_epoch_s=0.0, rejections=rejections)


def give_back(store: TokenStore, lock: TokenRecord, *, minted: bool = False) -> TokenRecord:
    failure = Failure("upstream_unreachable", terminal=False, secret_version="v1", count=1, at_epoch_s=NOW)
    return store.give_back(
        lock,
        failure=failure,
        next_attempt_at_epoch_s=NOW + 1,
        next_refresh_at_epoch_s=NOW + 300,
        minted=minted,
    )


# --- the token item ----------------------------------------------------------------------------------------------


def test_an_item_that_is_not_there_reads_as_an_empty_record(backend: Backend) -> None:
    assert backend.store.read("digishare") == TokenRecord("digishare")


def test_the_first_of_two_who_saw_the_same_gets_the_lock(backend: Backend) -> None:
    seen = backend.store.read("digishare")
    won, mine = acquire(backend.store, seen)
    lost, theirs = acquire(backend.store, seen, owner="b")
    assert (won, lost) == (True, False)
    assert mine == theirs
    assert (mine.fence, mine.lock_owner, mine.lock_until_epoch_s) == (1, "a", NOW + 20.123)
    assert (mine.mints_day, mine.mints_today) == (DAY, 1)


def test_a_later_acquisition_raises_the_fence_and_goes_by_what_was_seen(backend: Backend) -> None:
    _, first = acquire(backend.store)
    won, second = acquire(backend.store, owner="b")
    assert (won, second.fence, second.mints_today) == (True, 2, 2)
    assert acquire(backend.store, first, owner="c") == (False, second)


def test_an_acquisition_whose_answer_was_lost_is_recognised(backend: Backend) -> None:
    seen = backend.store.read("digishare")
    resending = replace(backend, dynamodb=Resending(backend.dynamodb))
    won, record = acquire(resending.store, seen)
    assert (won, record.fence, record.mints_today) == (True, 1, 1)


def test_a_published_token_reads_back_and_frees_the_lock(backend: Backend) -> None:
    _, lock = acquire(backend.store)
    won, record = publish(backend.store, lock)
    assert won
    assert record == backend.store.read("digishare")
    assert record.token == token_of(lock)
    assert (record.lock_until_epoch_s, record.failure) == (0.0, None)
    assert record.rejections == {"1:role/r": [NOW - 1.0, NOW]}


def test_an_undated_token_drops_the_expiry_and_scope_of_the_one_before(backend: Backend) -> None:
    publish(backend.store, acquire(backend.store)[1])
    _, lock = acquire(backend.store)
    _, record = publish(backend.store, lock, token_of(lock, expires_at_epoch_s=None, scope=None))
    assert record.token is not None
    assert (record.token.expires_at_epoch_s, record.token.scope) == (None, None)


def test_a_publish_with_an_older_fence_is_refused_and_shows_the_winner(backend: Backend) -> None:
    _, old = acquire(backend.store)
    _, new = acquire(backend.store, owner="b")
    won, record = publish(backend.store, old)
    assert (won, record.token) == (False, None)
    publish(backend.store, new)
    won, record = publish(backend.store, old)
    assert (won, record.token) == (False, token_of(new))


def test_one_fence_publishes_once(backend: Backend) -> None:
    _, lock = acquire(backend.store)
    publish(backend.store, lock)
    won, record = publish(backend.store, lock, token_of(lock, token_id="f" * 16))
    assert (won, record.token) == (False, token_of(lock))


def test_a_publish_whose_answer_was_lost_is_recognised(backend: Backend) -> None:
    _, lock = acquire(backend.store)
    resending = replace(backend, dynamodb=Resending(backend.dynamodb))
    assert publish(resending.store, lock)[0]


def test_a_lock_given_back_leaves_the_failure_and_takes_the_mint_off_the_count(backend: Backend) -> None:
    _, lock = acquire(backend.store)
    record = give_back(backend.store, lock)
    assert record == backend.store.read("digishare")
    assert record.failure == Failure(
        "upstream_unreachable", terminal=False, secret_version="v1", count=1, at_epoch_s=NOW
    )
    assert (record.lock_until_epoch_s, record.next_attempt_at_epoch_s, record.mints_today) == (
        0.0,
        NOW + 1,
        0,
    )


def test_a_lock_that_somebody_else_has_taken_over_is_not_given_back(backend: Backend) -> None:
    _, old = acquire(backend.store)
    _, new = acquire(backend.store, owner="b")
    assert give_back(backend.store, old) == new
    assert backend.store.read("digishare") == new


def test_a_give_back_sent_twice_is_the_same_as_once(backend: Backend) -> None:
    _, lock = acquire(backend.store)
    resending = replace(backend, dynamodb=Resending(backend.dynamodb))
    assert give_back(resending.store, lock).mints_today == 0


# --- sealing, secrets, ledger ---------------------------------------------------------------------------------------


def test_a_sealed_token_opens_for_its_connection_and_fence_only(backend: Backend) -> None:
    store, (_, lock) = backend.store, acquire(backend.store)
    sealed = store.seal("digishare", lock.fence, "the-token")
    assert b"the-token" not in sealed
    token = token_of(lock, sealed)
    assert store.open("digishare", token) == "the-token"
    for connection, changed in (
        ("other", token),
        ("digishare", replace(token, fence=token.fence + 1)),
        ("digishare", replace(token, sealed=sealed[:-1] + bytes([sealed[-1] ^ 1]))),
    ):
        with pytest.raises(SealBrokenError):
            store.open(connection, changed)


def test_a_token_too_long_for_one_call_is_not_sealed(backend: Backend) -> None:
    backend.store.seal("digishare", 1, "x" * 4096)
    with pytest.raises(StoreUnavailableError):
        backend.store.seal("digishare", 1, "x" * 4097)


def test_a_rotated_secret_moves_to_previous_and_the_one_before_is_gone(backend: Backend) -> None:
    backend.rotate("other", {"client_id": "c", "client_secret": "first"})
    with pytest.raises(SecretMissingError):
        backend.secrets.read("other", previous=True)
    backend.rotate("other", {"client_id": "c", "client_secret": "second"})
    backend.rotate("other", {"client_id": "c", "client_secret": "third"})
    current, previous = backend.secrets.read("other"), backend.secrets.read("other", previous=True)
    assert isinstance(current.credential, ClientCredentials)
    assert isinstance(previous.credential, ClientCredentials)
    assert (current.credential.client_secret, previous.credential.client_secret) == ("third", "second")
    assert current.version_id != previous.version_id
    assert backend.secrets.read("other").version_id == current.version_id


def test_a_secret_that_is_missing_or_malformed_says_so(backend: Backend) -> None:
    with pytest.raises(SecretMissingError):
        backend.secrets.read("nobody")
    backend.rotate("broken", "not json")
    with pytest.raises(SecretMalformedError) as raised:
        backend.secrets.read("broken")
    assert raised.value.version_id


def test_the_ledger_lists_every_row_oldest_fence_first_across_pages(backend: Backend) -> None:
    publish(backend.store, acquire(backend.store)[1])
    rows = [
        Mint("digishare", fence, NOW + fence, "expired", Outcome.ISSUED, "v1", f"id-{fence}", fence, NOW + 9)
        for fence in (1, 2, 3, 9, 10, 11, 100)
    ]
    direct = Mint("digishare", 0, NOW, "table_away", Outcome.ORPHAN, "v1", "id-direct")
    for row in (*reversed(rows), direct, Mint("other", 5, NOW, "expired", Outcome.BEGUN)):
        backend.ledger.write(row)
    assert backend.mints() == [*rows, direct]


def test_a_row_written_again_takes_the_place_of_the_first(backend: Backend) -> None:
    row = Mint("digishare", 1, NOW, "expired", Outcome.BEGUN, "v1")
    resending = replace(backend, dynamodb=Resending(backend.dynamodb))
    resending.ledger.write(row)
    backend.ledger.write(replace(row, outcome=Outcome.FAILED, error="invalid_client"))
    assert backend.mints() == [replace(row, outcome=Outcome.FAILED, error="invalid_client")]


# --- random calls: the fake answers as moto does ---------------------------------------------------------------------

_CONDITIONS = (
    "",
    "attribute_not_exists(#a)",
    "#a = :x",
    "#a < :x",
    "#a = :x AND #b = :y",
    "#a = :x AND (attribute_not_exists(#b) OR #b < :y)",
    "#b = :y OR NOT #a < :x AND attribute_exists(#b)",
)
_VALUES: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"N": "1"},
        {"N": "2.500"},
        {"N": "-3"},
        {"N": "10"},
        {"S": "10"},
        {"S": ""},
        {"S": "é"},
        {"B": b"\xff"},
        {"M": {"m": {"N": "1.0"}}},
        {"L": [{"N": "0"}, {"S": "x"}]},
    ]
)
_UPDATES = ("SET #a = :x", "SET #a = :x, #b = :y", "SET #b = :y REMOVE #a", "SET #a = :x REMOVE #c")
_CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "update": st.sampled_from(_UPDATES),
            "condition": st.sampled_from(_CONDITIONS),
            "x": _VALUES,
            "y": _VALUES,
        }
    ),
    min_size=1,
    max_size=6,
)


def answer_of(dynamodb: Any, call: dict[str, Any], key: str) -> object:
    """Send one drawn call; return its answer, or the error's code and item."""
    used = f"{call['update']} {call['condition']}"
    request: dict[str, Any] = {
        "TableName": "tokens",
        "Key": {"connection": {"S": key}, "record": {"S": "token"}},
        "UpdateExpression": call["update"],
        "ExpressionAttributeNames": {f"#{name}": name for name in "abc" if f"#{name}" in used},
        "ExpressionAttributeValues": {f":{name}": call[name] for name in "xy" if f":{name}" in used},
        "ReturnValues": "ALL_NEW",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    if call["condition"]:
        request["ConditionExpression"] = call["condition"]
    try:
        return dynamodb.update_item(**request)["Attributes"]
    except ClientError as error:
        return error.response["Error"]["Code"], error.response.get("Item")


def in_full(value: Any) -> Any:
    """Return an answer with numbers compared by value."""
    if isinstance(value, dict):
        return {name: float(member) if name == "N" else in_full(member) for name, member in value.items()}
    return [in_full(member) for member in value] if isinstance(value, list | tuple) else value


def test_random_conditional_updates_get_the_same_answers_as_from_moto(moto: Moto) -> None:
    moto.empty()
    keys = iter(range(10_000))

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(_CALLS)
    def compare(calls: list[dict[str, Any]]) -> None:
        fake, key = FakeDynamoDB(), str(next(keys))
        for call in calls:
            try:
                expected = answer_of(moto.dynamodb, call, key)
            except TypeError:
                return  # moto cannot order values of different types; DynamoDB can: the comparison is false
            assert in_full(answer_of(fake, call, key)) == in_full(expected), call

    compare()


def test_unused_placeholders_and_changed_keys_are_refused(backend: Backend) -> None:
    key = {"connection": {"S": "digishare"}, "record": {"S": "token"}}
    for names, values in (
        ({"#a": "a", "#b": "b"}, {":x": {"N": "1"}}),
        ({"#a": "a"}, {":x": {"N": "1"}, ":y": {"N": "1"}}),
        ({"#a": "record"}, {":x": {"S": "1"}}),
    ):
        request = {"ExpressionAttributeNames": names, "ExpressionAttributeValues": values}
        with pytest.raises(ClientError) as raised:
            backend.dynamodb.update_item(
                TableName="tokens",
                Key=key,
                UpdateExpression="SET #a = :x",
                **{name: value for name, value in request.items() if value},
            )
        assert raised.value.response["Error"]["Code"] == "ValidationException"


# --- the fakes' own hooks -------------------------------------------------------------------------------------------


def test_the_fake_refuses_an_expression_that_it_does_not_know() -> None:
    request = {"ExpressionAttributeNames": {"#a": "a"}, "ExpressionAttributeValues": {":x": {"N": "1"}}}
    key = {"connection": {"S": "digishare"}, "record": {"S": "token"}}
    with pytest.raises(UnknownExpressionError):
        FakeDynamoDB().update_item(TableName="tokens", Key=key, UpdateExpression="ADD #a :x", **request)


def test_the_fake_refuses_placeholders_that_are_not_defined() -> None:
    request = {"ExpressionAttributeNames": {"#a": "a"}, "ExpressionAttributeValues": {":x": {"N": "1"}}}
    key = {"connection": {"S": "digishare"}, "record": {"S": "token"}}
    for missing in request:
        given_only = {name: value for name, value in request.items() if name != missing}
        with pytest.raises(ClientError, match="ValidationException"):
            FakeDynamoDB().update_item(
                TableName="tokens", Key=key, UpdateExpression="SET #a = :x", **given_only
            )


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
        raise ExchangeError("upstream_no_answer", may_have_minted=True)

    wire.after = lose
    with pytest.raises(ExchangeError, match="upstream_no_answer"):
        upstream.exchange(ClientCredentials("c", "good", "https://x"), 1.0)
    assert upstream.mints == 1


def test_a_secret_marked_for_deletion_cannot_be_read() -> None:
    fake = FakeSecretsManager()
    client: Any = fake
    fake.put(f"{PREFIX}/digishare", {"client_id": "c", "client_secret": "s"})
    fake.delete(f"{PREFIX}/digishare")
    with pytest.raises(SecretMissingError):
        ConnectionSecrets(lambda: client, PREFIX, "https://x").read("digishare")


def test_an_injected_error_carries_its_code() -> None:
    assert aws_error("ThrottlingException").response["Error"]["Code"] == "ThrottlingException"
