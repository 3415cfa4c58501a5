"""Table and bus behave on the fakes as they do on moto, so that tests on the fakes prove something."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import boto3
import fastjsonschema
import pytest
from moto import mock_aws

from functions.campaigns.adapters.event_bus import SCHEMA_FILE, EventBus
from functions.campaigns.adapters.snapshot_table import (
    LARGEST_PART_BYTES,
    SnapshotError,
    SnapshotTable,
    _item_of,
)
from functions.campaigns.publish import EventsUnsent
from functions.campaigns.snapshot import PARTS, Campaign, Part, Snapshot, Summary, Unpublished, part_of
from local.fakes.aws import FakeEventBridge
from local.fakes.dynamodb import FakeDynamoDB
from tests.conftest import create_table
from tests.recipes.page import DOCS, texts

if TYPE_CHECKING:
    from collections.abc import Iterator

ON_PAGE = texts("event", DOCS / "campaign-events.md")
SUMMARY, CHANGES = (json.loads(ON_PAGE[name]) for name in ("summary", "changes"))
CHANGE = CHANGES["changes"][0]


@dataclass
class Aws:
    """Clients of one kind."""

    dynamodb: Any
    events: Any

    def table(self, writer: str = "one") -> SnapshotTable:
        return SnapshotTable(self.dynamodb, "campaigns", writer)


@pytest.fixture(params=["fakes", "moto"])
def aws(request: pytest.FixtureRequest) -> Iterator[Aws]:
    if request.param == "fakes":
        yield Aws(FakeDynamoDB(table="campaigns", keys=("part",)), FakeEventBridge())
        return
    with mock_aws():
        session = boto3.Session("testing", "testing", region_name="eu-west-3")
        dynamodb = session.client("dynamodb")
        create_table(dynamodb, "campaigns", {"part": "HASH"})
        yield Aws(dynamodb, session.client("events"))


def a_snapshot(table: SnapshotTable) -> Snapshot:
    campaigns = {
        "plain": Campaign("planned", 5),
        "without": Campaign(None, 6, missing_since_epoch_s=7),
        "told of": Campaign("é" * 64, 8, unpublished=Unpublished("changed", None)),
        "new": Campaign("draft", 9, unpublished=Unpublished("created", None)),
    }
    parts = [Part(number, 0, "f" * 32, 5) for number in range(PARTS)]
    for name, campaign in campaigns.items():
        part = parts[part_of(name)]
        parts[part_of(name)] = replace(part, campaigns={**part.campaigns, name: campaign})
    parts[0] = replace(parts[0], summary=Summary(4, {"planned": 1}, is_complete=False, reason="no time"))
    return table.write(table.read(), Snapshot(tuple(parts)))


def test_a_table_without_items_is_a_snapshot_that_is_not_whole(aws: Aws) -> None:
    snapshot = aws.table().read()

    assert [part.version for part in snapshot.parts] == [0] * PARTS
    assert not snapshot.is_whole


def test_what_was_written_is_read_again(aws: Aws) -> None:
    written = a_snapshot(aws.table())

    assert aws.table("two").read() == written
    assert written.is_whole
    assert written.campaigns["told of"].status == "é" * 64


def test_only_parts_that_differ_are_written(aws: Aws) -> None:
    before = a_snapshot(aws.table())
    changed = replace(before.parts[3], campaigns={"x": Campaign("planned", 9)})

    after = aws.table().write(before, Snapshot((*before.parts[:3], changed, *before.parts[4:])))

    assert [part.version for part in after.parts] == [2 if number == 3 else 1 for number in range(PARTS)]
    assert aws.table().read() == after


@pytest.mark.parametrize("is_first", [True, False])
def test_what_somebody_else_has_written_meanwhile_stays(aws: Aws, *, is_first: bool) -> None:
    before = aws.table().read() if is_first else a_snapshot(aws.table())
    theirs = aws.table("theirs").write(before, _with_a_campaign(before, "theirs"))

    with pytest.raises(SnapshotError, match="another run has written it meanwhile"):
        aws.table("ours").write(before, _with_a_campaign(before, "ours"))
    assert aws.table().read() == theirs


def test_a_repeated_write_of_our_own_succeeds(aws: Aws) -> None:
    # When an answer is lost, the SDK sends the same call again.
    before = a_snapshot(aws.table())
    ours, after = aws.table("ours"), _with_a_campaign(before, "a")

    assert ours.write(before, after) == ours.write(before, after)


def test_the_largest_part_fits_into_an_item_and_a_larger_one_is_an_error_before_aws_says_so(aws: Aws) -> None:
    before = aws.table().read()
    status = "é" * 64
    campaigns = {f"cmp_{number:08}": Campaign(status, 1) for number in range(2_200)}
    room = LARGEST_PART_BYTES - len(_item_of(Part(0, campaigns=campaigns))["campaigns"]["S"].encode())

    def filled(more_bytes: int) -> Snapshot:
        part = Part(0, 0, "f" * 32, 1, {**campaigns, "last": Campaign("x" * more_bytes, 1)})
        return Snapshot((part, *before.parts[1:]))

    with pytest.raises(SnapshotError, match="more campaigns than 32 items can hold"):
        aws.table().write(before, filled(room))
    aws.table().write(before, filled(room - 100))


def _with_a_campaign(snapshot: Snapshot, name: str) -> Snapshot:
    part = replace(snapshot.parts[0], snapshot_id="f" * 32, campaigns={name: Campaign("planned", 1)})
    return Snapshot((part, *snapshot.parts[1:]))


def test_ids_are_spread_evenly_and_for_ever() -> None:
    counts = [0] * PARTS
    for number in range(10_000):
        counts[part_of(f"cmp_{number}")] += 1

    assert min(counts) > 10_000 / PARTS * 0.8
    assert max(counts) < 10_000 / PARTS * 1.2
    # If another version looked for a campaign in another item, the campaign would be told as new.
    assert [part_of(name) for name in ("cmp_1", "cmp_7kdjf93hds8fl30", "x4dgk7090azly760")] == [9, 0, 16]


def test_an_event_is_sent_with_its_source_and_type() -> None:
    eventbridge = FakeEventBridge()

    assert EventBus(eventbridge, "default").put(CHANGES) == ""  # type: ignore[arg-type] # it resembles a client
    (entry,) = eventbridge.events
    assert (entry["Source"], entry["DetailType"]) == ("token-broker.campaigns", "Campaigns Changed")
    assert json.loads(entry["Detail"]) == CHANGES


def test_a_bus_that_is_there_takes_events_and_one_that_is_not_is_named(aws: Aws) -> None:
    assert EventBus(aws.events, "default").put(SUMMARY) == ""
    with pytest.raises(EventsUnsent, match="there is no event bus nowhere"):
        EventBus(aws.events, "nowhere").put(SUMMARY)


@pytest.mark.parametrize("event", [SUMMARY, CHANGES], ids=["summary", "changes"])
def test_the_events_on_the_page_keep_to_the_schema(event: dict[str, object]) -> None:
    fastjsonschema.compile(json.loads(SCHEMA_FILE.read_text()))(event)


@pytest.mark.parametrize(
    "detail",
    [
        {},
        {**SUMMARY, "version": 2},
        {**SUMMARY, "kind": "changes"},
        {**SUMMARY, "campaign_id": "x"},
        {**SUMMARY, "revision": 0},
        {**SUMMARY, "snapshot_id": "x"},
        {**SUMMARY, "scheduled_time": "now"},
        {**SUMMARY, "by_status": {"planned": "many"}},
        {**CHANGES, "changes": []},
        {**CHANGES, "changes": [CHANGE] * 201},
        {**CHANGES, "changes": [{**CHANGE, "contacts_and_data": []}]},
        {**CHANGES, "changes": [{**CHANGE, "campaign_id": "+212666 001"}]},
        {**CHANGES, "changes": [{**CHANGE, "new_status": "x" * 65}]},
        {**CHANGES, "changes": [{**CHANGE, "new_status": {"canary": 1}}]},
        {**CHANGES, "changes": [{**CHANGE, "kind": "gone"}]},
        {**CHANGES, "changes": [{k: v for k, v in CHANGE.items() if k != "revision"}]},
    ],
    ids=lambda detail: str(detail)[:60],
)
def test_an_event_that_does_not_keep_to_the_schema_is_not_sent(detail: dict[str, object]) -> None:
    eventbridge = FakeEventBridge()

    with pytest.raises(ValueError, match="breaks the rule") as raised:
        EventBus(eventbridge, "default").put(detail)  # type: ignore[arg-type] # it resembles a client
    assert not eventbridge.events
    assert "canary" not in f"{raised.value} {raised.value.__context__!r}"
