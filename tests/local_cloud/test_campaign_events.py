"""The consumer of "When campaigns change", as it is on the page: deployed, and its rule on drawn histories."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from cfnlint.decode import decode_str
from moto import mock_aws

from local.sdk import ROOT, new_session
from local.waiting import wait_until
from tests.conftest import create_table
from tests.recipes.page import DOCS, read_blocks, texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from local.cloud import LocalCloud

PAGE = DOCS / "campaign-events.md"
TEMPLATE = texts("recipe", PAGE)["consumer"]
MOST_INLINE_BYTES = 4096
BUS = "campaigns"

Detail = dict[str, Any]
SUMMARY: Detail = json.loads(texts("event", PAGE)["summary"])
CHANGES: Detail = json.loads(texts("event", PAGE)["changes"])
Picture = dict[str, tuple[int, str | None]]
"""Revision and status of each campaign that a consumer knows."""


def inline_code() -> str:
    template, problems = decode_str(TEMPLATE)
    assert not problems
    return str(template["Resources"]["Consumer"]["Properties"]["InlineCode"])


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's code; a test gives it its `table`."""
    monkeypatch.setenv("TABLE", "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    module = ModuleType("index")
    exec(inline_code(), module.__dict__)  # noqa: S102 - the page's own code
    return module


def changes(*changed: tuple[str, int, str | None]) -> Detail:
    """Return an event that names these campaigns with their revisions and new statuses."""
    members = ("campaign_id", "revision", "new_status")
    rows = [dict(zip(members, row, strict=True)) | {"kind": "changed", "old_status": None} for row in changed]
    return CHANGES | {"changes": rows}


def in_order(events: Sequence[Detail]) -> Picture:
    """Return what a consumer knows that got each event once, in the order of publication."""
    picture: Picture = {}
    for event in events:
        if event["kind"] == "summary":
            picture = {}
        else:
            picture |= {row["campaign_id"]: (row["revision"], row["new_status"]) for row in event["changes"]}
    return picture


def named(events: Sequence[Detail]) -> set[str]:
    """Return the ids of all campaigns in these events."""
    return {row["campaign_id"] for event in events for row in event.get("changes", [])}


def seen_by(consumer: Any, events: Sequence[Detail]) -> Picture:
    """Return what the consumer knows of the campaigns in these events."""
    items = {campaign_id: consumer.read(campaign_id) for campaign_id in named(events)}
    known = {campaign_id: item for campaign_id, item in items.items() if item is not None}
    return {name: (int(item["revision"]), item["campaign_status"]) for name, item in known.items()}


def published(draw: random.Random) -> list[Detail]:
    """Return what a job publishes in some runs, in its order. It starts again with a summary now and then."""
    events: list[Detail] = []
    revisions: dict[str, int] = {}
    for scheduled_ms in range(1000, 1000 * draw.randint(3, 8), 1000):
        if draw.random() < 0.3:
            revisions.clear()
            events.append(SUMMARY | {"revision": scheduled_ms})
        for _ in range(draw.randint(0, 3)):  # a run that was stopped and tried again has the same time
            ids = draw.sample(["a", "b", "c", "d"], draw.randint(1, 4))
            revisions |= {name: max(scheduled_ms, revisions.get(name, 0) + 1) for name in ids}
            rows = [(name, revisions[name], draw.choice(["planned", "paused", None])) for name in ids]
            events.append(changes(*rows))
    return events


def delivered(events: Sequence[Detail], draw: random.Random) -> list[Detail]:
    """Return each event twice, in any order."""
    twice = [*events, *events]
    draw.shuffle(twice)
    return twice


def test_every_block_of_the_page_is_run_or_sent() -> None:
    assert {(block.use, block.name) for block in read_blocks(PAGE)} == {
        ("event", "changes"),
        ("event", "summary"),
        ("", ""),  # how to deploy the template, which needs the command line of AWS
        ("recipe", "consumer"),
    }


def test_the_code_fits_into_a_template() -> None:
    assert len(inline_code().encode()) <= MOST_INLINE_BYTES


@pytest.fixture
def moto_tables() -> Iterator[Any]:
    with mock_aws():
        yield boto3.resource("dynamodb", "eu-west-3")


def new_table(tables: Any, name: str) -> Any:
    create_table(tables.meta.client, name, {"id": "HASH"})
    return tables.Table(name)


def test_any_order_and_any_repetition_give_the_same_picture(consumer: Any, moto_tables: Any) -> None:
    known = forgotten = 0
    for seed in range(40):
        draw = random.Random(seed)  # noqa: S311 - a fixed order
        events = published(draw)
        consumer.table = new_table(moto_tables, f"seed-{seed}")
        for event in delivered(events, draw):
            consumer.lambda_handler({"detail": event}, None)
        expected = in_order(events)
        assert seen_by(consumer, events) == expected, f"seed {seed}"
        known += len(expected)
        forgotten += len(named(events)) - len(expected)
    assert known > 10
    assert forgotten > 10


def test_the_code_says_what_it_has_written(consumer: Any, moto_tables: Any) -> None:
    consumer.table = new_table(moto_tables, "written")
    written = [consumer.write("campaign a", revision, "planned") for revision in (2, 2, 1, 3)]
    assert written == [True, False, False, True]


@pytest.fixture(scope="module")
def outputs(echo_cloud: LocalCloud) -> dict[str, str]:
    """The outputs of the page's template, deployed for a bus of its own."""
    echo_cloud.client("events").create_event_bus(Name=BUS)
    cloudformation, name = echo_cloud.client("cloudformation"), "campaign-consumer"
    parameters = [{"ParameterKey": "EventBus", "ParameterValue": BUS}]
    capabilities = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    cloudformation.create_stack(
        StackName=name, TemplateBody=TEMPLATE, Parameters=parameters, Capabilities=capabilities
    )
    waiter = cloudformation.get_waiter("stack_create_complete")
    waiter.wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def deployed_table(cloud: LocalCloud, outputs: dict[str, str]) -> Any:
    dynamodb = new_session(ROOT, cloud.region).resource("dynamodb", endpoint_url=cloud.aws_endpoint_url)
    return dynamodb.Table(outputs["CampaignsName"])


def entry(detail: Detail, detail_type: str = "Campaigns Changed") -> dict[str, str]:
    source = {"EventBusName": BUS, "Source": "token-broker.campaigns"}
    return {**source, "DetailType": detail_type, "Detail": json.dumps(detail)}


def test_deployed_consumer_has_the_right_picture_whatever_the_order(
    echo_cloud: LocalCloud, outputs: dict[str, str], consumer: Any
) -> None:
    name, now = outputs["ConsumerName"], CHANGES["changes"][0]["revision"]
    first, second = (row["campaign_id"] for row in CHANGES["changes"])
    before = SUMMARY["revision"] - 1000
    events = [
        changes((first, before, "draft"), ("cmp_forgotten", before, "planned")),
        changes(("cmp_forgotten", before + 1, "paused")),
        SUMMARY,
        CHANGES,
        changes((second, now + 1, "cancelled"), ("cmp_without_status", now, None)),
    ]
    deliveries = delivered(events, random.Random(11))  # noqa: S311 - a fixed order
    entries = [entry(event) for event in deliveries]
    other = entry(changes(("cmp_other", now, "planned")), "Something Else")
    put = echo_cloud.client("events").put_events
    assert put(Entries=[other])["FailedEntryCount"] == 0
    assert put(Entries=entries)["FailedEntryCount"] == 0
    assert wait_until(lambda: reports(echo_cloud, name) >= len(deliveries), within_s=60)

    consumer.table = deployed_table(echo_cloud, outputs)
    assert seen_by(consumer, [*events, changes(("cmp_other", now, None))]) == {
        first: (now, "planned"),
        second: (now + 1, "cancelled"),
        "cmp_without_status": (now, None),
    }
    assert seen_by(consumer, events) == in_order(events)
    assert reports(echo_cloud, name) == len(deliveries)


def test_the_newest_write_stays(echo_cloud: LocalCloud, outputs: dict[str, str], consumer: Any) -> None:
    consumer.table = deployed_table(echo_cloud, outputs)
    ids = [f"campaign at-once-{number}" for number in range(30)]
    writes = [(item_id, revision, None) for item_id in ids for revision in (4, 3, 2, 1)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda write: consumer.write(*write), writes))
    assert [int(consumer.read_item(item_id)["revision"]) for item_id in ids] == [4] * len(ids)


def reports(cloud: LocalCloud, function_name: str) -> int:
    """Return how often the function has ended."""
    return sum(line.startswith("REPORT") for line in cloud.function_logs(function_name))


def test_only_the_rule_may_call_and_it_has_a_queue(echo_cloud: LocalCloud, outputs: dict[str, str]) -> None:
    # The local AWS neither asks for the permission nor fails to deliver.
    events, sqs = echo_cloud.client("events"), echo_cloud.client("sqs")
    (rule,) = events.list_rules(EventBusName=BUS)["Rules"]
    policy = echo_cloud.client("lambda").get_policy(FunctionName=outputs["ConsumerName"])["Policy"]
    (statement,) = json.loads(policy)["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Condition"] == {"ArnLike": {"AWS:SourceArn": rule["Arn"]}}
    (target,) = events.list_targets_by_rule(Rule=rule["Name"], EventBusName=BUS)["Targets"]
    queue = sqs.get_queue_attributes(QueueUrl=outputs["UnhandledUrl"], AttributeNames=["All"])["Attributes"]
    assert target["DeadLetterConfig"] == {"Arn": queue["QueueArn"]}
    (may_send,) = json.loads(queue["Policy"])["Statement"]
    assert may_send["Condition"] == {"ArnEquals": {"aws:SourceArn": rule["Arn"]}}


def test_event_of_a_later_version_ends_in_the_queue(echo_cloud: LocalCloud, outputs: dict[str, str]) -> None:
    event = {"detail": CHANGES | {"version": 2}}
    echo_cloud.client("lambda").invoke(  # as EventBridge does; the local one does not try again
        FunctionName=outputs["ConsumerName"], InvocationType="Event", Payload=json.dumps(event)
    )
    look, queue = echo_cloud.client("sqs").receive_message, outputs["UnhandledUrl"]
    messages = wait_until(lambda: look(QueueUrl=queue, WaitTimeSeconds=1).get("Messages"), within_s=60)
    assert json.loads(messages[0]["Body"])["requestPayload"] == event
