"""Growth: what a fleet of one to ten thousand instances asks of AWS, by the real policy on a virtual clock."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from typing import Final

from bench.virtual import START_EPOCH_S, Tally, VirtualFleet
from functions.broker import lifetime

FLEETS: Final = (1, 10, 100, 1_000, 10_000)
INSTANCE_LIFE_S: Final = 2 * 3_600
"""Assumed: Lambda retires a busy instance after some two hours."""
_REFRESH_WATCHED_S: Final = lifetime.TRUST_S + 10
"""Up to the second check of the instances that compared their copy with the item at the moment of the refresh."""
_YEAR_S: Final = 365 * 86_400.0
_SERVED: Final = frozenset({"memory", "table", "mint"})
_LAMBDA_SCALES_AT_ONCE, _LAMBDA_SCALES_PER_S = 1_000, 100


@dataclass(frozen=True, slots=True)
class Event:
    """One moment in a fleet's life; a `busiest second` is that of the reads or decrypts before it.

    `reads` and `decrypts` are of the token item and its token; `secret_reads` are two by each instance that tries to
    take the lock; a quota refused `throttled_calls`; a wait is that of an answer that did not come from memory.
    """

    instances: int
    mints: int
    lost_lock_races: int
    reads: int
    busiest_second_of_reads: int
    decrypts: int
    busiest_second_of_decrypts: int
    secret_reads: int
    throttled_calls: int
    refused_answers: int
    median_wait_s: float
    longest_wait_s: float


def cold_fleet(instances: int) -> Event:
    """Start a fleet as fast as Lambda starts one, with no token anywhere, one request for each instance."""
    fleet = VirtualFleet()
    for number in range(instances):
        delay_s = max(0, number - _LAMBDA_SCALES_AT_ONCE) / _LAMBDA_SCALES_PER_S
        issuer = fleet.new_instance()
        fleet.at(START_EPOCH_S + delay_s, partial(fleet.ask, issuer))
    fleet.run()
    return _event(instances, fleet.tally, fleet.upstream.mints)


def refresh(instances: int) -> Event:
    """Call each instance of a fleet once a second, around the moment at which their year-long token becomes due."""
    fleet = VirtualFleet(expires_in_s=_YEAR_S)
    fleet.mint_first_token()
    due = START_EPOCH_S + _YEAR_S - lifetime.refresh_margin_s(_YEAR_S)
    issuers = [fleet.new_instance() for _ in range(instances)]
    for number, issuer in enumerate(issuers):
        # Each instance last read the item at its own moment of the minute before.
        fleet.at(due - 60 + 59 * number / instances, partial(fleet.ask, issuer))
    fleet.run()
    fleet.tally = Tally()
    for number, issuer in enumerate(issuers):
        begin = due - 0.5 + number / instances
        fleet.call_on(issuer, begin_epoch_s=begin, end_epoch_s=due + _REFRESH_WATCHED_S, pause_s=1.0)
    fleet.run()
    return _event(instances, fleet.tally, fleet.upstream.mints - 1)


def steady_reads_per_instance_s(instances: int = 50, minutes: int = 5) -> float:
    """Return the reads a second of each instance of a busy fleet while nothing is due: one a minute is promised."""
    fleet = VirtualFleet()
    fleet.mint_first_token()
    ends = fleet.now + 60.0 * minutes
    for _ in range(instances):
        fleet.call_on(fleet.new_instance(), begin_epoch_s=fleet.now, end_epoch_s=ends, pause_s=1.0)
    fleet.run()
    return fleet.tally.calls["dynamodb.get_item"] / instances / (60 * minutes)


def year(token_lifetime_s: float, *, days: int = 365) -> tuple[float, float]:
    """Return mints a year, and the share of calls refused, of one instance that is asked 200 times in a lifetime."""
    fleet = VirtualFleet(expires_in_s=token_lifetime_s)
    fleet.call_on(
        fleet.new_instance(),
        begin_epoch_s=fleet.now,
        end_epoch_s=fleet.now + days * 86_400,
        pause_s=min(token_lifetime_s / 200, 3_600.0),
    )
    fleet.run()
    return fleet.upstream.mints * 365 / days, _refused(fleet.tally) / fleet.tally.answers.total()


def _refused(tally: Tally) -> int:
    return sum(count for outcome, count in tally.answers.items() if outcome not in _SERVED)


def _event(instances: int, tally: Tally, mints: int) -> Event:
    waits = [wait for wait in tally.waits_s if wait > 0] or [0.0]
    return Event(
        instances=instances,
        mints=mints,
        # An exchange takes the lock once and publishes once; every further write has lost the race for the lock.
        lost_lock_races=tally.calls["dynamodb.update_item"] - 2 * mints,
        reads=tally.calls["dynamodb.get_item"],
        busiest_second_of_reads=tally.busiest_second("dynamodb.get_item"),
        decrypts=tally.calls["kms.decrypt"],
        busiest_second_of_decrypts=tally.busiest_second("kms.decrypt"),
        secret_reads=tally.calls["secretsmanager.get_secret_value"],
        throttled_calls=tally.throttled.total(),
        refused_answers=_refused(tally),
        median_wait_s=statistics.median(waits),
        longest_wait_s=max(waits),
    )
