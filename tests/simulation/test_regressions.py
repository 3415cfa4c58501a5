"""Traces that once broke a promise; each with the bug that it had found.

They hold today, and with the bug planted again they still break: so they are worth keeping.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker import issue_token
from tests.simulation import mutants as m
from tests.simulation.decisions import Decision, Fault, Freeze, Rotate, Run, SetClock, Setup, Wait
from tests.simulation.explore import simulate
from tests.simulation.watched import BrokenPromiseError

if TYPE_CHECKING:
    from tests.simulation.decisions import Trace
    from tests.simulation.mutants import Patch


@dataclass(frozen=True)
class Regression:
    """A trace, and how the bug is brought back."""

    promise: str
    patch: Patch
    decisions: tuple[Decision, ...]
    setup: Setup = field(default_factory=Setup)

    @property
    def trace(self) -> Trace:
        return self.setup, list(self.decisions)


def trust_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """Trust memory from the answer, by the request's clock, and not from the look at the item by the wall clock."""
    keep = issue_token._Request._keep

    def keep_late(self: Any, *parts: Any) -> Any:
        self.looked_at_epoch_s = self.clock.now()
        return keep(self, *parts)

    patch.setattr(issue_token._Request, "_keep", keep_late)


REGRESSIONS = {
    "memory was trusted for as much longer as a clock had been set back": Regression(
        "memory is trusted",
        trust_from_the_answer,
        (
            Run(1, "before upstream.exchange"),
            SetClock(0, 10.0),
            Run(0, "sleep"),
            SetClock(0, -30.0),
            Run(0),
            Wait(80.0),
            Run(0),
        ),
        Setup(exchange_s=5.0),
    ),
    "memory was trusted for as much longer as unsealing took": Regression(
        "memory is trusted",
        trust_from_the_answer,
        (Run(0), Run(1, "before kms.decrypt", Fault.SLOW), Run(1), Wait(58.0), Run(1)),
    ),
    "a token expired while it was unsealed, and was served": Regression(
        "an expired token is served",
        m.function(issue_token, "is_usable", lambda *_: True),
        (
            Run(0),
            Wait(80.0),
            Rotate(accepted=False, old_stays=False),
            Run(1, "before kms.decrypt"),
            Freeze(1, 20.0),
            Run(1),
        ),
        Setup(expires_in=90),
    ),
    "a token expired while its publish was lost, and was served": Regression(
        "an expired token is served",
        m.figure("SHORTEST_USABLE_S", -1_000.0),
        (
            Run(0, "after upstream.exchange"),
            Run(0, "before dynamodb.update_item"),
            Freeze(0, 100.0),
            Run(1),
            Wait(110.0),
        ),
        Setup(expires_in=90),
    ),
    "a holder that stood still sent its exchange while another's token was published": Regression(
        "may end after its lock",
        m.figure("TO_SEND_S", -1_000.0),
        (Run(0, "after dynamodb.put_item"), Freeze(0, 16.0), Run(1), Wait(20.0)),
    ),
}


@pytest.mark.parametrize("found", REGRESSIONS)
def test_a_bug_once_found_stays_mended(found: str) -> None:
    simulate(REGRESSIONS[found].trace)


@pytest.mark.parametrize("found", REGRESSIONS)
def test_the_trace_still_finds_the_bug(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    regression = REGRESSIONS[found]
    regression.patch(monkeypatch)
    with pytest.raises(BrokenPromiseError) as broken:
        simulate(regression.trace)
    assert regression.promise in broken.value.promise
