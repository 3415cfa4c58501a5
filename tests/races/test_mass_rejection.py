"""Hundreds of callers report the same token to many processes at once: it is replaced once, and all get the new one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from local.instances import Nursery
from tests.races.racing import minted_token_ids, new_event
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from local.cloud import LocalCloud
    from local.instances import Answer
    from tests.operator import Operator

pytestmark = pytest.mark.cloud


@pytest.mark.usefixtures("slow_upstream")
def test_300_reports_are_one_exchange(cloud: LocalCloud, nursery: Nursery, operator: Operator) -> None:
    result = report_at_once(cloud, nursery, operator, instances=30, callers_at_each=10)

    (new,) = result.minted
    assert len(result.answers) == 300
    assert {(answer.status, answer.body["token_id"]) for answer in result.answers} == {(200, new)}
    ledger = operator.rows(result.connection)
    rows = [(row.reason, row.outcome, row.token and row.token.token_id) for row in ledger]
    assert rows == [("no_token", Outcome.ISSUED, result.old), ("reported", Outcome.ISSUED, new)]


def test_reports_that_are_not_compared_with_the_present_token_are_noticed(
    cloud: LocalCloud, instance_environment: dict[str, str], operator: Operator, tmp_path: Path
) -> None:
    planted = "tests.races.sabotage:report_without_a_comparison"
    with Nursery(instance_environment, tmp_path / "log", sabotage=planted) as nursery:
        result = report_at_once(cloud, nursery, operator, instances=3, callers_at_each=2)

    assert len(result.minted) > 1


@dataclass(frozen=True)
class Reports:
    """The token that was reported, the tokens minted since, and every caller's answer."""

    connection: str
    old: str
    minted: Sequence[str]
    answers: Sequence[Answer]


def report_at_once(
    cloud: LocalCloud, nursery: Nursery, operator: Operator, *, instances: int, callers_at_each: int
) -> Reports:
    """Let callers, each with its own name, report the token that all instances have served."""
    connection = operator.new_connection()
    started = nursery.start(instances)
    for instance in started:
        instance.send(new_event(connection))
    (old,) = {instance.receive().body["token_id"] for instance in started}
    # A report of a younger token would be ignored: a slow clock upstream is likelier than a dead token.
    operator.change(connection, {"token.issued_at_epoch_s": time.time() - 120})
    minted_before = minted_token_ids(cloud)

    start_at = time.time() + 0.1
    for number, instance in enumerate(started):
        for caller in range(callers_at_each):
            role = f"local-caller-{number}-{caller}"
            instance.send(new_event(connection, role, rejected_token_id=old), at_epoch_s=start_at)
    answers = [instance.receive() for instance in started for _ in range(callers_at_each)]
    nursery.retire(started)
    return Reports(connection, old, minted_token_ids(cloud)[len(minted_before) :], answers)
