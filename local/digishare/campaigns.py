"""Digishare's campaigns: a list that is read in pages, in an order that cannot be relied on, while it changes."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from itertools import cycle
from typing import TYPE_CHECKING

from local.digishare.contacts import contacts_of
from local.digishare.pages import Page, render
from local.digishare.queries import (
    Campaign,
    Invalid,
    Order,
    decode_cursor,
    encode_cursor,
    invalid,
    whole_number,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from local.digishare.model import Settings

STATUSES = ("planned", "in_progress", "completed", "cancelled", "draft", "failed", "paused")
DEFAULT_LIMIT, MAX_LIMIT = 25, 100
BULK = 40  # campaigns of a new list that were made in one second

_SOMETIMES_MISSING = frozenset({"status", "tags", "created_at"})
_BASE_36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_HOUR_S, _DAY_S = 3600, 86_400


class CampaignList:
    """The campaigns of one company, at first none. Not thread-safe.

    Args:
        settings: may be replaced at any time.
        randomness: draws ids, orders, and what changes by itself.
        clock: epoch seconds.

    Attributes:
        between_count_and_select: called after the total was counted and before the rows are selected, wherever pages
            are numbered; the framework runs two queries, and the list can change between them.
    """

    def __init__(self, settings: Settings, randomness: random.Random, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.between_count_and_select: Callable[[], object] = lambda: None
        self._randomness = randomness
        self._clock = clock
        self._campaigns: dict[str, Campaign] = {}
        self._made = 0
        self._calls = 0
        self._sorted: dict[Order, list[Campaign]] = {}
        self._own_changes = cycle((self._create_one, self._change_one, self._delete_one))

    # --- changes ----------------------------------------------------------------------------------------------

    def replace(self, count: int) -> None:
        """Make a new list of `count` campaigns: `BULK` in the same second, an hour between, the last an hour ago."""
        self._campaigns.clear()
        self._made = 0
        now = self._clock()
        for hours_ago in range(math.ceil(count / BULK), 0, -1):
            self.create(min(BULK, count - self._made), created_at_epoch_s=now - hours_ago * _HOUR_S)
        self._sorted.clear()

    def create(self, count: int, *, created_at_epoch_s: float | None = None) -> list[str]:
        """Add campaigns of one second and return their ids; the second is now, unless another one is given."""
        created_s = self._clock() if created_at_epoch_s is None else created_at_epoch_s
        created, start, end = (_text(created_s + days * _DAY_S) for days in (0, 1, 8))
        times = {"start_datetime": start, "end_datetime": end, "created_at": created, "updated_at": created}
        ids = [self._new_id() for _ in range(count)]
        for campaign_id in ids:
            self._made += 1
            self._campaigns[campaign_id] = {**_new_campaign(campaign_id, self._made), **times}
        self._sorted.clear()
        return ids

    def change(self, campaign_id: str, status: str) -> None:
        """Give a campaign a status, documented or not. Raises KeyError if there is no such campaign."""
        # A new object: answers that were given before stay as they were.
        campaign = {**self._campaigns[campaign_id], "status": status, "updated_at": _text(self._clock())}
        self._campaigns[campaign_id] = campaign
        self._sorted.clear()

    def delete(self, campaign_id: str) -> None:
        """Raises KeyError if there is no such campaign."""
        del self._campaigns[campaign_id]
        self._sorted.clear()

    def _create_one(self) -> None:
        self.create(1)

    def _change_one(self) -> None:
        if self._campaigns:
            campaign = self._campaigns[self._draw_id()]
            others = [status for status in STATUSES if status != campaign["status"]]
            self.change(str(campaign["id"]), self._randomness.choice(others))

    def _delete_one(self) -> None:
        if self._campaigns:
            self.delete(self._draw_id())

    def _draw_id(self) -> str:
        return self._randomness.choice(list(self._campaigns))

    def _new_id(self) -> str:
        return "cmp_" + "".join(self._randomness.choices(_BASE_36, k=15))

    # --- reading ----------------------------------------------------------------------------------------------

    def statuses(self) -> dict[str, str | None]:
        """Return what a perfect reader would know now: each id with its status, None where the API leaves it out."""
        listed = {name: self._spoil(campaign).get("status") for name, campaign in self._campaigns.items()}
        return {name: None if status is None else str(status) for name, status in listed.items()}

    def answer_list(self, query: Mapping[str, str]) -> object:
        """Return the JSON value that `GET /campaigns` is answered with.

        Raises:
            Invalid: 422 for a parameter outside of what is documented; 404 or 422 behind the last page, if the
                settings say so.
        """
        self._calls += 1
        if self.settings.change_every and self._calls % self.settings.change_every == 0:
            next(self._own_changes)()
        order = Order.of(query, self.settings.tie_order)
        limit = whole_number(query, "limit", default=DEFAULT_LIMIT, highest=MAX_LIMIT)
        limit = min(limit, self.settings.largest_page)
        shape = self.settings.campaign_shape
        if shape in ("cursor", "cursor_resource"):
            page = self._page_behind_cursor(query, order, limit)
        elif shape == "bare_array_unpaged":
            rows = self._select(self._ordered(order), 0, len(self._campaigns), order)
            page = Page(rows, 1, limit, len(rows), 1)
        else:
            page = self._numbered_page(query, order, limit)
        return render(page, shape)

    def _numbered_page(self, query: Mapping[str, str], order: Order, limit: int) -> Page:
        number = whole_number(query, "page", default=1, highest=None)
        counted = len(self._ordered(order))
        self.between_count_and_select()
        total, last_number = self._claims(number, counted, limit)
        if number > last_number:
            self._refuse_behind_last_page()
        start, stop = self._bounds(number, limit)
        rows = self._select(self._ordered(order), start, stop, order)
        return Page(rows, number, limit, total, last_number)

    def _claims(self, number: int, total: int, limit: int) -> tuple[int, int]:
        """Return the total and the number of the last page, as the page of this number says them."""
        shape = self.settings.campaign_shape
        if number == 1:
            total = {"growing_total": total * 3 // 5, "shrinking_total": total + 700}.get(shape, total)
        if shape == "repeating_page":
            return total, number + 1
        return total, max(1, min(math.ceil(total / limit), self._pages_served))

    def _bounds(self, number: int, limit: int) -> tuple[int, int]:
        """Return where the page's rows begin and end."""
        shape = self.settings.campaign_shape
        if shape == "repeating_page":
            number = 1
        start = (number - 1) * limit
        if shape == "overlapping_pages" and number > 1:
            start -= 1
        return start, min(number, self._pages_served) * limit

    @property
    def _pages_served(self) -> int:
        return self.settings.pages_served or sys.maxsize

    def _refuse_behind_last_page(self) -> None:
        match self.settings.behind_last_page:
            case "404":
                raise Invalid(404, {"message": "Not Found"})
            case "422":
                raise invalid("page", "The page must not be greater than the last page.")

    def _page_behind_cursor(self, query: Mapping[str, str], order: Order, limit: int) -> Page:
        """Return the rows behind the last one's sort values: rows that tie with it are lost, as in the framework."""
        ordered = self._ordered(order)
        number, start = 1, 0
        if cursor := decode_cursor(query.get("cursor", "")):
            number, behind = cursor
            start = next((at for at, row in enumerate(ordered) if order.is_behind(row, behind)), len(ordered))
        rows = self._select(ordered, start, start + limit, order)
        is_last = start + limit >= len(ordered) or number == self._pages_served
        next_cursor = None if is_last else encode_cursor(number + 1, order.key(rows[-1]))
        return Page(rows, number, limit, len(ordered), number, next_cursor)

    def _ordered(self, order: Order) -> list[Campaign]:
        """Return all campaigns in their order; not to be changed."""
        if order not in self._sorted:
            self._sorted[order] = sorted(self._campaigns.values(), key=order.key, reverse=order.is_descending)
        return self._sorted[order]

    def _select(self, rows: list[Campaign], start: int, stop: int, order: Order) -> list[Campaign]:
        """Return rows `start` to `stop` as the list shows them."""
        is_drawn = self.settings.tie_order != "stable"
        selected = self._draw(rows, start, stop, order) if is_drawn else rows[start:stop]
        return [self._with_contacts(self._spoil(row)) for row in selected]

    def _draw(self, rows: list[Campaign], start: int, stop: int, order: Order) -> list[Campaign]:
        """Return rows `start` to `stop` after all rows that tie with one of them were put in a new order."""
        first, last = start, min(stop, len(rows))
        if first >= last:
            return []
        while first > 0 and order.key(rows[first - 1]) == order.key(rows[first]):
            first -= 1
        while last < len(rows) and order.key(rows[last]) == order.key(rows[last - 1]):
            last += 1
        drawn = rows[first:last]
        self._randomness.shuffle(drawn)
        drawn.sort(key=order.key, reverse=order.is_descending)
        return drawn[start - first : stop - first]

    def _with_contacts(self, campaign: Campaign) -> Campaign:
        count = self.settings.contacts_per_campaign
        if not count:
            return campaign
        return {**campaign, "contacts_and_data": contacts_of(str(campaign["id"]), count)}

    def _spoil(self, campaign: Campaign) -> Campaign:
        """Return the campaign as it is listed: every tenth one may be odd."""
        shape = self.settings.campaign_shape
        if shape == "unknown_status" and str(campaign["title"]).endswith("0"):
            return {**campaign, "status": "quarantined_by_carrier"}
        if shape == "missing_fields" and str(campaign["title"]).endswith("0"):
            return {name: value for name, value in campaign.items() if name not in _SOMETIMES_MISSING}
        return campaign


def _new_campaign(campaign_id: str, number: int) -> Campaign:
    return {
        "id": campaign_id,
        "company_id": "cpn_2m9c4x7w1k8d5q0",
        "title": f"Campaign {number}",
        "description": None,
        "status": STATUSES[number % len(STATUSES)],
        "message_type_id": "mty_sms",
        "message_template_id": f"mtp_{number % 9}",
        "contacts_and_data": [],
        "tags": [f"segment-{number % 4}"],
        "start_datetime": None,
        "end_datetime": None,
        "terminate_datetime": None,
    }


def _text(epoch_s: float) -> str:
    return f"{datetime.fromtimestamp(epoch_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
