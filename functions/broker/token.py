"""The nouns of an upstream token's life."""

from __future__ import annotations

from enum import StrEnum


class FailureKind(StrEnum):
    """What a failed exchange says about the credential, and about what may exist upstream."""

    REFUSED = "refused"
    """The upstream refuses this credential: nothing was issued, and another version of the secret may do better."""

    NOTHING_ISSUED = "nothing_issued"
    """Certainly no token came into being; the credential may be right."""

    MAY_HAVE_ISSUED = "may_have_issued"
    """A token may exist upstream that nobody here has seen."""
