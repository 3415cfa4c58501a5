"""Holders that are stopped in a replacement and go on when others have taken over: nothing is done twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from functions.broker.lifetime import CLOCK_DIFFERENCE_S, LOCK_S, TO_SEND_S
from local.instances import Nursery
from tests.races.racing import minted_token_ids, new_event
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local.cloud import LocalCloud
    from local.instances import Instance
    from tests.operator import Operator

pytestmark = pytest.mark.cloud

BEFORE_LOCK = "before adapters.token_store:TokenStore.write"
AFTER_LOCK = "after adapters.token_store:TokenStore.write"
AFTER_BEGIN = "after adapters.mint_ledger:MintLedger.begin"
BEFORE_PUBLISH = "after adapters.token_store:TokenStore.seal"


class Scene:
    """A new connection, and what has happened to it."""

    def __init__(self, cloud: LocalCloud, nursery: Nursery, operator: Operator) -> None:
        self._cloud = cloud
        self._nursery = nursery
        self.operator = operator
        self._minted_before = len(minted_token_ids(cloud))
        self.connection = operator.new_connection()

    def ask(self, stop_at: str = "") -> Instance:
        """Return a cold instance that answers a request, or has stopped where `stop_at` says."""
        (instance,) = self._nursery.start(1, STOP_AT=stop_at)
        instance.send(new_event(self.connection))
        if stop_at:
            instance.wait_until_stopped()
        return instance

    @property
    def published(self) -> tuple[str, int]:
        """Token id and generation of the item."""
        record = self.operator.record(self.connection)
        assert record.token is not None
        return record.token.token.token_id, record.generation

    @property
    def rows(self) -> list[tuple[int, Outcome, str]]:
        """Fence, outcome and error of the ledger's rows."""
        return [(row.fence, row.outcome, row.error) for row in self.operator.rows(self.connection)]

    @property
    def minted(self) -> list[str]:
        return minted_token_ids(self._cloud)[self._minted_before :]


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    cloud: LocalCloud,
    nursery: Nursery,
    instance_environment: dict[str, str],
    operator: Operator,
    tmp_path: Path,
) -> Iterator[Scene]:
    """A test may name a fault of `sabotage.py`: then it is planted."""
    if not hasattr(request, "param"):
        yield Scene(cloud, nursery, operator)
        return
    planted = f"tests.races.sabotage:{request.param}"
    with Nursery(instance_environment, tmp_path / "log", sabotage=planted) as careless:
        yield Scene(cloud, careless, operator)


# --- a publish that comes late ------------------------------------------------------------------------------------------


def publish_late(scene: Scene) -> tuple[str, str]:
    """Let a holder publish after another one; return the token ids that they answered, the late one's first."""
    late = scene.ask(stop_at=BEFORE_PUBLISH)
    scene.operator.end_lock(scene.connection)
    in_time = scene.ask().receive()
    late.go_on()
    answer = late.receive()
    assert (in_time.status, answer.status) == (200, 200)
    return answer.body["token_id"], in_time.body["token_id"]


def test_a_late_publish_serves_its_caller_and_nobody_else(scene: Scene) -> None:
    lost, published = publish_late(scene)

    assert scene.minted == [lost, published]
    assert scene.rows == [(1, Outcome.ISSUED, ""), (2, Outcome.ISSUED, "")]
    assert scene.published == (published, 1)
    assert scene.ask().receive().body["token_id"] == published


@pytest.mark.parametrize("scene", ["publish_without_a_condition"], indirect=True)
def test_a_publish_without_a_condition_is_noticed(scene: Scene) -> None:
    lost, _ = publish_late(scene)

    assert scene.published == (lost, 1)


# --- a lock whose number starts again -----------------------------------------------------------------------------------


def lock_after_the_item_was_deleted(scene: Scene) -> set[str]:
    """Let an instance take a lock that it saw ended while another has one of the same fence; return both token ids."""
    scene.ask(stop_at=AFTER_LOCK).kill()
    scene.operator.end_lock(scene.connection)
    late = scene.ask(stop_at=BEFORE_LOCK)  # has seen fence 1, and that its lock has ended
    scene.operator.delete(scene.connection)
    holder = scene.ask(stop_at=AFTER_LOCK)  # has fence 1, too
    late.go_on()
    time.sleep(0.5)  # the late one is refused and waits, or it exchanges
    holder.go_on()
    answers = [late.receive(), holder.receive()]
    assert [answer.status for answer in answers] == [200, 200]
    return {answer.body["token_id"] for answer in answers}


def test_a_lock_of_the_same_number_with_another_owner_is_not_taken(scene: Scene) -> None:
    served = lock_after_the_item_was_deleted(scene)

    assert served == set(scene.minted)
    assert len(scene.minted) == 1


@pytest.mark.parametrize("scene", ["lock_without_comparing_its_owner"], indirect=True)
def test_a_lock_without_comparing_its_owner_is_noticed(scene: Scene) -> None:
    lock_after_the_item_was_deleted(scene)

    assert len(scene.minted) == 2


# --- a request that would be sent too late ------------------------------------------------------------------------------


def stop_before_sending(scene: Scene) -> str:
    """Stop a holder for too long between its row and its exchange; return the token id in its answer."""
    holder = scene.ask(stop_at=AFTER_BEGIN)
    time.sleep(LOCK_S - CLOCK_DIFFERENCE_S - TO_SEND_S + 0.1)
    holder.go_on()
    answer = holder.receive()
    assert answer.status == 200
    return str(answer.body["token_id"])


def test_a_holder_that_is_too_late_sends_nothing_and_starts_again(scene: Scene) -> None:
    served = stop_before_sending(scene)

    assert scene.minted == [served]
    assert scene.rows == [(1, Outcome.FAILED, "too_late_to_send"), (2, Outcome.ISSUED, "")]


@pytest.mark.parametrize("scene", ["send_without_a_look_at_the_clock"], indirect=True)
def test_an_exchange_that_is_sent_too_late_is_noticed(scene: Scene) -> None:
    stop_before_sending(scene)

    assert scene.rows == [(1, Outcome.ISSUED, "")]
