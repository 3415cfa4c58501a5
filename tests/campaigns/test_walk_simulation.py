"""Walks through lists that change under the reader: a walk that says it is complete is never wrong.

A walk is right if it has the campaigns of one moment between its start and its end.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from functions.campaigns.walk import Walk, Walked
from local.digishare.model import Settings
from tests.campaigns.changing_list import ChangingList

RUNS = 200
LIMIT = 10  # small pages, so that small lists have many

WITH_TOTAL = ("openapi", "openapi_no_links", "guides", "laravel", "laravel_plain")
WITHOUT_TOTAL = ("simple", "simple_resource", "cursor", "cursor_resource", "bare_array", "bare_array_unpaged")
LISTS: dict[str, dict[str, Any]] = {
    **{shape: {"campaign_shape": shape} for shape in WITH_TOTAL},
    "ties": {"tie_order": "unstable"},
    "one second made all": {"tie_order": "unstable", "sizes": [45]},
    "sort ignored": {"tie_order": "unstable", "ignores_sort": True},
    "smaller pages than asked for": {"tie_order": "unstable", "largest_page": 7},
    "404 behind the last page": {"behind_last_page": "404", "largest_page": 9},
    "422 behind the last page": {"behind_last_page": "422"},
    "unknown statuses": {"campaign_shape": "unknown_status"},
    "missing fields": {"campaign_shape": "missing_fields"},
    "pages overlap": {"campaign_shape": "overlapping_pages"},
}
CONTRADICTORY: dict[str, dict[str, Any]] = {
    "the first page counts too few": {"campaign_shape": "growing_total"},
    "the first page counts too many": {"campaign_shape": "shrinking_total"},
}
QUIET = LISTS | {name: {**options, "sizes": [9, 4, 9, 1]} for name, options in CONTRADICTORY.items()}
NEVER_WHOLE: dict[str, dict[str, Any]] = {
    "no order at all": {"tie_order": "sort_ignored"},
    "no more than two pages": {"pages_served": 2, "sizes": [3] * 8},
    "the first page again and again": {"campaign_shape": "repeating_page", "sizes": [3] * 8},
    **{shape: {"campaign_shape": shape} for shape in WITHOUT_TOTAL},
}


def walk_through(seed: int, options: dict[str, Any], *, is_quiet: bool) -> tuple[Walked, ChangingList]:
    drawn = Random(f"list {seed}")  # noqa: S311 - a simulation
    rest = dict(options)
    sizes = rest.pop("sizes", [drawn.choice([1, 1, 2, 4, 9]) for _ in range(drawn.randint(0, 14))])
    ignores_sort = rest.pop("ignores_sort", False)
    campaigns = ChangingList(seed, Settings(**rest), sizes, ignores_sort=ignores_sort)
    if not is_quiet:
        campaigns.changes_per_call = drawn.choice([0.02, 0.1, 0.3, 0.8])
        campaigns.changes_within_calls = drawn.choice([0, 0, 0.05, 0.5])
    return Walk(campaigns, LIMIT).read(), campaigns


CHANGING = LISTS | CONTRADICTORY | NEVER_WHOLE


@pytest.mark.parametrize("name", CHANGING)
def test_a_walk_that_says_it_is_complete_is_right(name: str) -> None:
    complete = 0
    for seed in range(RUNS):
        walked, campaigns = walk_through(seed, CHANGING[name], is_quiet=False)
        if walked.is_complete:
            complete += 1
            assert frozenset(walked.statuses) in campaigns.moments, seed
            assert not walked.reason
        else:
            assert walked.reason, seed
    # Of the other lists, no walk has to be complete.
    assert complete >= (RUNS // 10 if name in LISTS else 0)


@pytest.mark.parametrize("name", QUIET)
def test_a_quiet_list_with_a_total_is_read_completely_whatever_its_order(name: str) -> None:
    for seed in range(RUNS):
        walked, campaigns = walk_through(seed, QUIET[name], is_quiet=True)
        assert walked.is_complete, (seed, walked.reason)
        assert walked.statuses == campaigns.campaigns.statuses()
        assert walked.total == len(walked.statuses)


@pytest.mark.parametrize("shape", WITHOUT_TOTAL)
def test_a_list_without_a_total_is_read_to_its_end_and_never_called_complete(shape: str) -> None:
    for seed in range(100):
        walked, campaigns = walk_through(seed, {"campaign_shape": shape}, is_quiet=True)
        assert (walked.is_complete, walked.total) == (False, None)
        assert "does not say how many" in walked.reason
        if "cursor" not in shape:  # the framework's cursors lose campaigns of the same second
            assert walked.statuses == campaigns.campaigns.statuses()
