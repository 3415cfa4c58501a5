"""Everything that the upstream can do wrong, over real sockets: with no token yet, and with a due one in service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from local.digishare import faults
from tests.faults.instances import ONE_ATTEMPT_S, SHORT_EXCHANGE_S, Timed, ask
from tests.faults.upstream_cases import A_TOKEN, CASES, ODD_LIFETIMES, ODD_WRAPPINGS
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from functions.broker.token import TokenRecord
    from local.fake_digishare import FakeDigishare
    from tests.faults.instances import Instances
    from tests.faults.upstream_cases import Case

SLACK_S = 3.0


@pytest.mark.usefixtures("short_exchange")
@pytest.mark.parametrize("name", CASES)
def test_without_a_token_a_fault_is_answered_in_time_and_everybody_backs_off(
    name: str, instances: Instances, digishare: FakeDigishare
) -> None:
    case, connection = CASES[name], instances.operator.new_connection()
    digishare.fail("token", case.fault, times=None)
    answer = ask(instances.one, connection, ONE_ATTEMPT_S)

    assert answer.took_s < SHORT_EXCHANGE_S + SLACK_S
    assert_refused(answer, case)
    record = instances.operator.record(connection)
    assert_remembered(record, case)
    assert int(record.exchanges_left(time.time())) == (23 if case.row is Outcome.BEGUN else 24)
    (row,) = instances.operator.rows(connection)
    assert (row.outcome, row.token) == (case.row, None)
    assert row.error == (case.code if case.row is Outcome.FAILED else "")
    assert len(digishare.mints) == case.mints
    assert len(digishare.calls) == 1

    # Another instance waits, too, and does not ask the upstream.
    not_before = time.time() + max(10, case.retry_after_s)
    instances.operator.change(connection, {"failure.not_before_epoch_s": not_before})
    assert ask(instances.other, connection, ONE_ATTEMPT_S).status == case.status
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


def assert_remembered(record: TokenRecord, case: Case) -> None:
    assert record.failure is not None
    assert (record.failure.code, record.failure.count) == (case.code, 1)
    assert record.lock is None


@pytest.mark.usefixtures("short_exchange")
@pytest.mark.parametrize("name", CASES)
def test_a_due_token_is_served_in_a_fault(name: str, instances: Instances, digishare: FakeDigishare) -> None:
    case, connection = CASES[name], instances.operator.new_connection()
    old = ask(instances.one, connection).token_id
    instances.operator.leave(connection, 120)
    digishare.fail("token", case.fault, times=None)
    answer = ask(instances.other, connection)

    assert (answer.status, answer.token_id) == (200, old)
    assert 0 < answer.body["expires_in"] <= 120
    assert answer.took_s < SHORT_EXCHANGE_S + SLACK_S
    record, now = instances.operator.record(connection), time.time()
    assert_remembered(record, case)
    assert record.generation == 1
    # Nobody tries again before half of the time that is left, or before a refused version may be tried again.
    assert record.failure is not None
    again_at = max(record.refresh_at_epoch_s, record.failure.not_before_epoch_s)
    assert again_at - now > 60 - SHORT_EXCHANGE_S - SLACK_S
    assert [row.outcome for row in instances.operator.rows(connection)] == [Outcome.ISSUED, case.row]
    assert ask(instances.one, connection).token_id == ask(instances.other, connection).token_id == old
    assert len(digishare.calls) == 2


@pytest.mark.usefixtures("short_exchange")
@pytest.mark.parametrize("name", ["500", "429 with seconds", "hang", "invalid_client"])
def test_an_expired_token_is_never_served(name: str, instances: Instances, digishare: FakeDigishare) -> None:
    connection = instances.operator.new_connection()
    ask(instances.one, connection)
    instances.operator.leave(connection, -1)
    digishare.fail("token", CASES[name].fault, times=None)

    assert_refused(ask(instances.other, connection, ONE_ATTEMPT_S), CASES[name])


@pytest.mark.parametrize("name", ["500", "429", "reset"])
def test_a_short_fault_costs_only_time(name: str, instances: Instances, digishare: FakeDigishare) -> None:
    connection = instances.operator.new_connection()
    digishare.fail("token", CASES[name].fault)
    answer = ask(instances.one, connection)

    assert answer.status == 200
    assert instances.operator.issued(connection) == [answer.token_id]
    assert [row.outcome for row in instances.operator.rows(connection)] == [CASES[name].row, Outcome.ISSUED]


@pytest.mark.parametrize("name", ODD_LIFETIMES)
def test_an_odd_lifetime_is_read_or_taken_for_a_day_and_never_infinite(
    name: str, instances: Instances, digishare: FakeDigishare
) -> None:
    member, lifetime_s = ODD_LIFETIMES[name]
    connection = instances.operator.new_connection()
    text = f'{{"token_type": "Bearer", "access_token": "{A_TOKEN}"{member}}}'
    digishare.fail("token", faults.json_answer(text))
    answer = ask(instances.one, connection)

    assert (answer.status, answer.body["access_token"], answer.body["expires_in"]) == (200, A_TOKEN, 900)
    sealed = instances.operator.record(connection).token
    assert sealed is not None
    assert sealed.token.span_s == pytest.approx(lifetime_s, abs=0.01)


@pytest.mark.parametrize("name", ODD_WRAPPINGS)
def test_an_oddly_wrapped_token_is_used(name: str, instances: Instances, digishare: FakeDigishare) -> None:
    connection = instances.operator.new_connection()
    digishare.fail("token", ODD_WRAPPINGS[name])
    answer = ask(instances.one, connection)

    assert answer.status == 200, answer.body
    (mint,) = digishare.mints
    assert answer.token_id == mint.token_id
    assert instances.operator.issued(connection) == [mint.token_id]
    assert len(digishare.calls) == 1
