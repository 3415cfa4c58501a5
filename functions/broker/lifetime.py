"""When a token is due, and every other figure of the broker's. Pure rules: no clock, no I/O.

How long a token lives is in `token_broker/issued_token.py`.

::

    issued                                   refresh margin                     expires_at
      |---------------- fresh ----------------|--------------- due ---------------|-- expired -->
      served                                    one refreshes, all are served       never served

Times are epoch seconds, durations are seconds, both float.
"""

from __future__ import annotations

import math

from functions.broker.token import FailureKind

# --- a token's life ------------------------------------------------------------------------------------------------
REFRESH_FRACTION, REFRESH_LIMIT_S = 0.20, 30 * 86_400.0
"""A token is due once less is left than this part of its lifetime, and than 30 days."""
SHORTEST_USABLE_S = 1.0
YOUNG_TOKEN_S = 60.0
"""A younger token is not replaced for a report: an upstream node whose clock is behind may reject it."""
PERSONAL_TOKEN_LOOK_S = 3_600.0
"""How often an instance reads whether a personal access token is still the one in the secret."""
SAME_TOKEN_GAIN_S = 60.0
"""The same token is published again only if it lives at least this much longer."""

# --- time budgets: tests/unit/test_time_table.py derives the worst case from them ----------------------------------
FUNCTION_TIMEOUT_S = 31.0
ANSWER_S = 0.6
"""The part of the function's time that is reserved for writing the answer."""
LOCK_TO_SEND_S = 1.0
"""From the lock to the first byte of the exchange: in between, only the row `begun` is written."""
EXCHANGE_S = 10.0
PUBLISH_S = 2.0
"""Row `issued`, seal and publish."""
CLOCK_DIFFERENCE_S = 1.5
"""By how much the clocks of two instances may differ."""
TO_SEND_S = EXCHANGE_S + PUBLISH_S
TO_LOCK_S = LOCK_TO_SEND_S + TO_SEND_S
LOCK_S = TO_LOCK_S + CLOCK_DIFFERENCE_S
SLOW_AWS_S = 1.0
"""By how much a lock is longer at most where AWS is slow. The longest wait with a healthy AWS leaves this much time."""
LONGEST_POLL_S = 0.4
"""The longest pause between two reads of the item by a request that waits."""
AWS_CONNECT_TIMEOUT_S, AWS_READ_TIMEOUT_S = 1.0, 1.5
AWS_CALL_S = AWS_CONNECT_TIMEOUT_S + AWS_READ_TIMEOUT_S
"""One AWS call; the SDK does not repeat it, the policy does."""
AWS_TROUBLE_S = 10.0
"""How long AWS may fail in a row before the caller is told."""
TRUST_S = 60.0
"""How long a copy in an instance's memory is served before it is compared with the item; also how long an instance
makes no check and no refresh after one that failed, and how often it reads a secret that was refused."""

# --- what a record may claim ---------------------------------------------------------------------------------------
LONGEST_LOCK_S = 60.0
LONGEST_NOT_BEFORE_S = 960.0

# --- after a failure -----------------------------------------------------------------------------------------------
NOTHING_ISSUED_LIMIT_S, MAY_HAVE_ISSUED_LIMIT_S, REFUSED_LIMIT_S = 60.0, 900.0, 900.0
REFUSED_FIRST_S = 60.0
RETRY_AFTER_LIMIT_S = 900.0
"""The longest `Retry-After` that is honoured, and the longest that a caller over its share is told."""
REFRESH_RETRY_SHORTEST_S, REFRESH_RETRY_UNDATED_S = 30.0, 3_600.0
REPORTS_PER_DAY = 6
"""How many tokens one caller (account and role or user) may have replaced within 24 hours."""


def refresh_margin_s(span_s: float) -> float:
    """Return the remaining time below which a token that lives for `span_s` is due."""
    return min(REFRESH_FRACTION * span_s, REFRESH_LIMIT_S)


def backoff_s(kind: FailureKind, count: int, randomness: float) -> float:
    """Return the wait after the n-th failure in a row of a kind.

    Args:
        kind: of the failure.
        count: 1 after the first failure.
        randomness: from 0 to 1; takes off up to a half where nothing was issued, so that callers spread out.
    """
    doubled = 2.0 ** min(count - 1, 10)
    match kind:
        case FailureKind.REFUSED:
            return min(REFUSED_LIMIT_S, REFUSED_FIRST_S * doubled)
        case FailureKind.NOTHING_ISSUED:
            return min(NOTHING_ISSUED_LIMIT_S, doubled) * (0.5 + 0.5 * randomness)
    return min(MAY_HAVE_ISSUED_LIMIT_S, doubled)


def refresh_retry_s(left_s: float) -> float:
    """Return when a refresh that failed is tried again, from now: after half of the time that is left."""
    if left_s == math.inf:
        return REFRESH_RETRY_UNDATED_S
    return min(left_s, max(REFRESH_RETRY_SHORTEST_S, left_s / 2))
