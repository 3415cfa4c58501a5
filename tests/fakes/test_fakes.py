"""The fakes keep the promises that moto keeps: the same checks of store, secrets and ledger run on both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker.client_secret import ClientCredentials, SecretMalformedError, SecretMissingError
from functions.broker.mint_ledger import Mint, Outcome
from functions.broker.token_record import Failure, PublishedToken, StoreUnavailableError, TokenRecord
from functions.broker.token_store import SealBrokenError

if TYPE_CHECKING:
    from functions.broker.token_store import TokenStore
    from tests.fakes.backends import Backend

NOW = 1_800_000_000.0
DAY = "2027-01-15"


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
