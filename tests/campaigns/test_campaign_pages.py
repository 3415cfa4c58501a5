"""Pages of campaigns over real sockets: what is read of each shape, and what is refused as unreadable."""

from __future__ import annotations

from typing import get_args

import pytest

from functions.campaigns.walk import PageTooLargeError, Walk
from local.digishare import faults
from local.digishare.model import PageShape, Request
from tests.campaigns.conftest import TOKEN, Reader, assert_shows_no_canary

WITHOUT_TOTAL = ("simple", "simple_resource", "cursor", "cursor_resource", "bare_array", "bare_array_unpaged")


@pytest.mark.parametrize("shape", sorted({*get_args(PageShape)} - {"repeating_page"}))
def test_every_shape_is_read_to_its_end(shape: str, reader: Reader) -> None:
    reader.digishare.configure(campaign_shape=shape)

    walked = Walk(reader.api).read()

    assert walked.statuses == reader.digishare.campaign_statuses
    assert (walked.is_complete, walked.total) == ((False, None) if shape in WITHOUT_TOTAL else (True, 250))
    assert_shows_no_canary(repr(walked))


def test_the_first_page_again_and_again_is_no_complete_list(reader: Reader) -> None:
    reader.digishare.configure(campaign_shape="repeating_page")

    walked = Walk(reader.api).read()

    assert (len(walked.statuses), walked.is_complete, walked.total) == (100, False, 250)


@pytest.mark.parametrize("answer", ["empty", "404", "422"])
def test_a_page_after_the_last_one_ends_the_list(answer: str, reader: Reader) -> None:
    reader.digishare.replace_campaigns(200)  # the last page is full, so that there might be another one
    reader.digishare.configure(behind_last_page=answer)

    walked = Walk(reader.api).read()

    assert (walked.statuses, walked.is_complete) == (reader.digishare.campaign_statuses, True)
    assert (reader.api.read_page(3, 100, None) is None) == (answer != "empty")


def test_pages_come_in_the_order_in_which_campaigns_were_made(reader: Reader) -> None:
    for number in (1, 2, 7):
        reader.assert_reads(number)


def test_the_request_is_as_documented(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Request] = []
    monkeypatch.setattr(reader.digishare, "receive", seen.append)

    reader.api.read_page(2, 90, "c 2")

    [request] = seen
    order = {"sort_by": "created_at", "sort_direction": "asc"}
    assert (request.method, request.path) == ("GET", "/v1/campaigns")
    assert request.query == {"page": "2", "limit": "90", "cursor": "c 2", **order}
    expected = {
        "authorization": f"Bearer {TOKEN}",
        **dict.fromkeys(("accept", "content-type"), "application/json"),
    }
    assert request.headers.items() >= expected.items()
    assert request.body == b""


ODD_IDS: tuple[object, ...] = (None, "", True, 1.5, [], {}, "i" * 65, "a b", " a", "a\n", "\u00e9", "\u0663")
NO_ROWS: tuple[object, ...] = ({}, "text", None, 7, ["cmp_1"])
NO_STATUSES: tuple[object, ...] = (None, "", 5, True, [], ["draft"])
NO_COUNTS: tuple[object, ...] = (None, True, -1, "-1", 1.5, "", "many", "\u0661", "12 ", 10**15, [], {})
LINK = "/v1/campaigns?page=3"


@pytest.mark.parametrize(
    ("row", "statuses"),
    [
        ({"id": "cmp_1", "status": "draft"}, {"cmp_1": "draft"}),
        ({"id": 17}, {"17": None}),
        ({"id": "i" * 64}, {"i" * 64: None}),
        ({"id": "last", "status": "draft"}, {"last": "paused"}),
        *(({"id": odd, "status": "draft"}, {}) for odd in ODD_IDS),
        *((odd, {}) for odd in NO_ROWS),
        *(({"id": "a", "status": odd}, {"a": None}) for odd in NO_STATUSES),
        ({"id": "a", "status": "\u0661" * 65}, {"a": "\u0661" * 64}),
        ({"id": "a", "status": "half \ud83d"}, {"a": "half ?"}),
    ],
)
def test_a_row_has_id_and_status_or_is_counted(row: object, statuses: dict[str, str], reader: Reader) -> None:
    reader.spoil(faults.json_answer({"data": [row, {"id": "last", "status": "paused"}]}))

    page = reader.read()

    assert page.statuses == {**statuses, "last": "paused"}
    assert (page.rows, page.rows_without_id) == (2, 0 if statuses else 1)


@pytest.mark.parametrize(
    ("said", "count"), [(12, 12), ("12", 12), (0, 0), *((nonsense, None) for nonsense in NO_COUNTS)]
)
def test_numbers_are_found_anywhere_and_as_text(said: object, count: int | None, reader: Reader) -> None:
    numbers = {"total": said, "per_page": said}
    for around in (numbers, {"meta": numbers}, {"meta": {"pagination": numbers}}):
        reader.spoil(faults.json_answer({"data": [], **around}))

        page = reader.read()

        assert (page.total, page.per_page) == (count, count)


@pytest.mark.parametrize(
    ("said", "last_and_cursor"),
    [
        ({"meta": None, "links": None}, (None, None)),
        ({"meta": [7], "links": [7]}, (None, None)),
        ({"meta": {"pagination": 7, "links": {}}}, (None, None)),
        *(({"meta": {name: 2}}, (True, None)) for name in ("total_pages", "last_page")),
        *(({name: "3", "next_page_url": None}, (False, None)) for name in ("total_pages", "last_page")),
        ({"total_pages": 1}, (True, None)),
        ({"next_page_url": None}, (True, None)),
        ({"next_page_url": LINK}, (False, None)),
        ({"links": {"next": None}, "meta": {"links": {"previous": LINK}}}, (True, None)),
        ({"meta": {"links": {"next": LINK}}}, (False, None)),
        ({"meta": {"pagination": {"links": {"next": LINK}}}}, (False, None)),
        ({"meta": {"next_cursor": None}}, (True, None)),
        ({"next_cursor": "c3", "next_page_url": None}, (False, "c3")),
        ({"next_cursor": 3}, (False, None)),
    ],
)
def test_a_page_says_whether_it_is_the_last_one(
    said: dict[str, object], last_and_cursor: tuple[bool | None, str | None], reader: Reader
) -> None:
    reader.spoil(faults.json_answer({"data": [], **said}))

    page = reader.read(2)

    assert (page.is_last, page.next_cursor) == last_and_cursor


def test_a_list_with_too_many_contacts_for_one_answer_is_read_in_smaller_pages(reader: Reader) -> None:
    reader.digishare.replace_campaigns(150)
    reader.digishare.configure(contacts_per_campaign=1000)
    reader.failure(PageTooLargeError, limit=100)

    walked = Walk(reader.api).read()

    assert (walked.statuses, walked.is_complete) == (reader.digishare.campaign_statuses, True)
    assert_shows_no_canary(repr(walked))


def test_eight_mebibytes_are_read_and_no_more(reader: Reader) -> None:
    reader.spoil(faults.json_answer("[]".ljust(8 * faults.MEBIBYTE)))
    assert reader.read().rows == 0

    for fault in (faults.json_answer("[]".ljust(8 * faults.MEBIBYTE + 1)), faults.huge_body(chunked=True)):
        reader.spoil(fault)
        reader.failure(PageTooLargeError)
    assert reader.events == ["ask"] * 3
