"""The time of a request is that of the faster of two clocks, so that a clock that is set back prolongs no lock."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.broker.ports import Ports, RequestClock


@dataclass
class Clocks:
    wall: float = 1000.0
    monotonic: float = 50.0

    def ports(self) -> Ports:
        return Ports(
            clock=lambda: self.wall,
            monotonic=lambda: self.monotonic,
            sleep=lambda _: None,
            randomness=lambda: 0.5,
            new_id=lambda: "id",
            notice=lambda *_: None,
            notice_bug=lambda _: None,
        )

    def pass_time(self, wall_s: float, monotonic_s: float) -> None:
        self.wall += wall_s
        self.monotonic += monotonic_s


@pytest.mark.parametrize(
    ("wall_s", "monotonic_s", "now"),
    [
        (5, 5, 1005),  # both agree
        (-60, 5, 1005),  # the wall clock was set back
        (60, 5, 1060),  # it was set forward: a request ends too early rather than too late
        (5, 0, 1005),  # the instance was frozen, and its monotonic clock stopped
    ],
)
def test_elapsed_time_is_the_larger_of_both_clocks(wall_s: float, monotonic_s: float, now: float) -> None:
    clocks = Clocks()
    request = RequestClock(clocks.ports(), 1030.0)

    clocks.pass_time(wall_s, monotonic_s)

    assert request.now() == now


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(0, 100)), max_size=8))
def test_elapsed_time_is_never_less_than_the_monotonic_clock_says(steps: list[tuple[float, float]]) -> None:
    clocks = Clocks()
    request = RequestClock(clocks.ports(), 1030.0)
    for wall_s, monotonic_s in steps:
        clocks.pass_time(wall_s, monotonic_s)

        assert request.now() >= 1000 + (clocks.monotonic - 50) - 1e-6
        assert request.now() >= clocks.wall


def test_a_wall_clock_that_is_behind_its_time_at_the_lock_was_set_back() -> None:
    clocks = Clocks()
    request = RequestClock(clocks.ports(), 1030.0)
    clocks.pass_time(10, 10)
    locked_at = request.start_lock()
    found = [request.was_set_back()]
    for wall_s in (1.0, -1.5, 1.0):
        clocks.pass_time(wall_s, 1.0)
        found.append(request.was_set_back())

    assert locked_at == 1010
    assert found == [False, False, True, False]


def test_a_step_back_before_the_lock_does_not_count_against_it() -> None:
    clocks = Clocks()
    request = RequestClock(clocks.ports(), 1030.0)
    clocks.pass_time(-60, 1)
    request.start_lock()
    clocks.pass_time(1, 1)

    assert not request.was_set_back()
