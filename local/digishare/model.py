"""The types of the fake: clients, tokens, settings, requests and answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

READ_SCOPE = "campaigns.read"  # the real names of scopes are not documented
ALL_SCOPES = (READ_SCOPE, "campaigns.write")
YEAR_S = 31_536_000

PageShape = Literal[
    "openapi",  # data + meta with the numbers and links; links are null where there is one page only
    "openapi_no_links",  # the same, links are null
    "guides",  # data + meta.pagination
    "laravel",  # paginate as a resource: data + links + meta.current_page, meta.last_page
    "laravel_plain",  # paginate as it is: everything beside data; links are a list
    "simple",  # simplePaginate: no total, next_page_url
    "simple_resource",
    "cursor",  # cursorPaginate: no total, next_cursor
    "cursor_resource",
    "bare_array",  # the page's campaigns and nothing else; [] behind the last page
    "bare_array_unpaged",  # all campaigns, for every page number
    # from here on as openapi, but:
    "repeating_page",  # every page has the first page's campaigns, and says that there is one more
    "overlapping_pages",  # a page begins with the last campaign of the page before
    "growing_total",  # the first page says three fifths of the total
    "shrinking_total",  # the first page says 700 more than there are
    "unknown_status",  # every tenth campaign has a status that is not documented
    "missing_fields",  # every tenth campaign lacks status, tags and created_at
]
TieOrder = Literal[
    "stable",  # campaigns of the same sort value come in the order of their ids
    "unstable",  # they come in an order that is drawn for each request
    "sort_ignored",  # the order of all campaigns is drawn for each request
]
BehindLastPage = Literal["empty", "404", "422"]


@dataclass(frozen=True)
class Client:
    """An OAuth client; several secrets can be valid at once, as during a rotation."""

    client_id: str
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class PersonalAccessToken:
    token: str = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """What can be changed while the fake runs.

    Attributes:
        token_lifetime_s: `expires_in` of new tokens.
        refuse_younger_than_s: a new token is answered with 401 for so long (a node whose clock is behind).
        campaign_shape: see `PageShape`.
        tie_order: see `TieOrder`.
        largest_page: rows that a page has at most, even if `limit` is larger; `per_page` says it, too.
        pages_served: the list says that it ends after so many pages, while its total counts all; None: it does not.
        behind_last_page: how a page behind the last one is answered.
        contacts_per_campaign: people in `contacts_and_data`; 1,000 are about 110 KB of JSON; at most 10,000.
        change_every: before every so many-th list call one change happens, in turn: a campaign is created, one gets
            another status, one is deleted; 0: never.
    """

    token_lifetime_s: int = YEAR_S
    refuse_younger_than_s: float = 0.0
    campaign_shape: PageShape = "openapi"
    tie_order: TieOrder = "stable"
    largest_page: int = 100
    pages_served: int | None = None
    behind_last_page: BehindLastPage = "empty"
    contacts_per_campaign: int = 0
    change_every: int = 0

    def __post_init__(self) -> None:
        for name, values in _VALUES_OF.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}")
        if self.largest_page < 1:
            raise ValueError("largest_page must be at least 1")


_VALUES_OF: dict[str, tuple[str, ...]] = {
    "campaign_shape": get_args(PageShape),
    "tie_order": get_args(TieOrder),
    "behind_last_page": get_args(BehindLastPage),
}


@dataclass(frozen=True)
class Mint:
    """One token that was issued; it stays in the list after its revocation."""

    token_id: str
    client_id: str
    at_epoch_s: float


@dataclass(frozen=True)
class Call:
    """One request that came in; `host` is its Host header, `path` has no query."""

    at_epoch_s: float
    host: str
    method: str
    path: str


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)  # names in lower case
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def wants_json(self) -> bool:
        """Only the first type of the Accept header counts, as in the real stack; `*/*` is not JSON."""
        first = self.headers.get("accept", "").split(",")[0]
        return "/json" in first or "+json" in first

    @property
    def fields(self) -> dict[str, object]:
        """The JSON body's fields; a body of any other content type has none."""
        media_type = self.headers.get("content-type", "").split(";")[0].strip().lower()
        return json_object(self.body) if media_type == "application/json" else {}


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


def json_object(body: bytes) -> dict[str, object]:
    """Return the body's fields; an unreadable body has none, as in Digishare's server stack."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
