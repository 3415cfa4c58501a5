"""The sealed token, and the record that all instances share. Data only, no SDK.

A token's fields are never copied: what needs one has the `Token` itself. Times are epoch seconds.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from token_broker.issued_token import Token

HOLDER_LOST = "holder_lost"
"""Code of the failure that is written with every lock: it counts if the lock's holder writes nothing after it."""
MOST_EXCHANGES_AT_ONCE = 24.0
EXCHANGE_INTERVAL_S = 900.0


class FailureKind(StrEnum):
    """What a failed attempt leaves behind upstream, which decides how soon the next one may come."""

    REFUSED = "refused"
    """The upstream refuses this version of the secret. No token was made."""
    NOTHING_ISSUED = "nothing_issued"
    """The upstream was not reached, or refused for another reason. No token was made."""
    MAY_HAVE_ISSUED = "may_have_issued"
    """A token may exist upstream that nobody has seen."""


class SealedToken(NamedTuple):
    """A token as it is in the item: encrypted for its connection, fence and expiry."""

    token: Token
    sealed: bytes
    fence: int

    def __repr__(self) -> str:
        return f"SealedToken(token={self.token}, fence={self.fence})"


class Lock(NamedTuple):
    """The right of one attempt to make one exchange; it ends by itself."""

    owner: str
    until_epoch_s: float


class Failure(NamedTuple):
    """Why the last attempt since the last publish brought no token; `code` is safe to log and to show.

    Attributes:
        count: failures in a row.
        not_before_epoch_s: nobody asks the upstream before this.
    """

    code: str
    kind: FailureKind
    count: int  # type: ignore[assignment] # a tuple has a method of this name, which nobody needs here
    not_before_epoch_s: float


class Pace(NamedTuple):
    """How many exchanges may be made now: what was left at a moment, and what has come in since.

    In exchanges and not in seconds, because the interval between two of them changes with the token.
    """

    left: float = MOST_EXCHANGES_AT_ONCE
    since_epoch_s: float = 0.0

    def left_at(self, now: float, interval_s: float) -> float:
        """Return how many exchanges may be made at `now`, one more coming in every `interval_s`."""
        elapsed_s = now - self.since_epoch_s
        come_in = elapsed_s / interval_s if elapsed_s >= 0 else 1.0  # the clock that wrote `since` was ahead
        return min(MOST_EXCHANGES_AT_ONCE, max(0.0, self.left) + come_in)


class TokenRecord(NamedTuple):
    """What the item said when it was read; 0 where nothing is set.

    Attributes:
        generation: number of the published token; not a part of the token, so that the count goes on without one.
        fence: number of the last lock; 0 if there is no item.
        refresh_at_epoch_s: a usable token is not refreshed before this.
        refused_versions: VersionIds that the upstream has refused since the last publish.
        reports: caller to the moments at which its reports put a new token into service.
    """

    connection: str
    token: SealedToken | None = None
    generation: int = 0
    fence: int = 0
    lock: Lock | None = None
    pace: Pace = Pace()
    failure: Failure | None = None
    refresh_at_epoch_s: float = 0.0
    refused_versions: tuple[str, ...] = ()
    reports: Mapping[str, Sequence[float]] = MappingProxyType({})

    @property
    def exchange_interval_s(self) -> float:
        """How often one exchange comes in: every 15 minutes, or half of a lifetime that was said, if that is shorter."""
        said_s = self.token.token.lifetime_s if self.token else None
        return EXCHANGE_INTERVAL_S if said_s is None else min(EXCHANGE_INTERVAL_S, max(1.0, said_s / 2))

    def exchanges_left(self, now: float) -> float:
        """Return how many exchanges may be made at `now`."""
        return self.pace.left_at(now, self.exchange_interval_s)
