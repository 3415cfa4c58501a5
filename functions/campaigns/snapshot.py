"""What earlier walks have seen of the campaigns, and what a walk adds to it. Pure: it knows neither AWS nor the API.

A campaign's unpublished change is stored beside its status and its revision, so that one conditional write stores all.
Revisions only grow, also when the table is lost: each is at least the scheduled time of its run in milliseconds, and
those of a new snapshot begin above all that were published before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from functions.campaigns.walk import Walked

PARTS: Final = 32
KEEP_MISSING_S: Final = 30 * 24 * 3600
MOST_NEWLY_MISSING: Final = 10
MOST_NEWLY_MISSING_SHARE: Final = 0.05


class OtherCampaignsError(Exception):
    """The list is so different from before that it may be another company's; `str()` is safe to log."""


@dataclass(frozen=True, slots=True)
class Unpublished:
    """A change that is not yet published; `old_status` is the last published one (None: never published, or none)."""

    kind: Literal["created", "changed"]
    old_status: str | None


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign; `missing_since_epoch_s` is the time of the first complete walk that did not find it."""

    status: str | None
    revision: int
    missing_since_epoch_s: int | None = None
    unpublished: Unpublished | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What an event says of one campaign."""

    campaign_id: str
    kind: Literal["created", "changed"]
    old_status: str | None
    new_status: str | None
    revision: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What is published once when a snapshot begins; after it, only changes are published."""

    campaigns: int
    by_status: Mapping[str, int]
    is_complete: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """The campaigns whose ids have the same hash: one item of the table.

    Attributes:
        version: of the item, +1 at each write; 0 where there is none.
        snapshot_id: drawn when the snapshot began; the same in all parts.
        first_revision: of the snapshot; every revision in it is at least this one.
        summary: until it is published; in part 0 alone.
    """

    number: int
    version: int = 0
    snapshot_id: str = ""
    first_revision: int = 0
    campaigns: Mapping[str, Campaign] = field(default_factory=dict)
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """A snapshot after a walk, and how many campaigns were created, changed and dropped."""

    snapshot: Snapshot
    created: int = 0
    changed: int = 0
    dropped: int = 0
    is_new_snapshot: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All parts, by number."""

    parts: tuple[Part, ...]

    @property
    def is_whole(self) -> bool:
        """Whether no part is missing or of another snapshot (a run that is killed while it writes leaves a mixture)."""
        return all(part.version and part.snapshot_id == self.parts[0].snapshot_id for part in self.parts)

    @property
    def campaigns(self) -> dict[str, Campaign]:
        return {name: campaign for part in self.parts for name, campaign in part.campaigns.items()}

    @property
    def summary(self) -> Summary | None:
        """The summary that has not yet been published."""
        return self.parts[0].summary if self.is_whole else None

    @property
    def unpublished(self) -> list[Change]:
        """Every unpublished change, in the order of the ids."""
        if not self.is_whole:
            return []
        return [
            Change(
                name,
                campaign.unpublished.kind,
                campaign.unpublished.old_status,
                campaign.status,
                campaign.revision,
            )
            for name, campaign in sorted(self.campaigns.items())
            if campaign.unpublished
        ]

    def after(self, walked: Walked, *, scheduled_at_epoch_s: int, is_other_list_accepted: bool) -> Update:
        """Return what is known after this walk.

        Raises:
            OtherCampaignsError: the list may be another company's, so nothing of the walk is used.
        """
        walk = _Seen(walked, scheduled_at_epoch_s)
        if not is_other_list_accepted:
            walk.check(self.campaigns)
        parts = tuple(walk.added_to(part) for part in self.parts)
        return Update(Snapshot(parts), walk.created, walk.changed, walk.dropped)

    def begun_again(
        self, walked: Walked, *, snapshot_id: str, scheduled_at_epoch_s: int, now_epoch_s: float
    ) -> Update:
        """Return a new snapshot, with a summary to be published and no change."""
        known = [revision for part in self.parts for revision in (part.first_revision, *_revisions(part))]
        first_revision = max(
            1000 * scheduled_at_epoch_s, int(1000 * now_epoch_s), *(each + 1 for each in known)
        )
        summary = Summary(len(walked.statuses), walked.by_status, walked.is_complete, walked.reason)
        campaigns = _divided(walked.statuses)
        parts = tuple(
            Part(
                part.number,
                part.version,
                snapshot_id,
                first_revision,
                {name: Campaign(status, first_revision) for name, status in campaigns[part.number].items()},
                None if part.number else summary,
            )
            for part in self.parts
        )
        return Update(Snapshot(parts), is_new_snapshot=True)

    def with_published(self, changes: Iterable[Change], *, summary: bool) -> Snapshot:
        """Return the snapshot without the marks of these changes and, if asked, of the summary."""
        published = {change.campaign_id for change in changes}
        parts = list(self.parts)
        if summary:
            parts[0] = replace(parts[0], summary=None)
        for part in parts:
            if names := published & part.campaigns.keys():
                told = {name: replace(part.campaigns[name], unpublished=None) for name in names}
                parts[part.number] = replace(part, campaigns={**part.campaigns, **told})
        return Snapshot(tuple(parts))


class _Seen:
    """One walk, compared with what was known; counts what it finds."""

    def __init__(self, walked: Walked, scheduled_at_epoch_s: int) -> None:
        self._statuses = walked.statuses
        self._is_complete = walked.is_complete
        self._now_epoch_s = scheduled_at_epoch_s
        self._by_part = _divided(walked.statuses)
        self.created = self.changed = self.dropped = 0

    def check(self, known: Mapping[str, Campaign]) -> None:
        present = {name for name, campaign in known.items() if campaign.missing_since_epoch_s is None}
        missing = len(present - self._statuses.keys())
        allowed = max(MOST_NEWLY_MISSING, int(len(present) * MOST_NEWLY_MISSING_SHARE))
        if self._is_complete and missing > allowed:
            raise OtherCampaignsError(f"{missing} of {len(present)} campaigns are missing at once")
        if not self._is_complete and missing == len(present) > MOST_NEWLY_MISSING:
            raise OtherCampaignsError(f"none of {len(present)} campaigns was seen again")

    def added_to(self, part: Part) -> Part:
        campaigns = dict(part.campaigns)
        for name, status in self._by_part[part.number].items():
            campaigns[name] = self._seen_again(campaigns.get(name), status, part.first_revision)
        if self._is_complete:
            for name in part.campaigns.keys() - self._statuses.keys():
                self._note_missing(campaigns, name)
        return replace(part, campaigns=campaigns)

    def _seen_again(self, before: Campaign | None, status: str | None, first_revision: int) -> Campaign:
        if before is None:
            self.created += 1
            return Campaign(status, self._revision_after(first_revision), None, Unpublished("created", None))
        if status == before.status:
            return replace(before, missing_since_epoch_s=None)
        self.changed += 1
        unpublished = before.unpublished or Unpublished("changed", before.status)
        return Campaign(status, self._revision_after(before.revision), None, unpublished)

    def _note_missing(self, campaigns: dict[str, Campaign], name: str) -> None:
        since = campaigns[name].missing_since_epoch_s
        if since is None:
            campaigns[name] = replace(campaigns[name], missing_since_epoch_s=self._now_epoch_s)
        elif self._now_epoch_s - since >= KEEP_MISSING_S:
            self.dropped += 1
            del campaigns[name]

    def _revision_after(self, before: int) -> int:
        return max(1000 * self._now_epoch_s, before + 1)


def _revisions(part: Part) -> list[int]:
    return [campaign.revision for campaign in part.campaigns.values()]


def part_of(campaign_id: str) -> int:
    """Return the number of the part that a campaign is in, by a hash of its id: it never changes."""
    return hashlib.sha256(campaign_id.encode()).digest()[0] % PARTS


def _divided(statuses: Mapping[str, str | None]) -> list[dict[str, str | None]]:
    parts: list[dict[str, str | None]] = [{} for _ in range(PARTS)]
    for name, status in statuses.items():
        parts[part_of(name)][name] = status
    return parts
