"""One crash, one lost call or one stop at each step of an exchange costs at most one token that nobody is served."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest

from tests.simulation.decisions import Ask, Crash, Decision, Fault, Freeze, Run, Setup, Wait
from tests.simulation.mutants import figures
from tests.simulation.records import Records
from tests.simulation.world import World

_MOST_STEPS = 60


class Case(NamedTuple):
    """What comes before, and the request that is disturbed."""

    before: tuple[Decision, ...]
    ask: Ask
    setup: Setup = Setup()


_SERVED = (Run(0), Wait(1.0), Run(1))
CASES = {
    "first exchange": Case((), Ask(0)),
    "refresh": Case((*_SERVED, Wait(3_000.0)), Ask(0)),
    "refresh of a token that nobody said a lifetime of": Case(
        (*_SERVED, Wait(80_000.0)), Ask(0), Setup(expires_in=None)
    ),
    "expired": Case((*_SERVED, Wait(3_700.0)), Ask(0)),
    "report": Case((*_SERVED, Wait(120.0)), Ask(0, reporting=True)),
    "first exchange with a slow upstream": Case((), Ask(0), Setup(exchange_s=9.9)),
    "first exchange with slow AWS": Case((), Ask(0), Setup(latency_s=0.8)),
}
STRIKES: dict[str, Fault | Decision] = {
    **{str(fault): fault for fault in Fault if fault is not Fault.NONE},
    "killed": Crash(0),
    "frozen for 5 s": Freeze(0, 5.0),
    "frozen for 16 s": Freeze(0, 16.0),
    "frozen for 70 s": Freeze(0, 70.0),
}


@pytest.mark.parametrize("strike", STRIKES)
@pytest.mark.parametrize("case", CASES)
def test_one_fault_costs_at_most_one_token(case: str, strike: str) -> None:
    counts: Counter[str] = Counter()
    for step in range(_MOST_STEPS):
        if not _disturb(CASES[case], step, STRIKES[strike], counts):
            break
    assert 12 < step < _MOST_STEPS - 1  # every step of the request has had its turn
    assert any(kind.startswith("fault") for kind in counts)


def test_a_second_token_would_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Records, "require", lambda *_: None)  # other tests find what else this breaks
    figures(LOCK_S=5.0, TO_SEND_S=0.5)(monkeypatch)
    with pytest.raises(AssertionError, match=r"^step \d+: \['"):
        test_one_fault_costs_at_most_one_token("first exchange with a slow upstream", "timed_out")


def _disturb(case: Case, step: int, strike: Fault | Decision, counts: Counter[str]) -> bool:
    """Apply the fault at a step of the request; return whether the request has so many steps."""
    world = World(case.setup, counts=counts)
    for decision in case.before:
        world.decide(decision)
    asked, other = world.instances[0], Ask(1, reporting=case.ask.reporting)
    world.decide(case.ask)
    for _ in range(step):
        if asked.request:
            world.step(asked, Fault.NONE)
    if not asked.request:
        return False
    if isinstance(strike, Fault):
        world.count_fault(strike)
        world.step(asked, strike)
    else:
        world.decide(strike)
    world.decide(other)
    world.decide(Wait(100.0))
    world.decide(Run(0))
    world.decide(Run(1))
    orphans = world.promises.orphans()
    assert len(orphans) <= 1, "\n".join([f"step {step}: {orphans}", *world.log])
    world.end_faults()
    assert len(world.promises.orphans()) <= 1, "\n".join([f"step {step}: {orphans}", *world.log])
    return True
