"""Warm call: an answer from memory through the runtime interface, audit line and metrics included."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.instances import Instance, count_instructions, one_core
from bench.samples import Cost, Sample
from bench.world import EVENT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.instances import Stage
    from bench.world import World

_WARM_UP_CALLS, _COUNTED_CALLS = 50, 200


@dataclass(frozen=True, slots=True)
class Windows:
    """AWS calls of one instance over a few minutes of its own clock; it is called every second.

    Attributes:
        first: at the first answer.
        within: in the rest of the first 60 s.
        per_window: in each minute after.
        line_bytes: of the last line that it has written, which is what an answer writes to the log.
        tls_contexts: how many certificates each TLS context has, of those that have loaded root certificates.
    """

    first: dict[str, int]
    within: dict[str, int]
    per_window: list[dict[str, int]]
    tls_contexts: list[int]
    line_bytes: int


def measure_calls(
    stages: Iterable[Stage], *, blocks: int, calls_per_block: int, counted: bool
) -> dict[str, Cost]:
    """Call one running instance of every stage in turns, a block of calls at a time."""
    stages = list(stages)
    wall, cpu = defaultdict(list), defaultdict(list)
    with one_core(), ExitStack() as stack:
        instances = {stage.name: stack.enter_context(Instance(stage)) for stage in stages}
        for instance in instances.values():
            for _ in range(_WARM_UP_CALLS):
                instance.invoke(EVENT)
        for number in range(blocks):
            for name in list(instances)[:: 1 if number % 2 else -1]:
                before = instances[name].invoke(EVENT)
                for _ in range(calls_per_block):
                    after = instances[name].invoke(EVENT)
                wall[name].append((after.at_s - before.at_s) / calls_per_block)
                cpu[name].append((after.cpu_s - before.cpu_s) / calls_per_block)
    counts: dict[str, int] = {}
    if counted:
        for stage in stages:
            one = count_instructions(stage, EVENT)
            counts[stage.name] = (
                count_instructions(stage, EVENT, 1 + _COUNTED_CALLS) - one
            ) // _COUNTED_CALLS
    return {
        stage.name: Cost(Sample.of(wall[stage.name]), Sample.of(cpu[stage.name]), counts.get(stage.name))
        for stage in stages
    }


def watch_windows(world: World, stage: Stage, minutes: int = 3) -> Windows:
    """Count the AWS calls and TLS contexts of one instance whose clock the events move."""
    watched = world.watched(stage)
    world.front.take_calls()
    with Instance(watched) as instance:
        instance.invoke(_at(0))
        first = world.front.take_calls()
        for second in range(1, 60):
            instance.invoke(_at(second))
        within = world.front.take_calls()
        per_window = []
        for minute in range(1, minutes + 1):
            for second in range(60 * minute, 60 * minute + 60):
                answer = instance.invoke(_at(second))
            per_window.append(world.front.take_calls())
        line_bytes = len(instance.log_lines()[-1].encode())
    contexts: list[int] = json.loads(answer.body)["headers"]["x-tls-contexts"]
    return Windows(first, within, per_window, contexts, line_bytes)


def _at(second: int) -> bytes:
    event = json.loads(EVENT)
    event["headers"]["x-clock-offset"] = str(second)
    return json.dumps(event).encode()
