"""Runs of the job in this process, over the real adapters and fakes of AWS that can fail or kill at every call.

`Consumer` does what docs/campaign-events.md asks of consumers.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, cast

from functions.campaigns.adapters.event_bus import EventBus
from functions.campaigns.adapters.snapshot_table import SnapshotTable
from functions.campaigns.run import Report, Run, follow
from functions.campaigns.walk import Page
from local.fakes.aws import FakeEventBridge
from local.fakes.dynamodb import FakeDynamoDB
from local.fakes.wire import Operation, Wire, no_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient

HOUR_S = 3600
START_EPOCH_S = 1_780_000_000


class Killed(BaseException):
    """The function is killed in the middle of a call."""


class Consumer:
    """What a consumer knows from the events alone."""

    def __init__(self) -> None:
        self.first_revision = 0
        self._campaigns: dict[str, tuple[int, str | None]] = {}

    def take(self, detail: dict[str, Any]) -> None:
        if detail["kind"] == "summary":
            self.first_revision = max(self.first_revision, detail["revision"])
            return
        for change in detail["changes"]:
            known, _ = self._campaigns.get(change["campaign_id"], (0, None))
            if change["revision"] > known:
                self._campaigns[change["campaign_id"]] = change["revision"], change["new_status"]

    @property
    def picture(self) -> dict[str, str | None]:
        known = self._campaigns.items()
        return {name: status for name, (revision, status) in known if revision >= self.first_revision}


class World:
    """The upstream's statuses by campaign, a table, a bus and a clock. `counts`: the API gives a total."""

    def __init__(self, seed: int = 0) -> None:
        self.randomness = random.Random(seed)  # noqa: S311 - a simulation
        self.wire = Wire()
        self.dynamodb = FakeDynamoDB(self.wire, table="campaigns", keys=("part",))
        self.eventbridge = FakeEventBridge(self.wire)
        self.upstream: dict[str, str | None] = {}
        self.counts = True
        self.hour = 0
        self._ids = self._runs = 0

    def add(self, *statuses: str | None) -> list[str]:
        """Make campaigns and return their ids."""
        ids = [f"cmp_{self._ids + number:05}" for number in range(len(statuses))]
        self._ids += len(ids)
        self.upstream |= zip(ids, statuses, strict=True)
        return ids

    def run(self, *, hour: int | None = None, accept: bool = False) -> Report:
        """Do one run: the next hour's, or again the one of `hour`."""
        if hour is None:
            hour = self.hour = self.hour + 1
        at = START_EPOCH_S + HOUR_S * hour
        self._runs += 1
        now = START_EPOCH_S + HOUR_S * self.hour + self._runs
        table = SnapshotTable(cast("DynamoDBClient", self.dynamodb), "campaigns", writer=self._new_id())
        bus = EventBus(cast("EventBridgeClient", self.eventbridge), "default")
        run = Run("stack-campaigns", at, accept)
        return follow(run, table, bus, self, clock=lambda: now, new_id=self._new_id)

    def read_page(self, number: int, limit: int, cursor: str | None) -> Page | None:
        """Return a page of 100 campaigns. Other tests cover how lists are read."""
        assert (limit, cursor) == (100, None)
        self.wire.run("digishare.list", {}, dict)
        names = sorted(self.upstream)[100 * (number - 1) : 100 * number]
        total = len(self.upstream) if self.counts else None
        return Page({name: self.upstream[name] for name in names}, len(names), total=total)

    def kill_at(self, call: int, *, after_it: bool) -> None:
        """Kill the run at its next call of this number, from 0, before or after the call takes effect."""
        calls = iter(range(10**9))

        def hook(_: Operation) -> None:
            if next(calls) == call:
                raise Killed

        self.wire.before, self.wire.after = (_nothing, hook) if after_it else (hook, _nothing)

    def cut_off(self, operation: str) -> None:
        """Make every further call of this operation fail."""

        def hook(each: Operation) -> None:
            if each.name == operation:
                raise no_connection()

        self.wire.before = hook

    def heal(self) -> None:
        self.wire.before = self.wire.after = _nothing
        self.eventbridge.refuse = str

    def known(self) -> dict[str, str | None]:
        """Return what the snapshot says."""
        found: dict[str, Any] = {}
        for item in self.dynamodb.items.values():
            found |= json.loads(item["campaigns"]["S"])
        return {name: campaign["status"] for name, campaign in found.items()}

    def details(self) -> list[dict[str, Any]]:
        return [json.loads(entry["Detail"]) for entry in self.eventbridge.events]

    def consumer(self, order: Callable[[list[dict[str, Any]]], Iterable[dict[str, Any]]] = list) -> Consumer:
        """Return a consumer that has received all events, in this order."""
        consumer = Consumer()
        for detail in order(self.details()):
            consumer.take(detail)
        return consumer

    def _new_id(self) -> str:
        return f"{self.randomness.getrandbits(128):032x}"


def _nothing(_: Operation) -> None:
    """Do nothing to any call."""
