"""Walks all pages of Digishare's campaigns and counts them. Knows the API's pages; knows nothing of the broker.

The list is documented by one example only, so nothing is taken for granted: a page may be a bare array, carry the
documented `meta.pagination` or Laravel's own `meta` and `links`, repeat, or change its total; a campaign may lack any
field. The walk ends at the first page that brings nothing new, or is short and promises no more.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lambda_support.upstream_http import exchange_json
from token_broker.bounded_http import AnswerNotJson, CallError, UnusableRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    from token_broker.bounded_http import BoundedResponse

PAGE_LIMIT: Final = 100
MAX_PAGES: Final = 500
MISSING: Final = "(missing)"
OTHER: Final = "(other)"

_MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_CONNECT_TIMEOUT_S: Final = 5.0
_CALL_TIMEOUT_S: Final = 30.0
_MAX_ATTEMPTS: Final = 5
_FIRST_PAUSE_S: Final = 1.0
_MAX_LABELS: Final = 40
_MAX_LABEL_LENGTH: Final = 40


class CampaignsUnreadable(Exception):
    """The campaigns could not be read to the end; `str()` names page and reason and is safe to log.

    Attributes:
        code: for programs: rate_limited, unauthorized, forbidden, upstream_unavailable, unexpected_answer,
            out_of_time.
        page: the page that failed, from 1.
    """

    def __init__(self, code: str, page: int, reason: str) -> None:
        super().__init__(f"{code}: campaigns page {page}: {reason}")
        self.code = code
        self.page = page


@dataclass
class Summary:
    """What the walk counted; `is_complete` is False if it was stopped after `MAX_PAGES` pages.

    `by_status` and `by_channel` count campaigns by what the API said: "(missing)" where it said nothing, and
    "(other)" for what goes beyond 40 different values.
    """

    campaigns: int = 0
    pages: int = 0
    is_complete: bool = True
    by_status: dict[str, int] = field(default_factory=dict)
    by_channel: dict[str, int] = field(default_factory=dict)

    def count(self, campaign: dict[str, object]) -> None:
        self.campaigns += 1
        _count_one(self.by_status, campaign.get("status"))
        _count_one(self.by_channel, campaign.get("channel"))


@dataclass(frozen=True)
class CampaignsApi:
    """The campaigns endpoint, for one run.

    Args:
        session: from `upstream_http.new_session`.
        base_url: such as "https://api.digishare.ma/v1".
        bearer: returns a token; gets the token that was just refused with 401, or None.
        time_left_s: seconds in which the run must have ended.
        sleep: waits for a number of seconds.
    """

    session: requests.Session
    base_url: str
    bearer: Callable[[str | None], str]
    time_left_s: Callable[[], float]
    sleep: Callable[[float], None] = time.sleep

    def summarize(self) -> Summary:
        """Read every page and return the counts; each campaign counts once. Blocks, within `time_left_s`.

        Raises:
            CampaignsUnreadable: a page could not be read.
            Whatever `bearer` raises.
        """
        summary = Summary()
        seen_ids: set[str] = set()
        seen_pages: set[bytes] = set()
        for page in range(1, MAX_PAGES + 1):
            rows, promises_more = _parse_page(self._read_page(page), page)
            summary.pages = page
            fingerprint = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).digest()
            new_rows = [row for row in rows if _is_new(row, seen_ids)]
            if not new_rows or fingerprint in seen_pages:
                return summary
            seen_pages.add(fingerprint)
            for row in new_rows:
                summary.count(row)
            # A full page is followed whatever its total says, because the total may have been outrun.
            if len(rows) < PAGE_LIMIT and not promises_more:
                return summary
        summary.is_complete = False
        return summary

    def _read_page(self, page: int) -> BoundedResponse:
        """Return the 200 answer; waits and repeats after 429, 5xx and lost answers, renews the token once."""
        token = self.bearer(None)
        may_renew = True
        attempt = 0
        while True:
            response, problem = self._ask(page, token)
            status = response.status if response else 0
            if response and status == 200:  # noqa: PLR2004 - HTTP's own number
                return response
            if status == 401 and may_renew:  # noqa: PLR2004 - HTTP's own number
                refused, token, may_renew = token, self.bearer(token), False
                if token != refused:
                    continue
            attempt += 1
            pause_s = _pause_s(response, attempt) if status in _PASSING else None
            if pause_s is None or attempt == _MAX_ATTEMPTS:
                raise CampaignsUnreadable(_CODES.get(status, "unexpected_answer"), page, problem)
            if pause_s >= self.time_left_s():
                raise CampaignsUnreadable(
                    _CODES[status], page, f"{problem}; {pause_s:.0f} s to wait is more than is left"
                )
            self.sleep(pause_s)

    def _ask(self, page: int, token: str) -> tuple[BoundedResponse | None, str]:
        """Return the answer, or None, and what there is to say about it."""
        left_s = self.time_left_s()
        if left_s <= 0:
            raise CampaignsUnreadable("out_of_time", page, "no time is left for this run")
        try:
            response = exchange_json(
                self.session,
                "GET",
                f"{self.base_url}/campaigns",
                headers={
                    "Authorization": f"Bearer {token}",
                    "Accept": "application/json",
                    "Content-Type": "application/json",
                },
                params={"page": str(page), "limit": str(PAGE_LIMIT)},
                total_timeout_s=min(_CALL_TIMEOUT_S, left_s),
                connect_timeout_s=_CONNECT_TIMEOUT_S,
                max_body_bytes=_MAX_ANSWER_BYTES,
            )
        except UnusableRequest as error:
            raise CampaignsUnreadable("unexpected_answer", page, str(error)) from None
        except CallError as error:
            return None, str(error)
        return response, f"HTTP {response.status}"


_PASSING: Final = frozenset({0, 429, 500, 502, 503, 504})
"""Statuses that may pass by themselves; 0 stands for no answer."""

_CODES: Final = {
    401: "unauthorized",
    403: "forbidden",
    429: "rate_limited",
    **dict.fromkeys((0, 500, 502, 503, 504), "upstream_unavailable"),
}


def _pause_s(response: BoundedResponse | None, attempt: int) -> float:
    """Return the seconds that the answer asks for, else a back-off."""
    asked_s = response.retry_after_s(time.time()) if response else None
    if asked_s is not None:
        return asked_s
    return _FIRST_PAUSE_S * 2.0 ** (attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret


def _parse_page(response: BoundedResponse, page: int) -> tuple[list[dict[str, object]], bool]:
    """Return the page's campaigns and whether it says that another page follows."""
    try:
        value = response.json()
    except AnswerNotJson as error:
        raise CampaignsUnreadable("unexpected_answer", page, str(error)) from None
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise CampaignsUnreadable("unexpected_answer", page, "there is no list of campaigns in it")
    promises_more = isinstance(value, dict) and _promises_more(value, page)
    # What is not an object still was one campaign: it counts as one without any field.
    return [row if isinstance(row, dict) else {} for row in rows], promises_more


def _promises_more(value: dict[str, object], page: int) -> bool:
    meta, links = value.get("meta"), value.get("links")
    meta = meta if isinstance(meta, dict) else {}
    pagination = meta.get("pagination")
    pagination = pagination if isinstance(pagination, dict) else meta
    last_page = pagination.get("total_pages", pagination.get("last_page"))
    if isinstance(last_page, int):
        return page < last_page
    return isinstance(links, dict) and bool(links.get("next"))


def _is_new(row: dict[str, object], seen_ids: set[str]) -> bool:
    """Remember the row's id; rows without one cannot be told apart and are all new."""
    identifier = row.get("id")
    if not isinstance(identifier, str | int):
        return True
    is_new = str(identifier) not in seen_ids
    seen_ids.add(str(identifier))
    return is_new


def _count_one(counts: dict[str, int], value: object) -> None:
    """Count a value under its own name; names are few and short, because they end up in a log line."""
    label = value[:_MAX_LABEL_LENGTH] if isinstance(value, str) and value else MISSING
    if label not in counts and len(counts) >= _MAX_LABELS:
        label = OTHER
    counts[label] = counts.get(label, 0) + 1
