"""Everything that the upstream can do wrong, over real sockets: with no token yet, and with a soft one in service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from functions.broker.mint_ledger import Outcome
from local.digishare import faults
from local.digishare.model import Client
from tests.faults.bench import Timed, ask, set_constants
from tests.faults.upstream_cases import A_TOKEN, CASES, LEFTOVERS, ODD_LIFETIMES, ODD_WRAPPINGS

if TYPE_CHECKING:
    from local.fake_digishare import FakeDigishare
    from tests.faults.bench import Operator
    from tests.faults.conftest import Bench
    from tests.faults.upstream_cases import Case

EXCHANGE_TIMEOUT_S = 0.5
SLACK_S = 1.0


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange's time-out is shortened from 5 s, so that the cases of silence are quick."""
    set_constants(monkeypatch, EXCHANGE_TIMEOUT_S=EXCHANGE_TIMEOUT_S)


@pytest.mark.usefixtures("short_timeout")
@pytest.mark.parametrize("name", CASES)
def test_without_a_token_a_fault_is_answered_in_time_and_everybody_backs_off(
    name: str, bench: Bench, digishare: FakeDigishare
) -> None:
    case, connection = CASES[name], bench.operator.new_connection()
    digishare.fail("token", case.fault, times=None)
    answer = ask(bench.one, connection)

    assert answer.took_s < EXCHANGE_TIMEOUT_S + SLACK_S
    assert_refused(answer, case)
    assert_remembered(bench.operator, connection, case)
    (row,) = bench.operator.rows(connection)
    assert (row.outcome, row.token_id) == (case.row, "")
    assert row.error == (case.code if case.row is Outcome.FAILED else "")
    assert len(digishare.mints) == case.mints
    assert len(digishare.calls) == 1

    # Another instance, at once: it waits like everybody else, and leaves the upstream alone.
    bench.operator.change(connection, next_attempt_at_epoch_s=time.time() + max(10, case.retry_after_s))
    assert ask(bench.other, connection).status == case.status
    assert len(digishare.calls) == 1


def assert_refused(answer: Timed, case: Case) -> None:
    assert answer.status == case.status
    assert "access_token" not in answer.body
    if case.status == 502:
        assert answer.body["error"] == "upstream_rejected"
        assert "Retry-After" not in answer.headers
    else:
        assert answer.body["error"] == "temporarily_unavailable"
        assert case.retry_after_s - 2 <= int(answer.headers["Retry-After"]) <= case.retry_after_s


def assert_remembered(operator: Operator, connection: str, case: Case) -> None:
    record = operator.record(connection)
    assert record.failure is not None
    assert (record.failure.code, record.failure.count) == (case.code, 1)
    assert record.failure.terminal == (case.status == 502)
    assert record.lock_until_epoch_s == 0
    assert record.mints_today == (1 if case.row is Outcome.BEGUN else 0)


@pytest.mark.usefixtures("short_timeout")
@pytest.mark.parametrize("name", CASES)
def test_a_soft_token_stays_in_service_through_a_fault(
    name: str, bench: Bench, digishare: FakeDigishare
) -> None:
    case, connection = CASES[name], bench.operator.new_connection()
    old = ask(bench.one, connection).token_id
    bench.operator.leave(connection, 120)
    digishare.fail("token", case.fault, times=None)
    answer = ask(bench.other, connection)

    assert (answer.status, answer.token_id) == (200, old)
    assert 0 < answer.body["expires_in"] <= 120
    assert answer.took_s < EXCHANGE_TIMEOUT_S + SLACK_S
    assert_remembered_beside_a_token(bench.operator, connection, case)
    assert [row.outcome for row in bench.operator.rows(connection)] == [Outcome.ISSUED, case.row]

    # It stays so, for both instances, without another try.
    assert ask(bench.one, connection).token_id == ask(bench.other, connection).token_id == old
    assert len(digishare.calls) == 2


def assert_remembered_beside_a_token(operator: Operator, connection: str, case: Case) -> None:
    record, now = operator.record(connection), time.time()
    assert record.token is not None
    assert record.token.generation == 1
    assert record.failure is not None
    assert record.failure.code == case.code
    assert 300 - SLACK_S < record.next_refresh_at_epoch_s - now < 600
    assert record.next_attempt_at_epoch_s - now <= max(60, case.retry_after_s)
    assert record.lock_until_epoch_s == 0


@pytest.mark.usefixtures("short_timeout")
@pytest.mark.parametrize("name", ["500", "429", "hang", "invalid_client"])
def test_a_hard_token_is_served_when_the_fault_is_known(
    name: str, bench: Bench, digishare: FakeDigishare
) -> None:
    connection = bench.operator.new_connection()
    old = ask(bench.one, connection).token_id
    bench.operator.leave(connection, 30)
    digishare.fail("token", CASES[name].fault, times=None)
    answer = ask(bench.other, connection)

    assert (answer.status, answer.token_id) == (200, old)
    assert 0 < answer.body["expires_in"] <= 30


def test_an_expired_token_is_not_served_and_the_wait_is_bounded_by_the_real_timeout(
    bench: Bench, digishare: FakeDigishare
) -> None:
    connection = bench.operator.new_connection()
    ask(bench.one, connection)
    bench.operator.leave(connection, -1)
    digishare.fail("token", faults.hang(cap_s=8))
    answer = ask(bench.other, connection)

    assert 5 <= answer.took_s < 5 + SLACK_S
    assert_refused(answer, CASES["hang"])


def test_a_soft_refresh_takes_two_seconds_at_most(bench: Bench, digishare: FakeDigishare) -> None:
    connection = bench.operator.new_connection()
    old = ask(bench.one, connection).token_id
    bench.operator.leave(connection, 120)
    digishare.fail("token", faults.hang(cap_s=8))
    answer = ask(bench.other, connection)

    assert (answer.status, answer.token_id) == (200, old)
    assert answer.took_s < 2.5


@pytest.mark.parametrize("name", ODD_LIFETIMES)
def test_an_odd_lifetime_is_capped_never_infinite(name: str, bench: Bench, digishare: FakeDigishare) -> None:
    member, longest_s = ODD_LIFETIMES[name]
    connection = bench.operator.new_connection()
    text = f'{{"token_type": "Bearer", "access_token": "{A_TOKEN}"{member}}}'
    digishare.fail("token", faults.json_answer(text))
    answer = ask(bench.one, connection)

    assert (answer.status, answer.body["access_token"]) == (200, A_TOKEN)
    assert 0 < answer.body["expires_in"] <= min(longest_s, 900)
    token = bench.operator.record(connection).token
    assert token is not None
    assert token.expires_at_epoch_s is not None
    assert longest_s - 5 < token.expires_at_epoch_s - time.time() <= longest_s


@pytest.mark.parametrize("name", ODD_WRAPPINGS)
def test_a_good_token_is_used_however_it_is_wrapped(
    name: str, bench: Bench, digishare: FakeDigishare
) -> None:
    connection = bench.operator.new_connection()
    digishare.fail("token", ODD_WRAPPINGS[name])
    answer = ask(bench.one, connection)

    assert answer.status == 200, answer.body
    (mint,) = digishare.mints
    assert answer.token_id == mint.token_id
    (row,) = bench.operator.rows(connection)
    assert (row.outcome, row.token_id) == (Outcome.ISSUED, mint.token_id)
    assert len(digishare.calls) == 1


@pytest.mark.usefixtures("short_timeout")
@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_is_left_of_an_answer_is_never_another_connections_token(
    name: str, bench: Bench, digishare: FakeDigishare
) -> None:
    digishare.set_clients([Client("one", ("one's",)), Client("other", ("other's",))])
    digishare.fail("token", LEFTOVERS[name])
    ask(bench.one, bench.operator.new_connection(client_id="one", client_secret="one's"))
    answer = ask(bench.one, bench.operator.new_connection(client_id="other", client_secret="other's"))

    assert answer.status == 200, answer.body
    assert [mint.token_id for mint in digishare.mints if mint.client_id == "other"] == [answer.token_id]
