"""The time table: computed from the constants, then tried with the real policy in virtual time.

::

    holder, whose clock is 1.5 s ahead   |x  killed when it had the lock, which lasts 14.5 s by its clock
    a waiter, arriving at any moment        |..... polls .....| lock |- row -|--- exchange ---|- publish -| answer
                                          0                 16.0   16.4                                    29.4
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from functions.broker import lifetime
from functions.broker.adapters.mint_ledger import mint_of
from functions.broker.decide import TokenWanted
from functions.broker.ports import Ports
from local.fakes.services import Services, VirtualTime
from local.fakes.wire import Wire, throw
from token_broker.errors import TemporarilyUnavailable
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from functions.broker.issue_token import TokenIssuer
    from local.fakes.wire import Operation

START_EPOCH_S = 1_800_000_000.0
UPSTREAM_S = [3.0, 7.9, 8.9, 9.9]
TEMPLATE = Path(__file__).parents[2] / "template.yaml"
ARRIVALS = 60
DEADLINE_S = lifetime.FUNCTION_TIMEOUT_S - lifetime.ANSWER_S
BUDGETED_AWS_S = 0.5
"""From the lock to sending there is 1 s, for two calls."""
MOST_CALLS = 20_000
"""Far more than any of these tests makes."""

# --- computed -------------------------------------------------------------------------------------------------------


def test_a_lock_lasts_as_long_as_everything_under_it_and_the_clocks_difference() -> None:
    spare_s = lifetime.CLOCK_DIFFERENCE_S
    parts_s = [lifetime.LOCK_TO_SEND_S, lifetime.EXCHANGE_S, lifetime.PUBLISH_S, spare_s]

    assert parts_s == [1, 10, 2, 1.5]
    assert sum(parts_s) == lifetime.LOCK_S == 14.5
    assert sum(parts_s[:3]) == lifetime.TO_LOCK_S == 13
    assert sum(parts_s[1:3]) == lifetime.TO_SEND_S == 12


def test_the_worst_waiter_is_answered_before_its_deadline() -> None:
    worst_s = lifetime.LOCK_S + lifetime.CLOCK_DIFFERENCE_S + lifetime.LONGEST_POLL_S + lifetime.TO_LOCK_S

    assert pytest.approx(30.4) == DEADLINE_S
    assert worst_s == pytest.approx(29.4)
    assert worst_s + lifetime.SLOW_AWS_S <= DEADLINE_S


def test_the_function_may_run_as_long_as_the_time_table_takes() -> None:
    function = TEMPLATE.read_text().split("  BrokerFunction:\n")[1].split("\n  Broker")[0]

    (timeout,) = re.findall(r"^      Timeout: (\d+)$", function, re.MULTILINE)
    assert float(timeout) == lifetime.FUNCTION_TIMEOUT_S


def test_one_who_waits_stops_while_an_aws_call_still_fits_into_its_time() -> None:
    assert lifetime.AWS_CALL_S == lifetime.AWS_CONNECT_TIMEOUT_S + lifetime.AWS_READ_TIMEOUT_S == 2.5
    assert lifetime.AWS_TROUBLE_S == 10
    # Even with a slow AWS, the longest lock and the longest wait after a failure are still short enough to count.
    assert lifetime.LOCK_S + lifetime.SLOW_AWS_S + lifetime.CLOCK_DIFFERENCE_S < lifetime.LONGEST_LOCK_S == 60
    longest_wait_s = lifetime.LOCK_S + lifetime.SLOW_AWS_S + lifetime.MAY_HAVE_ISSUED_LIMIT_S
    assert longest_wait_s + lifetime.CLOCK_DIFFERENCE_S < lifetime.LONGEST_NOT_BEFORE_S == 960


# --- tried ------------------------------------------------------------------------------------------------------------


def arrivals() -> list[float]:
    """Return moments over the whole time for which some clock says that the lock lasts."""
    length_s = lifetime.LOCK_S + lifetime.CLOCK_DIFFERENCE_S
    return [0.001 + number * length_s / ARRIVALS for number in range(ARRIVALS)]


class Killed(BaseException):
    """Ends a request as SIGKILL does: nothing of the broker can catch it."""


class Times(VirtualTime):
    """Instances of the real policy; every call of AWS and of the upstream takes its virtual time.

    Args:
        upstream_s: how long an exchange takes.
        aws_s: how long each AWS call takes.

    Attributes:
        answers: the text of each token that a caller got in the end, or "refused".
        upstream: counts the tokens that exist.
    """

    def __init__(self, *, upstream_s: float = 1.0, aws_s: float = 0.0) -> None:
        super().__init__(0.0)
        self.answers: list[str] = []
        self._upstream_s, self._aws_s = upstream_s, aws_s
        self._kills = False
        self._calls = 0
        self._owners = itertools.count()
        self._services = Services(Wire(before=self._pass_time, after=self._go_on))
        self._services.put_secret("digishare", {"client_id": "client", "client_secret": "secret"})
        self.upstream = self._services.upstream
        self.upstream.secrets["client"] = {"secret"}

    def instance(self, *, clock_ahead_s: float = 0.0, randomness: float = 1.0) -> TokenIssuer:
        """Return the policy of a cold instance, by default with the longest pauses."""
        ports = Ports(
            clock=lambda: START_EPOCH_S + self.now + clock_ahead_s,
            monotonic=lambda: self.now,
            sleep=self.sleep,
            randomness=lambda: randomness,
            new_id=lambda: f"owner-{next(self._owners)}",
            notice=lambda *_: None,
            notice_bug=throw,
        )
        return self._services.new_issuer(ports)

    def let_ask(self, moment_s: float, issuer: TokenIssuer, *, most_times: int = 1) -> None:
        """Let a caller ask at a moment, and again when Retry-After says; `answers` gets its last answer."""

        def ask() -> None:
            for _ in range(most_times):
                began = self.now
                try:
                    answer = self._issue(issuer)
                except TemporarilyUnavailable as error:
                    answer = "refused"
                    self.sleep(error.retry_after_s or 0)
                # If every call takes longer than its budget, the time for the answer may be used up, too.
                limit_s = DEADLINE_S if self._aws_s <= BUDGETED_AWS_S else lifetime.FUNCTION_TIMEOUT_S
                assert self.now - began <= limit_s or answer == "refused", "answered too late"
                if answer != "refused":
                    break
            self.answers.append(answer)

        self.at(moment_s, ask)

    def _issue(self, issuer: TokenIssuer) -> str:
        deadline = issuer.ports.clock() + DEADLINE_S
        return issuer.issue(TokenWanted("digishare", caller="caller"), deadline).clear.access_token

    def outcomes(self) -> list[Outcome]:
        """Return what the rows of the ledger say."""
        items = self._services.dynamodb.items.items()
        return [mint_of(item).outcome for (_, record), item in items if record.startswith("mint#")]

    def kill_a_holder(self, clock_ahead_s: float) -> None:
        """Let an instance take the lock now and be killed before it can do anything with it."""

        def take_lock() -> None:
            self._kills = True
            with pytest.raises(Killed):
                self._issue(self.instance(clock_ahead_s=clock_ahead_s))

        self.at(self.now, take_lock)

    def _pass_time(self, operation: Operation) -> None:
        self._calls += 1
        assert self._calls < MOST_CALLS, "the calls do not end"
        if takes_s := self._upstream_s if operation.name == "upstream.exchange" else self._aws_s:
            self.sleep(takes_s)

    def _go_on(self, operation: Operation) -> None:
        if self._kills and operation.name == "dynamodb.update_item":
            self._kills = False
            raise Killed


@pytest.mark.parametrize("clock_ahead_s", [1.5, 0.0, -1.5])
@pytest.mark.parametrize("upstream_s", UPSTREAM_S)
def test_after_a_killed_holder_each_waiter_is_served_in_time(upstream_s: float, clock_ahead_s: float) -> None:
    for arrives_s in arrivals():
        times = Times(upstream_s=upstream_s)
        times.kill_a_holder(clock_ahead_s)
        times.let_ask(arrives_s, times.instance())
        times.run()

        assert times.answers == [token.access_token for token in times.upstream.issued], arrives_s
        assert times.outcomes() == [Outcome.ISSUED]


@pytest.mark.parametrize("upstream_s", UPSTREAM_S)
def test_after_a_killed_holder_all_who_wait_share_one_exchange(upstream_s: float) -> None:
    times = Times(upstream_s=upstream_s)
    times.kill_a_holder(1.5)
    for number, arrives_s in enumerate(arrivals()):
        ahead_s = (-0.75, 0.0, 0.75)[number % 3]
        times.let_ask(arrives_s, times.instance(clock_ahead_s=ahead_s, randomness=number / ARRIVALS))
    times.run()

    (token,) = times.upstream.issued
    assert times.answers == [token.access_token] * ARRIVALS
    assert times.outcomes() == [Outcome.ISSUED]


@pytest.mark.parametrize("upstream_s", UPSTREAM_S)
@pytest.mark.parametrize("callers", [1, 5])
@pytest.mark.parametrize(("aws_s", "most_times"), [(0.3, 1), (0.8, 3)])
def test_where_aws_is_slow_callers_that_obey_retry_after_share_one_exchange(
    aws_s: float, most_times: int, callers: int, upstream_s: float
) -> None:
    times = Times(upstream_s=upstream_s, aws_s=aws_s)
    for number in range(callers):
        issuer = times.instance(randomness=number / callers)
        times.let_ask(number * 0.37, issuer, most_times=most_times)
    times.run()

    (token,) = times.upstream.issued
    assert times.answers == [token.access_token] * callers
    assert times.outcomes() == [Outcome.ISSUED]


@pytest.mark.parametrize("upstream_s", UPSTREAM_S)
@pytest.mark.parametrize(("aws_s", "most_times"), [(0.3, 2), (0.8, 3)])
def test_where_aws_is_slow_and_the_holder_was_killed_a_token_is_still_minted(
    aws_s: float, most_times: int, upstream_s: float
) -> None:
    for arrives_s in arrivals():
        times = Times(upstream_s=upstream_s, aws_s=aws_s)
        times.kill_a_holder(1.5)
        times.let_ask(arrives_s, times.instance(), most_times=most_times)
        times.run()

        assert times.answers == [token.access_token for token in times.upstream.issued], arrives_s
