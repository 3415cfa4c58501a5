"""Traces that once broke a promise, as the explorer cut them down; each with the bug that it had found.

They hold today, and with the bug planted again they still break: so they are worth keeping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker.issue_token import IssuedToken, TokenIssuer
from functions.broker.replace_token import TokenReplacer
from tests.simulation.decisions import Ask, Decision, Fault, Outage, Promise, Run, Setup, Trace, Wait
from tests.simulation.explore import simulate
from tests.simulation.instance import Parts
from tests.simulation.promises import BrokenPromiseError
from tests.simulation.test_mutants import OrphanInService, SilentDirectMint

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.broker.token_record import TokenRecord


class TrustFromTheAnswer(TokenIssuer):
    """Trusts its memory from the moment at which the token was unsealed, not from the look at the table."""

    def _hold(self, record: TokenRecord, access_token: str, checked_at_epoch_s: float) -> Any:
        return super()._hold(record, access_token, self._surroundings.clock())


class WriteOffAtOnce(TokenReplacer):
    """Calls a token an orphan as soon as another one is served, though its own publish may still be on the way."""

    def settle(self, record: TokenRecord) -> None:
        kept = self._kept.get(record.connection)
        if kept and record.token:
            self._set_aside(kept.row, record)


def never_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IssuedToken, "has_expired", lambda _, now: False)


@dataclass(frozen=True)
class Regression:
    """A trace, and how the bug is brought back."""

    promise: str
    setup: Setup
    decisions: tuple[Decision, ...]
    parts: Parts | None = None
    patch: Callable[[pytest.MonkeyPatch], None] = lambda _: None

    @property
    def trace(self) -> Trace:
        return self.setup, list(self.decisions)


REGRESSIONS = {
    "memory was trusted for as much longer as unsealing took": Regression(
        "memory is trusted",
        Setup(),
        (Run(0), Run(1, "before kms.decrypt", Fault.SLOW), Run(1), Wait(58.0), Run(1)),
        parts=Parts(issuer=TrustFromTheAnswer),
    ),
    "a token expired while it was unsealed, and was served": Regression(
        "an expired token is served",
        Setup(skews_s=(-2.5, 2.5, 1.25, -2.5), latency_s=0.5, expires_in=90, seed=666),
        (
            Run(1, "after upstream.exchange"),
            Wait(88.0),
            Ask(2, time_left_s=3.0),
            Run(0, "after dynamodb.update_item"),
        ),
        patch=never_expired,
    ),
    "a token expired while it was minted without the table, and was served": Regression(
        "an expired token is served",
        Setup(latency_s=1.0),
        (Promise(2), Run(0, "before dynamodb.get_item", Fault.REFUSED), Wait(61.0)),
        patch=never_expired,
    ),
    "an instance died in a mint without the table, and nothing told of the token": Regression(
        "nothing accounts",
        Setup(),
        (Outage("dynamodb", 3.0), Run(0, "before upstream.exchange", Fault.CRASH_AFTER)),
        parts=Parts(replacer=SilentDirectMint),
    ),
    "the answer to a publish was lost, and the ledger called the token in service an orphan": Regression(
        "orphan",
        Setup(),
        (
            Run(0, "after upstream.exchange"),
            Run(0, "before dynamodb.update_item", Fault.LOST),
            Run(0),
            Wait(3_300.0),
            Run(0, "before upstream.exchange"),
        ),
        parts=Parts(replacer=OrphanInService),
    ),
    "a publish came late, after its token had been written off": Regression(
        "orphan",
        Setup(expires_in=31_536_000),
        (
            Run(0),
            Wait(75.0),
            Ask(0, rejecting=True),
            Run(0, "after upstream.exchange"),
            Run(0, "before dynamodb.update_item", Fault.LATE),
            Run(0),
            Ask(0, rejecting=True),
            Run(0),
            Wait(5.0),
        ),
        parts=Parts(replacer=WriteOffAtOnce),
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
        simulate(regression.trace, regression.parts)
    assert regression.promise in broken.value.promise
