"""`python -m bench`: measure everything, write docs/bench.json and the tables. Under ten minutes.

--quick          fewer rounds and no instruction counts, for trying things out
--only PART ...  measure these parts only; the others stay as docs/bench.json has them
--render         measure nothing: write tables from docs/bench.json again
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import report
from bench.caller import measure_caller
from bench.cold import measure_starts
from bench.growth import (
    FLEETS,
    INSTANCE_LIFE_S,
    cold_fleet,
    refresh,
    steady_reads_per_instance_s,
    year,
)
from bench.runtime_api import HandlerFailedError
from bench.sizes import measure_size, read_budgets_bytes
from bench.stages import BUILD, PROJECT, NotBuiltError
from bench.stampede import INSTANCES, run_stampede
from bench.variants import variants
from bench.warm import measure_calls, watch_windows
from bench.world import World
from local.children import LocalCloudError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.report import Results

RESULTS_FILE: Final = PROJECT / "docs/bench.json"
_DAY_S: Final = 86_400.0
_LIFETIMES_S: Final = {
    "15 minutes": (900.0, 10),
    "1 hour": (3_600.0, 30),
    "1 day": (_DAY_S, 120),
    "30 days": (30 * _DAY_S, 365),
    "1 year": (365 * _DAY_S, 3 * 365),
}
"""Lifetimes of an upstream's tokens, and how many days are simulated with each."""


@dataclass(frozen=True, slots=True)
class Thoroughness:
    """How often things are repeated, and whether instructions are counted."""

    starts: int
    variant_starts: int
    blocks: int
    calls_per_block: int
    counted: bool


THOROUGH: Final = Thoroughness(starts=21, variant_starts=7, blocks=45, calls_per_block=100, counted=True)
QUICK: Final = Thoroughness(starts=3, variant_starts=3, blocks=9, calls_per_block=50, counted=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no instruction counts")
    parser.add_argument("--only", nargs="+", choices=sorted(_ALL_PARTS), help="measure these parts only")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="runs the handlers")
    parser.add_argument("--render", action="store_true", help="write tables from docs/bench.json again")
    options = parser.parse_args()
    results: Results = json.loads(RESULTS_FILE.read_text()) if RESULTS_FILE.exists() else {}
    if not options.render:
        try:
            thoroughness = QUICK if options.quick else THOROUGH
            _measure(results, options.only or list(_ALL_PARTS), thoroughness, options.python.absolute())
        except (NotBuiltError, LocalCloudError, HandlerFailedError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        RESULTS_FILE.write_text(_compact(results))
    report.write(results, PROJECT / "docs")
    print(report.summary(results))
    return 0


def _compact(results: Results) -> str:
    """Return the results as JSON with a line for each part, so that a diff shows which part has changed."""
    parts = [
        f"{json.dumps(part)}:{json.dumps(found, separators=(',', ':'))}" for part, found in results.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _measure(results: Results, parts: list[str], thoroughness: Thoroughness, python: Path) -> None:
    began_s = time.monotonic()
    load_before = os.getloadavg()[0]
    version = subprocess.check_output([python, "-V"], text=True).split()[1]
    print(f"· the handlers run on {report.name_python(version)}")
    if shutil.which("valgrind") is None:
        print("· no valgrind here: instructions are not counted")
        thoroughness = replace(thoroughness, counted=False)
    for part, measure in _PARTS.items():
        if part in parts:
            print(f"· {part}")
            results[part] = measure(thoroughness)
    if _PARTS_IN_THE_WORLD.keys() & set(parts):
        print("· starting the local cloud")
        with World(python) as world:
            for part, measure_in in _PARTS_IN_THE_WORLD.items():
                if part in parts:
                    print(f"· {part}")
                    results[part] = measure_in(world, thoroughness)
    results["run"] = {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "minutes": round((time.monotonic() - began_s) / 60, 1),
        "parts": parts,
        "python": version,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_before": round(load_before, 2),
    }


def _say(line: str) -> None:
    if sys.stdout.isatty():
        print(line)


def _cold(world: World, how: Thoroughness) -> object:
    stages = (world.ours, *world.references)
    found = measure_starts(stages, rounds=how.starts, counted=how.counted, say=_say)
    return {name: asdict(start) for name, start in found.items()}


def _variants(world: World, how: Thoroughness) -> object:
    stages = (world.ours, *variants(world).values())
    found = measure_starts(stages, rounds=how.variant_starts, counted=how.counted, say=_say)
    return {
        name: {**asdict(start), "meaning": "as deployed" if name == "ours" else name}
        for name, start in found.items()
    }


def _warm(world: World, how: Thoroughness) -> object:
    stages = (world.ours, *world.references)
    found = measure_calls(stages, blocks=how.blocks, calls_per_block=how.calls_per_block, counted=how.counted)
    return {name: asdict(call) for name, call in found.items()}


def _windows(world: World, _how: Thoroughness) -> object:
    return {stage.name: asdict(watch_windows(world, stage)) for stage in (world.ours, world.conventional)}


def _stampede(world: World, _how: Thoroughness) -> object:
    stages = (world.ours, world.conventional, world.naive)
    return {stage.name: {**asdict(run_stampede(world, stage)), "instances": INSTANCES} for stage in stages}


def _caller(how: Thoroughness) -> object:
    return asdict(measure_caller(blocks=how.blocks))


def _sizes(_how: Thoroughness) -> object:
    return {
        name: {**asdict(measure_size(BUILD / name)), "budget": budget}
        for name, budget in read_budgets_bytes().items()
    }


def _growth(_how: Thoroughness) -> object:
    lifetimes = {name: year(lifetime_s, days=days) for name, (lifetime_s, days) in _LIFETIMES_S.items()}
    return {
        "cold_fleet": [asdict(cold_fleet(instances)) for instances in FLEETS],
        "refresh": [asdict(refresh(instances)) for instances in FLEETS],
        "reads_per_instance_minute": 60 * steady_reads_per_instance_s(),
        "lifetimes": lifetimes,
        "instance_life_s": INSTANCE_LIFE_S,
    }


_PARTS: Final[dict[str, Callable[[Thoroughness], object]]] = {
    "sizes": _sizes,
    "caller": _caller,
    "growth": _growth,
}
_PARTS_IN_THE_WORLD: Final[dict[str, Callable[[World, Thoroughness], object]]] = {
    "cold": _cold,
    "variants": _variants,
    "warm": _warm,
    "windows": _windows,
    "stampede": _stampede,
}
_ALL_PARTS: Final = (*_PARTS, *_PARTS_IN_THE_WORLD)

if __name__ == "__main__":
    sys.exit(main())
