"""The shapes of a page of campaigns: the two documented ones, and those that the framework's paginators produce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from local.digishare.model import PageShape

PATH = "/v1/campaigns"

JsonObject = dict[str, object]


@dataclass(frozen=True)
class Page:
    """One page, with what any of the shapes may say about it.

    Attributes:
        rows: its campaigns.
        number: from 1.
        limit: rows a page.
        total: campaigns on all pages.
        last_number: the number of the last page, at least 1.
        next_cursor: None where no row follows.
    """

    rows: Sequence[JsonObject]
    number: int
    limit: int
    total: int
    last_number: int
    next_cursor: str | None = None

    def link(self, number: int) -> str | None:
        return f"{PATH}?page={number}" if 1 <= number <= self.last_number else None


def render(page: Page, shape: PageShape) -> object:
    """Return the page as a JSON value."""
    return _RENDERERS[shape](page)


def _openapi(page: Page) -> JsonObject:
    return {"data": page.rows, "meta": _documented_meta(page)}


def _documented_meta(page: Page) -> JsonObject:
    links = {"next": page.link(page.number + 1), "previous": page.link(page.number - 1)}
    return {
        "total": page.total,
        "count": len(page.rows),
        "per_page": page.limit,
        "current_page": page.number,
        "total_pages": page.last_number,
        "links": links if page.last_number > 1 else None,
    }


def _openapi_no_links(page: Page) -> JsonObject:
    return {"data": page.rows, "meta": {**_documented_meta(page), "links": None}}


def _guides(page: Page) -> JsonObject:
    return {"data": page.rows, "meta": {"pagination": _documented_meta(page)}}


def _simple(page: Page) -> JsonObject:
    """`simplePaginate`, which does not count."""
    first = (page.number - 1) * page.limit + 1 if page.rows else None
    return {
        "current_page": page.number,
        "data": page.rows,
        "first_page_url": page.link(1),
        "from": first,
        "next_page_url": page.link(page.number + 1),
        "path": PATH,
        "per_page": page.limit,
        "prev_page_url": page.link(page.number - 1),
        "to": first and first + len(page.rows) - 1,
    }


def _laravel_plain(page: Page) -> JsonObject:
    """`paginate` (`LengthAwarePaginator`) without a resource: its `links` are a list."""
    labels = {
        page.number - 1: "&laquo; Previous",
        page.number: str(page.number),
        page.number + 1: "Next &raquo;",
    }
    links = [
        {"url": page.link(number), "label": label, "active": number == page.number}
        for number, label in labels.items()
    ]
    last = {"last_page": page.last_number, "last_page_url": page.link(page.last_number)}
    return {**_simple(page), **last, "links": links, "total": page.total}


def _cursor(page: Page) -> JsonObject:
    """`cursorPaginate`, forwards only."""
    following = page.next_cursor and f"{PATH}?cursor={page.next_cursor}"
    return {
        "data": page.rows,
        "path": PATH,
        "per_page": page.limit,
        "next_cursor": page.next_cursor,
        "next_page_url": following,
        "prev_cursor": None,
        "prev_page_url": None,
    }


def _as_resource(paginate: Callable[[Page], JsonObject]) -> Callable[[Page], JsonObject]:
    """Return what an API resource makes of a paginator's JSON: page URLs become `links`, the rest `meta`."""
    urls = {f"{name}_page_url": name for name in ("first", "last", "prev", "next")}

    def render_resource(page: Page) -> JsonObject:
        plain = paginate(page)
        links = {name: plain.pop(url, None) for url, name in urls.items()}
        return {"data": plain.pop("data"), "links": links, "meta": plain}

    return render_resource


def _bare_array(page: Page) -> object:
    return page.rows


_RENDERERS: dict[PageShape, Callable[[Page], object]] = {
    "openapi": _openapi,
    "openapi_no_links": _openapi_no_links,
    "guides": _guides,
    "laravel": _as_resource(_laravel_plain),
    "laravel_plain": _laravel_plain,
    "simple": _simple,
    "simple_resource": _as_resource(_simple),
    "cursor": _cursor,
    "cursor_resource": _as_resource(_cursor),
    "bare_array": _bare_array,
    "bare_array_unpaged": _bare_array,
    "repeating_page": _openapi,
    "overlapping_pages": _openapi,
    "growing_total": _openapi,
    "shrinking_total": _openapi,
    "unknown_status": _openapi,
    "missing_fields": _openapi,
}
