"""When the broker is asked, who waits for it, and what is served meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, patch

import pytest

from local.waiting import wait_until
from tests.client.fake_broker import FakeBroker, failure
from token_broker.client import _Question
from token_broker.errors import (
    AccessDenied,
    BrokerUnreachable,
    CredentialsUnavailable,
    SlowDown,
    TemporarilyUnavailable,
)
from token_broker.lease import Need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.client.conftest import Clock, NewClient
    from token_broker.client import BrokerClient
    from token_broker.lease import Lease


def in_threads(count: int, act: Callable[[], Lease]) -> list[Lease]:
    """Call `act` in `count` threads that start together."""
    gate = threading.Barrier(count)

    def run(_: int) -> Lease:
        gate.wait(10)
        return act()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@contextmanager
def unanswered_call(broker: FakeBroker, client: BrokerClient) -> Iterator[Future[Lease]]:
    """A thread asks the broker, which answers at the end of the block."""
    broker.was_asked.clear()
    broker.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.token)
        assert broker.was_asked.wait(10)
        yield asking
        broker.may_answer.set()


def test_lease_counts_from_before_the_request(broker: FakeBroker, client: BrokerClient, clock: Clock) -> None:
    lease = client.token()

    assert (lease.access_token, lease.token_id) == (broker.token, broker.token_id)
    assert lease.connection == "digishare"
    assert lease.expires_at == clock.now + 900
    assert lease.expires_in_s(clock.now + 100) == 800


def test_32_threads_make_one_call(broker: FakeBroker, client: BrokerClient) -> None:
    leases = in_threads(32, client.token)

    assert len(broker.calls) == 1
    assert len(set(leases)) == 1


def test_memory_serves_until_80_percent(broker: FakeBroker, client: BrokerClient, clock: Clock) -> None:
    first = client.token()

    clock.now += 719
    assert client.token() is first
    assert client.fresh_lease() is first
    clock.now += 1
    assert client.fresh_lease() is None
    assert client.token().expires_at == clock.now + 900
    assert len(broker.calls) == 2


def test_all_but_one_thread_are_served_the_old_lease_while_the_next_is_fetched(
    broker: FakeBroker, client: BrokerClient, clock: Clock
) -> None:
    old = client.token()
    clock.now += 800
    with unanswered_call(broker, client) as refresh:
        assert in_threads(8, client.token) == [old] * 8
        assert client.fresh_lease() is old
    assert refresh.result().expires_at == clock.now + 900
    assert len(broker.calls) == 2


@pytest.mark.parametrize(("status", "code"), [(503, "temporarily_unavailable"), (403, "access_denied")])
def test_valid_lease_is_served_while_the_broker_gives_no_other(
    status: int,
    code: str,
    broker: FakeBroker,
    client: BrokerClient,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old = client.token()
    clock.now += 800
    broker.script.append(failure(status, code))

    assert client.token() is old
    assert client.token() is old  # and the broker is not asked for a while
    assert client.fresh_lease() is old
    assert len(broker.calls) == 2
    assert old.token_id in caplog.text
    clock.now += 11
    assert client.token() is not old


def test_after_expiry_a_refusal_is_told_once(broker: FakeBroker, client: BrokerClient, clock: Clock) -> None:
    client.token()
    clock.now += 900
    broker.script.append(failure(403, "access_denied"))

    with pytest.raises(AccessDenied):
        client.token()
    assert len(broker.calls) == 2


def test_lease_that_ends_meanwhile_is_refused(broker: FakeBroker, client: BrokerClient, clock: Clock) -> None:
    client.token()
    clock.now += 899
    broker.script.append(failure(403, "access_denied"))
    with unanswered_call(broker, client) as refresh:
        clock.now += 2
    with pytest.raises(AccessDenied):
        refresh.result()


def test_clock_set_back_ends_trust_in_a_lease(broker: FakeBroker, client: BrokerClient, clock: Clock) -> None:
    client.token()
    clock.now -= 3600

    assert client.token().expires_at == clock.now + 900


def ask_one_after_the_other(
    client: BrokerClient, acts: list[Callable[[], Lease]], asked: threading.Event, may_end: threading.Event
) -> list[Any]:
    """Return what each returned or raised: the first has `asked`, all others wait for it before it `may_end`."""
    with ThreadPoolExecutor(len(acts)) as pool:
        outcomes = [pool.submit(acts[0])]
        assert asked.wait(10)
        question = client._question
        assert question is not None
        waiting, wait = threading.Semaphore(0), question.is_over.wait

        def wait_and_tell(timeout: float | None = None) -> bool:
            waiting.release()
            return wait(timeout)

        question.is_over.wait = wait_and_tell  # type: ignore[method-assign] # observed, not replaced
        outcomes += map(pool.submit, acts[1:])
        for _ in acts[1:]:
            assert waiting.acquire(timeout=10)
        may_end.set()
        return [outcome.exception(10) or outcome.result() for outcome in outcomes]


def test_threads_that_wait_for_a_call_share_its_failure(broker: FakeBroker, client: BrokerClient) -> None:
    broker.may_answer.clear()
    broker.script.append(failure(403, "access_denied"))

    seen = ask_one_after_the_other(client, [client.token] * 5, broker.was_asked, broker.may_answer)

    assert [type(error) for error in seen] == [AccessDenied] * 5
    assert len({id(error) for error in seen}) == 5  # each its own, because a raise writes into it
    assert len(broker.calls) == 1


def test_unavailable_broker_is_asked_again_after_its_retry_after(
    broker: FakeBroker, client: BrokerClient, pauses: list[float]
) -> None:
    broker.script.extend([failure(503, "temporarily_unavailable", 7), failure(429, "slow_down", 5)])

    assert client.token().token_id == broker.token_id
    assert pauses == [7, 5]


def test_long_retry_after_is_raised(broker: FakeBroker, new_client: NewClient, pauses: list[float]) -> None:
    broker.script.append(failure(503, "temporarily_unavailable", 30))

    with pytest.raises(TemporarilyUnavailable) as raised:
        new_client(time_budget_s=5).token()
    assert (raised.value.retry_after_s, raised.value.request_id) == (30, "req-1")
    assert not pauses


def test_four_calls_are_made_at_most(broker: FakeBroker, client: BrokerClient, pauses: list[float]) -> None:
    broker.script.extend([failure(503, "temporarily_unavailable")] * 9)

    with pytest.raises(TemporarilyUnavailable):
        client.token()
    assert len(broker.calls) == 4
    assert len(pauses) == 3
    assert 0.1 <= pauses[0] < pauses[2] <= 1.2


def test_waiting_thread_gives_up_within_its_time_budget(broker: FakeBroker, client: BrokerClient) -> None:
    with unanswered_call(broker, client) as leader:
        client._time_budget_s = 0.05
        with pytest.raises(BrokerUnreachable, match="time budget"):
            client.token()
    assert leader.result().token_id == broker.token_id


def test_min_ttl_reaches_the_broker_only_if_the_lease_in_memory_is_too_short(
    broker: FakeBroker, client: BrokerClient, clock: Clock
) -> None:
    client.token()

    client.token(min_ttl_s=900)
    assert len(broker.calls) == 1
    assert client.token(min_ttl_s=1199.5).expires_at == clock.now + 1200
    assert broker.calls[1].body == {"connection": "digishare", "min_ttl": 1200}


def test_min_ttl_above_the_cap_does_not_ask_at_every_call(broker: FakeBroker, client: BrokerClient) -> None:
    for _ in range(3):
        assert client.token(min_ttl_s=99_999).token_id == broker.token_id
    assert len(broker.calls) == 1


def test_rejection_by_many_threads_is_reported_once(broker: FakeBroker, client: BrokerClient) -> None:
    rejected = client.token().token_id

    leases = in_threads(32, lambda: client.report_rejected(rejected))

    assert {lease.token_id for lease in leases} == {broker.token_id} != {rejected}
    assert [call.body.get("rejected_token_id") for call in broker.calls] == [None, rejected]


def test_report_of_another_token_returns_the_present_one(broker: FakeBroker, client: BrokerClient) -> None:
    lease = client.token()

    assert client.report_rejected("0123456789abcdef") is lease
    assert len(broker.calls) == 1


def test_too_many_reports_are_an_error_despite_a_lease(broker: FakeBroker, new_client: NewClient) -> None:
    client = new_client(time_budget_s=5)
    rejected = client.token().token_id
    broker.script.append(failure(429, "slow_down", 60))

    with pytest.raises(SlowDown):
        client.report_rejected(rejected)
    assert client.token().token_id == rejected  # until the broker says otherwise


def test_a_bug_is_raised_to_all_and_the_next_call_works(broker: FakeBroker, client: BrokerClient) -> None:
    asked, may_end, calls = threading.Event(), threading.Event(), [0]

    def fail(*_: object, **__: object) -> float:
        calls[0] += 1
        asked.set()
        may_end.wait(10)
        return 1 / 0

    with patch.object(client._http, "call", fail):
        seen = ask_one_after_the_other(client, [client.token] * 5, asked, may_end)

    assert (calls, [type(error) for error in seen]) == ([1], [ZeroDivisionError] * 5)
    assert client.token().token_id == broker.token_id


def test_a_valid_lease_is_served_whatever_goes_wrong(
    client: BrokerClient, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lease = client.token()
    clock.now += 800

    monkeypatch.setattr(client._http, "call", Mock(side_effect=KeyError("canary-of-a-bug")))
    assert client.token() is lease
    assert client.token(min_ttl_s=600) is lease
    assert "KeyError" in caplog.text
    assert "canary-of-a-bug" not in caplog.text


def test_those_who_wait_for_an_interrupted_caller_ask_themselves(
    broker: FakeBroker, client: BrokerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, may_end = threading.Event(), threading.Event()
    call = client._http.call

    def interrupt_the_first(*given: Any, **more: Any) -> object:
        if not asked.is_set():
            asked.set()
            may_end.wait(10)
            raise KeyboardInterrupt
        return call(*given, **more)

    monkeypatch.setattr(client._http, "call", interrupt_the_first)
    interrupted, *leases = ask_one_after_the_other(client, [client.token] * 4, asked, may_end)

    assert isinstance(interrupted, KeyboardInterrupt)
    assert [lease.token_id for lease in leases] == [broker.token_id] * 3
    assert len(broker.calls) == 1


def test_who_needs_more_validity_asks_next(broker: FakeBroker, client: BrokerClient, clock: Clock) -> None:
    broker.may_answer.clear()
    acts = [client.token, lambda: client.token(min_ttl_s=1200)]
    _, longer = ask_one_after_the_other(client, acts, broker.was_asked, broker.may_answer)

    assert [call.body.get("min_ttl") for call in broker.calls] == [None, 1200]
    assert longer.expires_at == clock.now + 1200


def test_a_process_forked_during_a_call_has_its_own_state(
    broker: FakeBroker, client: BrokerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = client._http.call

    def fork_meanwhile(*given: object, **more: object) -> object:
        client._renew_after_fork()  # as in a child that goes on from here
        client._question = others = _Question(Need())
        answer = call(*given, **more)  # type: ignore[arg-type] # passed on as they came
        assert client._question is others
        return answer

    monkeypatch.setattr(client._http, "call", fork_meanwhile)
    assert client.token().token_id == broker.token_id
    assert client._question is not None


def test_a_lease_that_ends_during_a_failed_early_call_is_asked_for_with_the_whole_budget(
    broker: FakeBroker, client: BrokerClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_broker.client._ASK_AHEAD_TIMEOUT_S", 0.2)
    client.token()
    clock.now += 899
    with unanswered_call(broker, client) as asking:
        clock.now += 2
        # Three calls: the first, the one that failed, the one after it.
        assert wait_until(lambda: len(broker.calls) >= 3)
    assert asking.result().expires_at == clock.now + 900


def test_a_shorter_lease_is_served_where_the_broker_gives_none_that_lasts(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    client = new_client(time_budget_s=5)
    lease = client.token()
    clock.now += 100
    broker.script.append(failure(502, "upstream_rejected"))

    assert client.token(min_ttl_s=1200) is lease
    assert client.token(min_ttl_s=1200) is lease  # and the broker is not asked for a while
    assert len(broker.calls) == 2
    clock.now += 11
    assert client.token(min_ttl_s=1200).expires_at == clock.now + 1200


def test_after_a_failure_while_the_clock_was_ahead_the_broker_is_still_asked(
    broker: FakeBroker, client: BrokerClient, clock: Clock
) -> None:
    client.token()
    clock.now += 895
    broker.script.append(failure(503, "temporarily_unavailable"))
    client.token()  # fails, and pauses
    clock.now -= 100

    assert client.token().expires_at == clock.now + 900


def test_without_a_thread_it_says_so_and_serves_the_valid_lease(client: BrokerClient, clock: Clock) -> None:
    no_thread = patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread"))
    with no_thread, pytest.raises(CredentialsUnavailable, match="no thread"):
        client.token()
    lease = client.token()
    clock.now += 800
    with no_thread:
        assert client.token() is lease
