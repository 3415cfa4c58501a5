"""SIGKILL in the middle of a mint, at each of its steps: the others take over when the lock ends, and nothing is lost.

::

    lock taken   secret read   probe sealed   row begun   exchange   sealed   row issued   published
        |             |              |            |           |         |          |            |
        +-------------+--------------+- killed here, or here -+---------+----------+------------+

All cases run side by side with the real length of the lock, so that waiting for it is paid once.
"""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from functions.broker import lifetime
from functions.broker.mint_ledger import Outcome
from local.instances import Nursery
from local.races import new_connection, new_event, read_ledger
from tests.conftest import CANARY_CLIENT_ID, CANARY_SECRET
from tests.faults.aws_proxy import AwsFault, AwsProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from functions.broker.mint_ledger import Mint
    from local.cloud import LocalCloud
    from local.instances import Answer, Instance
    from tests.faults.aws_proxy import Kind

pytestmark = pytest.mark.cloud

FOLLOWERS = 2
LOCK_S = lifetime.lock_length_s(lifetime.MINT_BUDGET_S)
SLACK_S = 2.0


@dataclass(frozen=True)
class Step:
    """Where the holder is cut off, and what must be left of it.

    Attributes:
        fault: what holds it there, between it and AWS; None: the upstream does.
        row: its row in the ledger; None: no row, for no exchange was begun.
        mints: how many tokens exist in the end.
        published: whether the others find its token.
    """

    fault: AwsFault | None
    row: Outcome | None
    mints: int
    published: bool = False


def _held(kind: Kind, operation: str, containing: str = "") -> AwsFault:
    return AwsFault(kind=kind, operation=operation, containing=containing)


_A_TOKEN = "ZXlK"  # how every JWT begins, in base64
STEPS = {
    "before the secret is read": Step(_held("hold_before", "GetSecretValue"), None, 1),
    "before the row is begun": Step(_held("hold_before", "PutItem"), None, 1),
    "after the row is begun": Step(_held("hold_after", "PutItem"), Outcome.BEGUN, 1),
    "while the upstream has the request": Step(None, Outcome.BEGUN, 2),
    "before the token is sealed": Step(_held("hold_before", "Encrypt", _A_TOKEN), Outcome.BEGUN, 2),
    "before the row is completed": Step(_held("hold_before", "PutItem", '"issued"'), Outcome.BEGUN, 2),
    "before the publish arrives": Step(_held("hold_before", "UpdateItem", ":sealed"), Outcome.ISSUED, 2),
    "after the publish has arrived": Step(
        _held("hold_after", "UpdateItem", ":sealed"), Outcome.ISSUED, 1, published=True
    ),
}


@dataclass(frozen=True)
class Aftermath:
    """What came of one killing. `waited_s` is from the kill to the last follower's answer."""

    answers: Sequence[Answer]
    waited_s: float
    minted: Sequence[str]
    ledger: Sequence[Mint]


class Killing:
    """One holder that is held at a step and killed there, and the followers that find its lock."""

    def __init__(self, cloud: LocalCloud, nursery: Nursery, step: Step, connection: str) -> None:
        self._cloud = cloud
        self._nursery = nursery
        self._step = step
        self.connection = connection

    def kill_the_holder(self, proxy: AwsProxy) -> None:
        """Return once it is dead; `proxy` stands between it and AWS."""
        if self._step.fault:
            proxy.fail(self._step.fault)
        (holder,) = self._nursery.start(1, AWS_ENDPOINT_URL=proxy.url)
        holder.send(new_event(self.connection))
        if self._step.fault:
            assert self._step.fault.reached.wait(15)
            if self._step.fault.kind == "hold_after":
                _wait_for(lambda: bool(proxy.held_answers))
        else:
            _wait_for(lambda: len(self.minted) == 1)
        holder.kill()

    def send(self, followers: Sequence[Instance]) -> None:
        self._followers = followers
        self._killed_at_epoch_s = time.time()
        for follower in self._followers:
            follower.send(new_event(self.connection))

    def aftermath(self) -> Aftermath:
        answers = [follower.receive() for follower in self._followers]
        waited_s = max(answer.ended_at_epoch_s for answer in answers) - self._killed_at_epoch_s
        return Aftermath(answers, waited_s, self.minted, read_ledger(self._cloud, self.connection))

    @property
    def minted(self) -> list[str]:
        """Every case has a client of its own, so that its mints can be told from the others'."""
        mints = self._cloud.steer_digishare("GET", "/state")["mints"]
        return [mint["token_id"] for mint in mints if mint["client_id"] == self.connection]


@pytest.fixture(scope="module")
def aftermaths(cloud: LocalCloud, nursery: Nursery) -> Iterator[dict[str, Aftermath]]:
    killings = {
        name: Killing(cloud, nursery, step, f"killed-{number}-{uuid.uuid4().hex[:8]}")
        for number, (name, step) in enumerate(STEPS.items())
    }
    clients = [{"client_id": CANARY_CLIENT_ID, "secrets": [CANARY_SECRET]}]
    for killing in killings.values():
        client = {"client_id": killing.connection, "client_secret": uuid.uuid4().hex}
        cloud.put_connection(killing.connection, client)
        clients.append({"client_id": killing.connection, "secrets": [client["client_secret"]]})
    cloud.steer_digishare("PUT", "/clients", clients)
    cloud.steer_digishare(
        "POST", "/faults", {"target": "token", "kind": "hang", "processed": True, "cap_s": 60}
    )
    # The one that the upstream holds comes first: its fault is for whoever asks first.
    in_order = sorted(killings, key=lambda name: STEPS[name].fault is not None)
    with ExitStack() as cleanup:
        for name in in_order:
            proxy = cleanup.enter_context(AwsProxy(cloud.aws_endpoint_url))
            killings[name].kill_the_holder(proxy)
        followers = nursery.start(FOLLOWERS * len(killings))
        for name in in_order:
            killings[name].send([followers.pop() for _ in range(FOLLOWERS)])
        found = {name: killing.aftermath() for name, killing in killings.items()}
    yield found
    cloud.steer_digishare("PUT", "/clients", clients[:1])


@pytest.mark.parametrize("name", STEPS)
def test_a_holder_killed(aftermaths: dict[str, Aftermath], name: str) -> None:
    step, aftermath = STEPS[name], aftermaths[name]

    assert [answer.status for answer in aftermath.answers] == [200] * FOLLOWERS
    assert aftermath.waited_s < (SLACK_S if step.published else LOCK_S + SLACK_S)
    assert len(aftermath.minted) == step.mints
    assert {answer.body["token_id"] for answer in aftermath.answers} == {aftermath.minted[-1]}
    rows = [(row.fence, row.outcome) for row in aftermath.ledger]
    assert rows == [
        *([(1, step.row)] if step.row else []),
        *([] if step.published else [(2, Outcome.ISSUED)]),
    ]
    _assert_every_token_is_accounted_for(aftermath)


def _assert_every_token_is_accounted_for(aftermath: Aftermath) -> None:
    unnamed = set(aftermath.minted) - {row.token_id for row in aftermath.ledger}
    begun = [row for row in aftermath.ledger if row.outcome is Outcome.BEGUN]
    assert len(unnamed) <= len(begun)


def test_followers_that_no_lock_ever_lets_go_are_noticed(
    cloud: LocalCloud, instance_environment: dict[str, str], tmp_path: Path
) -> None:
    """The planted fault: a lock without an end. The lock is shortened to 1.5 s, so that this is quick."""
    constants = {"MINT_BUDGET_S": 1.0, "STORE_BUDGET_S": 0.3, "CLOCK_MARGIN_S": 0.2}
    hang = {"target": "token", "kind": "hang", "cap_s": 10, "times": 2}
    cloud.steer_digishare("POST", "/faults", hang)
    with ExitStack() as cleanup:
        pairs = []
        for sabotage in ("", "tests.races.sabotage:lock_without_an_end"):
            nursery = Nursery(instance_environment, tmp_path / "log", constants=constants, sabotage=sabotage)
            pairs.append((new_connection(cloud), cleanup.enter_context(nursery).start(2)))
        for connection, (holder, _) in pairs:
            holder.send(new_event(connection))
        _wait_for(lambda: not cloud.steer_digishare("GET", "/state")["waiting_faults"]["token"])
        for connection, (holder, follower) in pairs:
            holder.kill()
            follower.send(new_event(connection), run_time_s=5)
        statuses = [follower.receive().status for _, (_, follower) in pairs]

    assert statuses == [200, 503]


def _wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)
