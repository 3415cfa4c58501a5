"""Several brokers at once through faults, crashes and skewed clocks: what is promised holds at every step."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings

from tests.simulation.decisions import Trace, adrift, agreeing
from tests.simulation.world import simulate

explored = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


@explored
@given(agreeing())
def test_every_promise_holds_while_clocks_agree_within_the_margin(trace: Trace) -> None:
    simulate(trace)


@explored
@given(adrift())
def test_the_fence_holds_with_clocks_adrift_and_processes_that_stand_still(trace: Trace) -> None:
    simulate(trace)
