"""SIGKILL at each step of a replacement: the others take over when the lock ends, and no token is unaccounted for.

::

    probe     lock taken     row begun     exchange     row issued     sealed     published
      |           |              |            |             |             |           |
      +-----------+------------ killed before or after each of these ------+-----------+

All cases run at the same time, because each waits for a lock of real length and an upstream that takes three seconds.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from functions.broker.lifetime import ANSWER_S, FUNCTION_TIMEOUT_S
from local.instances import Nursery
from local.waiting import wait_until
from tests.conftest import CANARY_CLIENT
from tests.races.racing import new_event, read_ledger
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from local.cloud import LocalCloud
    from local.instances import Answer, Instance
    from token_broker.ledger_row import Mint

pytestmark = pytest.mark.cloud

FOLLOWERS = 2
DEADLINE_S = FUNCTION_TIMEOUT_S - ANSWER_S


@dataclass(frozen=True)
class Step:
    """Where the holder is killed, and what must be there in the end.

    Attributes:
        stop_at: as for `Nursery.start`; "": it is killed while the upstream has its request.
        rows: of the ledger: fence and outcome.
        mints: how many tokens exist.
    """

    stop_at: str
    rows: Sequence[tuple[int, Outcome]]
    mints: int


_BEGUN, _ISSUED = Outcome.BEGUN, Outcome.ISSUED
_COMPLETE = "adapters.mint_ledger:MintLedger.complete"
STEPS = {
    "before the lock": Step("before adapters.token_store:TokenStore.write", [(1, _ISSUED)], 1),
    "after the lock": Step("after adapters.token_store:TokenStore.write", [(2, _ISSUED)], 1),
    "after row `begun`": Step("after adapters.mint_ledger:MintLedger.begin", [(1, _BEGUN), (2, _ISSUED)], 1),
    "in the exchange": Step("", [(1, _BEGUN), (2, _ISSUED)], 2),
    "before row `issued`": Step(f"before {_COMPLETE}", [(1, _BEGUN), (2, _ISSUED)], 2),
    "after row `issued`": Step(f"after {_COMPLETE}", [(1, _ISSUED), (2, _ISSUED)], 2),
    "before the publish": Step("after adapters.token_store:TokenStore.seal", [(1, _ISSUED), (2, _ISSUED)], 2),
    "after the publish": Step("after replace_token:_Attempt._publish", [(1, _ISSUED)], 1),
}
PLANTED = "behind a lock without an end"


class Killing:
    """A holder that is killed at a step, with its own upstream client, and the followers that ask at that moment."""

    def __init__(self, cloud: LocalCloud, nursery: Nursery, stop_at: str) -> None:
        self._cloud = cloud
        self._stop_at = stop_at
        self.connection = f"killed-{uuid.uuid4().hex[:12]}"
        self.client_secret = uuid.uuid4().hex
        client = {"client_id": self.connection, "client_secret": self.client_secret}
        cloud.put_connection(self.connection, client)
        (self._holder,) = nursery.start(1, STOP_AT=stop_at)
        self._followers: Sequence[Instance] = nursery.start(FOLLOWERS)
        self.answers: Sequence[Answer] = ()

    def begin(self) -> None:
        self._holder.send(new_event(self.connection))

    def kill(self) -> None:
        if self._stop_at:
            self._holder.wait_until_stopped()
        else:
            assert wait_until(lambda: self.minted)
        self._holder.kill()
        for follower in self._followers:
            follower.send(new_event(self.connection))

    def wait(self) -> None:
        self.answers = [follower.receive() for follower in self._followers]

    @property
    def minted(self) -> list[str]:
        """Ids of the tokens that exist, oldest first."""
        mints = self._cloud.steer_digishare("GET", "/state")["mints"]
        return [mint["token_id"] for mint in mints if mint["client_id"] == self.connection]

    @property
    def ledger(self) -> Sequence[Mint]:
        return read_ledger(self._cloud, self.connection)


@pytest.fixture(scope="module")
def killings(
    cloud: LocalCloud,
    nursery: Nursery,
    instance_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Killing]]:
    """All cases, each with what its followers were answered."""
    planted = "tests.races.sabotage:lock_without_an_end"
    log_file = tmp_path_factory.mktemp("planted") / "log"
    with Nursery(instance_environment, log_file, sabotage=planted) as careless:
        cases = {name: Killing(cloud, nursery, step.stop_at) for name, step in STEPS.items()}
        cases[PLANTED] = Killing(cloud, careless, STEPS["after the lock"].stop_at)
        clients = [{"client_id": each.connection, "secrets": [each.client_secret]} for each in cases.values()]
        cloud.steer_digishare("PUT", "/clients", [CANARY_CLIENT, *clients])
        slow = {"target": "token", "kind": "delay", "delay_ms": 3000, "times": None}
        cloud.steer_digishare("POST", "/faults", slow)
        for step in (Killing.begin, Killing.kill, Killing.wait):
            # The one that is killed in its exchange comes first, because it stops nowhere.
            for killing in sorted(cases.values(), key=lambda each: bool(each._stop_at)):
                step(killing)
        yield cases
        cloud.steer_digishare("DELETE", "/faults")
        cloud.steer_digishare("PUT", "/clients", [CANARY_CLIENT])


@pytest.mark.parametrize("name", STEPS)
def test_all_are_answered_in_time_when_the_holder_is_killed(killings: dict[str, Killing], name: str) -> None:
    answers = killings[name].answers

    assert [answer.status for answer in answers] == [200] * FOLLOWERS
    assert max(answer.took_s for answer in answers) < DEADLINE_S
    assert {answer.body["token_id"] for answer in answers} == {killings[name].minted[-1]}


@pytest.mark.parametrize("name", STEPS)
def test_a_killed_holder_costs_one_token_and_leaves_its_row(killings: dict[str, Killing], name: str) -> None:
    killing, step = killings[name], STEPS[name]

    assert [(row.fence, row.outcome) for row in killing.ledger] == step.rows
    assert len(killing.minted) == step.mints <= 2
    named = {row.token.token_id for row in killing.ledger if row.token}
    begun = [row for row in killing.ledger if row.outcome is Outcome.BEGUN]
    assert len(set(killing.minted) - named) <= len(begun)


def test_followers_of_a_lock_without_an_end_are_noticed(killings: dict[str, Killing]) -> None:
    assert [answer.status for answer in killings[PLANTED].answers] == [503] * FOLLOWERS
