"""Two hundred callers report the same token at once, over many processes: it is replaced once, and all get the new one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from functions.broker.mint_ledger import Outcome
from functions.broker.token_record import to_attribute, token_key
from local.instances import Nursery
from local.races import minted_token_ids, new_connection, new_event, read_ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from local.cloud import LocalCloud
    from local.instances import Answer

pytestmark = pytest.mark.cloud


def test_one_token_rejected_by_200_callers_is_one_mint(cloud: LocalCloud, nursery: Nursery) -> None:
    result = reject_at_once(cloud, nursery, instances=20, callers_at_each=10)

    (new,) = result.minted
    assert len(result.answers) == 200
    assert {(answer.status, answer.body["token_id"]) for answer in result.answers} == {(200, new)}
    rows = [(row.reason, row.outcome, row.token_id) for row in read_ledger(cloud, result.connection)]
    assert rows == [("no_token", Outcome.ISSUED, result.old), ("rejected", Outcome.ISSUED, new)]


def test_rejections_that_are_not_compared_with_the_present_token_are_noticed(
    cloud: LocalCloud, instance_environment: dict[str, str], tmp_path: Path
) -> None:
    planted = "tests.races.sabotage:rejection_without_a_comparison"
    with Nursery(instance_environment, tmp_path / "log", sabotage=planted) as nursery:
        result = reject_at_once(cloud, nursery, instances=3, callers_at_each=2)

    assert len(result.minted) > 1


@dataclass(frozen=True)
class Rejection:
    """What came of it: the token that was reported, the tokens minted since, every caller's answer."""

    connection: str
    old: str
    minted: Sequence[str]
    answers: Sequence[Answer]


def reject_at_once(cloud: LocalCloud, nursery: Nursery, *, instances: int, callers_at_each: int) -> Rejection:
    """Let callers of their own names report the token that all instances have served."""
    connection = new_connection(cloud)
    started = nursery.start(instances)
    for instance in started:
        instance.send(new_event(connection))
    (old,) = {instance.receive().body["token_id"] for instance in started}
    _let_the_token_be_two_minutes_old(cloud, connection)
    minted_before = minted_token_ids(cloud)

    start_at = time.time() + 0.1
    for number, instance in enumerate(started):
        for caller in range(callers_at_each):
            role = f"local-caller-{number}-{caller}"
            instance.send(new_event(connection, role, rejected_token_id=old), at_epoch_s=start_at)
    answers = [instance.receive() for instance in started for _ in range(callers_at_each)]
    nursery.retire(started)
    return Rejection(connection, old, minted_token_ids(cloud)[len(minted_before) :], answers)


def _let_the_token_be_two_minutes_old(cloud: LocalCloud, connection: str) -> None:
    """A younger one would not be replaced: a slow clock upstream is likelier than a dead token."""
    cloud.client("dynamodb").update_item(
        TableName=cloud.outputs["TokenTableName"],
        Key=token_key(connection),
        UpdateExpression="SET issued_at_epoch_s = :then",
        ExpressionAttributeValues={":then": to_attribute(time.time() - 120)},
    )
