"""What the benchmark writes: tables in their places, bars, and no ratio of noisy values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bench import report
from bench.markdown import bars

if TYPE_CHECKING:
    from pathlib import Path


def _measured(cpu_ms: list[float], instructions: int | None = None) -> dict[str, Any]:
    times = {"values": [each / 1000 for each in cpu_ms]}
    return {"cpu_s": times, "wall_s": times, "instructions": instructions}


def _cold(ours: list[float]) -> dict[str, Any]:
    return {
        "cold": {
            "bare": _measured([50, 50, 50], 100),
            "ours": _measured(ours, 500),
            "conventional": _measured([500, 500, 500], 1_000),
            "naive": _measured([450, 450, 450], 900),
        }
    }


def _written(folder: Path, page: str, measured: dict[str, Any]) -> str:
    """Return the page with the tables of what was measured."""
    (folder / "performance.md").write_text(page)
    report.write(measured, folder)
    return (folder / "performance.md").read_text()


def test_a_table_is_written_to_its_place_and_the_text_around_it_stays(tmp_path: Path) -> None:
    page = "Before.\n<!-- bench:cold -->\nstale\n<!-- /bench:cold -->\nAfter.\n"
    text = _written(tmp_path, page, _cold([240, 250, 260]))

    assert text.startswith("Before.\n<!-- bench:cold -->\n| handler |")
    assert text.endswith("<!-- /bench:cold -->\nAfter.\n")
    assert "| 0.50 x |" in text
    assert "stale" not in text
    assert _written(tmp_path, text, _cold([240, 250, 260])) == text


@pytest.mark.parametrize(
    ("version", "said"),
    [("3.13.0", "CPython 3.13.0 (as Lambda)"), ("3.11.7", "CPython 3.11.7 (Lambda runs 3.13)")],
)
def test_it_names_the_python_that_measured_and_lambdas_own(version: str, said: str, tmp_path: Path) -> None:
    run = {"at": "now", "machine": "one", "minutes": 1, "load_before": 0, "python": version}

    text = _written(tmp_path, "<!-- bench:run -->\n<!-- /bench:run -->\n", {"run": run})

    assert f"on one, {said}, in 1 minutes" in text


def test_no_ratio_is_printed_where_the_spread_is_larger_than_the_difference() -> None:
    noisy = report.summary(_cold([200, 450, 900]))

    assert "too noisy" in noisy
    assert "0.90" not in noisy


def test_the_summary_has_every_target() -> None:
    lines = report.summary(_cold([240, 250, 260])).splitlines()

    assert any("instructions" in line and "0.50 x" in line and "target <= 0.47" in line for line in lines)
    assert any("cpu_s" in line and "5.00 x" in line and "target <= 4.3" in line for line in lines)


def test_the_longest_bar_is_as_long_as_the_page_is_wide_and_zero_has_no_bar() -> None:
    block = bars({"ours": 24.0, "theirs": 48.0, "nothing": 0.0}, "ms").splitlines()

    assert block == [
        "```text",
        f"ours     {'█' * 24} 24 ms",
        f"theirs   {'█' * 48} 48 ms",
        "nothing   0 ms",
        "```",
    ]
