"""Bugs planted in the broker, one at a time. The simulation must find each of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import pytest

from functions.broker import attempt, decide, issue_token, ports, replace_token, token
from functions.broker.adapters import token_store
from functions.broker.adapters.mint_ledger import MintLedger
from functions.broker.adapters.token_store import TokenStore
from functions.broker.issue_token import TokenIssuer
from tests.simulation import decisions as d
from tests.simulation import mutants as m
from tests.simulation.cloud import Cloud
from tests.simulation.explore import explore, simulate
from tests.simulation.watched import BrokenPromiseError
from token_broker import issued_token, ledger_row

if TYPE_CHECKING:
    from tests.simulation.mutants import Patch

MOST_RUNS = 400


class Mutant(NamedTuple):
    """What is changed, and which broken promise tells of it (a regular expression).

    Attributes:
        trace: makes the bug show; without one, drawn traces must find it.
    """

    tells: str
    patch: Patch
    trace: tuple[d.Decision, ...] = ()
    setup: d.Setup = d.Setup()


FALSE_REPORTS = (
    d.Run(0),
    *(step for _ in range(9) for step in (d.Wait(61.0), d.Ask(0, reporting=True), d.Run(0))),
)
PREVIOUS_IS_UNREADABLE = (
    d.Rotate(accepted=False),
    d.Turn(d.Mode.UNREACHABLE, 1.0),
    d.Run(0, "before upstream.exchange"),
    d.Run(0, "after secretsmanager.get_secret_value"),
    d.Run(0, "before secretsmanager.get_secret_value", d.Fault.UNREACHABLE),
    d.Run(0),
)
ITEM_IS_MADE_TWICE = (
    d.Run(0, "before kms.encrypt"),
    d.Run(0, "after upstream.exchange"),
    d.Delete(),
    d.Run(1, "after upstream.exchange"),
    d.Run(0),
    d.Run(1),
)
GIVEN_BACK_AFTER_A_LOOK = (
    d.Turn(d.Mode.BUSY),
    d.Run(0, "before upstream.exchange"),
    d.Freeze(0, 15.5),
    d.Wait(14.6),
    d.Run(1, "before dynamodb.update_item"),
    d.Freeze(1, 5.0),
    d.Wait(10.0),
)
UNCHANGED_PERSONAL_TOKEN = tuple(
    step for at in (5.0, 3_700.0) for step in (d.Ask(0, connection=2), d.Ask(1, connection=2), d.Wait(at))
)
OUTLIVED = (d.Run(0), d.Wait(95.0), d.Outage("secretsmanager", 100.0), d.Run(0))
LONG_MIN_TTL = (d.Deploy(60), d.Run(0), d.Wait(2_800.0), d.Ask(0, min_ttl_s=900.0))
SWAPPED = (d.Run(0), d.Ask(0, connection=1), d.Wait(5.0), d.Tamper(d.Damage.SWAPPED), d.Wait(61.0), d.Run(0))

MUTANTS = {
    # the item and its lock
    "reads that are not consistent": Mutant(
        "not as seen|error although|no token|waits", m.replaced(TokenStore, "read", m.read_inconsistently)
    ),
    "a lock taken without comparing its owner": Mutant(
        "not as seen", m.condition(" AND #lock_owner = :seen_owner", ""), GIVEN_BACK_AFTER_A_LOOK
    ),
    "a lock taken although somebody has it": Mutant(
        "before its end", m.replaced(decide, "is_locked", lambda *_: False)
    ),
    "the loser of a race goes on": Mutant(
        "without a lock|not mine", m.wrapped(TokenStore, "write", m.all_win)
    ),
    "own lock not recognised after a lost answer": Mutant(
        "waits for itself", m.wrapped(TokenStore, "write", m.take_lost_for_busy)
    ),
    "fence not raised": Mutant(
        "next fence|publishes twice",
        m.written(locked=lambda before, after: after._replace(fence=max(1, before.fence))),
    ),
    "lock not removed": Mutant("leaves its lock", m.written(published=m.leave_lock, given_back=m.leave_lock)),
    "published without the owner": Mutant(
        "somebody else", m.condition(" AND #lock_owner = :seen_owner", "", of="token"), ITEM_IS_MADE_TWICE
    ),
    "published without any condition": Mutant(
        "somebody else",
        m.condition(
            "#fence = :seen_fence AND #lock_owner = :seen_owner", "attribute_exists(#fence)", of="token"
        ),
        ITEM_IS_MADE_TWICE,
    ),
    "a lock longer than the sum": Mutant("a lock of", m.figures(LOCK_S=20.0)),
    "a lock shorter than the sum": Mutant("a lock of", m.figures(LOCK_S=13.6)),
    "any lock believed": Mutant(
        "no token",
        m.figures(LONGEST_LOCK_S=1e12),
        (d.Run(0), d.Tamper(d.Damage.LOCKED), d.Wait(4_000.0), d.Run(1)),
    ),
    "any time to wait believed": Mutant(
        "no token",
        m.figures(LONGEST_NOT_BEFORE_S=1e12),
        (d.Turn(d.Mode.BROKEN), d.Run(0), d.Tamper(d.Damage.BLOCKED), d.Wait(61.0), d.Run(1)),
    ),
    "SDK repeats what was lost": Mutant(
        "waits|publishes twice|not as seen|without", m.replaced(Cloud, "sdk_retries", value=True)
    ),
    "a holder that dies is no failure": Mutant("leave no failure", m.written(locked=m.leave_no_failure)),
    "a holder that dies is followed at once": Mutant(
        "followed at once", m.written(locked=lambda _, after: after._replace(refresh_at_epoch_s=0.0))
    ),
    "failures not cleared": Mutant("leaves a failure", m.written(published=m.leave_failure)),
    "what is no longer set not removed": Mutant(
        "leaves a failure", m.wrapped(TokenStore, "_update", m.remove_locks_only)
    ),
    # limits
    "the upstream's Retry-After cut short": Mutant("Retry-After is not", m.figures(RETRY_AFTER_LIMIT_S=10.0)),
    "nothing taken from the pace": Mutant("not taken from the pace", m.nothing_taken_from_the_pace),
    "all given back to the pace": Mutant("given back that may", m.written(given_back=m.give_exchange_back)),
    "a faster pace": Mutant("pace", m.replaced(token, "EXCHANGE_INTERVAL_S", 60.0)),
    "time to wait ignored": Mutant("sooner than a failure", m.figures(LONGEST_NOT_BEFORE_S=0.0)),
    "time of the next refresh ignored": Mutant(
        "too soon", m.replaced(decide, "_refresh_not_before", lambda *_: 0.0)
    ),
    "reports not counted": Mutant(
        "more tokens replaced",
        m.written(published=lambda _, after: after._replace(reports={})),
        FALSE_REPORTS,
    ),
    "no time said in a refusal": Mutant("no Retry-After", m.replaced(decide, "whole", lambda _: 0)),
    # time
    "time to lock not looked at again": Mutant("too late to finish", m.figures(TO_LOCK_S=12.1)),
    "deadline not looked at again": Mutant(
        "after the deadline|too late to finish", m.attempted("clock", m.later_deadline)
    ),
    "time to send too short": Mutant("may end after", m.figures(TO_SEND_S=8.0)),
    "clocks believed to agree": Mutant("may end after its lock", m.figures(CLOCK_DIFFERENCE_S=0.0)),
    "an exchange without an end": Mutant("take too long", m.figures(EXCHANGE_S=15.0)),
    "clock going back ignored": Mutant(
        "set back",
        m.replaced(ports.RequestClock, "was_set_back", lambda _: False),
        (d.Run(0, "before dynamodb.put_item"), d.SetClock(0, -120.0), d.Run(0)),
    ),
    "waits beyond the deadline": Mutant("deadline", m.figures(AWS_CALL_S=-20.0)),
    # ledger
    "row after the exchange": Mutant("without a row", m.replaced(MintLedger, "begin", lambda *_: None)),
    "exchange although its row failed": Mutant("without a row", m.wrapped(MintLedger, "begin", m.go_on)),
    "token although its row failed": Mutant("without its row", m.wrapped(MintLedger, "complete", m.go_on)),
    "lost exchange failed": Mutant("says something else", m.wrapped(MintLedger, "begin", m.begin_as_failed)),
    "rows named by their fence alone": Mutant(
        "another token's|begins twice|says something else",
        m.wrapped(MintLedger, "_put", m.put_by_fence_alone),
    ),
    "rows that do not outlive their tokens": Mutant(
        "does not outlive", m.replaced(ledger_row, "LONGEST_LIFETIME_S", 86_400.0)
    ),
    # exchange
    "exchange without trying the key": Mutant(
        "key has not answered", m.replaced(TokenStore, "probe_key", lambda *_: None)
    ),
    "list of refused versions ignored": Mutant(
        "not next", m.wrapped(attempt, "next_candidate", lambda choose, readable, _: choose(readable, ()))
    ),
    "unreadable previous version called refused": Mutant(
        "never refused", m.refuse_unreadable, PREVIOUS_IS_UNREADABLE
    ),
    "expiry counted from the answer": Mutant(
        "too long|lived longer", m.wrapped(replace_token._Attempt, "_exchange", m.count_from_answer)
    ),
    "reported token published again": Mutant(
        "published again|served again",
        m.attempted("wanted", lambda wanted: wanted._replace(rejected_token_id=None)),
        (d.Run(0), d.Wait(100.0), d.Turn(d.Mode.EXTENDING), d.Ask(0, reporting=True), d.Run(0)),
    ),
    "a guessed lifetime of minutes": Mutant(
        "pace|too long", m.replaced(issued_token, "UNSAID_LIFETIME_S", 10 * 86_400.0), (d.Say(None), d.Run(0))
    ),
    "a refresh that brings no progress": Mutant(
        "lives no longer",
        m.replaced(attempt, "why_not_better", lambda *_: None),
        (d.Run(0), d.Wait(3_000.0), d.Say(90), d.Run(0)),
    ),
    # who is served what
    "any report counts": Mutant(
        "fresh token is published|young token",
        m.replaced(decide, "_is_reported", lambda token, wanted, now: wanted.rejected_token_id is not None),
        (
            d.Run(0),
            d.Wait(100.0),
            d.Run(1),
            d.Ask(0, reporting=True),
            d.Run(0),
            d.Wait(61.0),
            d.Ask(1, reporting=True),
            d.Run(1),
        ),
    ),
    "sealed without the expiry": Mutant(
        "lived longer",
        m.wrapped(token_store, "_context", lambda full, name, fence, _: full(name, fence, None)),
        (d.Run(0), d.Tamper(d.Damage.EXTENDED), d.Run(1)),
    ),
    "sealed without the connection": Mutant(
        "another connection's",
        m.wrapped(token_store, "_context", lambda full, _, *others: full("any", *others)),
        SWAPPED,
    ),
    "broken ciphertext served": Mutant(
        "another's id|never issued",
        m.wrapped(TokenStore, "open", m.serve_broken),
        (d.Run(0), d.Tamper(d.Damage.GARBLED), d.Run(1)),
    ),
    "expired token served": Mutant(
        "expired", m.figures(SHORTEST_USABLE_S=-30.0), OUTLIVED, d.Setup(expires_in=90)
    ),
    "memory trusted for longer": Mutant("memory is trusted", m.figures(TRUST_S=90.0)),
    "rule for young tokens dropped": Mutant("young", m.figures(YOUNG_TOKEN_S=0.0)),
    "old tokens called young": Mutant("rejected token", m.figures(YOUNG_TOKEN_S=600.0)),
    "reports ignored": Mutant("rejected token", m.wrapped(TokenIssuer, "issue", m.ignore_report)),
    "any min_ttl counts": Mutant(
        "fresh token is published", m.wrapped(TokenIssuer, "issue", m.believe_any_min_ttl), LONG_MIN_TTL
    ),
    "refreshed at half of its life": Mutant("fresh token is published", m.figures(REFRESH_FRACTION=0.5)),
    "changed personal token not seen": Mutant(
        "different tokens",
        m.figures(PERSONAL_TOKEN_LOOK_S=1e9, REFRESH_RETRY_UNDATED_S=1e9),
        UNCHANGED_PERSONAL_TOKEN,
    ),
    "no token for a caller while it is refreshed": Mutant(
        "error although|long after its deadline", m.replaced(decide, "is_usable", lambda *_: False)
    ),
    "a loop without an end": Mutant(
        "spins|long after its deadline", m.replaced(issue_token, "is_usable", lambda *_: False)
    ),
    # traces that once broke a promise, each with the bug that it found then
    "memory was trusted for as much longer as a clock had been set back": Mutant(
        "memory is trusted",
        m.wrapped(issue_token._Request, "_remember", m.trust_from_answer),
        (
            d.Run(1, "before upstream.exchange"),
            d.SetClock(0, 10.0),
            d.Run(0, "sleep"),
            d.SetClock(0, -30.0),
            d.Run(0),
            d.Wait(80.0),
            d.Run(0),
        ),
        d.Setup(exchange_s=5.0),
    ),
    "memory was trusted for as much longer as unsealing took": Mutant(
        "memory is trusted",
        m.wrapped(issue_token._Request, "_remember", m.trust_from_answer),
        (d.Run(0), d.Run(1, "before kms.decrypt", d.Fault.SLOW), d.Run(1), d.Wait(58.0), d.Run(1)),
    ),
    "a token expired while it was unsealed, and was served": Mutant(
        "an expired token is served",
        m.replaced(issue_token, "is_usable", lambda *_: True),
        (
            d.Run(0),
            d.Wait(80.0),
            d.Rotate(accepted=False, old_stays=False),
            d.Run(1, "before kms.decrypt"),
            d.Freeze(1, 20.0),
            d.Run(1),
        ),
        d.Setup(expires_in=90),
    ),
    "a token expired while its publish was lost, and was served": Mutant(
        "an expired token is served",
        m.figures(SHORTEST_USABLE_S=-1_000.0),
        (
            d.Run(0, "after upstream.exchange"),
            d.Run(0, "before dynamodb.update_item"),
            d.Freeze(0, 100.0),
            d.Run(1),
            d.Wait(110.0),
        ),
        d.Setup(expires_in=90),
    ),
    "a holder that stood still sent its exchange while another's token was published": Mutant(
        "may end after its lock",
        m.figures(TO_SEND_S=-1_000.0),
        (d.Run(0, "after dynamodb.put_item"), d.Freeze(0, 16.0), d.Run(1), d.Wait(20.0)),
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
            explore(range(MOST_RUNS), adrift=False, is_shortened=False)
    assert re.search(mutant.tells, found.value.promise), found.value.promise
