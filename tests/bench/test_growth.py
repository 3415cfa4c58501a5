"""The growth model: small fleets on the virtual clock, and the price list's arithmetic."""

from __future__ import annotations

import pytest

from bench.growth import cold_fleet, refresh, steady_reads_per_instance_s, year
from bench.prices import LAMBDA_REQUEST, Load, cost_per_million, monthly_cost


def test_a_small_cold_fleet_mints_once() -> None:
    event = cold_fleet(20)

    assert (event.mints, event.refused_answers, event.throttled_calls) == (1, 0, 0)
    assert event.decrypts == 19
    # Every instance that finds neither token nor lock tries secret and key before it takes the lock.
    assert 2 <= event.secret_reads <= 2 * 20
    assert 0.4 < event.longest_wait_s < 2


def test_a_large_cold_fleet_that_overruns_its_item_does_not_mint_past_the_lock() -> None:
    event = cold_fleet(1_100)

    assert event.throttled_calls > 0
    assert event.mints <= 3


def test_a_fleet_refreshes_its_token_once_and_refuses_nobody() -> None:
    event = refresh(30)

    assert (event.mints, event.refused_answers) == (1, 0)


def test_a_busy_instance_reads_once_a_minute() -> None:
    assert 60 * steady_reads_per_instance_s(instances=3, minutes=4) == pytest.approx(1, rel=0.05)


def test_tokens_of_a_quarter_of_an_hour_are_refreshed_all_day_and_nobody_is_refused() -> None:
    mints_a_year, refused = year(900, days=2)

    # Each is replaced after four fifths of its lifetime: 120 a day, more than the pace allows for long lifetimes.
    assert mints_a_year / 365 == pytest.approx(86_400 / (0.8 * 900), rel=0.05)
    assert refused == 0


def _load(instances: int, calls_per_s: float) -> Load:
    return Load(instances, calls_per_s, instance_life_s=7_200)


def test_requests_cost_the_same_for_each_million_whatever_the_fleet() -> None:
    for load in (_load(1, 1), _load(10_000, 100_000)):
        assert cost_per_million(load)["Lambda requests"] == pytest.approx(1e6 * LAMBDA_REQUEST)


def test_more_instances_cost_reads_and_decrypts_and_more_calls_cost_neither() -> None:
    few, many = monthly_cost(_load(10, 100)), monthly_cost(_load(100, 100))
    busy = monthly_cost(_load(10, 1_000))

    assert many["DynamoDB"] > 9 * few["DynamoDB"]
    assert many["KMS"] > 9 * few["KMS"]
    assert busy["DynamoDB"] == few["DynamoDB"]
    assert busy["KMS"] == few["KMS"]


def test_an_instance_that_is_called_less_than_once_a_minute_reads_once_a_call() -> None:
    rare, often = monthly_cost(_load(1, 0.001)), monthly_cost(_load(1, 1))

    assert rare["DynamoDB"] < often["DynamoDB"]
