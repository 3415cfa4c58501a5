"""Several brokers at once through faults, crashes and skewed clocks: what is promised holds at every step.

`make soak` runs the same with fresh seeds for as long as you like.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.decisions import Fault
from tests.simulation.explore import explore

RUNS = 800


@pytest.mark.parametrize("adrift", [False, True], ids=["clocks within the margin", "clocks adrift"])
def test_every_promise_holds(*, adrift: bool) -> None:
    counts: Counter[str] = Counter()
    explore(range(RUNS), adrift=adrift, counts=counts)
    # The promises are worth something only if the troubles that they speak of have come about.
    assert counts["steps"] > 50 * RUNS
    assert counts["answers from mint"] > RUNS
    assert counts["answers from direct"] > RUNS / 10
    for fault in Fault:
        if fault is not Fault.NONE:
            assert any(kind.startswith(f"fault: {fault} ") for kind in counts), fault
