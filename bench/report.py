"""From the measured figures to what people read: tables inside the docs, plots beside them, a summary on the screen.

The docs keep their own words; only what stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is replaced.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from bench import svg
from bench.growth_report import growth_plots, growth_tables
from bench.samples import Sample, TooNoisyError, ratio, share_saved
from local.pythons import LAMBDA_PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

# What docs/bench.json holds: written and read by this package only.
Results = dict[str, Any]

ORDER: Final = ("bare", "ours", "conventional", "naive")
TARGETS: Final = {"cold": {"conventional": 0.5, "bare": 6.0}, "warm": {"conventional": 0.6, "bare": 1.8}}
_TOO_NOISY: Final = "too noisy"


def write(results: Results, docs: Path) -> None:
    """Write every table and plot that the results have figures for."""
    tables = {name: make(results) for name, make in _TABLES.items() if name in results}
    plots: dict[str, str] = {}
    for part, make in _PLOTS.items():
        if part in results:
            plots |= make(results)
    if "growth" in results:
        tables |= growth_tables(results)
        plots |= growth_plots(results)
    for name, text in plots.items():
        (docs / "plots").mkdir(parents=True, exist_ok=True)
        (docs / "plots" / f"{name}.svg").write_text(text)
    for page in (docs / "performance.md", docs / "growth.md"):
        if page.exists():
            page.write_text(_filled(page.read_text(), tables))


def summary(results: Results) -> str:
    """Return the targets and what was measured against them, for the screen."""
    lines = []
    for part in ("cold", "warm"):
        if part not in results:
            continue
        for other, target in TARGETS[part].items():
            for measure in ("cpu_s", "wall_s", "instructions"):
                found = _ratio(results[part]["ours"], results[part][other], measure)
                lines.append(
                    f"  {part:5s} {measure:13s}  x {other:13s} {_shown(found):>12s}   target <= {target}"
                )
    return "\n".join(lines)


def name_python(version: str) -> str:
    """Return what runs the handlers, and whether Lambda runs the same; `version` such as "3.13.0"."""
    same = version.startswith(f"{LAMBDA_PYTHON}.")
    return f"CPython {version} ({'as Lambda' if same else f'Lambda runs {LAMBDA_PYTHON}'})"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *body])


def _filled(page: str, tables: dict[str, str]) -> str:
    for name, text in tables.items():
        block = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", re.DOTALL)
        page = block.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
    return page


def _sample(measured: dict[str, Any], measure: str) -> Sample | None:
    """Return one measure of a start or a call; None where it was not taken."""
    value = measured[measure]
    if value is None:
        return None
    return Sample.of([value] if measure == "instructions" else value["values"])


def _ratio(of: dict[str, Any], to: dict[str, Any], measure: str) -> float | str | None:
    ours, theirs = _sample(of, measure), _sample(to, measure)
    if ours is None or theirs is None:
        return None
    try:
        return ratio(ours, theirs)
    except TooNoisyError:
        return _TOO_NOISY


def _shown(found: float | str | None) -> str:
    if found is None:
        return "not counted"
    return found if isinstance(found, str) else f"{found:.2f} x"


def _ms(sample: Sample | None, digits: int = 0) -> str:
    if sample is None:
        return "-"
    return f"{1000 * sample.median:.{digits}f} ± {500 * sample.spread:.{max(digits, 1)}f}"


def _handlers(part: dict[str, Any], *, digits: int, instructions_in: float, unit: str) -> str:
    rows = []
    for name in ORDER:
        each = part[name]
        count = each["instructions"]
        rows.append(
            [
                f"**{name}**" if name == "ours" else name,
                _ms(_sample(each, "cpu_s"), digits),
                _shown(_ratio(each, part["bare"], "cpu_s")) if name != "bare" else "1",
                _shown(_ratio(each, part["conventional"], "cpu_s")) if name != "conventional" else "1",
                _ms(_sample(each, "wall_s"), digits),
                "-" if count is None else f"{count / instructions_in:,.2f}",
                _shown(_ratio(each, part["bare"], "instructions")) if name != "bare" else "1",
                _shown(_ratio(each, part["conventional"], "instructions")) if name != "conventional" else "1",
            ]
        )
    head = (
        "handler", "CPU ms", "x bare", "x conventional", "wall ms", f"{unit} instructions", "x bare", "x conventional",
    )  # fmt: skip
    return table(head, rows)


def _cold_table(results: Results) -> str:
    return _handlers(results["cold"], digits=0, instructions_in=1e6, unit="million")


def _warm_table(results: Results) -> str:
    return _handlers(results["warm"], digits=3, instructions_in=1e6, unit="million")


def _variants_table(results: Results) -> str:
    part = results["variants"]
    ours = part["ours"]
    rows = []
    for name, each in part.items():
        if name == "ours":
            continue
        rows.append((_dearer(ours, each, "instructions"), each, name))
    rows.sort(key=lambda row: -row[0] if isinstance(row[0], float) else 0)
    return table(
        ("with this instead", "instructions", "CPU", "CPU ms"),
        [
            [
                each["meaning"],
                _percent(counted),
                _percent(_dearer(ours, each, "cpu_s")),
                _ms(_sample(each, "cpu_s")),
            ]
            for counted, each, _ in rows
        ],
    )


def _dearer(ours: dict[str, Any], variant: dict[str, Any], measure: str) -> float | str | None:
    as_deployed, without = _sample(ours, measure), _sample(variant, measure)
    if as_deployed is None or without is None:
        return None
    try:
        return share_saved(as_deployed, as_deployed, without=without)
    except TooNoisyError:
        return _TOO_NOISY


def _percent(share: float | str | None) -> str:
    if share is None:
        return "-"
    return share if isinstance(share, str) else f"{100 * share:+.1f} %"


def _windows_table(results: Results) -> str:
    rows = [
        [
            name,
            _calls(each["first"]),
            _calls(each["within"]),
            "; ".join(_calls(window) for window in each["per_window"]),
            ", ".join(map(str, each["tls_contexts"])) or "none",
        ]
        for name, each in results["windows"].items()
    ]
    head = ("handler", "first answer", "rest of its minute", "each minute after", "roots in each TLS context")
    return table(head, rows)


def _calls(calls: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.partition('.')[2]}" for name, count in calls.items()) or "none"


def _stampede_table(results: Results) -> str:
    rows = []
    for name, each in results["stampede"].items():
        total = sum(each["aws_calls"].values())
        rows.append(
            [
                f"**{name}**" if name == "ours" else name,
                each["mints"],
                f"{each['after_s'][0]:.2f}",
                f"{each['after_s'][-1]:.2f}",
                f"{total / len(each['after_s']):.1f}",
                ", ".join(f"{count} x {status}" for status, count in each["statuses"].items()),
                _calls(each["aws_calls"]),
            ]
        )
    head = (
        "handler",
        "tokens minted",
        "first answer s",
        "last answer s",
        "AWS calls per answer",
        "answers",
        "which",
    )
    return table(head, rows)


def _caller_table(results: Results) -> str:
    part = results["caller"]
    samples = {name: Sample.of(value["values"]) for name, value in part.items() if name.endswith("_s")}

    def overhead(of: str, to: str) -> str:
        try:
            return f"{100 * (ratio(samples[of], samples[to]) - 1):+.1f} %"
        except TooNoisyError:
            return "less than the noise"

    def micro(name: str) -> str:
        return f"{1e6 * samples[name].median:.1f} ± {5e5 * samples[name].spread:.1f}"

    return table(
        ("what", "CPU µs", "against a plain header"),
        [
            ["`BrokerClient.token()` from memory", micro("token_s"), ""],
            ["making a request ready, plain header", micro("plain_prepare_s"), ""],
            [
                "… with `BrokerAdapter`",
                micro("adapter_prepare_s"),
                overhead("adapter_prepare_s", "plain_prepare_s"),
            ],
            ["a GET on loopback, plain header", micro("plain_request_s"), ""],
            [
                "… with `BrokerAdapter`",
                micro("adapter_request_s"),
                overhead("adapter_request_s", "plain_request_s"),
            ],
            [
                "calls to the broker per lease, 32 threads",
                ", ".join(map(str, part["broker_calls_per_lease"])),
                "",
            ],
        ],
    )


def _sizes_table(results: Results) -> str:
    def mb(number: int) -> str:
        return f"{number / 1024**2:.2f}"

    rows = [
        [
            name,
            mb(each["unpacked"]),
            mb(each["zipped"]),
            mb(each["byte_code"]),
            mb(each["budget"]),
            ", ".join(f"{part} {mb(size)}" for part, size in each["parts"].items() if size > 50_000),  # noqa: PLR2004 - what matters
        ]
        for name, each in results["sizes"].items()
    ]
    return table(
        ("artefact", "unpacked MB", "zipped MB", "byte code MB", "budget MB", "largest parts MB"), rows
    )


def _run_table(results: Results) -> str:
    run = results["run"]
    return (
        f"Measured {run['at']} on {run['machine']}, {name_python(run['python'])}, in {run['minutes']} minutes "
        f"(load average before: {run['load_before']}). Raw figures: [bench.json](bench.json)."
    )


def _cold_plot(results: Results) -> dict[str, str]:
    part = results["cold"]
    values = {name: 1000 * Sample.of(part[name]["cpu_s"]["values"]).median for name in ORDER}
    return {"cold": svg.bars("Cold start to first answer, CPU time", values, unit="ms", own="ours")}


def _warm_plot(results: Results) -> dict[str, str]:
    part = results["warm"]
    values = {name: 1e6 * Sample.of(part[name]["cpu_s"]["values"]).median for name in ORDER}
    return {
        "warm": svg.bars("Warm call through the runtime interface, CPU time", values, unit="µs", own="ours")
    }


def _variants_plot(results: Results) -> dict[str, str]:
    part = results["variants"]
    measure = "instructions" if part["ours"]["instructions"] is not None else "cpu_s"
    unit = 1e6 if measure == "instructions" else 1e-3
    values = {}
    for each in part.values():
        sample = _sample(each, measure)
        values[each["meaning"]] = sample.median / unit if sample else 0.0
    ordered = dict(sorted(values.items(), key=lambda item: item[1]))
    title = "A cold start with one means taken away, or one habit added"
    label = "M instructions" if measure == "instructions" else "ms"
    return {"variants": svg.bars(title, ordered, unit=label, own="as deployed")}


def _stampede_plot(results: Results) -> dict[str, str]:
    series = {
        f"{name}: {each['mints']} minted": [
            (0.0, 0.0),
            *((at, float(number)) for number, at in enumerate(each["after_s"], 1)),
        ]
        for name, each in results["stampede"].items()
    }
    title = "64 cold instances at once, no token anywhere: answers given"
    return {"stampede": svg.lines(title, series, x_label="seconds from the common start", y_label="answers")}


_TABLES: Final[dict[str, Callable[[Results], str]]] = {
    "run": _run_table,
    "cold": _cold_table,
    "variants": _variants_table,
    "warm": _warm_table,
    "windows": _windows_table,
    "stampede": _stampede_table,
    "caller": _caller_table,
    "sizes": _sizes_table,
}
_PLOTS: Final[dict[str, Callable[[Results], dict[str, str]]]] = {
    "cold": _cold_plot,
    "warm": _warm_plot,
    "variants": _variants_plot,
    "stampede": _stampede_plot,
}
