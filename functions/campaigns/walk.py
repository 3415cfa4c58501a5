"""Reads the whole list of campaigns, page by page, and says whether it was the whole list. Knows no HTTP.

Offset pages shift when campaigns come and go, and campaigns that were made in the same second have no order among
themselves: a row can move from a page that is still to be read to one that was read already. So one walk through the
pages proves nothing, and "as many as the total" does not either: one may be missed and another deleted.

The proof: two passes in a row bring the same ids, as many as the total in the first pass's last answer. Every id was
seen before that answer and again after it, so each of them was there at that moment, and the total says that there were no
others. (The framework counts first and selects then. So the last answer must bring nothing new: what was made between its
count and its rows is not in its total.) The proof needs a total that counts what the list shows, and ids that are never
used again.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE_LIMIT: Final = 100
MOST_STATUSES: Final = 40
MISSING: Final = "(missing)"
OTHER: Final = "(other)"
_MOST_PASSES: Final = 4
# Other page limits cut the list at other places: a row that was missed between two pages is then within one.
_TENTHS_OF_LIMIT: Final = (10, 9, 8, 7)
_MOST_SWEEPS_WITHOUT_NEWS: Final = 7
_MOST_PAGES_WITHOUT_NEWS: Final = 2


class OutOfTimeError(Exception):
    """The run has no time left for another page; `str()` says why and is safe to log."""


class PageTooLargeError(Exception):
    """The answer is longer than a reader may have in memory: ask for fewer rows."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one answer of the list says.

    Attributes:
        statuses: by campaign id; None where the API gives none.
        rows: how many campaigns it has, those without a usable id included.
        rows_without_id: how many of them have none.
        total: how many campaigns there are, if it says so.
        per_page: how many rows a page has at most, if it says so.
        is_last: whether it is the last page, if it says so.
        next_cursor: what to ask for the next page with, instead of its number.
    """

    statuses: Mapping[str, str | None]
    rows: int
    rows_without_id: int = 0
    total: int | None = None
    per_page: int | None = None
    is_last: bool | None = None
    next_cursor: str | None = None


class PageSource(Protocol):
    """Where pages come from."""

    def read_page(self, number: int, limit: int, cursor: str | None) -> Page | None:
        """Return a page, from 1; None if the API says that there is none behind the last one.

        Raises:
            OutOfTimeError, PageTooLargeError.
        """


@dataclass(frozen=True, slots=True)
class Walked:
    """What was read.

    Attributes:
        statuses: of all campaigns that were seen, by id; None where the API gives none.
        is_complete: whether these are proved to be all campaigns of one moment of the walk.
        reason: why not; "" if it is complete.
        total: how many campaigns there are, as the API said last.
        passes: how often the list was read, the last time perhaps not to its end.
        pages: how many pages were read.
    """

    statuses: Mapping[str, str | None]
    is_complete: bool
    reason: str
    total: int | None
    passes: int
    pages: int

    @property
    def by_status(self) -> dict[str, int]:
        """How many campaigns have which status, the commonest first; few names, because they go into a log line."""
        counts = Counter(MISSING if status is None else status for status in self.statuses.values())
        named = dict(counts.most_common(MOST_STATUSES))
        rest = counts.total() - sum(named.values())
        return {**named, OTHER: named.get(OTHER, 0) + rest} if rest else named


@dataclass(slots=True)
class _Pass:
    """One time through the list, or several with other page limits until all were seen that the total counts."""

    statuses: dict[str, str | None] = field(default_factory=dict)
    rows_without_id: int = 0
    total: int | None = None
    is_counted_last: bool = False
    is_one_answer: bool = False


class Walk:
    """One reading of the whole list.

    Args:
        source: where pages come from.
        limit: campaigns a page; halved for the rest of the walk where an answer is too large.
    """

    def __init__(self, source: PageSource, limit: int = PAGE_LIMIT) -> None:
        self._source = source
        self._limit = limit
        self._seen: dict[str, str | None] = {}
        self._total: int | None = None
        self._passes = self._pages = 0
        self._page = 1

    def read(self) -> Walked:
        """Read the list until it is proved to be complete, or cannot be. Blocks.

        Raises:
            OutOfTimeError: not even one page was read.
            PageTooLargeError: a single campaign is too large.
            All that the source raises.
        """
        before: _Pass | None = None
        while True:
            self._passes += 1
            now = _Pass()
            try:
                self._read_pass(now)
            except OutOfTimeError as error:
                if not self._pages:
                    raise
                return self._ended(f"no time was left at page {self._page} of pass {self._passes}: {error}")
            if now.is_one_answer or (before and _is_proved(before, now)):
                self._seen = now.statuses
                return self._ended("")
            if reason := self._reason_to_stop(before, now):
                return self._ended(reason)
            before = now

    def _reason_to_stop(self, before: _Pass | None, now: _Pass) -> str:
        """Return why another pass is not worth its calls; "" if it is."""
        if now.rows_without_id:
            return f"{now.rows_without_id} campaigns have no usable id"
        if now.total is None:
            return "the API does not say how many campaigns there are"
        if before and before.statuses.keys() == now.statuses.keys() and len(now.statuses) != now.total:
            return f"the API counts {now.total} campaigns and shows {len(now.statuses)}, twice the same ones"
        if self._passes == _MOST_PASSES:
            return f"the list has changed during each of {self._passes} passes"
        return ""

    def _ended(self, reason: str) -> Walked:
        return Walked(self._seen, not reason, reason, self._total, self._passes, self._pages)

    def _read_pass(self, this: _Pass) -> None:
        without_news = 0
        sweeps = cycle(_TENTHS_OF_LIMIT)
        while True:
            known = len(this.statuses)
            number, limit = self._read_to_the_end(this, next(sweeps))
            if this.is_one_answer or this.total is None or this.rows_without_id:
                return
            without_news = without_news + 1 if len(this.statuses) == known else 0
            if len(this.statuses) >= this.total or without_news == _MOST_SWEEPS_WITHOUT_NEWS:
                break
        if not this.is_counted_last:
            with suppress(PageTooLargeError):  # it has grown since, so nothing is proved
                if page := self._source.read_page(number, limit, None):
                    self._note(this, page, limit)

    def _read_to_the_end(self, this: _Pass, tenths: int) -> tuple[int, int]:
        """Read page after page; return number and limit of the last one that there was."""
        self._page, cursor, without_news = 1, None, 0
        found: set[str] = set()
        while True:
            limit = max(1, self._limit * tenths // 10)
            try:
                page = self._source.read_page(self._page, limit, cursor)
            except PageTooLargeError:
                self._halve_limit(limit, tenths)
                continue
            if page is None:
                return self._page - 1, limit
            self._note(this, page, limit)
            without_news = 0 if page.statuses.keys() - found else without_news + 1
            found |= page.statuses.keys()
            # After a full page there may be another one, even if it says that it is the last.
            is_end = page.is_last and page.rows < _most_rows(page, limit)
            is_end = is_end or not page.rows or without_news == _MOST_PAGES_WITHOUT_NEWS
            if is_end or this.is_one_answer:
                return self._page, limit
            cursor = page.next_cursor
            self._page += 1

    def _halve_limit(self, limit: int, tenths: int) -> None:
        """Ask for half as many rows from here on. Rows that are then read twice do no harm."""
        if limit == 1:
            raise PageTooLargeError("unexpected_answer: a single campaign is larger than the job reads")
        rows_before = (self._page - 1) * limit
        self._limit = max(1, self._limit // 2)
        self._page = rows_before // max(1, self._limit * tenths // 10) + 1

    def _note(self, this: _Pass, page: Page, limit: int) -> None:
        # A full page proves nothing: a campaign that was made after the count may have been cut off.
        is_all = page.rows == len(page.statuses) == page.total and page.rows < _most_rows(page, limit)
        this.is_one_answer = is_all and not this.statuses
        if page.total is not None:
            self._total = this.total = page.total
            this.is_counted_last = page.statuses.keys() <= this.statuses.keys()
        this.statuses |= page.statuses
        this.rows_without_id += page.rows_without_id
        self._seen |= page.statuses
        self._pages += 1


def _most_rows(page: Page, limit: int) -> int:
    """Return how many campaigns fit on a page."""
    return min(limit, page.per_page or limit)


def _is_proved(before: _Pass, now: _Pass) -> bool:
    is_same = before.statuses.keys() == now.statuses.keys()
    return is_same and before.is_counted_last and len(now.statuses) == before.total
