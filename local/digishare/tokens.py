"""Access tokens in the shape that Digishare's server stack issues: an RS256 JWT of 640 to 1,120 bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from functools import cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

if TYPE_CHECKING:
    from collections.abc import Sequence


@cache
def signing_key() -> rsa.RSAPrivateKey:
    """Return the throwaway key of this process; call it once before any thread needs it (it takes a while)."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


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
    signed = f"{_base64url_json({'typ': 'JWT', 'alg': 'RS256'})}.{_base64url_json(claims)}"
    signature = signing_key().sign(signed.encode(), padding.PKCS1v15(), SHA256())
    return f"{signed}.{_base64url(signature)}"


def token_id(token: str) -> str:
    """Return the first 16 hex digits of the token's SHA-256: names a token without revealing it."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def _base64url_json(value: object) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
