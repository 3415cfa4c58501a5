"""Medians with their spread, and ratios, which are refused if the samples are too noisy."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class TooNoisyError(Exception):
    """Two samples overlap too much for their ratio to mean anything; the text contains both."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What repeated runs of one thing measured, in one unit."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Sample:
        """Return the sample of these values.

        Raises:
            ValueError: there are none.
        """
        sample = cls(tuple(values))
        if not sample.values:
            raise ValueError("a sample needs at least one value")
        return sample

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """The distance between the quartiles; 0 for a single value."""
        if len(self.values) == 1:
            return 0.0
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return high - low

    def __str__(self) -> str:
        return f"{self.median:.4g} ± {self.spread / 2:.2g}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a start or an answer takes; `instructions` are None where they were not counted."""

    wall_s: Sample
    cpu_s: Sample
    instructions: int | None


def ratio(of: Sample, to: Sample) -> float:
    """Return the ratio of two medians.

    Raises:
        TooNoisyError: the wider of the two spreads is larger than the difference of the medians.
        ValueError: the second median is not above 0.
    """
    if to.median <= 0:
        raise ValueError("a ratio needs something above 0 to compare with")
    if max(of.spread, to.spread) > abs(of.median - to.median):
        raise TooNoisyError(f"{of} against {to}: the spread is larger than the difference")
    return of.median / to.median
