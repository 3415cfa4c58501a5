"""Two warm brokers in this process and the account that they share. Each case has a new connection."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker import handler as broker_handler
from functions.broker.assembly import assemble
from functions.broker.lifetime import ANSWER_S, FUNCTION_TIMEOUT_S, TO_LOCK_S
from tests.conftest import ACCOUNT, AWS_ENVIRONMENT, CANARY_SECRET, LambdaContext, new_event

if TYPE_CHECKING:
    from functions.broker.assembly import Broker
    from tests.operator import Operator

CALLER = f"arn:aws:sts::{ACCOUNT}:assumed-role/local-tester/session"

ONE_ATTEMPT_S = ANSWER_S + TO_LOCK_S + 0.95
"""Enough time for one attempt and not for two: the shortest pause between them is 1 s."""
SHORT_EXCHANGE_S = 0.5
"""The exchange's time in tests of a silent upstream."""


@dataclass(frozen=True)
class Timed:
    """A handler's answer, and how long it took."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]
    took_s: float

    @property
    def token_id(self) -> str:
        return str(self.body["token_id"])


@dataclass(frozen=True)
class Instances:
    """The two brokers, and an operator of their account."""

    operator: Operator
    environment: dict[str, str]
    one: Broker
    other: Broker

    def start(self, **environment: str) -> Broker:
        """Return an instance that is set up differently."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in AWS_ENVIRONMENT.items():
                patch.setenv(name, value)
            broker = assemble({**self.environment, **environment}, broker_handler._audit())
            # Its client of Secrets Manager is made at the first exchange, from the region in the environment.
            ask(broker, self.operator.new_connection())
        return broker


def ask(broker: Broker, connection: str, run_time_s: float = FUNCTION_TIMEOUT_S) -> Timed:
    """Send `POST /token` through the handler of this instance, with so much time to answer it."""
    event = new_event(user_arn=CALLER, body={"connection": connection})
    context = LambdaContext(int(1000 * run_time_s))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker_handler, "_broker", lambda: broker)
        started_s = time.monotonic()
        answer = broker_handler.lambda_handler(event, context)  # type: ignore[arg-type] # all that it reads
        took_s = time.monotonic() - started_s
    assert CANARY_SECRET not in json.dumps(answer)
    return Timed(answer["statusCode"], answer["headers"], json.loads(answer["body"]), took_s)
