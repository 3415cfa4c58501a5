"""A token that the upstream has issued: how its answer is read, how long it lives, its names. Pure rules: no clock, no I/O.

The broker, which exchanges, and `token-broker mints record`, which records a token that a person got by hand, share
these rules. Times are epoch seconds, durations are seconds, both float.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

BEARER_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
"""What a Bearer header may contain (RFC 6750 §2.1), as far as KMS seals it in one call."""
UNSAID_LIFETIME_S = 86_400.0
"""The lifetime of a token of which nobody said one. A shorter guess would make a year-long token every few minutes."""
LONGEST_LIFETIME_S = 400 * 86_400.0
"""An upstream year and a month; a longer lifetime is not believed."""

_BEARER_TYPES = frozenset({"", "bearer", "bearertoken"})
# RFC 6749 §3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
_LONGEST_SCOPE = 1024
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,4})?")
_LARGEST_NUMBER = 10**15
_LONGEST_JTI = 200


class Token(NamedTuple):
    """What is known of a token besides its text.

    Attributes:
        token_id: first 16 hex digits of its SHA-256.
        issued_at_epoch_s: the moment before the request that brought it.
        expires_at_epoch_s: None for a personal access token, whose expiry nobody knows.
        lifetime_s: what the upstream or the token itself said; None where `expires_at` is a guess.
        secret_version: VersionId of the secret that brought it.
        version_stage: AWSCURRENT, or AWSPREVIOUS where the upstream refused the current version.
    """

    token_id: str
    issued_at_epoch_s: float
    expires_at_epoch_s: float | None
    lifetime_s: float | None
    scope: str | None
    secret_version: str
    version_stage: str = "AWSCURRENT"

    def left_s(self, now: float) -> float:
        """Return the seconds until it expires; infinity where no expiry is known."""
        return math.inf if self.expires_at_epoch_s is None else self.expires_at_epoch_s - now

    @property
    def span_s(self) -> float:
        """Seconds from issue to expiry; infinity where no expiry is known."""
        return self.left_s(self.issued_at_epoch_s)

    def rounded(self) -> Token:
        """Return the token as the item stores it, so that a token that is read equals the one that was written."""
        expires_at, lifetime_s = self.expires_at_epoch_s, self.lifetime_s
        return self._replace(
            issued_at_epoch_s=round(self.issued_at_epoch_s, 3),
            expires_at_epoch_s=None if expires_at is None else round(expires_at, 3),
            lifetime_s=None if lifetime_s is None else round(lifetime_s, 3),
        )


# The next two are no tuples, because `json.dumps` and `%` would show the text of a token, and no data classes, because
# those make a start slower (docs/performance.md).
class ClearToken:
    """A token and its text, which its repr hides."""

    __slots__ = "access_token", "token"

    def __init__(self, token: Token, access_token: str) -> None:
        self.token, self.access_token = token, access_token


class TokenAnswer:
    """What the upstream issued; its repr hides it. `expires_in` is as it came: believed only after `expiry_of`."""

    __slots__ = "access_token", "expires_in", "scope"

    def __init__(self, access_token: str, expires_in: object, scope: str | None) -> None:
        self.access_token, self.expires_in, self.scope = access_token, expires_in, scope


def members_of(body: bytes) -> dict[str, object]:
    """Return the members of a JSON object; none if it is not one."""
    # A description may have bytes that are not UTF-8; a token that has some is refused for its characters.
    text = body.decode("utf-8-sig", "replace")
    try:
        value = json.loads(text, object_pairs_hook=_with_one_token)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def token_in(members: Mapping[str, object]) -> TokenAnswer | None:
    """Return the token in an answer's members; None if there is none, or none that a Bearer header can contain."""
    access_token, token_type, scope = (members.get(name) for name in ("access_token", "token_type", "scope"))
    if (
        not isinstance(access_token, str)
        or not BEARER_TOKEN.fullmatch(access_token)
        or not _is_bearer(token_type)
    ):
        return None
    is_scope = isinstance(scope, str) and len(scope) <= _LONGEST_SCOPE and _SCOPE.fullmatch(scope)
    return TokenAnswer(access_token, members.get("expires_in"), str(scope) if is_scope else None)


def token_id_of(access_token: str) -> str:
    """Return the name of a token in logs, answers and the ledger: 16 hex digits that reveal nothing of it."""
    return hashlib.sha256(access_token.encode()).hexdigest()[:16]


def expiry_of(
    access_token: str, expires_in: object, requested_at_epoch_s: float
) -> tuple[float, float | None]:
    """Return when a token expires, counted from the moment *before* the request, and the lifetime that was said.

    `expires_in` is believed. Where it is missing, a JWT's own lifetime (`exp - iat`) counts. A shorter lifetime of the
    JWT, or an earlier `exp` alone, always counts. The JWT is not verified, so it never makes a lifetime longer. The
    second value is None where nobody said a lifetime: the expiry is then a guess.
    """
    claims = unverified_claims(access_token)
    exp, iat = _number(claims.get("exp")), _number(claims.get("iat"))
    own_s = exp - iat if exp is not None and iat is not None and exp > iat else None
    said = [seconds for seconds in (_believed_s(expires_in), own_s) if seconds is not None]
    lifetime_s = min([*said, LONGEST_LIFETIME_S]) if said else None
    expires_at = requested_at_epoch_s + (UNSAID_LIFETIME_S if lifetime_s is None else lifetime_s)
    if exp is not None and iat is None:
        expires_at = min(expires_at, max(0.0, exp))
    return expires_at, lifetime_s


def unverified_claims(access_token: str) -> dict[str, Any]:
    """Return what a token says of itself if it happens to be a JWT. Nothing is verified."""
    parts = access_token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header.payload.signature
        return {}
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}


def jti_of(access_token: str) -> str:
    """Return the name under which the upstream lists a token, if it is a JWT that says one: for the ledger only."""
    jti = unverified_claims(access_token).get("jti")
    return jti if isinstance(jti, str) and len(jti) <= _LONGEST_JTI and jti.isprintable() else ""


def _is_bearer(token_type: object) -> bool:
    if token_type is None:
        return True
    return isinstance(token_type, str) and "".join(token_type.split()).lower() in _BEARER_TYPES


def _with_one_token(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the members; two tokens become a list, which is no token, because nobody knows which one is meant."""
    members = dict(pairs)
    tokens = [value for name, value in pairs if name == "access_token"]
    if len(tokens) > 1:
        members["access_token"] = tokens
    return members


def _believed_s(expires_in: object) -> float | None:
    """Return the seconds that an upstream's `expires_in` says; None if it says nothing, or nothing sensible."""
    return seconds if (seconds := _number(expires_in)) is not None and seconds > 0 else None


def _number(value: object) -> float | None:
    """Return a number, also one in a text, a huge one clipped; None for anything else. Never an error."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        return None
    # Compared before converted: a whole number may be larger than the largest float.
    return float(max(-_LARGEST_NUMBER, min(value, _LARGEST_NUMBER)))
