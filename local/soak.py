"""Runs the simulation with fresh seeds for as long as you like: `python -m local.soak --minutes 10`.

Prints what was done, and at a broken promise the shortest trace that breaks it; the exit status is then 1.
Another kind of soak (races of processes, say) is one more entry in `ACTIVITIES`.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.simulation.decisions import Trace, adrift, agreeing
from tests.simulation.world import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hypothesis.strategies import SearchStrategy


_RUNS_A_ROUND = 200
_LONGEST_TRACE = 80


def explore(traces: SearchStrategy[Trace], until_s: float, counts: Counter[str]) -> None:
    """Simulate drawn traces until then.

    Raises:
        BrokenPromiseError: with the log of the shortest trace found; Hypothesis has added the trace as a note.
    """
    while time.monotonic() < until_s:
        fresh = secrets.randbits(64)

        @seed(fresh)
        @settings(
            max_examples=_RUNS_A_ROUND,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            print_blob=False,
        )
        @given(traces)
        def run(trace: Trace) -> None:
            simulate(trace, counts=counts)

        try:
            run()
        except Exception:
            print(f"found with the seed {fresh}")
            raise


def simulate_agreeing(until_s: float, counts: Counter[str]) -> None:
    explore(agreeing(_LONGEST_TRACE), until_s, counts)


def simulate_adrift(until_s: float, counts: Counter[str]) -> None:
    explore(adrift(_LONGEST_TRACE), until_s, counts)


ACTIVITIES: Mapping[str, Callable[[float, Counter[str]], None]] = {
    "simulation, clocks within the margin": simulate_agreeing,
    "simulation, clocks adrift": simulate_adrift,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m local.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="in all, shared by the activities")
    share_s = 60.0 * parser.parse_args(arguments).minutes / len(ACTIVITIES)
    violations = 0
    for name, activity in ACTIVITIES.items():
        counts: Counter[str] = Counter()
        started_s = time.monotonic()
        try:
            activity(started_s + share_s, counts)
        except Exception as violation:  # noqa: BLE001 - whatever it is, the other activities go on
            violations += 1
            print(f"\n{name}: VIOLATION: {violation}")
            print("\n".join(getattr(violation, "__notes__", [])))
        print(f"\n{name}: {time.monotonic() - started_s:.0f} s")
        for kind, count in sorted(counts.items()):
            print(f"  {count:9,}  {kind}")
    print(f"\nviolations: {violations}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
