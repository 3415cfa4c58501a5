"""When an instance is put together: while Lambda initializes it, or at its first request."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def build_early(build: Callable[[], object]) -> None:
    """Call `build` unless a snapshot is being made: its ids, seeds and connections would be those of many instances.

    `build` remembers what it has made. Its failure is left to the first request, which has somebody to tell; an error
    here would only make Lambda start the instance again and again.
    """
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
        with contextlib.suppress(Exception):
            build()
