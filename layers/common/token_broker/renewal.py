"""What a 401 of the API means for the token of the request, with any HTTP library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from token_broker.errors import TokenBrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from token_broker.lease import Lease


def authorization(lease: Lease) -> str:
    """Return the header's value (RFC 6750, section 2.1)."""
    return f"Bearer {lease.access_token}"


def lease_to_repeat_with(report: Callable[[], Lease], refused: Lease, *, can_repeat: bool) -> Lease | None:
    """Report a token that was refused, and return the lease to repeat the request with; None: the 401 is the answer.

    The token is reported also where the request cannot be repeated, so that the next one works.

    Args:
        report: reports `refused` and returns the lease to go on with; it may block.
        refused: the lease that the request was sent with.
        can_repeat: whether the request's body can be sent again.

    Raises:
        TokenBrokerError: the request could be repeated, but the broker gives no token.
    """
    try:
        lease = report()
    except TokenBrokerError:
        if can_repeat:
            raise
        return None
    return lease if can_repeat and lease.token_id != refused.token_id else None
