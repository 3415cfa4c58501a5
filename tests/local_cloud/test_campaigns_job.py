"""The deployed campaigns job, with its role's rights, run by the local cloud's scheduler on up to 10,000 campaigns.

What it reports, writes and sends is compared with what the fake knows.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from local.digishare.contacts import CANARY_NAME, CANARY_PHONE_PREFIX
from local.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local.cloud import LocalCloud
    from tests.operator import Operator

MOST_CAMPAIGNS = 10_000
CAMPAIGNS = 1_000
"""For tests of anything but the number: a run reads every page twice."""
QUEUE = "campaign-events"


class Job:
    """The job on its cloud, an empty table, and a queue that gets its events."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.cloud = cloud
        self.table = cloud.outputs["CampaignsTableName"]
        self.function = cloud.outputs["CampaignsFunctionName"]
        self._dynamodb, self._sqs = cloud.client("dynamodb"), cloud.client("sqs")
        self._queue_url = self._sqs.create_queue(QueueName=QUEUE)["QueueUrl"]
        arn = f"arn:aws:sqs:{cloud.region}:{cloud.account_id}:{QUEUE}"
        events = cloud.client("events")
        pattern = {"source": ["token-broker.campaigns"], "detail-type": ["Campaigns Changed"]}
        events.put_rule(Name=QUEUE, EventPattern=json.dumps(pattern))
        events.put_targets(Rule=QUEUE, Targets=[{"Id": "queue", "Arn": arn}])

    def close(self) -> None:
        events = self.cloud.client("events")
        events.remove_targets(Rule=QUEUE, Ids=["queue"])
        events.delete_rule(Name=QUEUE)
        self._sqs.delete_queue(QueueUrl=self._queue_url)

    def run(self, **members: object) -> dict[str, Any]:
        return self.cloud.run_campaigns_job(120, **members)

    def replace_campaigns(self, count: int) -> None:
        """Have the upstream list other campaigns, and the table none."""
        self.cloud.steer_digishare("PUT", "/campaigns", {"count": count})
        for part in self.items():
            self._dynamodb.delete_item(TableName=self.table, Key={"part": {"S": part}})

    def items(self) -> dict[str, Any]:
        found = self._dynamodb.scan(TableName=self.table, ConsistentRead=True)["Items"]
        return {item["part"]["S"]: item for item in found}

    def known(self) -> dict[str, str | None]:
        """Return the statuses that the table holds, by campaign."""
        return {
            name: campaign["status"]
            for item in self.items().values()
            for name, campaign in json.loads(item["campaigns"]["S"]).items()
        }

    def received(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many events, and return their details with those of any that follow at once."""
        details: list[dict[str, Any]] = []

        def look() -> bool:
            answer = self._sqs.receive_message(QueueUrl=self._queue_url, MaxNumberOfMessages=10)
            for message in answer.get("Messages", []):
                details.append(json.loads(message["Body"])["detail"])
                self._sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"])
            return len(details) >= count and not answer.get("Messages")

        assert wait_until(look, within_s=20), f"{len(details)} of {count} events came"
        return details

    def upstream(self) -> dict[str, str | None]:
        return dict(self.cloud.steer_digishare("GET", "/campaigns")["statuses"])

    def change(self, **changes: object) -> list[str]:
        return list(self.cloud.steer_digishare("POST", "/campaigns", changes)["created"])

    def settings(self, **settings: object) -> None:
        self.cloud.steer_digishare("PUT", "/settings", settings)


@pytest.fixture(scope="module")
def job(cloud: LocalCloud) -> Iterator[Job]:
    job = Job(cloud)
    job.replace_campaigns(CAMPAIGNS)
    yield job
    job.settings(contacts_per_campaign=0, change_every=0)
    cloud.steer_digishare("DELETE", "/faults")
    job.replace_campaigns(250)
    job.close()


@pytest.fixture
def known(job: Job) -> dict[str, str | None]:
    """The statuses upstream. The job knows them, its events have come, and no fault is left."""
    job.cloud.steer_digishare("DELETE", "/faults")
    job.settings(contacts_per_campaign=0, change_every=0)
    upstream, known = job.upstream(), job.known()
    if any(status and known.get(name) != status[:64] for name, status in upstream.items()):
        report = job.run(accept_missing=True)
        assert report["is_complete"], report
        job.received(int(report["events"]))
    return upstream


def told(details: list[dict[str, Any]]) -> dict[str, tuple[str, str | None, str | None]]:
    return {
        change["campaign_id"]: (change["kind"], change["old_status"], change["new_status"])
        for detail in details
        for change in detail["changes"]
    }


def test_the_first_run_counts_10_000_campaigns_and_sends_one_summary(job: Job) -> None:
    job.replace_campaigns(MOST_CAMPAIGNS)
    upstream = job.upstream()

    report = job.run()

    counted = (report["campaigns"], report["total"], report["is_complete"])
    assert counted == (MOST_CAMPAIGNS, MOST_CAMPAIGNS, True)
    assert report["by_status"] == dict(Counter(upstream.values()))
    assert report["schedule"] == "token-broker-campaigns"
    assert report["duration_ms"] < 60_000
    assert job.known() == upstream
    (summary,) = job.received(1)
    assert (summary["kind"], summary["campaigns"]) == ("summary", MOST_CAMPAIGNS)
    assert summary["is_complete"]
    assert summary["by_status"] == report["by_status"]
    assert summary["scheduled_time"] == report["scheduled_time"]
    job.replace_campaigns(CAMPAIGNS)


def test_a_run_tells_every_kind_of_change_and_no_other(job: Job, known: dict[str, str | None]) -> None:
    changed, gone, odd, *_ = known
    created = job.change(create=450, change={changed: "paused", odd: "x" * 100}, delete=[gone])

    report = job.run()

    assert (report["created"], report["changed"], report["missing"]) == (450, 2, 1)
    upstream = job.upstream()
    details = job.received(3)
    assert [len(detail["changes"]) for detail in details] == [200, 200, 52]
    assert told(details) == {
        **{name: ("created", None, upstream[name]) for name in created},
        changed: ("changed", known[changed], "paused"),
        odd: ("changed", known[odd], "x" * 64),
    }


def test_a_run_with_faults_tells_changes_and_no_personal_data(job: Job, known: dict[str, str | None]) -> None:
    changed = list(known)[5]
    job.change(change={changed: "failed" if known[changed] != "failed" else "draft"})
    job.settings(contacts_per_campaign=20)
    for fault in ({"kind": "status", "status": 503}, {"kind": "cut_body"}):
        job.cloud.steer_digishare("POST", "/faults", {"target": "campaigns", "times": 1, **fault})

    report = job.run()

    upstream, details = job.upstream(), job.received(1)
    assert (report["campaigns"], report["is_complete"]) == (len(upstream), True)
    assert told(details) == {changed: ("changed", known[changed], upstream[changed])}
    everything = json.dumps([job.cloud.function_logs(job.function), job.items(), details])
    assert CANARY_PHONE_PREFIX not in everything
    assert CANARY_NAME not in everything


def test_a_list_that_changes_is_never_complete_and_wrong(job: Job, known: dict[str, str | None]) -> None:
    job.settings(change_every=23)

    report = job.run()

    job.settings(change_every=0)
    # A run that missed a campaign says so, and the next run, without changes, knows all.
    assert report["is_complete"] or report["reason"]
    following = job.run()
    assert (following["is_complete"], following["campaigns"]) == (True, len(job.upstream()))
    details = job.received(int(report["events"]) + int(following["events"]))
    upstream = job.upstream()
    for name, (_, old, new) in told(details).items():
        assert old == known.get(name)
        assert new == upstream.get(name, new)


def test_a_revoked_token_is_replaced_once(job: Job, known: dict[str, str | None], operator: Operator) -> None:
    operator.leave("digishare", 500)  # an old token: a report of a young one is ignored
    mints = job.cloud.steer_digishare("GET", "/state")["mint_count"]
    job.cloud.steer_digishare("POST", "/revoke", {"all": True})

    report = job.run()

    assert (report["campaigns"], report["is_complete"]) == (len(known), True)
    assert job.cloud.steer_digishare("GET", "/state")["mint_count"] == mints + 1
