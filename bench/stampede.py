"""Stampede: many cold instances asked at the same moment, with no token anywhere."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.world import EVENT
from local.instances import Code, Nursery

if TYPE_CHECKING:
    from bench.instances import Stage
    from bench.world import World

INSTANCES: Final = 64
DELAYS_S: Final = {"dynamodb": 0.004, "kms": 0.008, "secretsmanager": 0.015}
"""Added to the local AWS's own time, so that it is about as slow as the real one within a region."""
EXCHANGE_DELAY_MS: Final = 400
_TIMEOUT_S: Final = 90.0
_HEAD_START_S: Final = 0.5
_PREPARE: Final = {
    "ours": "",
    "conventional": (  # it makes one client when it is loaded, and this one when it reads the first secret
        "from aws_lambda_powertools.utilities.parameters import SecretsProvider, base\n"
        "base.DEFAULT_PROVIDERS['secrets'] = SecretsProvider()"
    ),
    "naive": "import boto3; boto3.client('secretsmanager')",
}


@dataclass(frozen=True, slots=True)
class Stampede:
    """What was measured.

    Attributes:
        mints: tokens that the upstream issued.
        after_s: when each caller had its answer, in seconds from the common start, in order.
        statuses: of the answers.
        aws_calls: by operation.
    """

    mints: int
    after_s: list[float]
    statuses: dict[str, int]
    aws_calls: dict[str, int]


def run_stampede(world: World, stage: Stage, instances: int = INSTANCES) -> Stampede:
    """Forget all tokens, then let that many cold instances answer at once."""
    world.forget_tokens()
    mints_before = world.count_mints()
    world.front.take_calls()
    world.front.delays_s = DELAYS_S
    world.cloud.steer_digishare(
        "POST", "/faults", {"target": "token", "kind": "delay", "times": None, "delay_ms": EXCHANGE_DELAY_MS}
    )
    code = Code(
        stage.handler, _PREPARE[stage.name], (stage.python, "-S"), world.artefacts.harness, stage.path
    )
    # As deployed, without a snapshot: what a handler makes when it is imported is made once, before the forks.
    environment = {**stage.environment, "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand"}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Nursery(environment, Path(folder) / "log", code=code) as nursery,
        ):
            started = nursery.start(instances)
            start_at = time.time() + _HEAD_START_S
            for instance in started:
                instance.send(json.loads(EVENT), at_epoch_s=start_at)
            answers = [instance.receive(_TIMEOUT_S) for instance in started]
    finally:
        world.front.delays_s = {}
        world.cloud.steer_digishare("DELETE", "/faults")
    return Stampede(
        mints=world.count_mints() - mints_before,
        after_s=sorted(answer.ended_at_epoch_s - start_at for answer in answers),
        statuses=dict(Counter(str(answer.status) for answer in answers)),
        aws_calls=world.front.take_calls(),
    )
