"""Runs drawn traces, and shortens one that breaks a promise."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.simulation.decisions import Fault, Run, Setup, Trace
from tests.simulation.draw import draw_trace
from tests.simulation.watched import BrokenPromiseError
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable


def simulate(trace: Trace, *, counts: Counter[str] | None = None) -> World:
    """Run one trace to its end and on until all faults have ended; return the world as it is then.

    Raises:
        BrokenPromiseError: with the log of all that happened.
    """
    setup, decisions = trace
    world = World(setup, counts=counts)
    world.counts["runs"] += 1
    for decision in decisions:
        world.decide(decision)
    world.end_faults()
    return world


def explore(
    seeds: Iterable[int],
    *,
    adrift: bool,
    counts: Counter[str] | None = None,
    longest: int = 40,
    is_shortened: bool = True,
) -> None:
    """Simulate the trace of each seed.

    Raises:
        BrokenPromiseError: for the first that breaks a promise, with the shortest trace that still breaks it.
    """
    for seed in seeds:
        trace = draw_trace(Random(seed), adrift=adrift, longest=longest)  # noqa: S311 - repeatable on purpose
        try:
            simulate(trace, counts=counts)
        except BrokenPromiseError as broken:
            if not is_shortened:
                raise
            shortest, broken = _shorten(trace, broken)
            setup, decisions = shortest
            broken.add_note("\n".join([f"seed {seed}, cut down to:", repr(setup), *map(repr, decisions)]))
            raise broken from None


def _shorten(trace: Trace, broken: BrokenPromiseError) -> tuple[Trace, BrokenPromiseError]:
    """Remove and simplify decisions while some promise stays broken (delta debugging)."""
    setup, decisions = trace
    size = len(decisions)
    while size:
        at = 0
        while at < len(decisions):
            fewer = decisions[:at] + decisions[at + size :]
            if found := _breaks((setup, fewer)):
                decisions, broken = fewer, found
            else:
                at += size
        size //= 2
    for at, decision in enumerate(decisions):
        if isinstance(decision, Run) and decision.fault is not Fault.NONE:
            simpler = [*decisions[:at], decision._replace(fault=Fault.NONE), *decisions[at + 1 :]]
            if found := _breaks((setup, simpler)):
                decisions, broken = simpler, found
    for simpler_setup in (
        setup._replace(skews_s=setup.skews_s[:2]),
        setup._replace(skews_s=(0.0, 0.0)),
        Setup(expires_in=setup.expires_in),
    ):
        if found := _breaks((simpler_setup, decisions)):
            setup, broken = simpler_setup, found
    return (setup, decisions), broken


def _breaks(trace: Trace) -> BrokenPromiseError | None:
    try:
        simulate(trace)
    except BrokenPromiseError as broken:
        return broken
    return None
