"""What is known of connections and tokens in a simulation, beside what the broker writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.instance import Plain

_LINES_SHOWN = 80


class BrokenPromiseError(AssertionError):
    """A promise is broken; the text has the last events before it."""

    def __init__(self, promise: str, log: list[str]) -> None:
        super().__init__("\n".join([promise, *log[-_LINES_SHOWN:]]))
        self.promise = promise


@dataclass(slots=True)
class Birth:
    """How a token was issued. In true time, but for `believable_until_epoch_s`, which is by its holder's clock.

    Attributes:
        row: key of the exchange's row; None for a personal access token.
        was_published: whether it ever was in service.
    """

    connection: str
    access_token: str = field(repr=False)
    row: tuple[str, str] | None
    issued_epoch_s: float
    expires_epoch_s: float
    believable_until_epoch_s: float
    was_published: bool = False


@dataclass(slots=True)
class Watched:
    """What is known of one connection. True time.

    Attributes:
        item: as the last write left it.
        operator_epoch_s, rows_gone_epoch_s: when somebody wrote over the item, or over the rows, last.
        token_is_broken: whether somebody has written over the token in the item.
        exchanges: those that issued or may have issued.
        reports: by caller, when its reports replaced a token.
        replaced: token id to the moment since which it is no longer in the item.
        reported: tokens that anybody has reported.
    """

    item: Plain = field(default_factory=dict)
    operator_epoch_s: float = 0.0
    rows_gone_epoch_s: float = 0.0
    token_is_broken: bool = False
    largest_min_ttl_s: float = 0.0
    exchanges: list[float] = field(default_factory=list)
    reports: dict[str, list[float]] = field(default_factory=dict)
    replaced: dict[str, float] = field(default_factory=dict)
    reported: set[str] = field(default_factory=set)
