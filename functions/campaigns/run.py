"""The order of one run: publish what is left over, walk, write, publish. A run can be killed anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from functions.campaigns.publish import publish
from functions.campaigns.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.campaigns.publish import Bus
    from functions.campaigns.snapshot import Snapshot, Update
    from functions.campaigns.walk import PageSource, Walked


@dataclass(frozen=True, slots=True)
class Run:
    """A run's name (the schedule and the time for which it was planned), and its option.

    Attributes:
        is_other_list_accepted: an operator says that the list may be a completely different one this time.
    """

    schedule: str
    scheduled_at_epoch_s: int
    is_other_list_accepted: bool = False

    @property
    def name(self) -> dict[str, str]:
        return {"schedule": self.schedule, "scheduled_time": iso_time(self.scheduled_at_epoch_s)}


class Table(Protocol):
    """Where the snapshot is stored."""

    def read(self) -> Snapshot:
        """Return the snapshot; parts that are missing have version 0."""

    def write(self, before: Snapshot, after: Snapshot) -> Snapshot:
        """Write the parts that differ and return the snapshot as stored; raises if somebody else has written them."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run saw and did; `problem` says why some events were not sent: the next run sends them."""

    walked: Walked
    update: Update
    events: int
    problem: str

    def members(self) -> dict[str, object]:
        """Return it as plain values."""
        walked, update = self.walked, self.update
        campaigns = update.snapshot.campaigns.values()
        missing = [each.missing_since_epoch_s for each in campaigns if each.missing_since_epoch_s is not None]
        return {
            "campaigns": len(walked.statuses),
            "is_complete": walked.is_complete,
            "reason": walked.reason,
            "total": walked.total,
            "passes": walked.passes,
            "pages": walked.pages,
            "by_status": walked.by_status,
            "is_new_snapshot": update.is_new_snapshot,
            "created": update.created,
            "changed": update.changed,
            "missing": len(missing),
            "missing_since": iso_time(min(missing)) if missing else None,
            "dropped": update.dropped,
            "events": self.events,
            "problem": self.problem,
        }


def follow(
    run: Run,
    table: Table,
    bus: Bus,
    pages: PageSource,
    *,
    clock: Callable[[], float],
    new_id: Callable[[], str],
) -> Report:
    """Make a run and return its report. Blocks.

    Args:
        run: its name and its option.
        table: stores the snapshot.
        bus: where events go.
        pages: where campaigns come from.
        clock: epoch seconds.
        new_id: returns an id that nobody has drawn before, 32 hexadecimal digits.

    Raises:
        OtherCampaignsError: the list may be another company's; nothing of it was written.
        OutOfTimeError, PageTooLargeError: nothing could be read; what was known stays as it was.
        All that table and pages raise.
    """
    first = publish(table.read(), bus, run.name)
    before = table.write(first.was, first.snapshot)
    walked = Walk(pages).read()
    update = _update(before, walked, run, clock, new_id)
    last = publish(table.write(before, update.snapshot), bus, run.name)
    table.write(last.was, last.snapshot)
    return Report(walked, update, first.events + last.events, last.problem)


def _update(
    before: Snapshot, walked: Walked, run: Run, clock: Callable[[], float], new_id: Callable[[], str]
) -> Update:
    at_epoch_s = run.scheduled_at_epoch_s
    if before.is_whole:
        return before.after(
            walked, scheduled_at_epoch_s=at_epoch_s, is_other_list_accepted=run.is_other_list_accepted
        )
    return before.begun_again(
        walked, snapshot_id=new_id(), scheduled_at_epoch_s=at_epoch_s, now_epoch_s=clock()
    )


def iso_time(epoch_s: float) -> str:
    """Return a time as AWS writes it, to the second, in UTC."""
    return f"{datetime.fromtimestamp(epoch_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
