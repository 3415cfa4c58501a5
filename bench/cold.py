"""Cold start: from the start of a process to its first answer, with the token found in DynamoDB."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from bench.instances import count_instructions, one_core, start
from bench.samples import Cost, Sample
from bench.world import EVENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.instances import Stage


def measure_starts(
    stages: Iterable[Stage], *, rounds: int, counted: bool, say: Callable[[str], None]
) -> dict[str, Cost]:
    """Start every stage once a round, in turns, so that other load on the machine affects all of them equally."""
    stages = list(stages)
    found = defaultdict(list)
    with one_core():
        for number in range(rounds):
            say(f"  round {number + 1} of {rounds}")
            # Every other round backwards, so that no stage always follows the same one.
            for stage in stages if number % 2 else reversed(stages):
                found[stage.name].append(start(stage, EVENT))
    counts: dict[str, int] = {}
    if counted:
        for stage in stages:
            say(f"  counting instructions: {stage.name}")
            counts[stage.name] = count_instructions(stage, EVENT)
    return {
        name: Cost(
            Sample.of(each.wall_s for each in starts),
            Sample.of(each.cpu_s for each in starts),
            counts.get(name),
        )
        for name, starts in found.items()
    }
