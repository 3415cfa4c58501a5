"""The tables of docs/growth.md: what is simulated, and what it costs by the price list."""

from __future__ import annotations

from typing import Any, Final

from bench.markdown import table
from bench.prices import MINTS_A_MONTH, READ, Load, cost_per_million, monthly_cost

LOADS: Final = ((1, 0.1), (2, 10.0), (100, 1_000.0), (1_000, 10_000.0), (10_000, 100_000.0))
"""Instances, and calls a second to all of them: from a quiet team to the most that ten thousand may answer."""


def growth_tables(results: dict[str, Any]) -> dict[str, str]:
    """Return the tables, by the names of their places in the page."""
    part = _part(results)
    return {
        "cold_fleet": _events(part["cold_fleet"]),
        "refresh": _events(part["refresh"]),
        "lifetimes": table(
            ("the upstream's tokens live for", "mints a year, of each connection", "calls refused"),
            [
                [name, f"{mints:,.1f}", f"{100 * refused:.1f} %"]
                for name, (mints, refused) in part["lifetimes"].items()
            ],
        ),
        "costs": _costs(part),
        "monthly": _monthly(part),
        "rates": _rates(part),
    }


def _part(results: dict[str, Any]) -> dict[str, Any]:
    measured = results.get("windows", {}).get("ours", {})
    return {"audit_line_bytes": measured.get("line_bytes", Load.audit_line_bytes), **results["growth"]}


def _load(part: dict[str, Any], instances: int, calls_per_s: float) -> Load:
    return Load(instances, calls_per_s, part["instance_life_s"], part["audit_line_bytes"])


def _events(events: list[dict[str, Any]]) -> str:
    rows = [
        [f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" for value in event.values()]
        for event in events
    ]
    return table((name.replace("_", " ") for name in events[0]), rows)


def _costs(part: dict[str, Any]) -> str:
    kinds = list(cost_per_million(_load(part, 1, 1.0)))
    rows = []
    for instances, calls_per_s in LOADS:
        parts = cost_per_million(_load(part, instances, calls_per_s))
        cells = [f"{parts[kind]:.3f}" for kind in kinds]
        rows.append([f"{instances:,}", f"{calls_per_s:,.10g}", *cells, f"**{sum(parts.values()):.2f}**"])
    return table(("instances", "calls a second", *kinds, f"$ a million answers (prices of {READ})"), rows)


def _monthly(part: dict[str, Any]) -> str:
    rows = []
    for instances, calls_per_s in LOADS:
        parts = monthly_cost(_load(part, instances, calls_per_s))
        total = sum(parts.values())
        largest = max(parts, key=lambda name: parts[name])
        share = f"{largest}, {100 * parts[largest] / total:.0f} %"
        rows.append([f"{instances:,}", f"{calls_per_s:,.10g}", f"{total:,.0f}", share])
    return table(("instances", "calls a second", "$ a month", "largest part"), rows)


def _rates(part: dict[str, Any]) -> str:
    reads = part["reads_per_instance_minute"] / 60
    starts = 1 / part["instance_life_s"]
    rows = [
        [
            f"{instances:,}",
            f"{calls_per_s:,.10g}",
            f"{min(instances * reads, calls_per_s) + instances * starts:,.3g}",
            f"{instances * starts:,.2g}",
            f"{MINTS_A_MONTH * 12:.2g}",
            f"{8 * MINTS_A_MONTH * 12:.2g}",
        ]
        for instances, calls_per_s in LOADS
    ]
    head = ("reads a second", "KMS decrypts a second", "mints a year", "writes a year")
    return table(("instances", "calls a second", *head), rows)
