"""A lease: how the broker's answer becomes one, and for whom and how long it suffices. Pure rules."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from token_broker.errors import UnusableAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping

_DUE_AFTER_SHARE_OF_LEASE: Final = 0.8
# Anything else could break out of a header, or end up in the text of the error that a header library raises.
_BEARER_TOKEN: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Lease:
    """A token and for how long it may be used.

    Attributes:
        access_token: the bearer token; never part of `repr` or `str`.
        token_id: names the token in logs and reports without revealing it.
        connection: the upstream credential that it belongs to.
        expires_at: epoch seconds; counted from before the request, so that it is never too late.
    """

    access_token: str = field(repr=False)
    token_id: str
    connection: str
    expires_at: float

    def expires_in_s(self, now_epoch_s: float | None = None) -> float:
        """Return the seconds that are left; negative once the lease has expired."""
        return self.expires_at - (time.time() if now_epoch_s is None else now_epoch_s)


@dataclass(frozen=True)
class Need:
    """What one caller asks for."""

    min_ttl_s: float = 0.0
    rejected_token_id: str | None = None


@dataclass(frozen=True)
class Fetched:
    """The lease in memory and how it was got."""

    lease: Lease
    fetched_at: float
    need: Need

    def is_due(self, now: float) -> bool:
        lifetime_s = self.lease.expires_at - self.fetched_at
        return now >= self.fetched_at + _DUE_AFTER_SHARE_OF_LEASE * lifetime_s

    def is_usable(self, need: Need, now: float) -> bool:
        clock_went_back = now < self.fetched_at
        is_refused = self.lease.token_id == need.rejected_token_id
        return self.lease.expires_in_s(now) > 0 and not clock_went_back and not is_refused

    def lasts(self, need: Need, now: float) -> bool:
        # The broker caps min_ttl: where it was asked for as much, asking again at once would bring no more.
        is_capped = self.need.min_ttl_s >= need.min_ttl_s and not self.is_due(now)
        return self.lease.expires_in_s(now) >= need.min_ttl_s or is_capped


def read_lease(answer: Mapping[str, object], asked_at: float) -> Lease:
    """Return the lease that an answer of `POST /token` gives, for a request of this epoch second. Raises UnusableAnswer."""
    token, token_id = answer.get("access_token"), answer.get("token_id")
    connection, expires_in_s = answer.get("connection"), answer.get("expires_in")
    if (
        not isinstance(token, str)
        or not _BEARER_TOKEN.fullmatch(token)
        or not isinstance(token_id, str)
        or not isinstance(connection, str)
        or not isinstance(expires_in_s, int | float)
        or isinstance(expires_in_s, bool)
        or not 0 < expires_in_s < math.inf
    ):
        raise UnusableAnswer("the broker's answer lacks a usable token, id, connection or lifetime")
    return Lease(token, token_id, connection, asked_at + expires_in_s)
