"""Several brokers at once, with faults, crashes and skewed clocks: every promise holds at every step.

`make soak` runs the same with fresh seeds for as long as you like.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation import decisions as d
from tests.simulation.explore import explore, simulate
from tests.simulation.mutants import nothing_taken_from_the_pace
from tests.simulation.promises import Promises
from tests.simulation.watched import BrokenPromiseError

RUNS = 900


@pytest.mark.parametrize("adrift", [False, True], ids=["clocks within 1.5 s", "clocks adrift"])
def test_every_promise_holds(*, adrift: bool) -> None:
    counts: Counter[str] = Counter()
    explore(range(RUNS), adrift=adrift, counts=counts)
    # The promises prove something only if the faults that they are about have happened.
    assert counts["steps"] > 100 * RUNS
    assert counts["answers from mint"] > RUNS
    assert counts["answers from memory"] > RUNS
    assert counts["answers temporarily_unavailable"] > RUNS / 4
    happened = {kind.removeprefix("fault: ") for kind in counts if kind.startswith("fault: ")}
    expected = {
        *(f"{fault} " for fault in d.Fault if fault is not d.Fault.NONE),
        *(f"item {damage}" for damage in (d.Damage.GARBLED, d.Damage.EXTENDED, d.Damage.LOCKED)),
        *(f"upstream {mode}" for mode in d.Mode),
        *(f"outage of dynamodb.put_item: {how}" for how in ("unreachable", "busy", "denied")),
        "frozen process",
        "frozen at a look at the clock",
        "clock set",
        "rotation to a refused secret",
        "deleted item",
        "restored items",
    }
    assert not {kind for kind in expected if not any(found.startswith(kind) for found in happened)}


# --- the pace: what a whole day of trouble may cost ------------------------------------------------------------------

DAY_S, YEAR_S = 86_400.0, 365 * 86_400
MOST_A_DAY = 24 + 96


def _all_day(interval_s: float, *steps: d.Decision) -> list[d.Decision]:
    return [one for _ in range(int(DAY_S / interval_s)) for one in (*steps, d.Wait(interval_s))]


# With a thousand callers no caller's share is used up. As all clocks agree, only the pace limits the exchanges.
DAYS: dict[str, list[d.Decision]] = {
    "false reports": [
        step
        for number in range(int(DAY_S / 61))
        for step in (d.Ask(number % 2, caller=number, reporting=True), d.Run(number % 2), d.Wait(61.0))
    ],
    "an upstream that issues and answers 500": [
        d.Turn(d.Mode.ISSUING_BROKEN, 2 * DAY_S),
        *_all_day(97.0, d.Run(0), d.Run(1)),
    ],
    "holders that are killed with the token in hand": _all_day(
        61.0, d.Run(0, "after upstream.exchange"), d.Crash(0)
    ),
    "an upstream that issues the same token": [
        d.Run(0),
        d.Turn(d.Mode.REPEATING, 2 * DAY_S),
        *_all_day(97.0, d.Ask(0, reporting=True), d.Run(0)),
    ],
}


@pytest.mark.parametrize("day", DAYS)
def test_a_day_of_trouble_costs_at_most_120_year_long_tokens(day: str) -> None:
    world = simulate((d.Setup(expires_in=YEAR_S), DAYS[day]))
    issued = world.counts["tokens issued by the upstream"]
    assert issued <= MOST_A_DAY + 2  # one or two are made once the trouble is over
    if day != "an upstream that issues the same token":
        assert issued > 24  # it is the pace that bounds it


def test_more_tokens_than_the_pace_allows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_taken_from_the_pace(monkeypatch)
    monkeypatch.setattr(Promises, "_check_pace", lambda *_: None)
    trace: d.Trace = (d.Setup(expires_in=YEAR_S), DAYS["false reports"])
    with pytest.raises(BrokenPromiseError, match="more exchanges than the pace allows"):
        simulate(trace)
