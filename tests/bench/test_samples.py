"""The benchmark's arithmetic: which ratios it gives, and which it refuses."""

from __future__ import annotations

import pytest

from bench.samples import Sample, TooNoisyError, ratio


def test_a_sample_is_its_median_and_the_distance_of_its_quartiles() -> None:
    sample = Sample.of([1, 2, 3, 4, 100])

    assert sample.median == 3
    assert sample.spread == 2


def test_a_single_value_has_no_spread() -> None:
    assert Sample.of([7]).spread == 0


def test_a_sample_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Sample.of([])


def test_a_ratio_is_one_of_medians() -> None:
    assert ratio(Sample.of([1.0, 1.1, 1.2]), Sample.of([2.1, 2.2, 2.3])) == pytest.approx(0.5)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_ratio_is_refused_when_the_spread_is_larger_than_the_difference(*, swapped: bool) -> None:
    steady, wild = Sample.of([1.0, 1.0, 1.0]), Sample.of([0.5, 1.3, 2.0])
    pair = (wild, steady) if swapped else (steady, wild)

    with pytest.raises(TooNoisyError, match="spread"):
        ratio(*pair)


def test_equal_samples_have_a_ratio_only_if_they_have_no_spread() -> None:
    assert ratio(Sample.of([5.0]), Sample.of([5.0])) == 1
    with pytest.raises(TooNoisyError):
        ratio(Sample.of([4.9, 5.0, 5.1]), Sample.of([4.9, 5.0, 5.1]))


def test_a_ratio_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        ratio(Sample.of([1.0]), Sample.of([0.0]))
