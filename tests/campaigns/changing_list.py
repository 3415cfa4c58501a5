"""A list of campaigns that changes while it is read, and remembers its content at every moment."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from functions.campaigns.adapters.campaigns_api import page_of
from local.digishare.campaigns import CampaignList
from local.digishare.queries import Invalid

if TYPE_CHECKING:
    from functions.campaigns.walk import Page
    from local.digishare.model import Settings

START_EPOCH_S = 1_780_000_000.0


@dataclass
class ChangingList:
    """A `walk.PageSource`. `sizes` says how many campaigns were made in each second.

    `changes_...` are the probabilities of a change before each call, and between its count and its rows.
    """

    seed: int
    settings: Settings
    sizes: list[int]
    changes_per_call: float = 0.0
    changes_within_calls: float = 0.0
    ignores_sort: bool = False
    moments: list[frozenset[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.randomness = random.Random(self.seed)  # noqa: S311 - a simulation
        self.now = START_EPOCH_S
        self.campaigns = CampaignList(self.settings, self.randomness, lambda: self.now)
        for seconds, size in enumerate(self.sizes):
            self.campaigns.create(size, created_at_epoch_s=self.now - 3600 * (len(self.sizes) - seconds))
        self.campaigns.between_count_and_select = lambda: self._change(self.changes_within_calls)
        self._remember()

    def read_page(self, number: int, limit: int, cursor: str | None) -> Page | None:
        self.now += self.randomness.random()
        self._change(self.changes_per_call)
        query = {"page": str(number), "limit": str(limit), **({"cursor": cursor} if cursor else {})}
        if not self.ignores_sort:
            query |= {"sort_by": "created_at", "sort_direction": "asc"}
        try:
            return page_of(self.campaigns.answer_list(query), number)
        except Invalid:
            return None

    def _change(self, probability: float) -> None:
        if self.randomness.random() >= probability:
            return
        ids = list(self.campaigns.statuses())
        kind = self.randomness.choice(["new", "late", "delete", "delete", "delete", "status"])
        if kind == "new":
            self.campaigns.create(self.randomness.choice([1, 1, 3]))
        elif kind == "late":  # it appears now, among those that were made long ago
            ago_s = 3600 * self.randomness.randint(1, max(1, len(self.sizes)))
            self.campaigns.create(1, created_at_epoch_s=START_EPOCH_S - ago_s)
        elif ids and kind == "delete":
            self.campaigns.delete(self.randomness.choice(ids))
        elif ids:
            self.campaigns.change(self.randomness.choice(ids), "paused")
        self._remember()

    def _remember(self) -> None:
        self.moments.append(frozenset(self.campaigns.statuses()))
