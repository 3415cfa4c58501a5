"""The fakes behave as moto does: the same checks of store, secrets and ledger run on both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker.adapters.client_secret import ClientCredentials, PersonalAccessToken
from functions.broker.adapters.dynamodb import token_key
from functions.broker.adapters.token_store import SealBrokenError
from functions.broker.ports import AwsRefusedError, MintFailedError
from functions.broker.token import Failure, FailureKind, Lock, Pace, SealedToken, TokenRecord
from token_broker.issued_token import Token, token_id_of
from token_broker.ledger_row import Mint, Outcome

if TYPE_CHECKING:
    from functions.broker.adapters.token_store import TokenStore
    from tests.fakes.backends import Backend

NOW = 1_800_000_000.0
LOST = Failure("holder_lost", FailureKind.MAY_HAVE_ISSUED, 1, NOW + 14.5)
FAILED = Failure("upstream_unreachable", FailureKind.NOTHING_ISSUED, 2, NOW + 1.5)
REPORTS = {"1:role/r": [NOW - 1.0, NOW]}


def acquire(store: TokenStore, seen: TokenRecord | None = None, *, owner: str = "a") -> TokenRecord | None:
    seen = seen or store.read("digishare")
    lock = Lock(owner, NOW + 14.5124)
    after = seen._replace(
        fence=seen.fence + 1, lock=lock, pace=Pace(22.5, NOW), failure=LOST, refresh_at_epoch_s=NOW + 30
    )
    return store.write(seen, after)


def locked(store: TokenStore, *, owner: str = "a") -> TokenRecord:
    lock = acquire(store, owner=owner)
    assert lock is not None
    return lock


def token_of(access_token: str = "the-token", **changes: Any) -> Token:
    token = Token(
        token_id=token_id_of(access_token),
        issued_at_epoch_s=NOW,
        expires_at_epoch_s=NOW + 3600.25,
        lifetime_s=3600.25,
        scope="campaigns",
        secret_version="v1",
        version_stage="AWSPREVIOUS",
    )
    return token._replace(**changes)


def publish(store: TokenStore, record: TokenRecord, sealed: SealedToken | None = None) -> TokenRecord | None:
    sealed = sealed or SealedToken(token_of(), b"sealed", record.fence)
    after = TokenRecord(
        record.connection, sealed, record.generation + 1, record.fence, pace=record.pace, reports=REPORTS
    )
    return store.write(record, after)


def given_back(record: TokenRecord, failure: Failure | None = FAILED) -> TokenRecord:
    return record._replace(
        lock=None, failure=failure, refresh_at_epoch_s=NOW + 300, refused_versions=("v1", "v0"),
        pace=Pace(23.5, NOW)
    )  # fmt: skip


# --- the token item ----------------------------------------------------------------------------------------------


def test_an_item_that_is_not_there_reads_as_an_empty_record(backend: Backend) -> None:
    assert backend.store.read("digishare") == TokenRecord("digishare")


def test_the_first_of_two_who_saw_the_same_gets_the_lock(backend: Backend) -> None:
    seen = backend.store.read("digishare")
    mine = acquire(backend.store, seen)
    assert acquire(backend.store, seen, owner="b") is None
    assert mine == backend.store.read("digishare")
    assert mine == TokenRecord(
        "digishare",
        fence=1,
        lock=Lock("a", NOW + 14.512),
        pace=Pace(22.5, NOW),
        failure=LOST,
        refresh_at_epoch_s=NOW + 30,
    )


def test_a_lock_is_taken_only_if_fence_and_lock_are_as_seen(backend: Backend) -> None:
    first = locked(backend.store)
    second = acquire(backend.store, first, owner="b")
    assert second is not None
    assert second.fence == 2
    assert acquire(backend.store, first, owner="c") is None
    assert acquire(backend.store, second._replace(lock=Lock("c", NOW + 14.5)), owner="c") is None
    assert acquire(backend.store, second._replace(lock=None), owner="c") is None
    backend.store.write(second, given_back(second))
    assert acquire(backend.store, second, owner="c") is None  # the lock that was seen is no longer there


def test_a_published_token_reads_back_and_removes_lock_and_failures(backend: Backend) -> None:
    first = locked(backend.store)
    backend.store.write(first, given_back(first))
    lock = locked(backend.store)
    assert lock.refused_versions == ("v1", "v0")
    record = publish(backend.store, lock)
    assert record == backend.store.read("digishare")
    assert record == TokenRecord(
        "digishare",
        SealedToken(token_of(), b"sealed", 2),
        generation=1,
        fence=2,
        pace=Pace(22.5, NOW),
        reports=REPORTS,
    )


def test_a_token_without_expiry_lifetime_and_scope_removes_those_of_the_one_before(backend: Backend) -> None:
    publish(backend.store, locked(backend.store))
    bare = token_of(expires_at_epoch_s=None, lifetime_s=None, scope=None)
    record = publish(backend.store, locked(backend.store), SealedToken(bare, b"sealed", 2))
    assert record is not None
    assert record.token is not None
    assert (record.token.token, record.generation) == (bare, 2)


def test_only_the_owner_of_the_newest_fence_publishes(backend: Backend) -> None:
    old = locked(backend.store)
    new = locked(backend.store, owner="b")
    assert publish(backend.store, old) is None
    assert publish(backend.store, new._replace(lock=Lock("a", NOW)), SealedToken(token_of(), b"x", 2)) is None
    assert publish(backend.store, new) is not None
    assert publish(backend.store, old) is None


def test_one_lock_publishes_once_and_recognises_its_publish(backend: Backend) -> None:
    lock = locked(backend.store)
    published = publish(backend.store, lock)
    assert publish(backend.store, lock) == published  # the answer to the first was lost
    assert publish(backend.store, lock, SealedToken(token_of("other"), b"other", lock.fence)) is None
    assert backend.store.read("digishare") == published


def test_a_lock_given_back_leaves_the_failure_and_the_refused_versions(backend: Backend) -> None:
    for failure in (FAILED, None):
        lock = locked(backend.store)
        after = given_back(lock, failure)
        assert backend.store.write(lock, after) == after
        assert backend.store.read("digishare") == after


def test_a_lock_may_be_all_that_is_removed(backend: Backend) -> None:
    lock = locked(backend.store)
    assert backend.store.write(lock, lock._replace(lock=None)) == lock._replace(lock=None)
    assert backend.store.read("digishare") == lock._replace(lock=None)


def test_only_what_differs_is_written(backend: Backend) -> None:
    lock = locked(backend.store)
    backend.dynamodb.update_item(
        TableName="tokens",
        Key=token_key("digishare"),
        UpdateExpression="SET #format = :two, #later = :x",
        ExpressionAttributeNames={"#format": "format", "#later": "of_a_later_version"},
        ExpressionAttributeValues={":two": {"N": "2"}, ":x": {"S": "x"}},
    )
    publish(backend.store, lock)
    item = backend.item()
    assert (item["format"], item["of_a_later_version"]) == ({"N": "2"}, {"S": "x"})


def test_a_lock_that_somebody_else_has_taken_over_is_not_given_back(backend: Backend) -> None:
    old = locked(backend.store)
    new = locked(backend.store, owner="b")
    assert backend.store.write(old, given_back(old)) is None
    assert backend.store.read("digishare") == new


TEXT, NUMBER = {"S": "x"}, {"N": "1"}
FAILURE = {"code": TEXT, "kind": {"S": "refused"}, "count": NUMBER, "not_before_epoch_s": NUMBER}


def item_with_token(**members: Any) -> dict[str, Any]:
    token: dict[str, Any] = {
        "token_id": {"S": "0" * 16}, "issued_at_epoch_s": NUMBER, "secret_version": TEXT,
        "sealed": {"B": b"sealed"},
        "version_stage": {"S": "AWSCURRENT"}, "fence": NUMBER,
    }  # fmt: skip
    return {"token": {"M": token | members}}


@pytest.mark.parametrize(
    "written",
    [
        {"generation": TEXT},
        {"fence": {"L": []}},
        {"token": {"M": {"token_id": TEXT}}},
        item_with_token(issued_at_epoch_s=TEXT),
        item_with_token(expires_at_epoch_s={"S": "nan"}),
        item_with_token(lifetime_s=TEXT),
        item_with_token(fence=TEXT),
        {"lock_owner": {"S": "a"}},
        {"lock_owner": {"S": "a"}, "lock_until_epoch_s": TEXT},
        {"pace": TEXT},
        {"pace": {"M": {"left": TEXT, "since_epoch_s": NUMBER}}},
        {"pace": {"M": {"left": NUMBER, "since_epoch_s": TEXT}}},
        {"failure": {"M": FAILURE | {"kind": TEXT}}},
        {"failure": {"M": FAILURE | {"not_before_epoch_s": TEXT}}},
        {"refresh_at_epoch_s": TEXT},
        {"refused_versions": NUMBER},
        {"reports": TEXT},
        {"reports": {"M": {"1:role/r": NUMBER}}},
        {"reports": {"M": {"1:role/r": {"L": [TEXT]}}}},
    ],
)
def test_an_item_that_somebody_has_changed_is_malformed(backend: Backend, written: dict[str, Any]) -> None:
    item = {**token_key("digishare"), "fence": {"N": "1"}, "generation": {"N": "0"}, **written}
    backend.dynamodb.put_item(TableName="tokens", Item=item)
    with pytest.raises(AwsRefusedError, match=r"^MalformedItem$"):
        backend.store.read("digishare")


# --- sealing ----------------------------------------------------------------------------------------------------------


def test_a_sealed_token_opens_for_its_connection_fence_expiry_and_id_only(backend: Backend) -> None:
    store, token = backend.store, token_of()
    sealed = store.seal("digishare", 7, token, "the-token")
    assert b"the-token" not in sealed.sealed
    assert store.open("digishare", sealed) == "the-token"
    flipped = sealed.sealed[:-1] + bytes([sealed.sealed[-1] ^ 1])
    for connection, changed in (
        ("other", sealed),
        ("digishare", sealed._replace(fence=8)),
        ("digishare", sealed._replace(sealed=flipped)),
        ("digishare", sealed._replace(token=token._replace(expires_at_epoch_s=NOW + 3600.26))),
        ("digishare", sealed._replace(token=token._replace(expires_at_epoch_s=None))),
        ("digishare", sealed._replace(token=token._replace(token_id="0" * 16))),
    ):
        with pytest.raises(SealBrokenError):
            store.open(connection, changed)


def test_an_expiry_that_was_read_from_the_item_opens_what_was_sealed(backend: Backend) -> None:
    lock = locked(backend.store)
    for expires_at in (NOW + 0.1, NOW, None, NOW + 1234.567):
        token = token_of(expires_at_epoch_s=expires_at)
        publish(backend.store, lock, backend.store.seal("digishare", lock.fence, token, "the-token"))
        record = backend.store.read("digishare")
        assert record.token is not None
        assert backend.store.open("digishare", record.token) == "the-token"
        lock = locked(backend.store)


def test_a_token_too_long_for_one_call_is_not_sealed(backend: Backend) -> None:
    backend.store.seal("digishare", 1, token_of(), "x" * 4096)
    with pytest.raises(AwsRefusedError):
        backend.store.seal("digishare", 1, token_of(), "x" * 4097)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_the_current_and_the_previous_version_are_read_and_older_ones_are_gone(backend: Backend) -> None:
    for secret in ("first", "second", "third"):
        backend.rotate("other", {"client_id": "c", "client_secret": secret})
        found = backend.secrets.read("other")
    credentials = [stored.credential for stored in found]
    assert all(isinstance(credential, ClientCredentials) for credential in credentials)
    assert [getattr(credential, "client_secret", "") for credential in credentials] == ["third", "second"]
    assert [stored.stage for stored in found] == ["AWSCURRENT", "AWSPREVIOUS"]
    assert len({stored.version_id for stored in found}) == 2


def test_a_previous_version_that_is_no_credential_is_none(backend: Backend) -> None:
    backend.rotate("other", "not json")
    backend.rotate("other", {"client_id": "c", "client_secret": "s"})
    assert [stored.stage for stored in backend.secrets.read("other")] == ["AWSCURRENT"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("not json", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"client_id":"c"}', "client_secret"),
        ("{\0}", "UTF-16"),
        (b'{"client_id": "c", "client_secret": "s"}', "binary"),
        ('{"client_id": "c", "client_secret": "s"}'.encode("utf-16"), "binary"),
        ({"client_id": "", "client_secret": "s"}, "client_id"),
        ({"client_id": "c", "client_secret": "é"}, "client_secret"),
        ({"client_id": "c", "client_secret": "s", "token_url": 5}, "token_url"),
        ({"client_id": "c", "client_secret": "s", "scope": ["a"]}, "scope"),
        ({"type": "api_key"}, "`type`"),
        ({"client_id": "c", "client_secret": "s\n"}, "client_secret"),
        ({"type": "personal_access_token", "access_token": "two words"}, "access_token"),
        ({"type": "personal_access_token", "access_token": "x" * 4097}, "access_token"),
        ("[" * 5000, "not JSON"),
    ],
)
def test_a_secret_that_is_malformed_says_what_is_wrong(backend: Backend, value: object, problem: str) -> None:
    backend.rotate("broken", value)
    with pytest.raises(MintFailedError, match="secret_malformed") as raised:
        backend.secrets.read("broken")
    assert problem in raised.value.problem


def test_what_a_credential_does_not_name_is_filled_in(backend: Backend) -> None:
    backend.rotate("bare", {"client_id": "c", "client_secret": "s"})
    full = {"client_id": "c", "client_secret": "s", "token_url": "https://x/t", "scope": "a b"}
    backend.rotate("bare", full)
    current, bare = (stored.credential for stored in backend.secrets.read("bare"))
    assert bare == ClientCredentials("c", "s", "https://api.digishare.ma/v1/oauth/token", None)
    assert current == ClientCredentials("c", "s", "https://x/t", "a b")


def test_a_personal_access_token_may_have_4096_characters(backend: Backend) -> None:
    longest = "x" * 4096
    backend.rotate("personal", {"type": "personal_access_token", "access_token": longest})
    assert backend.secrets.read("personal")[0].credential == PersonalAccessToken(longest)


def test_a_byte_order_mark_is_no_problem(backend: Backend) -> None:
    backend.rotate("marked", '\ufeff{"type": "personal_access_token", "access_token": "pat"}')
    assert backend.secrets.read("marked")[0].credential == PersonalAccessToken("pat")


def test_a_secret_that_is_missing_says_so(backend: Backend) -> None:
    with pytest.raises(MintFailedError, match="secret_missing"):
        backend.secrets.read("nobody")


def test_item_and_row_say_their_format(backend: Backend) -> None:
    locked(backend.store)
    backend.ledger.begin(row_of(1))
    for record in ("token", "mint#0000000001#a"):
        assert backend.item(record)["format"] == {"N": "1"}


# --- the ledger -------------------------------------------------------------------------------------------------------


def row_of(fence: int, owner: str = "a", **changes: Any) -> Mint:
    return replace(Mint("digishare", fence, owner, NOW + fence, "expired", "1:role/r", "v1"), **changes)


def test_the_ledger_lists_every_row_oldest_fence_first_across_pages(backend: Backend) -> None:
    publish(backend.store, locked(backend.store))
    rows = [row_of(fence) for fence in (1, 2, 3, 9, 10, 11, 100)]
    restored = row_of(2, "b")
    for row in (*reversed(rows), restored, replace(row_of(5), connection="other")):
        backend.ledger.begin(row)
    assert backend.mints() == [*rows[:2], restored, *rows[2:]]


def test_a_row_is_begun_once(backend: Backend) -> None:
    backend.ledger.begin(row_of(1))
    with pytest.raises(AwsRefusedError):
        backend.ledger.begin(row_of(1))
    backend.ledger.begin(row_of(1, "b"))


def test_the_outcome_replaces_begun_and_may_be_written_again(backend: Backend) -> None:
    backend.ledger.begin(row_of(1))
    failed = row_of(1, outcome=Outcome.FAILED, error="invalid_client")
    backend.ledger.complete(failed)
    assert backend.mints() == [failed]
    issued = row_of(2, outcome=Outcome.ISSUED, token=token_of(), jti="5f2b")
    backend.ledger.complete(issued)
    backend.ledger.complete(issued)
    assert backend.mints() == [failed, issued]


def test_a_rows_token_never_changes(backend: Backend) -> None:
    issued = row_of(1, outcome=Outcome.ISSUED, token=token_of())
    backend.ledger.complete(issued)
    for other in (replace(issued, token=token_of("other")), row_of(1, outcome=Outcome.FAILED)):
        with pytest.raises(AwsRefusedError):
            backend.ledger.complete(other)
    assert backend.mints() == [issued]


@pytest.mark.parametrize(
    ("row", "deleted_after_s"),
    [
        (row_of(0), 401 * 86_400),
        (row_of(0, outcome=Outcome.FAILED), 7 * 86_400),
        (row_of(0, outcome=Outcome.ISSUED, token=token_of()), 86_400 + 3600),
        (row_of(0, outcome=Outcome.ISSUED, token=token_of(lifetime_s=None)), 401 * 86_400),
        (row_of(0, outcome=Outcome.ISSUED, token=token_of(lifetime_s=None, expires_at_epoch_s=None)), None),
    ],
)
def test_a_row_outlives_its_token(backend: Backend, row: Mint, deleted_after_s: float | None) -> None:
    backend.ledger.complete(row)
    found = backend.item("mint#0000000000#a").get("delete_after_epoch_s")
    assert (found and float(found["N"])) == (None if deleted_after_s is None else NOW + deleted_after_s)
