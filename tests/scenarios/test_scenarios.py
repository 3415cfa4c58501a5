"""Plays every scenario, and compares them with the list of topics that they must cover."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lambda_support import upstream_http
from tests.scenarios.world import World

_HERE = Path(__file__).parent
_TOPICS = _HERE / "topics.json"
_FEWEST = 150
_MEMBERS = {
    "name", "covers", "why", "starts_at", "chance", "lease_s", "item", "secret", "upstream",
    "steps", "finally",
}  # fmt: skip


def _scenarios() -> list[dict[str, Any]]:
    files = sorted(file for file in _HERE.glob("*.json") if file != _TOPICS)
    return [scenario for file in files for scenario in json.loads(file.read_text(encoding="utf-8"))]


SCENARIOS = _scenarios()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario["name"] for scenario in SCENARIOS])
def test_scenario(scenario: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(scenario)
    monkeypatch.setattr(upstream_http, "exchange_json", world.upstream.exchange_json)
    monkeypatch.setattr(upstream_http, "new_session", lambda _: None)

    problems = world.play()

    assert not problems, "\n".join(problems)


def test_every_topic_is_covered_by_a_scenario() -> None:
    topics = json.loads(_TOPICS.read_text(encoding="utf-8"))
    covered = {topic for scenario in SCENARIOS for topic in scenario["covers"]}

    assert covered == set(topics), f"missing or unknown: {sorted(covered ^ set(topics))}"


def test_scenarios_are_many_and_have_names_of_their_own() -> None:
    names = Counter(scenario["name"] for scenario in SCENARIOS)

    assert len(SCENARIOS) >= _FEWEST
    assert [name for name, count in names.items() if count > 1] == []


def test_no_scenario_has_unknown_members() -> None:
    unknown = {scenario["name"]: set(scenario) - _MEMBERS for scenario in SCENARIOS}
    steps = [step for scenario in SCENARIOS for step in scenario["steps"]]

    assert {name: members for name, members in unknown.items() if members} == {}
    assert all(set(step) <= {"at_s", "call", "gets", "asks", "events", "status", "change"} for step in steps)
    assert all({"gets", "asks"} <= set(step) for step in steps if "call" in step)


@pytest.mark.parametrize(
    "planted",
    [
        {"gets": {"token": "T2"}},
        {"gets": {"token": "T1", "from": "memory"}},
        {"gets": {"error": "access_denied"}},
        {"gets": {"token": "T1", "expires_at_s": 4999}},
        {"gets": {"token": "T1", "answered_at_s": {"from": 1, "to": 2}}},
        {"gets": {"token": "T1", "scope": "contacts"}},
        {"gets": {"token": "T1", "no_such_member": None}},
        {"gets": {"token": "T1"}, "asks": {"read": 2, "open": 1}},
        {"gets": {"token": "T1"}, "asks": "check"},
        {"gets": {"token": "T1"}, "asks": {"like": "open", "exchange": {"from": 1, "to": 9}}},
        {"gets": {"token": "T1"}, "events": ["Mint"]},
        {"gets": {"token": "T1"}, "status": {"state": "due"}},
    ],
)
def test_a_scenario_that_foresees_something_else_fails(planted: dict[str, Any]) -> None:
    step = {"at_s": 0, "call": {}, "asks": "open"} | planted
    world = World({"item": {"token": "T1", "expires_at_s": 5000}, "steps": [step]})

    assert len(world.play()) == 1


OTHER_ITEMS: list[dict[str, Any]] = [
    {"fence": 2}, {"locked": True}, {"lifetime_s": None}, {"pace": {"left": 23}},
    {"failure": {"code": "upstream_500"}},
    {"reports": {}}, {"refused_versions": []},
]  # fmt: skip


@pytest.mark.parametrize(
    "planted",
    [
        *({"finally": {"item": item}} for item in OTHER_ITEMS),
        {"finally": {"ledger": [{"fence": 1}]}},
        {"upstream": [{"token": "T2"}]},
    ],
)
def test_a_scenario_that_foresees_another_end_fails(planted: dict[str, Any]) -> None:
    item = {"token": "T1", "expires_at_s": 5000, "refused_versions": ["v1"], "reports": {"1:role/a": [-9]}}
    step = {"at_s": 0, "call": {}, "gets": {"token": "T1"}, "asks": "open"}
    world = World({"item": item, "steps": [step]} | planted)

    assert len(world.play()) == 1
