"""Twenty-four cold instances, each a process of its own, want the same token at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from local.instances import Nursery
from tests.races.racing import run_race

if TYPE_CHECKING:
    from pathlib import Path

    from local.cloud import LocalCloud

ROUNDS = int(os.environ.get("RACE_ROUNDS", "3"))
AT_THE_LOCK = "before adapters.token_store:TokenStore.write"
"""All of them have read that the lock is free, and none has taken it yet."""

pytestmark = pytest.mark.cloud


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_of_24_cold_instances_one_exchanges_and_all_are_answered_with_its_token(
    cloud: LocalCloud, nursery: Nursery, round_: int
) -> None:
    result = run_race(cloud, nursery, 24)

    assert result.problems == []
    assert len(result.answers) == 24


@pytest.mark.usefixtures("slow_upstream")
def test_one_exchange_serves_all_where_the_upstream_takes_3_s(cloud: LocalCloud, nursery: Nursery) -> None:
    result = run_race(cloud, nursery, 24)

    assert result.problems == []


def test_one_of_those_who_have_all_seen_a_free_lock_gets_it(cloud: LocalCloud, nursery: Nursery) -> None:
    result = run_race(cloud, nursery, 8, STOP_AT=AT_THE_LOCK)

    assert result.problems == []


def test_a_bad_lock_is_found(cloud: LocalCloud, instance_environment: dict[str, str], tmp_path: Path) -> None:
    planted = "tests.races.sabotage:lock_without_a_condition"
    with Nursery(instance_environment, tmp_path / "log", sabotage=planted) as nursery:
        result = run_race(cloud, nursery, 2, STOP_AT=AT_THE_LOCK)

    assert len(result.minted) == 2
    assert result.problems
