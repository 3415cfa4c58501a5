"""Access tokens in the shape that Digishare's server stack issues: an RS256 JWT of 640 to 1,120 bytes."""

from __future__ import annotations

import hashlib
import secrets
from functools import cache
from typing import TYPE_CHECKING

from joserfc import jwt
from joserfc.jwk import RSAKey

if TYPE_CHECKING:
    from collections.abc import Sequence


@cache
def signing_key() -> RSAKey:
    """Return the throwaway key of this process; call it once before any thread needs it (it takes a while)."""
    return RSAKey.generate_key(2048)


def sign_access_token(
    client_id: str, scopes: Sequence[str], issued_at_epoch_s: float, expires_at_epoch_s: float
) -> str:
    """Return a new, unique, signed JWT. Its times are floats, as the real ones are."""
    claims = {
        "aud": client_id,
        "jti": secrets.token_hex(40),
        "iat": float(issued_at_epoch_s),
        "nbf": float(issued_at_epoch_s),
        "exp": float(expires_at_epoch_s),
        "sub": "",
        "scopes": list(scopes),
    }
    return jwt.encode({"typ": "JWT", "alg": "RS256"}, claims, signing_key())


def token_id(token: str) -> str:
    """Return the first 16 hex digits of the token's SHA-256: names a token without revealing it."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]
