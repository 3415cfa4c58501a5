"""Waiting for what another process does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Seen = TypeVar("Seen")


def wait_until(look: Callable[[], Seen], within_s: float = 15.0) -> Seen:
    """Return what `look` returns as soon as that is true; when the time is over, what it has returned last."""
    give_up_at_s = time.monotonic() + within_s
    while not (seen := look()) and time.monotonic() < give_up_at_s:
        time.sleep(0.05)
    return seen
