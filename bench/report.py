"""Writes the measured figures as tables and bars into the docs, and as a summary to the screen."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

from bench.growth_report import growth_tables
from bench.markdown import bars, filled, table
from bench.samples import Sample, TooNoisyError, ratio
from local.pythons import LAMBDA_PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The content of docs/bench.json, which only this package writes and reads.
Results = dict[str, Any]

ORDER: Final[tuple[str, ...]] = ("bare", "floor", "ours", "conventional", "naive")
TARGETS: Final = {
    ("cold", "instructions"): {"conventional": 0.47, "bare": 5.5},
    ("cold", "cpu_s"): {"conventional": 0.45, "bare": 4.3},
    ("warm", "cpu_s"): {"bare": 1.25},
}


def write(results: Results, docs: Path) -> None:
    """Write every table for which the results have figures."""
    tables = {name: make(results[name]) for name, make in _TABLES.items() if name in results}
    if "growth" in results:
        tables |= growth_tables(results)
    for page in (docs / "performance.md", docs / "growth.md"):
        if page.exists():
            page.write_text(filled(page.read_text(), tables))


def summary(results: Results) -> str:
    """Return the targets and what was measured, for the screen."""
    lines = []
    for (part, measure), targets in TARGETS.items():
        for other, target in targets.items() if part in results else ():
            found = _times(_ratio(results[part]["ours"], results[part][other], measure))
            lines.append(f"  {part:5s} {measure:13s}  x {other:13s} {found:>12s}   target <= {target}")
    return "\n".join(lines)


def name_python(version: str) -> str:
    """Return the interpreter of this version (such as "3.13.0"), and whether Lambda runs the same."""
    same = version.startswith(f"{LAMBDA_PYTHON}.")
    return f"CPython {version} ({'as Lambda' if same else f'Lambda runs {LAMBDA_PYTHON}'})"


# --- figures ----------------------------------------------------------------------------------------------------


def _sample(measured: dict[str, Any], measure: str) -> Sample:
    """Return one measure of a start or a call: seconds, or instructions."""
    value = measured[measure]
    return Sample.of([value] if measure == "instructions" else value["values"])


def _ratio(of: dict[str, Any], to: dict[str, Any], measure: str) -> float | str:
    """Return the ratio, or why there is none."""
    if of[measure] is None or to[measure] is None:
        return "not counted"
    try:
        return ratio(_sample(of, measure), _sample(to, measure))
    except TooNoisyError:
        return "too noisy"


def _times(found: float | str) -> str:
    return found if isinstance(found, str) else f"{found:.2f} x"


def _percent(found: float | str) -> str:
    return found if isinstance(found, str) else f"{100 * (found - 1):+.1f} %"


def _spread(sample: Sample, unit: float, digits: int) -> str:
    return f"{sample.median / unit:.{digits}f} ± {sample.spread / 2 / unit:.{max(digits, 1)}f}"


def _bold(name: str) -> str:
    return f"**{name}**" if name == "ours" else name


def _calls(calls: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.partition('.')[2]}" for name, count in calls.items()) or "none"


# --- tables -----------------------------------------------------------------------------------------------------


def _handlers(part: dict[str, Any], unit_s: float, unit: str, digits: int) -> str:
    def compared(name: str, measure: str) -> list[str]:
        others = ("bare", "conventional")
        return [
            "1" if name == other else _times(_ratio(part[name], part[other], measure)) for other in others
        ]

    rows = []
    for name, each in ((name, part[name]) for name in ORDER if name in part):
        count = "-" if each["instructions"] is None else f"{each['instructions'] / 1e6:,.2f}"
        cpu, wall = (_spread(_sample(each, measure), 1e-3, digits) for measure in ("cpu_s", "wall_s"))
        rows.append(
            [_bold(name), cpu, *compared(name, "cpu_s"), wall, count, *compared(name, "instructions")]
        )
    others = ("x bare", "x conventional")
    cpu_times = {name: _sample(part[name], "cpu_s").median / unit_s for name in ORDER if name in part}
    whole = table(("handler", "CPU ms", *others, "wall ms", "million instructions", *others), rows)
    return f"{whole}\n\nCPU time:\n\n{bars(cpu_times, unit)}"


def _variants(part: dict[str, Any]) -> str:
    rows = []
    for each in (each for name, each in part.items() if name != "ours"):
        counted, cpu = (_ratio(each, part["ours"], measure) for measure in ("instructions", "cpu_s"))
        cpu_ms = _spread(_sample(each, "cpu_s"), 1e-3, 0)
        order = -counted if isinstance(counted, float) else 0
        rows.append((order, [each["meaning"], _percent(counted), _percent(cpu), cpu_ms]))
    rows.sort(key=lambda row: row[0])
    return table(("with this instead", "instructions", "CPU", "CPU ms"), [row for _, row in rows])


def _windows(part: dict[str, Any]) -> str:
    head = ("handler", "first answer", "rest of its minute", "each minute after", "roots in each TLS context")
    rows = [
        [
            name,
            _calls(each["first"]),
            _calls(each["within"]),
            "; ".join(map(_calls, each["per_window"])),
            ", ".join(map(str, each["tls_contexts"])) or "none",
        ]
        for name, each in part.items()
    ]
    return table(head, rows)


def _stampede(part: dict[str, Any]) -> str:
    head = (
        "handler", "tokens minted", "first answer s", "median answer s", "last answer s", "AWS calls per answer", "answers", "which",
    )  # fmt: skip
    rows = [
        [
            _bold(name),
            each["mints"],
            f"{each['after_s'][0]:.2f}",
            f"{statistics.median(each['after_s']):.2f}",
            f"{each['after_s'][-1]:.2f}",
            f"{sum(each['aws_calls'].values()) / len(each['after_s']):.1f}",
            ", ".join(f"{count} x {status}" for status, count in each["statuses"].items()),
            _calls(each["aws_calls"]),
        ]
        for name, each in part.items()
    ]
    return table(head, rows)


def _caller(part: dict[str, Any]) -> str:
    def row(meaning: str, name: str, plain: str = "") -> list[str]:
        compared = ""
        if plain:
            compared = _percent(_ratio({"cpu": part[name]}, {"cpu": part[plain]}, "cpu"))
        return [meaning, _spread(_sample(part, name), 1e-6, 1), compared]

    rows = [
        row("`BrokerClient.token()` from memory", "token_s"),
        row("making a request ready, plain header", "plain_prepare_s"),
        row("… with `BrokerAdapter`", "adapter_prepare_s", "plain_prepare_s"),
        row("a GET on loopback, plain header", "plain_request_s"),
        row("… with `BrokerAdapter`", "adapter_request_s", "plain_request_s"),
        [
            "calls to the broker per lease, 32 threads",
            ", ".join(map(str, part["broker_calls_per_lease"])),
            "",
        ],
    ]
    return table(("what", "CPU µs", "against a plain header"), rows)


def _sizes(part: dict[str, Any]) -> str:
    def mb(number: int) -> str:
        return f"{number / 1024**2:.2f}"

    measures = ("unpacked", "zipped", "byte_code", "budget")
    rows = []
    for name, each in part.items():
        large = [f"{part} {mb(size)}" for part, size in each["parts"].items() if size > 50_000]  # noqa: PLR2004 - what matters
        rows.append([name, *(mb(each[measure]) for measure in measures), ", ".join(large)])
    head = ("artefact", "unpacked MB", "zipped MB", "byte code MB", "budget MB", "largest parts MB")
    return table(head, rows)


def _run(run: dict[str, Any]) -> str:
    return (
        f"Measured {run['at']} on {run['machine']}, {name_python(run['python'])}, in {run['minutes']} minutes "
        f"(load average before: {run['load_before']}). Raw figures: [bench.json](bench.json)."
    )


_TABLES: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "run": _run,
    "cold": lambda part: _handlers(part, 1e-3, "ms", digits=0),
    "variants": _variants,
    "warm": lambda part: _handlers(part, 1e-6, "µs", digits=3),
    "windows": _windows,
    "stampede": _stampede,
    "caller": _caller,
    "sizes": _sizes,
}
