"""Races across processes: many cold brokers want the same token at once, and exactly one may mint it."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from functions.broker.adapters.mint_ledger import read_mints
from local.cloud import LocalCloud
from local.instances import Nursery
from tests import conftest
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from local.instances import Answer
    from token_broker.ledger_row import Mint

INSTANCES = 24
_HEAD_START_S = 0.1


class BrokenRaceError(Exception):
    """A race did not end as the design promises; the text says how."""


@dataclass(frozen=True)
class RaceResult:
    """The result of one race for the first token of a connection.

    Attributes:
        connection: the race's own.
        answers: one for each instance.
        minted: ids of the tokens that the upstream issued meanwhile.
        ledger: the connection's rows.
        duration_s: from the start signal to the last answer.
    """

    connection: str
    answers: Sequence[Answer] = field(repr=False)
    minted: Sequence[str]
    ledger: Sequence[Mint]
    duration_s: float

    @property
    def problems(self) -> list[str]:
        """What is wrong, as texts. Empty if one mint served everybody."""
        found = []
        statuses = Counter(answer.status for answer in self.answers)
        if set(statuses) != {200}:
            found.append(f"answers: {dict(statuses)}")
        if len(self.minted) != 1:
            found.append(f"{len(self.minted)} mints")
        token_ids = {answer.body.get("token_id") for answer in self.answers}
        if token_ids != set(self.minted):
            found.append(f"answered {len(token_ids)} tokens, or not the one that was minted")
        # On a busy machine a holder may be too late to send its exchange. Its row says so, and nothing was sent.
        sent = [row for row in self.ledger if row.error != "too_late_to_send"]
        rows = [(row.outcome, row.token and row.token.token_id) for row in sent]
        if rows != [(Outcome.ISSUED, token_id) for token_id in self.minted]:
            found.append(f"ledger: {[str(outcome) for outcome, _ in rows]}")
        return found


def run_race(
    cloud: LocalCloud, nursery: Nursery, instances: int = INSTANCES, **environment: str
) -> RaceResult:
    """Let so many cold instances ask at once for the token of a new connection, and end them.

    Args:
        cloud: with the stack deployed and a credential for `digishare`, which the connection gets too.
        nursery: with the environment of the cloud's broker.
        instances: how many processes.
        environment: for each of them; with STOP_AT each waits there for the last one.
    """
    connection = new_connection(cloud)
    before = minted_token_ids(cloud)
    racers = nursery.start(instances, **environment)
    start_at = time.time() + _HEAD_START_S
    for number, racer in enumerate(racers):
        racer.send(new_event(connection, f"local-racer-{number}"), at_epoch_s=start_at)
    if "STOP_AT" in environment:
        for racer in racers:
            racer.wait_until_stopped()
        for racer in racers:
            racer.go_on()
    answers = [racer.receive() for racer in racers]
    nursery.retire(racers)
    return RaceResult(
        connection,
        answers,
        minted_token_ids(cloud)[len(before) :],
        read_ledger(cloud, connection),
        max(answer.ended_at_epoch_s for answer in answers) - start_at,
    )


def race_until(until_s: float, counts: Counter[str]) -> None:
    """Run races on their own local cloud until `time.monotonic()` reaches `until_s`; count them in `counts`.

    Raises:
        BrokenRaceError: at the first race that breaks a promise.
    """
    with LocalCloud() as cloud, tempfile.TemporaryDirectory(prefix="token-broker-races-") as folder:
        cloud.build()
        cloud.deploy()
        client = {"client_id": "soak", "client_secret": uuid.uuid4().hex}
        accepted = {"client_id": "soak", "secrets": [client["client_secret"]]}
        cloud.steer_digishare("PUT", "/clients", [accepted])
        cloud.put_connection("digishare", client)
        environment = cloud.function_environment("BrokerFunctionName")
        with Nursery(environment, Path(folder) / "instances.log") as nursery:
            while time.monotonic() < until_s:
                result = run_race(cloud, nursery)
                counts["races across processes"] += 1
                counts["answers in races"] += len(result.answers)
                counts["mints in races"] += len(result.minted)
                if result.problems:
                    raise BrokenRaceError(f"{result.connection}: {'; '.join(result.problems)}")


# --- what a race needs of the cloud ---------------------------------------------------------------------------------


def new_connection(cloud: LocalCloud) -> str:
    """Return the name of a connection that nobody has used, with the credential of `digishare`."""
    prefix = cloud.outputs["SecretPrefix"]
    secret = cloud.client("secretsmanager").get_secret_value(SecretId=f"{prefix}/digishare")
    connection = f"race-{uuid.uuid4().hex[:12]}"
    cloud.put_connection(connection, json.loads(secret["SecretString"]))
    return connection


def minted_token_ids(cloud: LocalCloud) -> list[str]:
    """Return the ids of all tokens that the fake Digishare has issued, oldest first."""
    state = cloud.steer_digishare("GET", "/state")
    return [mint["token_id"] for mint in state["mints"]]


def read_ledger(cloud: LocalCloud, connection: str) -> list[Mint]:
    """Return the connection's rows, oldest fence first."""
    table = cloud.outputs["TokenTableName"]
    return read_mints(cloud.client("dynamodb"), table=table, connection=connection)


def new_event(connection: str, role: str = "local-racer", **fields: object) -> Mapping[str, Any]:
    """Return the Function URL event of a `POST /token` by a role of the local cloud."""
    user_arn = f"arn:aws:sts::{LocalCloud.account_id}:assumed-role/{role}/session"
    return conftest.new_event(body={"connection": connection, **fields}, user_arn=user_arn)
