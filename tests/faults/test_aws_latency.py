"""AWS slower than the SDK's real time-outs: processes of their own, real pauses, every wait bounded."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from local.instances import Nursery
from local.races import broker_credentials, broker_environment, new_event
from tests.faults.aws_proxy import SERVICES, AwsFault, AwsProxy
from tests.faults.bench import Operator

if TYPE_CHECKING:
    from pathlib import Path

    from local.cloud import LocalCloud

pytestmark = pytest.mark.cloud

SLOWER_THAN_ANY_TIMEOUT_S = 2.5
SLACK_S = 1.0
LONGEST_CALL_S = 2 * 1.5 + 1.0
"""Two tries of 1.5 s and the SDK's pause between them (functions/broker/assembly.py)."""


def test_waits_for_a_slow_aws_are_bounded(cloud: LocalCloud, tmp_path: Path) -> None:
    environment = broker_environment(cloud, broker_credentials(cloud))
    operator = Operator(cloud.client("dynamodb"), cloud.client("secretsmanager"), environment["TOKEN_TABLE"])
    cases = [(service, state) for service in SERVICES.values() for state in ("none", "soft")]
    with ExitStack() as cleanup:
        nursery = cleanup.enter_context(Nursery(environment, tmp_path / "log"))
        waiting = []
        for service, state in cases:
            connection = operator.new_connection()
            proxy = cleanup.enter_context(AwsProxy(cloud.aws_endpoint_url))
            (instance,) = nursery.start(1, AWS_ENDPOINT_URL=proxy.url)
            if state == "soft":
                instance.send(new_event(connection))
                assert instance.receive().status == 200
                operator.leave(connection, 120)
            proxy.fail(AwsFault(kind="slow", service=service, delay_s=SLOWER_THAN_ANY_TIMEOUT_S))
            # A rejection of some other token is what makes a warm instance look at the table at once.
            instance.send(new_event(connection, rejected_token_id="0" * 16))
            waiting.append(instance)
        answers = {case: instance.receive() for case, instance in zip(cases, waiting, strict=True)}

    assert {case: answer.status for case, answer in answers.items()} == {
        case: 503 if case == ("secretsmanager", "none") else 200 for case in cases
    }
    for (service, state), answer in answers.items():
        calls = 1 if state == "soft" or service == "secretsmanager" else 2
        assert answer.took_s < calls * LONGEST_CALL_S + SLACK_S, (service, state)
