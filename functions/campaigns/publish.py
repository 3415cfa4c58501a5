"""Publishes the changes that the snapshot marks as unpublished, at least once: the marks are removed afterwards."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from functions.campaigns.snapshot import Change, Snapshot

VERSION: Final = 1
CHANGES_PER_EVENT: Final = 200
"""Keeps an event below 256 KB, EventBridge's limit: ids and statuses have at most 64 characters of at most 6 bytes."""


class Bus(Protocol):
    """Where events go."""

    def put(self, detail: Mapping[str, object]) -> str:
        """Send one event; return the code with which it was refused, "" if it was taken.

        Raises:
            EventsUnsent: no event can be sent now.
        """


class EventsUnsent(Exception):
    """No event can be sent now; `str()` is safe to log."""


@dataclass(frozen=True, slots=True)
class Published:
    """The snapshot before (`was`) and after, how many events were sent, and why some were not."""

    was: Snapshot
    snapshot: Snapshot
    events: int
    problem: str


def publish(snapshot: Snapshot, bus: Bus, run: Mapping[str, str]) -> Published:
    """Send what is not yet published; `run` is the `schedule` and the `scheduled_time` of the run that sends it."""
    sent: list[Change] = []
    events, problem, is_summary_sent = 0, "", False
    for kind, changes, members in _details(snapshot):
        detail = {
            "version": VERSION,
            "kind": kind,
            "snapshot_id": snapshot.parts[0].snapshot_id,
            **run,
            **members,
        }
        try:
            refusal = bus.put(detail)
        except EventsUnsent as error:
            problem = str(error)
            break
        if refusal:
            problem = refusal
            continue
        events += 1
        sent += changes
        is_summary_sent |= kind == "summary"
    return Published(snapshot, snapshot.with_published(sent, summary=is_summary_sent), events, problem)


def _details(snapshot: Snapshot) -> Iterator[tuple[str, Sequence[Change], Mapping[str, object]]]:
    if snapshot.summary:
        yield "summary", (), {"revision": snapshot.parts[0].first_revision, **asdict(snapshot.summary)}
    changes = snapshot.unpublished
    for start in range(0, len(changes), CHANGES_PER_EVENT):
        some = changes[start : start + CHANGES_PER_EVENT]
        yield "changes", some, {"changes": [asdict(change) for change in some]}
