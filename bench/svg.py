"""Plots as SVG text, without a plotting library: bars and lines are all that is needed, and the files stay small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH: Final = 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 84, 60
_BAR, _GAP = 24, 10
_LABELS: Final = 290
_COLOURS: Final = ("#2a6fb0", "#c8553d", "#588157", "#8d6a9f", "#b08d2a", "#6b7280")
_STYLE: Final = (
    "<style>text{font:13px system-ui,sans-serif;fill:#333}.title{font-size:15px;font-weight:600}"
    ".axis{stroke:#999}.grid{stroke:#e5e5e5}.limit{stroke:#b91c1c;stroke-dasharray:6 4}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}}</style>"
)


@dataclass(frozen=True, slots=True)
class Limit:
    """A level to compare a line with, such as a quota."""

    value: float
    label: str


def bars(title: str, values: Mapping[str, float], *, unit: str, own: str = "") -> str:
    """Return horizontal bars, one for each name, drawn from 0; `own` is the name that stands out."""
    top = 50
    height = top + len(values) * (_BAR + _GAP) + 10
    largest = max(values.values()) or 1.0
    room = WIDTH - _LABELS - 170
    parts = []
    for number, (name, value) in enumerate(values.items()):
        y = top + number * (_BAR + _GAP)
        length = max(1.0, room * value / largest)
        colour = _COLOURS[1] if name == own else _COLOURS[0]
        parts += [
            _text(_LABELS - 8, y + _BAR * 0.7, name, anchor="end"),
            f'<rect x="{_LABELS}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
            _text(_LABELS + length + 6, y + _BAR * 0.7, f"{_number(value)} {unit}"),
        ]
    return _page(title, height, parts)


def stacked(title: str, columns: Mapping[str, Mapping[str, float]], *, unit: str) -> str:
    """Return a column for each name, of the same kinds of parts in the same order, one on the other."""
    height, floor = 420, 420 - _BOTTOM
    kinds = list(next(iter(columns.values())))
    tallest = max(sum(parts.values()) for parts in columns.values()) or 1.0
    room = (WIDTH - _LEFT - _RIGHT - 190) / len(columns)
    drawn = []
    for number, (name, parts) in enumerate(columns.items()):
        x, y = _LEFT + number * room, float(floor)
        for kind, value in parts.items():
            size = (floor - _TOP) * value / tallest
            y -= size
            colour = _COLOURS[kinds.index(kind) % len(_COLOURS)]
            drawn.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{room * 0.7:.1f}" height="{size:.1f}" fill="{colour}"/>'
            )
        drawn.append(_text(x + room * 0.35, y - 6, f"{_number(sum(parts.values()))}", anchor="middle"))
        for line, words in enumerate(name.split("\n")):
            drawn.append(_text(x + room * 0.35, floor + 18 + 16 * line, words, anchor="middle"))
    drawn += _legend(kinds, WIDTH - 185)
    drawn.append(_text(16, _TOP - 34, unit))
    return _page(title, height, drawn)


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
    logarithmic: bool = False,
    limits: Sequence[Limit] = (),
) -> str:
    """Return lines through (x, y) points; with both axes logarithmic, values must be above 0."""
    height = 420
    points = [point for each in series.values() for point in each]
    across = _Axis.over([x for x, _ in points], _LEFT, WIDTH - _RIGHT - 185, logarithmic=logarithmic)
    levels = [y for _, y in points] + [limit.value for limit in limits]
    up = _Axis.over(levels, height - _BOTTOM, _TOP, logarithmic=logarithmic)
    parts = []
    for tick in up.ticks():
        y = up.place(tick)
        parts.append(f'<line class="grid" x1="{across.start}" x2="{across.end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, _number(tick), anchor="end"))
    parts += [
        _text(across.place(tick), height - _BOTTOM + 18, _number(tick), anchor="middle")
        for tick in across.ticks()
    ]
    for limit in limits:
        y = up.place(limit.value)
        parts.append(f'<line class="limit" x1="{across.start}" x2="{across.end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(across.start + 6, y - 5, limit.label))
    for number, each in enumerate(series.values()):
        path = " ".join(f"{across.place(x):.1f},{up.place(y):.1f}" for x, y in each)
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    parts += _legend(list(series), WIDTH - 185)
    parts.append(_text((across.start + across.end) / 2, height - 14, x_label, anchor="middle"))
    parts.append(_text(16, _TOP - 34, y_label))
    return _page(title, height, parts)


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, logarithmic: bool) -> _Axis:
        low, high = (min(values), max(values)) if logarithmic else (0.0, max(values))
        if logarithmic:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        return cls(low, high if high > low else low + 1, start, end, logarithmic)

    def place(self, value: float) -> float:
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        step = 10 ** math.floor(math.log10(self.high)) / 2
        while self.high / step > 6:  # noqa: PLR2004 - as many as are easy to read
            step *= 2
        return [step * number for number in range(int(self.high / step) + 1)]


def _legend(names: Sequence[str], x: float) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        y = _TOP + 22 * number
        colour = _COLOURS[number % len(_COLOURS)]
        parts += [
            f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>',
            _text(x + 18, y + 11, name),
        ]
    return parts


def _text(x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _number(value: float) -> str:
    if value >= 1_000:  # noqa: PLR2004 - where digits after the point say nothing
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _page(title: str, height: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">\n{_STYLE}\n'
        f'<text class="title" x="16" y="26">{escape(title)}</text>\n{body}\n</svg>\n'
    )
