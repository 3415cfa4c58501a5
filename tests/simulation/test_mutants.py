"""Bugs planted in the broker, one at a time: the simulation has to find each of them, or it proves nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from functions.broker import attempt, decide, issue_token, ports, token
from tests.simulation import mutants as m
from tests.simulation.cloud import Cloud
from tests.simulation.decisions import (
    Ask,
    Damage,
    Decision,
    Delete,
    Deploy,
    Fault,
    Freeze,
    Outage,
    Rotate,
    Run,
    Say,
    SetClock,
    Setup,
    Tamper,
    Turn,
    Wait,
    Weather,
)
from tests.simulation.explore import explore, simulate
from tests.simulation.watched import BrokenPromiseError
from token_broker import issued_token, ledger_row

if TYPE_CHECKING:
    from tests.simulation.mutants import Patch

MOST_RUNS = 400


@dataclass(frozen=True)
class Mutant:
    """What is changed, and which broken promise tells of it (a regular expression).

    Attributes:
        trace: forces the situation; without one, drawn traces have to find it.
        setup: of the trace.
        adrift: whether clocks are, in drawn traces.
    """

    tells: str
    patch: Patch
    trace: tuple[Decision, ...] = ()
    setup: Setup = field(default_factory=Setup)
    adrift: bool = False


FALSE_REPORTS = (Run(0), *(step for _ in range(9) for step in (Wait(61.0), Ask(0, reporting=True), Run(0))))
PREVIOUS_IS_UNREADABLE = (
    Rotate(accepted=False),
    Turn(Weather.UNREACHABLE, 1.0),
    Run(0, "before upstream.exchange"),
    Run(0, "after secretsmanager.get_secret_value"),
    Run(0, "before secretsmanager.get_secret_value", Fault.UNREACHABLE),
    Run(0),
)
ITEM_IS_MADE_TWICE = (
    Run(0, "before kms.encrypt"),
    Run(0, "after upstream.exchange"),
    Delete(),
    Run(1, "after upstream.exchange"),
    Run(0),
    Run(1),
)
GIVEN_BACK_AFTER_A_LOOK = (
    Turn(Weather.BUSY),
    Run(0, "before upstream.exchange"),
    Freeze(0, 15.5),
    Wait(14.6),
    Run(1, "before dynamodb.update_item"),
    Freeze(1, 5.0),
    Wait(10.0),
)
UNCHANGED_PERSONAL_TOKEN = tuple(
    step for at in (5.0, 3_700.0) for step in (Ask(0, connection=2), Ask(1, connection=2), Wait(at))
)
OUTLIVED = (Run(0), Wait(95.0), Outage("secretsmanager", 100.0), Run(0))
LONG_MIN_TTL = (Deploy(60), Run(0), Wait(2_800.0), Ask(0, min_ttl_s=900.0))
SWAPPED = (Run(0), Ask(0, connection=1), Wait(5.0), Tamper(Damage.SWAPPED), Wait(61.0), Run(0))

MUTANTS = {
    # the item and its lock
    "reads that are not consistent": Mutant(
        "not as seen|error although|no token|waits", m.part(m.ReadsThatAreNotConsistent)
    ),
    "a lock taken without comparing its owner": Mutant(
        "not as seen", m.condition(" AND #lock_owner = :seen_owner", ""), GIVEN_BACK_AFTER_A_LOOK
    ),
    "a lock taken although somebody has it": Mutant(
        "before its end", m.function(decide, "is_locked", lambda *_: False)
    ),
    "who loses the race goes on": Mutant("without a lock|else holds", m.part(m.AnyWinner)),
    "own lock not recognised after a lost answer": Mutant(
        "waits for itself", m.part(m.LostLockIsNotRecognised)
    ),
    "fence not raised": Mutant("next fence|publishes twice", m.part(m.FenceIsNotRaised)),
    "lock not removed": Mutant("leaves its lock", m.part(m.LockIsNotRemoved)),
    "published without the owner": Mutant(
        "somebody else", m.condition(" AND #lock_owner = :seen_owner", "", of="token"), ITEM_IS_MADE_TWICE
    ),
    "published without any condition": Mutant(
        "somebody else",
        m.condition(
            "#fence = :seen_fence AND #lock_owner = :seen_owner", "attribute_exists(#fence)", of="token"
        ),
    ),
    "a lock longer than the sum": Mutant("a lock of", m.figure("LOCK_S", 20.0)),
    "a lock shorter than the sum": Mutant("a lock of", m.figure("LOCK_S", 13.6)),
    "any lock believed": Mutant(
        "no token", m.figure("LONGEST_LOCK_S", 1e12), (Run(0), Tamper(Damage.LOCKED), Wait(4_000.0), Run(1))
    ),
    "any time to wait believed": Mutant(
        "no token",
        m.figure("LONGEST_NOT_BEFORE_S", 1e12),
        (Turn(Weather.BROKEN), Run(0), Tamper(Damage.HELD_UP), Wait(61.0), Run(1)),
    ),
    "SDK repeats what was lost": Mutant(
        "waits|publishes twice|not as seen|without", m.function(Cloud, "sdk_retries", value=True)
    ),
    "a holder that dies is no failure": Mutant("leave no failure", m.part(m.DyingHolderLeavesNothing)),
    "a holder that dies is followed at once": Mutant("followed at once", m.part(m.DyingHolderIsFollowed)),
    "failures not cleared": Mutant("leaves a failure", m.part(m.FailuresAreNotCleared)),
    "what is no longer set not removed": Mutant("leaves a failure", m.part(m.OnlyWhatIsSetIsWritten)),
    # limits
    "the upstream's Retry-After cut short": Mutant(
        "Retry-After is not", m.figure("RETRY_AFTER_LIMIT_S", 10.0)
    ),
    "nothing taken from the pace": Mutant("not taken from the pace", m.part(m.NothingTakenFromThePace)),
    "everything given back to the pace": Mutant("given back that may", m.part(m.EverythingGivenBack)),
    "a faster pace": Mutant("pace", m.figure("EXCHANGE_INTERVAL_S", 60.0, token)),
    "time to wait ignored": Mutant("sooner than a failure", m.figure("LONGEST_NOT_BEFORE_S", 0.0)),
    "time of the next refresh ignored": Mutant(
        "too soon", m.function(decide, "_refresh_not_before", lambda *_: 0.0)
    ),
    "reports not counted": Mutant("more tokens replaced", m.part(m.ReportsAreNotCounted), FALSE_REPORTS),
    "no time said in a refusal": Mutant("no Retry-After", m.function(decide, "whole", lambda _: 0)),
    # time
    "time to lock not looked at again": Mutant("too late to finish", m.figure("TO_LOCK_S", 12.1)),
    "deadline not looked at again": Mutant(
        "after the deadline|too late to finish", m.attempted("clock", m.later_deadline)
    ),
    "time to send too short": Mutant("may end after", m.figure("TO_SEND_S", 8.0)),
    "clocks believed to agree": Mutant("may end after its lock", m.figure("CLOCK_DIFFERENCE_S", 0.0)),
    "an exchange without an end": Mutant("take too long", m.figure("EXCHANGE_S", 15.0)),
    "clock going back ignored": Mutant(
        "set back",
        m.function(ports.RequestClock, "was_set_back", lambda _: False),
        (Run(0, "before dynamodb.put_item"), SetClock(0, -120.0), Run(0)),
    ),
    "waits beyond the deadline": Mutant("deadline", m.figure("AWS_CALL_S", -20.0)),
    # ledger
    "row after the exchange": Mutant("without a row", m.part(m.RowAfterTheExchange)),
    "exchange although its row failed": Mutant("without a row", m.part(m.ExchangeWithoutItsRow)),
    "token although its row failed": Mutant("without its row", m.part(m.TokenWithoutItsRow)),
    "lost exchange called failed": Mutant("says something else", m.part(m.LostExchangeIsCalledFailed)),
    "rows named by their fence alone": Mutant(
        "another token's|begins twice|says something else", m.part(m.RowsByFenceAlone)
    ),
    "rows that do not outlive their tokens": Mutant(
        "does not outlive", m.figure("LONGEST_LIFETIME_S", 86_400.0, ledger_row)
    ),
    # exchange
    "exchange without trying the key": Mutant("key has not answered", m.part(m.KeyIsNotTried)),
    "list of refused versions ignored": Mutant("not next", m.refused_list_is_ignored),
    "unreadable previous version called refused": Mutant(
        "never refused", m.unreadable_previous_is_refused, PREVIOUS_IS_UNREADABLE
    ),
    "expiry counted from the answer": Mutant("too long|lived longer", m.expiry_from_the_answer),
    "reported token published again": Mutant(
        "published again|served again",
        m.attempted("wanted", lambda wanted: wanted._replace(rejected_token_id=None)),
        (Run(0), Wait(100.0), Turn(Weather.EXTENDING), Ask(0, reporting=True), Run(0)),
    ),
    "a guessed lifetime of minutes": Mutant(
        "pace|too long", m.figure("UNSAID_LIFETIME_S", 10 * 86_400.0, issued_token), (Say(None), Run(0))
    ),
    "a refresh that brings no progress": Mutant(
        "lives no longer",
        m.function(attempt, "lacks", lambda *_: None),
        (Run(0), Wait(3_000.0), Say(90), Run(0)),
    ),
    # who is served what
    "any report counts": Mutant(
        "fresh token is published|young token",
        m.function(decide, "_is_reported", lambda token, wanted, now: wanted.rejected_token_id is not None),
        (
            Run(0),
            Wait(100.0),
            Run(1),
            Ask(0, reporting=True),
            Run(0),
            Wait(61.0),
            Ask(1, reporting=True),
            Run(1),
        ),
    ),
    "sealed without the expiry": Mutant(
        "lived longer", m.context("expires_at"), (Run(0), Tamper(Damage.EXTENDED), Run(1))
    ),
    "sealed without the connection": Mutant("another connection's", m.context("connection"), SWAPPED),
    "broken ciphertext served": Mutant(
        "another's name|never issued",
        m.part(m.BrokenCiphertextIsServed),
        (Run(0), Tamper(Damage.GARBLED), Run(1)),
    ),
    "expired token served": Mutant(
        "expired", m.figure("SHORTEST_USABLE_S", -30.0), OUTLIVED, Setup(expires_in=90)
    ),
    "memory trusted for longer": Mutant("memory is trusted", m.figure("TRUST_S", 90.0)),
    "rule for young tokens dropped": Mutant("young", m.figure("YOUNG_TOKEN_S", 0.0)),
    "old tokens called young": Mutant("rejected token", m.figure("YOUNG_TOKEN_S", 600.0)),
    "reports ignored": Mutant("rejected token", m.part(m.ReportIsIgnored)),
    "any min_ttl counts": Mutant("fresh token is published", m.any_min_ttl, LONG_MIN_TTL),
    "refreshed at half of its life": Mutant("fresh token is published", m.figure("REFRESH_FRACTION", 0.5)),
    "changed personal token not seen": Mutant(
        "different tokens",
        m.figures(PERSONAL_TOKEN_LOOK_S=1e9, REFRESH_RETRY_UNDATED_S=1e9),
        UNCHANGED_PERSONAL_TOKEN,
    ),
    "no token for a caller while it is refreshed": Mutant(
        "error although|long after its deadline", m.function(decide, "is_usable", lambda *_: False)
    ),
    "a loop without an end": Mutant(
        "spins|long after its deadline", m.function(issue_token, "is_usable", lambda *_: False)
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    trace = (mutant.setup, list(mutant.trace)) if mutant.trace else None
    if trace:
        simulate(trace)  # it is the bug that breaks the promise, not the trace
    mutant.patch(monkeypatch)

    with pytest.raises(BrokenPromiseError) as found:  # noqa: PT012 - one of two ways to run
        if trace:
            simulate(trace)
        else:
            explore(range(MOST_RUNS), adrift=mutant.adrift, is_shortened=False)
    assert re.search(mutant.tells, found.value.promise), found.value.promise
