"""Whether anything answers at the broker's URL, and how far this machine's clock is from AWS's."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import urllib3

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMEOUT: Final = urllib3.Timeout(connect=3.0, read=5.0)


@dataclass(frozen=True)
class Reachability:
    """Whether there was an answer, and `clock_difference_s` as `ahead_s` returns it."""

    answers: bool
    clock_difference_s: float | None = None


def knock(url: str, clock: Callable[[], float]) -> Reachability:
    """Ask without a signature, which AWS refuses with its date; blocks for some seconds at most.

    A certificate that is not trusted here counts as an answer: the signed request will say more.
    """
    try:
        with urllib3.PoolManager() as pool:
            response = pool.request(
                "GET", f"{url}/status", timeout=_TIMEOUT, redirect=False, retries=False, preload_content=False
            )
            difference_s = ahead_s(response.headers.get("Date"), clock)
            response.close()
            return Reachability(answers=True, clock_difference_s=difference_s)
    except urllib3.exceptions.SSLError:
        return Reachability(answers=True)
    except urllib3.exceptions.HTTPError:
        return Reachability(answers=False)


def ahead_s(date: str | None, clock: Callable[[], float]) -> float | None:
    """Return by how many seconds `clock` is ahead of an answer's Date that has just come; None if that is no date."""
    try:
        return clock() - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
