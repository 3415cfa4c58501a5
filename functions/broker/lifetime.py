"""How long a token lives, and what is due at each moment of its life. Pure rules: no clock, no I/O.

::

    issued                                             soft margin        hard margin   expires_at
      |---------------------- fresh ----------------------|------ soft -------|--- hard ---|-- expired -->
      served                                              one refreshes,      all wait for   never served
                                                          all are served      the refresh

Times are epoch seconds, durations are seconds, both float.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from enum import StrEnum

# --- margins of a token's life ---------------------------------------------------------------------------------
SOFT_FRACTION, SOFT_LIMIT_S = 0.20, 30 * 86_400.0
HARD_FRACTION, HARD_LIMIT_S = 0.05, 300.0
JITTER = 0.10
ODD_LIFETIME_S = 300.0
"""What a missing, zero, negative or non-numeric `expires_in` is taken for."""
LONGEST_LIFETIME_S = 400 * 86_400.0
"""An upstream year and a month; a longer promise is not believed."""
YOUNG_TOKEN_S = 60.0
"""A rejection of a younger token is put down to an upstream node whose clock is behind."""
UNDATED_RECHECK_S = 3_600.0
"""How often the secret of a personal access token is looked at again, since no expiry is known."""

# --- time budgets ------------------------------------------------------------------------------------------------
TRUST_S = 60.0
"""How long a copy in an instance's memory is served before it is compared with the table."""
EXCHANGE_TIMEOUT_S = 5.0
MINT_BUDGET_S = 10.0
"""For one mint: the secret and at most three exchanges, each given what is left."""
SOFT_MINT_BUDGET_S = 2.0
"""The same while an old token is still good: nobody waits longer for a refresh that is not urgent."""
STORE_BUDGET_S = 5.0
"""For sealing and publishing after the exchange."""
CLOCK_MARGIN_S = 5.0
"""By how much the clocks of two instances may differ before a lock could be taken for ended too early."""
ANSWER_MARGIN_S = 1.0
"""Kept of the function's run time for writing the answer."""

# --- after a failure ---------------------------------------------------------------------------------------------
BACKOFF_FIRST_S, BACKOFF_LIMIT_S = 1.0, 60.0
RETRY_AFTER_LIMIT_S = 3_600.0
"""The longest upstream `Retry-After` that is honoured."""
SOFT_RETRY_FIRST_S, SOFT_RETRY_LAST_S = 300.0, 600.0
CLOSED_CIRCUIT_LOOK_S = 60.0
"""How often a refused credential is looked at for a new version."""
DIRECT_MINT_INTERVAL_S = 60.0
"""How often one instance may mint without the table."""
REJECTIONS_PER_HOUR = 3
"""How many tokens one caller (account and role or user) may have replaced within an hour."""


class TokenState(StrEnum):
    """Where in its life a token is."""

    FRESH = "fresh"
    SOFT = "soft"
    HARD = "hard"
    EXPIRED = "expired"


def lock_length_s(mint_budget_s: float) -> float:
    """Return how long the refresh lock is held at most: beyond the worst mint, within the function's run time."""
    return mint_budget_s + STORE_BUDGET_S + CLOCK_MARGIN_S


def token_id_of(access_token: str) -> str:
    """Return the name of a token in logs, answers and the ledger: 16 hex digits that reveal nothing of it."""
    return hashlib.sha256(access_token.encode()).hexdigest()[:16]


def believed_lifetime_s(expires_in: object) -> float:
    """Return the lifetime in seconds that an upstream's `expires_in` is worth; never infinite, never an error."""
    if isinstance(expires_in, str) and expires_in.isascii() and expires_in.isdigit():
        expires_in = float(expires_in[:20])  # digits enough for any lifetime, few enough to convert
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float):
        return ODD_LIFETIME_S
    # Compared before converted: a whole number may be beyond what floating point can hold. NaN is never above 0.
    if not expires_in > 0 or expires_in == math.inf:
        return ODD_LIFETIME_S
    return float(min(expires_in, LONGEST_LIFETIME_S))


def expiry_epoch_s(access_token: str, expires_in: object, requested_at_epoch_s: float) -> float:
    """Return when a token expires: from the moment *before* the request, shortened by a JWT's `exp`, never lengthened."""
    expires_at = requested_at_epoch_s + believed_lifetime_s(expires_in)
    unverified_exp = _unverified_jwt_exp(access_token)
    return expires_at if unverified_exp is None else float(max(0, min(expires_at, unverified_exp)))


def _unverified_jwt_exp(access_token: str) -> int | float | None:
    """Read `exp` if the token happens to be a JWT. Nothing is verified, so it may only shorten what we assume."""
    parts = access_token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header.payload.signature
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    exp = payload.get("exp") if isinstance(payload, dict) else None
    if isinstance(exp, bool) or not isinstance(exp, int | float):
        return None
    return None if isinstance(exp, float) and not math.isfinite(exp) else exp


def soft_margin_s(lifetime_s: float, connection: str, generation: int) -> float:
    """Return the remaining time below which a token is refreshed ahead.

    The jitter is a hash of connection and generation, so that all instances agree and connections spread out.
    """
    digest = hashlib.sha256(f"{connection}#{generation}".encode()).digest()
    factor = 1 - JITTER + 2 * JITTER * int.from_bytes(digest[:4], "big") / 0xFFFFFFFF
    return min(SOFT_FRACTION * lifetime_s, SOFT_LIMIT_S) * factor


def hard_margin_s(lifetime_s: float) -> float:
    """Return the remaining time below which nobody is served before the refresh has been tried."""
    return min(HARD_FRACTION * lifetime_s, HARD_LIMIT_S)


def state_of(*, remaining_s: float, lifetime_s: float, connection: str, generation: int) -> TokenState:
    """Return the state of a token with `remaining_s` left of `lifetime_s`."""
    if remaining_s <= 0:
        return TokenState.EXPIRED
    if remaining_s < hard_margin_s(lifetime_s):
        return TokenState.HARD
    if remaining_s < soft_margin_s(lifetime_s, connection, generation):
        return TokenState.SOFT
    return TokenState.FRESH


def backoff_s(failures: int, randomness: float) -> float:
    """Return the wait after the n-th failure in a row: 1, 2, 4 ... 60 s, of which a random half is taken off.

    Args:
        failures: 1 after the first failure.
        randomness: from 0 to 1.
    """
    ceiling = min(BACKOFF_LIMIT_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10))
    return ceiling * (0.5 + 0.5 * randomness)
