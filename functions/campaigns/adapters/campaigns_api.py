"""Reads Digishare's list of campaigns, one page at a time; waits and repeats while the run has time.

The API's two descriptions differ, and the framework below it has its own form of a page, so the numbers are read from
every place where one of them has them. A campaign's row contains phone numbers and names (`contacts_and_data`): only
its id and its status leave this module.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

from functions.campaigns.walk import OutOfTimeError, Page, PageTooLargeError
from lambda_support.upstream_http import exchange_json
from token_broker.bounded_http import AnswerNotJson, AnswerTooLarge, CallError, UnusableRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    from token_broker.bounded_http import BoundedResponse

MOST_REFUSALS: Final = 8
"""How many 401 in a row end a run: a node that refuses a new token for a minute has caught up before the last one."""
LONGEST_STATUS: Final = 64

_MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_CONNECT_TIMEOUT_S: Final = 5.0
_CALL_TIMEOUT_S: Final = 30.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_ID: Final = re.compile(r"[!-~]{1,64}")
_DIGITS: Final = re.compile(r"[0-9]{1,15}")
_BEHIND_THE_LAST_PAGE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY})
_MAY_PASS: Final = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.UNAUTHORIZED}
)
_CODES: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
}


class CampaignsUnreadable(Exception):
    """A page could not be read; `str()` names page and reason and is safe to log.

    Attributes:
        code: for programs: unauthorized, forbidden, unexpected_answer.
    """

    def __init__(self, code: str, page: int, reason: str) -> None:
        super().__init__(f"{code}: campaigns page {page}: {reason}")
        self.code = code


class Tokens(Protocol):
    """Where the bearer token comes from."""

    def token(self) -> str:
        """Return the token to send."""

    def refused(self) -> None:
        """Report that the API has refused the token again, so that the next one may be another."""


@dataclass(frozen=True)
class CampaignsApi:
    """The campaigns endpoint, for one run; a `walk.PageSource`.

    Args:
        session: from `upstream_http.new_session`.
        base_url: such as "https://api.digishare.ma/v1".
        tokens: where the token comes from.
        time_left_s: seconds in which the run must have read everything.
        sleep: waits for a number of seconds.
    """

    session: requests.Session
    base_url: str
    tokens: Tokens
    time_left_s: Callable[[], float]
    sleep: Callable[[float], None] = time.sleep

    def read_page(self, number: int, limit: int, cursor: str | None) -> Page | None:
        """Return a page, from 1; None if the API says that there is none behind the last one.

        What may pass by itself is repeated, with pauses, for as long as the run has time.

        Raises:
            OutOfTimeError: no time was left, for the page or for waiting until it can be read.
            PageTooLargeError: the answer is longer than `_MAX_ANSWER_BYTES`.
            CampaignsUnreadable: the page cannot be read.
            All that `tokens` raises.
        """
        query = {"page": str(number), "limit": str(limit), "sort_by": "created_at", "sort_direction": "asc"}
        if cursor is not None:
            query["cursor"] = cursor
        if self.time_left_s() <= 0:
            raise OutOfTimeError("out_of_time: the run has used up its time")
        attempt = refusals = 0
        while True:
            answer = self._ask(query, number)
            if isinstance(answer, Page):
                return answer
            if answer.status in _BEHIND_THE_LAST_PAGE and number > 1:
                return None
            attempt += 1
            refusals = refusals + 1 if answer.status == HTTPStatus.UNAUTHORIZED else 0
            if not answer.may_pass or refusals == MOST_REFUSALS:
                raise CampaignsUnreadable(answer.code, number, answer.problem)
            pause_s = max(answer.retry_after_s, _back_off_s(attempt))
            if pause_s >= self.time_left_s():
                raise OutOfTimeError(
                    f"{answer.code}: {answer.problem}, and {pause_s:.6g} s to wait are more than is left"
                )
            self.sleep(pause_s)
            # The first 401 may be the mistake of one node, and another token would be valid for a year.
            if refusals > 1:
                self.tokens.refused()

    def _ask(self, query: Mapping[str, str], number: int) -> Page | _Failure:
        try:
            response = exchange_json(
                self.session,
                "GET",
                f"{self.base_url}/campaigns",
                headers={
                    "Authorization": f"Bearer {self.tokens.token()}",
                    "Accept": "application/json",
                    "Content-Type": "application/json",
                },
                params=query,
                total_timeout_s=min(_CALL_TIMEOUT_S, max(self.time_left_s(), 0.1)),
                connect_timeout_s=_CONNECT_TIMEOUT_S,
                max_body_bytes=_MAX_ANSWER_BYTES,
            )
        except AnswerTooLarge:
            raise PageTooLargeError from None
        except UnusableRequest as error:
            return _Failure("unexpected_answer", str(error), may_pass=False)
        except CallError as error:
            return _Failure("upstream_unavailable", str(error))
        if response.status == HTTPStatus.OK:
            return _page_or_failure(response, number)
        return _failure_of(response)


@dataclass(frozen=True, slots=True)
class _Failure:
    """An answer that is no page; `status` is 0 where there was none."""

    code: str
    problem: str
    may_pass: bool = True
    status: int = 0
    retry_after_s: float = 0.0


def _failure_of(response: BoundedResponse) -> _Failure:
    status = response.status
    may_pass = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _MAY_PASS
    return _Failure(
        _CODES.get(status, "upstream_unavailable" if may_pass else "unexpected_answer"),
        f"HTTP {status}",
        may_pass=may_pass,
        status=status,
        retry_after_s=response.retry_after_s(time.time()) or 0.0,
    )


def _back_off_s(attempt: int) -> float:
    pause_s = min(_FIRST_PAUSE_S * 2.0 ** (attempt - 1), _LONGEST_PAUSE_S)
    return pause_s * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret


def _page_or_failure(response: BoundedResponse, number: int) -> Page | _Failure:
    # An answer without a list may have been cut off, or come from a server in between: it may pass.
    try:
        page = page_of(response.json(), number)
    except AnswerNotJson as error:
        return _Failure("unexpected_answer", str(error))
    return page or _Failure("unexpected_answer", "there is no list of campaigns in it")


def page_of(value: object, number: int) -> Page | None:
    """Return what a JSON value says as page `number` of the list, from 1; None if there is no list in it."""
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        return None
    statuses = {_id_of(row): _status_of(row) for row in rows}
    statuses.pop("", None)
    numbers = _numbers_of(value) if isinstance(value, dict) else {}
    cursor = numbers.get("next_cursor")
    return Page(
        statuses=statuses,
        rows=len(rows),
        rows_without_id=sum(not _id_of(row) for row in rows),
        total=_count(numbers.get("total")),
        per_page=_count(numbers.get("per_page")),
        is_last=_is_last(numbers, number),
        next_cursor=cursor if isinstance(cursor, str) else None,
    )


def _id_of(row: object) -> str:
    """Return a campaign's id; "" for what is none."""
    found = row.get("id") if isinstance(row, dict) else None
    text = str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""
    return text if _ID.fullmatch(text) else ""


def _status_of(row: object) -> str | None:
    found = row.get("status") if isinstance(row, dict) else None
    if not isinstance(found, str) or not found:
        return None
    # JSON can escape half of a surrogate pair, which neither DynamoDB nor EventBridge takes.
    return found[:LONGEST_STATUS].encode(errors="replace").decode()


def _numbers_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a page says of the list: at its top, in `meta` or in `meta.pagination`, links included."""
    meta = value.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    pagination = meta.get("pagination")
    parts = [value, meta, pagination if isinstance(pagination, Mapping) else {}]
    links: dict[str, Any] = {}
    for part in parts:
        if isinstance(part.get("links"), Mapping):
            links |= part["links"]
    return {"links": links, **{k: v for part in parts for k, v in part.items() if k not in {"data", "links"}}}


def _is_last(numbers: Mapping[str, Any], number: int) -> bool | None:
    """Return whether the page says that it is the last one; None if it says nothing."""
    for name in ("total_pages", "last_page"):
        if (pages := _count(numbers.get(name))) is not None:
            return number >= pages
    for name in ("next_cursor", "next_page_url"):
        if name in numbers:
            return not numbers[name]
    return not numbers["links"]["next"] if "next" in numbers.get("links", {}) else None


def _count(value: object) -> int | None:
    """Return a number that counts something, also where it is written as a text."""
    if not isinstance(value, int | str) or not _DIGITS.fullmatch(str(value)):
        return None
    return int(value)
