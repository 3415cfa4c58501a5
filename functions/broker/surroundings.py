"""Time, chance and the ear of whoever watches: everything that a test moves by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the policy needs of the world besides its adapters.

    Attributes:
        clock: epoch seconds.
        sleep: blocks for seconds.
        randomness: 0 to 1, anew at each call.
        new_id: a text that nobody else has, anew at each call.
        notice: told of every event worth counting, by name ("Mint", "MintFailed", "Orphan", "DirectMintBegun", "DirectMint",
            "SealBroken", "StoreUnavailable") and with facts that are safe to log.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], None]
    randomness: Callable[[], float]
    new_id: Callable[[], str]
    notice: Callable[[str, dict[str, object]], None]
