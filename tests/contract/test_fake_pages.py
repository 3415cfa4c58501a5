"""The shapes of a page of the fake's campaigns: what each paginator says, and odd lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.conftest import list_page
from tests.contract.test_fake_campaigns import Json, ids_of, read_pages

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from local.digishare.server import FakeDigishare

_NUMBERS = {"total": 250, "count": 100, "per_page": 100, "current_page": 2, "total_pages": 3}
_URL = "/v1/campaigns"
_META = _NUMBERS | {"links": {"next": f"{_URL}?page=3", "previous": f"{_URL}?page=1"}}
_SIMPLE = {"current_page": 2, "from": 101, "path": _URL, "per_page": 100, "to": 200}
_LINK_LIST = [
    {"url": f"{_URL}?page=1", "label": "&laquo; Previous", "active": False},
    {"url": f"{_URL}?page=2", "label": "2", "active": True},
    {"url": f"{_URL}?page=3", "label": "Next &raquo;", "active": False},
]
_LENGTH_AWARE = {**_SIMPLE, "last_page": 3, "links": _LINK_LIST, "total": 250}


def urls(form: str, **pages: int | None) -> dict[str, str | None]:
    return {form.format(name): f"{_URL}?page={page}" if page else None for name, page in pages.items()}


SECOND_OF_THREE: dict[str, Json] = {
    "openapi": {"meta": _META},
    "openapi_no_links": {"meta": {**_META, "links": None}},
    "guides": {"meta": {"pagination": _META}},
    "laravel": {"links": urls("{}", first=1, last=3, prev=1, next=3), "meta": _LENGTH_AWARE},
    "laravel_plain": {**_LENGTH_AWARE, **urls("{}_page_url", first=1, last=3, prev=1, next=3)},
    "simple": {**_SIMPLE, **urls("{}_page_url", first=1, prev=1, next=3)},
    "simple_resource": {"links": urls("{}", first=1, last=None, prev=1, next=3), "meta": _SIMPLE},
}


@pytest.mark.parametrize("shape", SECOND_OF_THREE)
def test_a_paginator_has_its_known_members(digishare: FakeDigishare, http: httpx.Client, shape: str) -> None:
    plain = read_pages(http)
    digishare.configure(campaign_shape=shape)
    pages = read_pages(http)
    assert [page.pop("data") for page in pages] == [page["data"] for page in plain]
    assert pages[1] == SECOND_OF_THREE[shape]


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("shape", ["cursor", "cursor_resource"])
def test_a_cursor_reads_all(digishare: FakeDigishare, http: httpx.Client, shape: str, direction: str) -> None:
    expected = ids_of(*read_pages(http, sort_direction=direction))
    digishare.configure(campaign_shape=shape)
    pages: list[Json] = []
    query = {"limit": "100", "sort_direction": direction}
    while len(pages) < 4 and query.get("cursor", "from the start"):
        pages.append(list_page(http, **query).json())
        said = pages[-1].get("meta", pages[-1])
        following = pages[-1].get("next_page_url", pages[-1].get("links", {}).get("next"))
        assert said.keys() >= {"path", "per_page", "next_cursor", "prev_cursor"}
        assert "total" not in said
        assert following == (said["next_cursor"] and f"{_URL}?cursor={said['next_cursor']}")
        query["cursor"] = said["next_cursor"]
    assert ids_of(*pages) == expected
    assert len(pages) == 3
    unreadable = list_page(http, cursor="nonsense", sort_direction=direction).json()
    assert ids_of(unreadable) == expected[:25]


ODDITIES: dict[str, Callable[[Json, Json, Json], bool]] = {
    "bare_array": lambda *pages: [len(page) for page in pages] == [100, 100, 50],
    "bare_array_unpaged": lambda *pages: all(page == pages[0] and len(page) == 250 for page in pages),
    "repeating_page": lambda first, second, third: (
        first["data"] == second["data"] == third["data"] and third["meta"]["total_pages"] == 4
    ),
    "overlapping_pages": lambda first, second, _: first["data"][-1] == second["data"][0],
    "growing_total": lambda *pages: [page["meta"]["total"] for page in pages] == [150, 250, 250],
    "shrinking_total": lambda *pages: [page["meta"]["total"] for page in pages] == [950, 250, 250],
    "unknown_status": lambda first, *_: (
        sum(row["status"] == "quarantined_by_carrier" for row in first["data"]) == 10
    ),
    "missing_fields": lambda first, *_: sum("status" not in row for row in first["data"]) == 10,
}


@pytest.mark.parametrize("shape", ODDITIES)
def test_an_odd_list_is_as_its_shape_says(digishare: FakeDigishare, http: httpx.Client, shape: str) -> None:
    plain = ids_of(*read_pages(http))
    digishare.configure(campaign_shape=shape)
    pages = read_pages(http)
    assert ODDITIES[shape](*pages)
    assert ids_of(pages[0])[:100] == plain[:100]
    rows = [row for page in pages for row in (page if shape.startswith("bare") else page["data"])]
    assert {row["id"]: row.get("status") for row in rows}.items() <= digishare.campaign_statuses.items()


def test_a_page_may_have_fewer_rows_than_were_asked(digishare: FakeDigishare, http: httpx.Client) -> None:
    expected = ids_of(*read_pages(http))
    digishare.configure(largest_page=90)
    pages = read_pages(http)
    assert ids_of(*pages) == expected
    assert [page["meta"]["per_page"] for page in pages] == [90, 90, 90]


@pytest.mark.parametrize("shape", ["openapi", "simple", "cursor"])
def test_a_capped_list_still_counts_all(digishare: FakeDigishare, http: httpx.Client, shape: str) -> None:
    digishare.configure(pages_served=2, campaign_shape=shape)
    first, second, third = read_pages(http)
    if shape == "openapi":
        assert [page["meta"]["links"]["next"] for page in (first, second)] == [f"{_URL}?page=2", None]
        assert third["meta"] == _NUMBERS | {"count": 0, "current_page": 3, "total_pages": 2} | {
            "links": {"next": None, "previous": f"{_URL}?page=2"}
        }
        assert third["data"] == []
    elif shape == "simple":
        assert (second["next_page_url"], third["data"]) == (None, [])
    else:
        last = list_page(http, limit=100, cursor=first["next_cursor"]).json()
        assert (len(last["data"]), last["next_cursor"]) == (100, None)


@pytest.mark.parametrize("behind", ["404", "422"])
@pytest.mark.parametrize("shape", ["openapi", "bare_array"])
def test_the_end_may_be_a_4xx(digishare: FakeDigishare, http: httpx.Client, behind: str, shape: str) -> None:
    digishare.configure(behind_last_page=behind, campaign_shape=shape)
    statuses = [list_page(http, limit=100, page=page).status_code for page in (3, 4, 9)]
    assert statuses == [200, int(behind), int(behind)]
    digishare.replace_campaigns(0)
    assert ids_of(list_page(http).json()) == []
