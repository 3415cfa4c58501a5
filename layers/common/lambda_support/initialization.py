"""When an instance is assembled: while Lambda initializes it, or at its first request."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def build_early(build: Callable[[], object]) -> None:
    """Call `build`, which remembers what it makes, unless a snapshot is being made."""
    # Many instances share the content of a snapshot: ids, seeds and connections must not be in it.
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
        # Raised here, an error would make Lambda start the instance again and again. The first request reports it.
        with contextlib.suppress(Exception):
            build()
