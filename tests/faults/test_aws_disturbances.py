"""Short disturbances of AWS: one call that goes wrong, five seconds of silence, slow answers."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from local.aws_proxy import AwsFault, AwsProxy
from tests.faults.test_aws_outages import BUSY, TAKING_EFFECT, UNAVAILABLE
from tests.races.racing import minted_token_ids, new_connection, new_event, run_race
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from local.cloud import LocalCloud
    from local.instances import Answer, Nursery
    from tests.operator import Operator

pytestmark = pytest.mark.cloud

KINDS = {**BUSY, **UNAVAILABLE}
UNREADABLE = TAKING_EFFECT - {"lost"}
"""The call took effect, and its status says so. For a row nothing else is read."""
STEPS: dict[str, dict[str, Any]] = {
    "read": {"operation": "GetItem"},
    "secret": {"operation": "GetSecretValue"},
    "probe": {"operation": "Encrypt"},
    "lock": {"operation": "UpdateItem", "containing": ":lock_owner"},
    "row begun": {"operation": "PutItem", "containing": '"begun"'},
    "row issued": {"operation": "PutItem", "containing": '"issued"'},
    "seal": {"operation": "Encrypt", "containing": "ZXlK"},  # how every JWT begins, in base64
    "publish": {"operation": "UpdateItem", "containing": ":token"},
}


# --- one call goes wrong ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disturbance:
    """One exchange in which one call went wrong: its connection, its answer, and what another instance got then."""

    connection: str
    answer: Answer
    other: Answer


@pytest.fixture(scope="module")
def disturbed(cloud: LocalCloud, nursery: Nursery, operator: Operator) -> dict[tuple[str, str], Disturbance]:
    """Every step with every kind of fault, the kinds at the same time."""
    found = {}
    with ExitStack() as cleanup:
        proxies = {kind: cleanup.enter_context(AwsProxy(cloud.aws_endpoint_url)) for kind in KINDS}
        instances = {kind: nursery.start(1, AWS_ENDPOINT_URL=proxies[kind].origin)[0] for kind in KINDS}
        (other,) = nursery.start(1)
        for number, (name, step) in enumerate(STEPS.items(), 1):
            connections = {kind: operator.new_connection() for kind in KINDS}
            for kind, instance in instances.items():
                proxies[kind].fail(AwsFault(times=1, **step, **KINDS[kind]))
                instance.send(new_event(connections[kind]))
            for kind, instance in instances.items():
                answer = instance.receive()
                assert proxies[kind].spoilt == number
                other.send(new_event(connections[kind]))
                found[name, kind] = Disturbance(connections[kind], answer, other.receive())
        nursery.retire([*instances.values(), other])
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", STEPS)
def test_one_call_that_goes_wrong_costs_time_and_nothing_else(
    disturbed: dict[tuple[str, str], Disturbance], operator: Operator, step: str, kind: str
) -> None:
    found = disturbed[step, kind]
    rows = operator.rows(found.connection)

    assert (found.answer.status, found.other.status) == (200, 200)
    assert operator.issued(found.connection) == [found.answer.body["token_id"]]
    assert found.other.body["token_id"] == found.answer.body["token_id"]
    is_unwritten = step == "row begun" and kind not in UNREADABLE
    assert [row.outcome for row in rows] == [*([Outcome.FAILED] if is_unwritten else []), Outcome.ISSUED]


# --- silence ------------------------------------------------------------------------------------------------------------


def test_ten_cold_instances_wait_for_silent_aws_and_mint_nothing(cloud: LocalCloud, nursery: Nursery) -> None:
    connection = new_connection(cloud)
    (first,) = nursery.start(1)
    first.send(new_event(connection))
    token_id = first.receive().body["token_id"]
    minted_before = minted_token_ids(cloud)
    with AwsProxy(cloud.aws_endpoint_url) as proxy:
        cold = nursery.start(10, AWS_ENDPOINT_URL=proxy.origin)
        proxy.fail(AwsFault(kind="silent"))
        for instance in cold:
            instance.send(new_event(connection))
        time.sleep(4.5)
        proxy.recover()
        answers = [instance.receive() for instance in cold]
        nursery.retire([first, *cold])

        assert proxy.spoilt >= 10
    assert [(answer.status, answer.body["token_id"]) for answer in answers] == [(200, token_id)] * 10
    assert minted_token_ids(cloud) == minted_before


# --- latency ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("slow_upstream")
@pytest.mark.parametrize("latency_s", [0.3, 0.8])
def test_a_slow_race_is_one_exchange(cloud: LocalCloud, nursery: Nursery, latency_s: float) -> None:
    with AwsProxy(cloud.aws_endpoint_url) as proxy:
        proxy.delays_s = dict.fromkeys(("dynamodb", "kms", "secretsmanager"), latency_s)
        result = run_race(cloud, nursery, 6, AWS_ENDPOINT_URL=proxy.origin)

    assert result.problems == []
