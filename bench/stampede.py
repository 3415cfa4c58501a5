"""Stampede: many cold instances asked at the same moment, with no token anywhere."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.stages import PROJECT
from bench.world import EVENT

if TYPE_CHECKING:
    from bench.instances import Stage
    from bench.world import World

INSTANCES: Final = 64
DELAYS_S: Final = {"dynamodb": 0.004, "kms": 0.008, "secretsmanager": 0.015}
"""Added to the local AWS's own time, to be about as slow as the real one within a region."""
EXCHANGE_DELAY_MS: Final = 400
_TIMEOUT_S: Final = 90.0
_PREPARE: Final = {
    "ours": "",
    "conventional": (  # makes one client when it is loaded, and this one at the first secret
        "from aws_lambda_powertools.utilities.parameters import SecretsProvider, base\n"
        "base.DEFAULT_PROVIDERS['secrets'] = SecretsProvider()"
    ),
    "naive": "import boto3; boto3.client('secretsmanager')",
}


@dataclass(frozen=True, slots=True)
class Stampede:
    """What came of it.

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
    try:
        done = subprocess.run(
            [stage.python, "-S", "-m", "bench.nursery", stage.handler, _PREPARE[stage.name], str(instances)],
            input=EVENT,
            env={
                "PATH": os.defpath,
                "PYTHONPATH": os.pathsep.join(map(str, (*stage.path, world.artefacts.harness))),
                "PYTHONDONTWRITEBYTECODE": "1",
                **stage.environment,
            },
            cwd=PROJECT,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    finally:
        world.front.delays_s = {}
        world.cloud.steer_digishare("DELETE", "/faults")
    answers = json.loads(done.stdout)["answers"]
    return Stampede(
        mints=world.count_mints() - mints_before,
        after_s=sorted(answer["after_s"] for answer in answers),
        statuses=dict(Counter(str(answer["status"]) for answer in answers)),
        aws_calls=world.front.take_calls(),
    )
