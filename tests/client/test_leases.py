"""When the broker is asked, who waits for it, and what is served meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.client.fake_broker import Answer, FakeBroker, failure
from token_broker.client import _Question
from token_broker.errors import (
    AccessDenied,
    BrokerUnreachable,
    CredentialsUnavailable,
    InvalidRequest,
    SlowDown,
    TemporarilyUnavailable,
)
from token_broker.lease import Need

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.client.conftest import Clock
    from token_broker.client import BrokerClient
    from token_broker.lease import Lease

    NewClient = Callable[..., BrokerClient]


def in_threads(count: int, act: Callable[[], Lease]) -> list[Lease]:
    """Call `act` in `count` threads that start together."""
    gate = threading.Barrier(count)

    def run(_: int) -> Lease:
        gate.wait(10)
        return act()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_lease_counts_from_before_the_request(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    lease = new_client().token()

    assert (lease.access_token, lease.token_id) == (broker.token, broker.token_id)
    assert lease.connection == "digishare"
    assert lease.expires_at == clock.now + 900
    assert lease.expires_in_s(clock.now + 100) == 800


def test_32_threads_make_one_call(broker: FakeBroker, new_client: NewClient) -> None:
    leases = in_threads(32, new_client().token)

    assert len(broker.calls) == 1
    assert len(set(leases)) == 1


def test_lease_is_served_from_memory_until_80_percent(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    client = new_client()
    first = client.token()

    clock.now += 719
    assert client.token() is first
    assert client.fresh_lease() is first
    clock.now += 1
    assert client.fresh_lease() is None
    assert client.token().expires_at == clock.now + 900
    assert len(broker.calls) == 2


def test_all_but_one_thread_are_served_the_old_lease_while_the_next_is_fetched(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    client = new_client()
    old = client.token()
    clock.now += 800
    broker.was_asked.clear()
    broker.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        refresher = pool.submit(client.token)
        assert broker.was_asked.wait(10)

        assert in_threads(8, client.token) == [old] * 8
        assert client.fresh_lease() is old

        broker.may_answer.set()
        assert refresher.result(10).expires_at == clock.now + 900
    assert len(broker.calls) == 2


def test_valid_lease_is_served_while_the_broker_is_away(
    broker: FakeBroker, new_client: NewClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    client = new_client()
    old = client.token()
    clock.now += 800
    broker.script.append(failure(503, "temporarily_unavailable"))

    assert client.token() is old
    assert client.token() is old  # and the broker is left alone for a while
    assert client.fresh_lease() is old
    assert len(broker.calls) == 2
    assert old.token_id in caplog.text
    clock.now += 11
    assert client.token() is not old


def test_refusal_to_renew_leaves_a_valid_lease_in_service(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    client = new_client()
    old = client.token()
    clock.now += 800
    broker.script.append(failure(403, "access_denied"))

    assert client.token() is old


def test_expired_lease_is_never_served(broker: FakeBroker, new_client: NewClient, clock: Clock) -> None:
    client = new_client()
    client.token()
    clock.now += 900
    broker.script.append(failure(403, "access_denied"))

    with pytest.raises(AccessDenied):
        client.token()


def test_lease_that_expires_during_the_failed_refresh_is_not_served(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    client = new_client()
    client.token()
    clock.now += 899
    broker.script.append(failure(403, "access_denied"))
    broker.was_asked.clear()
    broker.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        refresher = pool.submit(client.token)
        assert broker.was_asked.wait(10)
        clock.now += 2
        broker.may_answer.set()
        with pytest.raises(AccessDenied):
            refresher.result(10)


def test_lease_is_not_trusted_after_the_clock_went_back(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    client = new_client()
    client.token()
    clock.now -= 3600

    assert client.token().expires_at == clock.now + 900


def test_threads_that_wait_for_a_failing_call_share_its_failure(
    broker: FakeBroker, new_client: NewClient
) -> None:
    client = new_client()
    broker.may_answer.clear()
    broker.script.append(failure(403, "access_denied"))
    seen: list[BaseException] = []

    def ask() -> None:
        try:
            client.token()
        except AccessDenied as error:
            seen.append(error)

    leader = threading.Thread(target=ask)
    leader.start()
    assert broker.was_asked.wait(10)
    waiting = [_Waiting(client, ask) for _ in range(4)]
    for waiter in waiting:
        waiter.start()
    for waiter in waiting:
        assert waiter.is_waiting.wait(10)
    broker.may_answer.set()
    for thread in (leader, *waiting):
        thread.join(10)

    assert len(broker.calls) == 1
    assert len({id(error) for error in seen}) == 5  # each its own, because a raise writes into it


class _Waiting(threading.Thread):
    """Says when it is about to wait for the call that is under way."""

    def __init__(self, client: BrokerClient, act: Callable[[], None]) -> None:
        super().__init__()
        self.is_waiting = threading.Event()
        question = client._question
        assert question is not None
        wait = question.is_over.wait
        is_waiting = self.is_waiting

        def wait_and_tell(timeout: float | None = None) -> bool:
            is_waiting.set()
            return wait(timeout)

        question.is_over.wait = wait_and_tell  # type: ignore[method-assign] # observed, not replaced
        self._act = act

    def run(self) -> None:
        self._act()


def test_unavailable_broker_is_asked_again_after_its_retry_after(
    broker: FakeBroker, new_client: NewClient, pauses: list[float]
) -> None:
    broker.script.extend([failure(503, "temporarily_unavailable", 7), failure(429, "slow_down", 5)])

    assert new_client().token().token_id == broker.token_id
    assert pauses == [7, 5]


def test_retry_after_beyond_the_time_budget_is_not_waited_for(
    broker: FakeBroker, new_client: NewClient, pauses: list[float]
) -> None:
    broker.script.append(failure(503, "temporarily_unavailable", 30))

    with pytest.raises(TemporarilyUnavailable) as raised:
        new_client(time_budget_s=5).token()
    assert (raised.value.retry_after_s, raised.value.request_id) == (30, "req-1")
    assert not pauses


def test_broker_is_asked_four_times_at_most(
    broker: FakeBroker, new_client: NewClient, pauses: list[float]
) -> None:
    broker.script.extend([failure(503, "temporarily_unavailable")] * 9)

    with pytest.raises(TemporarilyUnavailable):
        new_client().token()
    assert len(broker.calls) == 4
    assert len(pauses) == 3
    assert 0.1 <= pauses[0] < pauses[2] <= 1.2


def test_refusal_is_not_repeated(broker: FakeBroker, new_client: NewClient) -> None:
    broker.script.append(failure(403, "access_denied"))

    with pytest.raises(AccessDenied):
        new_client().token()
    assert len(broker.calls) == 1


def test_silent_broker_is_given_up_within_the_time_budget(broker: FakeBroker, new_client: NewClient) -> None:
    broker.may_answer.clear()

    with pytest.raises(BrokerUnreachable):
        new_client(time_budget_s=0.3).token()
    assert len(broker.calls) == 1


def test_waiting_thread_gives_up_within_its_time_budget(broker: FakeBroker, new_client: NewClient) -> None:
    client = new_client(time_budget_s=20)
    broker.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(client.token)
        assert broker.was_asked.wait(10)
        client._time_budget_s = 0.05
        with pytest.raises(BrokerUnreachable, match="time budget"):
            client.token()
        broker.may_answer.set()
        assert leader.result(10).token_id == broker.token_id


def test_min_ttl_reaches_the_broker_only_if_the_lease_in_memory_is_too_short(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    client = new_client()
    client.token()

    client.token(min_ttl_s=900)
    assert len(broker.calls) == 1
    assert client.token(min_ttl_s=1199.5).expires_at == clock.now + 1200
    assert broker.calls[1].body == {"connection": "digishare", "min_ttl": 1200}


def test_min_ttl_above_the_cap_does_not_ask_at_every_call(broker: FakeBroker, new_client: NewClient) -> None:
    client = new_client()
    for _ in range(3):
        assert client.token(min_ttl_s=99_999).token_id == broker.token_id
    assert len(broker.calls) == 1


def test_rejection_by_many_threads_is_reported_once(broker: FakeBroker, new_client: NewClient) -> None:
    client = new_client()
    rejected = client.token().token_id

    leases = in_threads(32, lambda: client.report_rejected(rejected))

    assert {lease.token_id for lease in leases} == {broker.token_id} != {rejected}
    assert [call.body.get("rejected_token_id") for call in broker.calls] == [None, rejected]


def test_report_about_a_token_no_longer_held_returns_the_held_one(
    broker: FakeBroker, new_client: NewClient
) -> None:
    client = new_client()
    held = client.token()

    assert client.report_rejected("0123456789abcdef") is held
    assert len(broker.calls) == 1


def test_broker_may_stand_by_a_rejected_token(broker: FakeBroker, new_client: NewClient) -> None:
    client = new_client()
    rejected = client.token().token_id
    broker.replaces_rejected = False

    assert client.report_rejected(rejected).token_id == rejected


def test_too_many_reports_are_an_error_although_a_lease_is_held(
    broker: FakeBroker, new_client: NewClient
) -> None:
    client = new_client(time_budget_s=5)
    rejected = client.token().token_id
    broker.script.append(failure(429, "slow_down", 60))

    with pytest.raises(SlowDown):
        client.report_rejected(rejected)
    assert client.token().token_id == rejected  # until the broker says otherwise


def test_bug_during_a_call_is_told_to_all_that_wait_and_the_next_call_works(
    broker: FakeBroker, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = new_client()
    may_fail, calls, seen = threading.Event(), [0], [0]

    def fail(*_: object, **__: object) -> float:
        calls[0] += 1
        may_fail.wait(10)
        return 1 / 0

    def ask() -> None:
        with pytest.raises(ZeroDivisionError):
            client.token()
        seen[0] += 1

    with monkeypatch.context() as patch:
        patch.setattr(client._http, "call", fail)
        leader = threading.Thread(target=ask)
        leader.start()
        while not calls[0]:
            leader.join(0.01)
        waiting = [_Waiting(client, ask) for _ in range(4)]
        for waiter in waiting:
            waiter.start()
        for waiter in waiting:
            assert waiter.is_waiting.wait(10)
        may_fail.set()
        for thread in (leader, *waiting):
            thread.join(10)

    assert (calls, seen) == ([1], [5])
    assert client.token().token_id == broker.token_id


def test_a_valid_lease_is_served_whatever_goes_wrong(
    broker: FakeBroker,
    new_client: NewClient,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = new_client()
    lease = client.token()
    clock.now += 800

    def fail(*_: object, **__: object) -> None:
        raise KeyError("canary-of-a-bug")

    with monkeypatch.context() as patch:
        patch.setattr(client._http, "call", fail)
        assert client.token() is lease
        assert client.token(min_ttl_s=600) is lease
    assert "KeyError" in caplog.text
    assert "canary-of-a-bug" not in caplog.text


def test_an_interrupted_caller_leaves_its_question_to_the_next(
    broker: FakeBroker, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = new_client()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client._http, "call", interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.token()
    assert client.token().token_id == broker.token_id


def test_those_who_wait_for_an_interrupted_caller_ask_themselves(
    broker: FakeBroker, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = new_client()
    may_end, calls = threading.Event(), [0]
    call = client._http.call

    def interrupt_the_first(*given: object, **more: object) -> object:
        calls[0] += 1
        if calls[0] == 1:
            may_end.wait(10)
            raise KeyboardInterrupt
        return call(*given, **more)  # type: ignore[arg-type] # passed on as they came

    def ask_and_be_interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            client.token()

    monkeypatch.setattr(client._http, "call", interrupt_the_first)
    leases: list[Lease] = []
    leader = threading.Thread(target=ask_and_be_interrupted)
    leader.start()
    while not calls[0]:
        leader.join(0.01)
    waiting = [_Waiting(client, lambda: leases.append(client.token())) for _ in range(3)]
    for waiter in waiting:
        waiter.start()
    for waiter in waiting:
        assert waiter.is_waiting.wait(10)
    may_end.set()
    for thread in (leader, *waiting):
        thread.join(10)

    assert [lease.token_id for lease in leases] == [broker.token_id] * 3
    assert len(broker.calls) == 1


def test_who_needs_more_than_what_is_being_asked_for_asks_next(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    client = new_client()
    broker.may_answer.clear()
    leases: list[Lease] = []
    leader = threading.Thread(target=client.token)
    leader.start()
    assert broker.was_asked.wait(10)
    waiter = _Waiting(client, lambda: leases.append(client.token(min_ttl_s=1200)))
    waiter.start()
    assert waiter.is_waiting.wait(10)
    broker.may_answer.set()
    for thread in (leader, waiter):
        thread.join(10)

    assert [call.body.get("min_ttl") for call in broker.calls] == [None, 1200]
    assert leases[0].expires_at == clock.now + 1200


def test_a_process_that_was_forked_by_the_one_who_asks_keeps_its_own_state(
    broker: FakeBroker, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = new_client()
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


def test_a_lease_that_ends_while_the_next_is_asked_for_in_vain_is_asked_for_with_the_whole_budget(
    broker: FakeBroker, new_client: NewClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_broker.client._ASK_AHEAD_TIMEOUT_S", 0.2)
    client = new_client()
    client.token()
    clock.now += 899
    broker.was_asked.clear()
    broker.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.token)
        assert broker.was_asked.wait(10)
        clock.now += 2
        end_s = time.monotonic() + 10
        while (
            len(broker.calls) < 3 and time.monotonic() < end_s
        ):  # the first, the one in vain, the one after it
            time.sleep(0.01)
        broker.may_answer.set()
        assert asking.result(10).expires_at == clock.now + 900


def test_a_shorter_lease_is_served_where_the_broker_gives_none_that_lasts(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    client = new_client(time_budget_s=5)
    lease = client.token()
    clock.now += 100
    broker.script.append(failure(502, "upstream_rejected"))

    assert client.token(min_ttl_s=1200) is lease
    assert client.token(min_ttl_s=1200) is lease  # and the broker is left alone for a while
    assert len(broker.calls) == 2
    clock.now += 11
    assert client.token(min_ttl_s=1200).expires_at == clock.now + 1200


def test_a_failure_while_the_clock_was_ahead_does_not_keep_the_broker_from_being_asked(
    broker: FakeBroker, new_client: NewClient, clock: Clock
) -> None:
    client = new_client()
    client.token()
    clock.now += 895
    broker.script.append(failure(503, "temporarily_unavailable"))
    client.token()  # fails, and pauses
    clock.now -= 100

    assert client.token().expires_at == clock.now + 900


def test_a_process_that_can_start_no_thread_says_so_and_serves_what_it_has(
    broker: FakeBroker, new_client: NewClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = new_client(time_budget_s=1)

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(CredentialsUnavailable, match="no thread"):
            client.token()
    lease = client.token()
    clock.now += 800
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        assert client.token() is lease


@pytest.mark.parametrize("min_ttl_s", [float("nan"), float("inf"), -1.0, float("-inf")])
def test_a_validity_that_is_no_number_of_seconds_is_told(
    min_ttl_s: float, broker: FakeBroker, new_client: NewClient
) -> None:
    with pytest.raises(InvalidRequest, match="min_ttl_s"):
        new_client().token(min_ttl_s=min_ttl_s)
    assert not broker.calls


def test_status_asks_for_one_connection_or_all(broker: FakeBroker, new_client: NewClient) -> None:
    client = new_client()
    broker.script.append(Answer(502, b"Internal Server Error"))

    assert client.status() == {"connections": [{"asked": {}}]}
    assert client.status("a b/ü&c=d") == {"connections": [{"asked": {"connection": "a b/ü&c=d"}}]}
