"""The nouns of the fake: who may do what, what came in, what goes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from local.digishare.campaigns import PAGE_SHAPES, PageShape, json_object

if TYPE_CHECKING:
    from collections.abc import Mapping

READ_SCOPE = "campaigns.read"  # the real names of scopes are not documented
WRITE_SCOPE = "campaigns.write"
ALL_SCOPES = (READ_SCOPE, WRITE_SCOPE)
YEAR_S = 31_536_000


@dataclass(frozen=True)
class Client:
    """An OAuth client; several secrets can be valid at once, so that a rotation can be played."""

    client_id: str
    secrets: tuple[str, ...] = field(repr=False)
    scopes: tuple[str, ...] = ALL_SCOPES
    may_use_client_credentials: bool = True


@dataclass(frozen=True)
class PersonalAccessToken:
    token: str = field(repr=False)
    scopes: tuple[str, ...] = ALL_SCOPES


@dataclass(frozen=True)
class Settings:
    """What can be changed while the fake runs.

    Attributes:
        token_lifetime_s: `expires_in` of new tokens.
        refuse_younger_than_s: a new token is answered with 401 for so long (a node whose clock is behind).
        campaign_shape: see `PageShape`.
        balance: what creating campaigns may cost; 0.06 a recipient.
    """

    token_lifetime_s: int = YEAR_S
    refuse_younger_than_s: float = 0.0
    campaign_shape: PageShape = "documented"
    balance: float = 1000.0

    def __post_init__(self) -> None:
        if self.campaign_shape not in PAGE_SHAPES:
            raise ValueError(f"campaign_shape must be one of {', '.join(PAGE_SHAPES)}")


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
