"""Runs one after the other, killed at any call: the events are right, and none is sent twice without need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from functions.campaigns.adapters.snapshot_table import SnapshotError
from functions.campaigns.publish import CHANGES_PER_EVENT
from functions.campaigns.snapshot import KEEP_MISSING_S, OtherCampaignsError
from tests.campaigns.world import HOUR_S, START_EPOCH_S, Killed, World

if TYPE_CHECKING:
    from collections.abc import Iterable


def changes_of(world: World) -> list[tuple[str, str, str | None, str | None]]:
    changes = [change for detail in world.details() for change in detail.get("changes", ())]
    return [(each["campaign_id"], each["kind"], each["old_status"], each["new_status"]) for each in changes]


@pytest.fixture
def world() -> World:
    """Twelve campaigns, and a first run."""
    world = World()
    world.add(*["planned"] * 8, "completed", "draft", "odd one", None)
    world.run()
    return world


def test_the_first_run_tells_one_summary_and_no_campaign(world: World) -> None:
    (detail,) = world.details()

    assert detail["kind"] == "summary"
    assert (detail["campaigns"], detail["is_complete"], detail["reason"]) == (12, True, "")
    assert detail["by_status"] == {"planned": 8, "completed": 1, "draft": 1, "odd one": 1, "(missing)": 1}
    assert (detail["schedule"], detail["scheduled_time"]) == ("stack-campaigns", "2026-05-28T21:26:40Z")
    assert "cmp_" not in str(detail)
    assert world.known() == world.upstream
    assert not [item for item in world.dynamodb.items.values() if "summary" in item]


def test_a_run_with_nothing_new_writes_and_tells_nothing(world: World) -> None:
    world.wire.contacts.clear()

    report = world.run()

    assert dict(world.wire.contacts) == {"dynamodb.get_item": 32, "digishare.list": 1}
    assert (report.events, report.update.created, report.update.changed) == (0, 0, 0)


def test_changes_are_told_once_with_old_and_new_status(world: World) -> None:
    (new,) = world.add("planned")
    world.upstream |= {"cmp_00000": "in_progress", "cmp_00011": "draft", "cmp_00008": None}
    world.wire.contacts.clear()

    report = world.run()
    world.run()

    assert changes_of(world) == [
        ("cmp_00000", "changed", "planned", "in_progress"),
        ("cmp_00008", "changed", "completed", None),
        ("cmp_00011", "changed", None, "draft"),
        (new, "created", None, "planned"),
    ]
    assert (report.update.created, report.update.changed, report.events) == (1, 3, 1)
    # Each item with a change is written twice: with the change to send, and without it once it was sent.
    assert world.wire.contacts["dynamodb.put_item"] <= 8
    assert world.wire.contacts["events.put_events"] == 1


def test_revisions_are_scheduled_times_and_grow_even_if_an_older_run_is_repeated(world: World) -> None:
    for status in ("in_progress", "paused"):
        world.upstream["cmp_00000"] = status
        world.run()
    world.upstream["cmp_00000"] = "completed"
    world.run(hour=2)

    second, third = (1000 * (START_EPOCH_S + HOUR_S * hour) for hour in (2, 3))
    revisions = [change["revision"] for detail in world.details()[1:] for change in detail["changes"]]
    assert revisions == [second, third, third + 1]
    assert world.consumer(reversed).picture == {"cmp_00000": "completed"}


def test_an_event_has_200_changes_at_most_and_is_below_the_limit(world: World) -> None:
    # The longest that there can be: 64 characters, each of them six bytes in JSON.
    world.add(*["\x01" * 64] * 450)
    world.run()
    world.upstream |= dict.fromkeys(world.upstream, "\x02" * 64)
    world.run()

    sizes = [len(detail["changes"]) for detail in world.details() if detail["kind"] == "changes"]
    assert sizes == [200, 200, 50, 200, 200, 62]
    assert max(sizes) == CHANGES_PER_EVENT
    assert max(len(str(entry).encode()) for entry in world.eventbridge.events) < 256 * 1024


# --- missing ------------------------------------------------------------------------------------------------------


def test_missing_campaigns_are_counted_never_told_and_dropped_after_30_days(world: World) -> None:
    del world.upstream["cmp_00003"]
    first = world.run().members()
    status = world.upstream.pop("cmp_00004")
    second = world.run().members()
    assert (first["missing"], second["missing"]) == (1, 2)
    assert first["missing_since"] == second["missing_since"] == "2026-05-28T22:26:40Z"
    world.upstream["cmp_00004"] = status

    world.hour += KEEP_MISSING_S // HOUR_S - 3
    assert world.run().members()["missing"] == 1
    last = world.run().members()
    assert (last["missing"], last["missing_since"], last["dropped"]) == (0, None, 1)
    assert "cmp_00003" not in world.known()
    assert not changes_of(world)


def test_an_incomplete_run_tells_what_it_saw_and_nothing_of_missing_ones(world: World) -> None:
    world.counts = False
    del world.upstream["cmp_00003"]
    world.upstream["cmp_00000"] = "paused"

    report = world.run().members()

    assert (report["is_complete"], report["missing"]) == (False, 0)
    assert changes_of(world) == [("cmp_00000", "changed", "planned", "paused")]


@pytest.mark.parametrize(
    ("known", "gone", "is_accepted"), [(12, 10, True), (12, 11, False), (400, 20, True), (400, 21, False)]
)
def test_a_list_that_lacks_too_many_is_rejected(known: int, gone: int, *, is_accepted: bool) -> None:
    world = World()
    world.add(*["planned"] * known)
    world.run()
    before = dict(world.dynamodb.items)
    for name in list(world.upstream)[:gone]:
        del world.upstream[name]
    world.add("planned")

    if is_accepted:
        assert world.run().members()["missing"] == gone
        return
    with pytest.raises(OtherCampaignsError, match=f"{gone} of {known} campaigns are missing"):
        world.run()
    assert world.dynamodb.items == before
    assert len(world.details()) == 1
    report = world.run(accept=True).members()
    assert (report["missing"], report["created"]) == (gone, 1)
    world.run()  # the next run needs no `accept_missing`


def test_an_incomplete_list_of_quite_other_campaigns_is_rejected(world: World) -> None:
    world.counts = False
    world.upstream.clear()
    world.add("planned")

    with pytest.raises(OtherCampaignsError, match="none of 12"):
        world.run()


# --- faults -------------------------------------------------------------------------------------------------------


def test_what_the_bus_refuses_is_stored_and_told_by_the_next_run(world: World) -> None:
    world.upstream["cmp_00000"] = "paused"
    world.eventbridge.refuse = lambda: "ThrottlingException"
    assert world.run().problem == "ThrottlingException"
    world.upstream["cmp_00000"] = "completed"
    assert world.run().problem == "ThrottlingException"
    world.heal()

    assert world.run().problem == ""
    assert changes_of(world) == [("cmp_00000", "changed", "planned", "completed")]


def test_one_refused_event_does_not_stop_the_others(world: World) -> None:
    world.add(*["planned"] * 500)
    codes = iter(["", "InternalFailure", ""])
    world.eventbridge.refuse = lambda: next(codes, "")

    assert world.run().problem == "InternalFailure"
    assert len(changes_of(world)) == 300
    world.run()
    assert len(changes_of(world)) == len({name for name, *_ in changes_of(world)}) == 500


def test_a_summary_that_was_refused_is_told_once_and_with_it_what_has_changed_since() -> None:
    world = World()
    world.add("planned", "draft")
    world.eventbridge.refuse = lambda: "InternalFailure"
    world.run()
    world.upstream["cmp_00000"] = "paused"
    refusals = iter(["InternalFailure"])
    world.eventbridge.refuse = lambda: next(refusals, "")
    world.run()
    world.run()

    assert [detail["kind"] for detail in world.details()] == ["summary", "changes"]
    assert world.consumer(reversed).picture == {"cmp_00000": "paused"}


def test_a_bus_that_does_not_answer_is_asked_once_a_time_and_no_event_is_lost(world: World) -> None:
    world.add(*["planned"] * 500)
    world.cut_off("events.put_events")
    world.wire.contacts.clear()

    assert world.run().problem == "EndpointConnectionError"
    assert world.wire.contacts["events.put_events"] == 1
    world.heal()
    world.run()
    assert len(changes_of(world)) == 500


def test_a_lost_snapshot_begins_again_although_changes_wait(world: World) -> None:
    world.upstream |= dict.fromkeys(world.upstream, "paused")
    world.eventbridge.refuse = lambda: "InternalFailure"
    world.run()
    world.heal()
    del world.dynamodb.items["00",]

    assert world.run().update.is_new_snapshot
    assert [detail["kind"] for detail in world.details()] == ["summary", "summary"]


def test_a_snapshot_that_begins_again_is_above_the_last_one_whatever_the_clock_says(world: World) -> None:
    world.upstream["cmp_00000"] = "paused"
    world.run()
    world.upstream["cmp_00000"] = "completed"
    world.run()
    del world.dynamodb.items["31",]
    world.hour -= 24

    world.run(hour=world.hour)

    assert world.consumer().picture == {}


def test_after_a_table_is_lost_between_two_attempts_the_revision_is_above_the_first(
    world: World,
) -> None:
    world.upstream["cmp_00000"] = "paused"
    world.run()
    world.dynamodb.items.clear()

    world.run(hour=world.hour)

    assert world.consumer().picture == {}


def test_a_run_that_meets_another_one_ends_and_loses_nothing(world: World) -> None:
    world.upstream["cmp_00000"] = "paused"
    is_first = True

    def meet_another(operation: Any) -> None:
        nonlocal is_first
        if operation.name == "dynamodb.put_item" and is_first:
            is_first = False
            world.run(hour=world.hour)

    world.wire.before = meet_another
    with pytest.raises(SnapshotError, match="another run has written"):
        world.run()
    world.heal()

    world.run()
    assert changes_of(world) == [("cmp_00000", "changed", "planned", "paused")]


@pytest.mark.parametrize("operation", ["dynamodb.get_item", "dynamodb.put_item"])
def test_a_table_that_is_not_there_is_an_error_that_names_it(operation: str, world: World) -> None:
    world.upstream["cmp_00000"] = "paused"
    world.cut_off(operation)

    with pytest.raises(SnapshotError, match="EndpointConnectionError"):
        world.run()


def test_a_malformed_item_is_an_error_that_says_what_to_do_and_a_new_snapshot_follows(
    world: World,
) -> None:
    item = world.dynamodb.items["07",]
    world.dynamodb.items["07",] = {**item, "campaigns": {"S": "{"}}
    with pytest.raises(SnapshotError, match="item 07 of the snapshot is malformed: delete it"):
        world.run()

    del world.dynamodb.items["07",]
    assert world.run().update.is_new_snapshot


# --- a picture that is right, whatever happens --------------------------------------------------------------------


def live_through(world: World, hours: int) -> None:
    """Change the upstream a little each hour and run. A kill or a failure ends one run only."""
    for _ in range(hours):
        for name in world.randomness.sample(sorted(world.upstream), min(2, len(world.upstream))):
            world.upstream[name] = world.randomness.choice(["planned", "paused", "completed", None])
        world.add(*["draft"] * world.randomness.choice([0, 1, 3]))
        if world.upstream and world.randomness.random() < 0.3:
            del world.upstream[world.randomness.choice(sorted(world.upstream))]
        attempts = world.randomness.choice([1, 1, 2])
        hour = world.hour = world.hour + 1
        for _ in range(attempts):
            try:
                world.run(hour=hour)
            except (Killed, SnapshotError):
                world.wire.before = world.wire.after = lambda _: None


def assert_right(world: World, told_at_summary: dict[str, str | None]) -> None:
    """Compare what consumers know, in three orders of the events, with what the snapshot knows."""

    def shuffled(details: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        twice = [*details, *world.randomness.sample(details, len(details) // 2)]
        return world.randomness.sample(twice, len(twice))

    known = world.known()
    for consumer in (world.consumer(), world.consumer(reversed), world.consumer(shuffled)):
        picture = consumer.picture
        assert {name: known[name] for name in picture if name in known}.items() <= picture.items()
        unheard = {name: status for name, status in known.items() if name not in picture}
        assert unheard == {name: told_at_summary.get(name, "not told") for name in unheard}


@pytest.mark.parametrize("after_it", [False, True])
def test_killed_at_every_call_of_a_run_the_picture_is_right(*, after_it: bool) -> None:
    for call in range(120):
        world = World(call)
        world.add(*["planned"] * 30)
        world.run()
        at_summary = world.known()
        world.kill_at(call, after_it=after_it)
        live_through(world, 3)
        world.heal()
        world.run()

        assert_right(world, at_summary)
        assert not [item for item in world.dynamodb.items.values() if "unpublished" in item["campaigns"]["S"]]
        assert {name: world.known()[name] for name in world.upstream} == world.upstream


@pytest.mark.parametrize("after_it", [False, True])
def test_killed_at_every_call_of_the_first_run_there_is_one_summary_that_counts(*, after_it: bool) -> None:
    for call in range(70):
        world = World(call)
        world.add(*["planned"] * 30)
        world.kill_at(call, after_it=after_it)
        try:
            world.run()
        except Killed:
            world.heal()
            world.run()
        world.heal()
        at_summary = world.known()
        live_through(world, 2)

        snapshots = {item["snapshot_id"]["S"] for item in world.dynamodb.items.values()}
        told = {detail["snapshot_id"] for detail in world.details()}
        assert len(snapshots) == 1
        assert told == snapshots
        assert_right(world, at_summary)


@pytest.mark.parametrize("seed", range(100))
def test_with_refusals_kills_and_a_table_lost_once_the_picture_is_right(seed: int) -> None:
    world = World(seed)
    draw = world.randomness
    world.add(*["planned"] * draw.choice([3, 30]))
    live_through(world, 1)
    for _ in range(draw.randint(1, 5)):
        world.kill_at(draw.randint(0, 150), after_it=draw.random() < 0.5)
        world.eventbridge.refuse = lambda: draw.choice(["", "", "InternalFailure"])
        live_through(world, 2)
    world.heal()
    world.run()
    everything = list(world.dynamodb.items)
    losses = [everything, everything[:1], everything[-1:], draw.sample(everything, 5)]
    for key in draw.choice(losses):
        del world.dynamodb.items[key]
    world.run()
    at_summary = world.known()
    assert not world.consumer().picture, "a consumer forgets what it knew"
    live_through(world, 3)
    world.run()

    assert_right(world, at_summary)
