"""Runs simulation and races with fresh seeds for as long as you like: `python -m tests.soak --minutes 10`.

Prints what was done. A broken promise is printed with what broke it (for the simulation, the shortest trace). Then it
goes on, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from tests.races.racing import race_until
from tests.simulation.explore import explore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


_LONGEST_TRACE = 80
_MOST_VIOLATIONS = 10
"""An activity ends after so many violations."""


def simulate(until_s: float, counts: Counter[str], *, adrift: bool) -> None:
    """Simulate traces of fresh seeds until `time.monotonic()` reaches `until_s`.

    Raises:
        BrokenPromiseError: with the log and, as a note, the shortest trace that breaks the promise.
    """

    def fresh_seeds() -> Iterator[int]:
        while time.monotonic() < until_s:
            yield secrets.randbits(48)

    explore(fresh_seeds(), adrift=adrift, counts=counts, longest=_LONGEST_TRACE)


# Each works until the given moment, counts what it does, and raises at a violation.
ACTIVITIES: Mapping[str, Callable[[float, Counter[str]], None]] = {
    "simulation, clocks within 1.5 s": partial(simulate, adrift=False),
    "simulation, clocks adrift": partial(simulate, adrift=True),
    "races across processes": race_until,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="in all, shared by the activities")
    share_s = 60.0 * parser.parse_args().minutes / len(ACTIVITIES)
    violations = steps = faults = 0
    for name, activity in ACTIVITIES.items():
        counts: Counter[str] = Counter()
        started_s = time.monotonic()
        broken = 0
        while time.monotonic() < started_s + share_s and broken < _MOST_VIOLATIONS:
            try:
                activity(started_s + share_s, counts)
            except Exception as violation:  # noqa: BLE001 - whatever it is, the other activities go on
                broken += 1
                print(f"\n{name}: VIOLATION: {violation}")
                print("\n".join(getattr(violation, "__notes__", [])))
        print(f"\n{name}: {time.monotonic() - started_s:.0f} s")
        for kind, count in sorted(counts.items()):
            print(f"  {count:9,}  {kind}")
        violations += broken
        steps += counts["steps"]
        faults += sum(count for kind, count in counts.items() if kind.startswith("fault: "))
    print(f"\nsteps: {steps:,}  faults: {faults:,}  violations: {violations}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
