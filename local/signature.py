"""Signature version 4 as a Function URL checks it: on the bytes that arrived, without leniency.

Source: the AWS IAM guide's "Signature Version 4 for API requests". Nothing here knows the local AWS; a function that
the caller passes looks up keys.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE = "lambda"
MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)

_ALGORITHM = "AWS4-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    _ALGORITHM + r"\s+Credential=(?P<key>[^/,\s]+)/(?P<date>\d{8})/(?P<region>[^/,\s]+)/(?P<service>[^/,\s]+)"
    r"/aws4_request\s*,\s*SignedHeaders=(?P<headers>[^,\s]+)\s*,\s*Signature=(?P<signature>[0-9a-f]{64})"
)


class Rejected(Exception):
    """The request does not prove who sent it. `error_type` is AWS's name for the reason; `str()` is AWS's sentence."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(frozen=True)
class Request:
    """One HTTP request as it arrived; header names in lower case, repeated ones joined by commas."""

    method: str
    raw_path: str
    raw_query: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Caller:
    """The principal behind an access key, as AWS describes it to a function."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)
    account_id: str
    user_arn: str
    user_id: str
    expires_at_epoch_s: float | None = None


def authenticate(
    request: Request, region: str, now: datetime, find_caller: Callable[[str], Caller | None]
) -> Caller:
    """Return the caller whose secret key signed `request`.

    Args:
        request: what arrived.
        region: the only region whose signatures count here.
        now: the server's clock, aware.
        find_caller: access key id to its owner; None for an unknown, inactive or unusable key.

    Raises:
        Rejected: unsigned, badly signed, stale, meant for another service or region, body changed, unknown key.
    """
    claim = _read_claim(request, region, now)
    caller = find_caller(claim["key"])
    token = request.headers.get("x-amz-security-token", "")
    if caller is None or not hmac.compare_digest((caller.session_token or "").encode(), token.encode()):
        raise Rejected(
            "UnrecognizedClientException", "The security token included in the request is invalid."
        )
    if caller.expires_at_epoch_s is not None and caller.expires_at_epoch_s <= now.timestamp():
        raise Rejected("ExpiredTokenException", "The security token included in the request is expired")
    expected = _sign(caller.secret_access_key, claim, _string_to_sign(request, claim))
    if not hmac.compare_digest(expected, claim["signature"]):
        raise Rejected(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details.",
        )
    return caller


def _read_claim(request: Request, region: str, now: datetime) -> dict[str, str]:
    """Return the parts of the Authorization header once everything but the signature itself is in order."""
    authorization = request.headers.get("authorization", "")
    if not authorization.startswith(_ALGORITHM):
        raise Rejected("AccessDeniedException", "Forbidden")
    match = _AUTHORIZATION.fullmatch(authorization.strip())
    if match is None:
        raise Rejected("IncompleteSignatureException", "The Authorization header is incomplete or malformed.")
    claim = match.groupdict()
    if claim["service"] != SERVICE:
        raise Rejected(
            "InvalidSignatureException", f"Credential should be scoped to correct service: '{SERVICE}'."
        )
    if claim["region"] != region:
        raise Rejected("InvalidSignatureException", "Credential should be scoped to a valid region.")
    _check_signed_headers(request, claim["headers"].split(";"))
    _check_time(request.headers.get("x-amz-date", ""), claim["date"], now)
    stated_hash = request.headers.get("x-amz-content-sha256")
    if stated_hash is not None and stated_hash != hashlib.sha256(request.body).hexdigest():
        raise Rejected("InvalidSignatureException", "x-amz-content-sha256 does not match the body.")
    return claim


def _check_signed_headers(request: Request, signed: list[str]) -> None:
    """Check that host and every x-amz- header are signed, and that each signed header was sent, as AWS does."""
    required = {"host", "x-amz-date"} | {name for name in request.headers if name.startswith("x-amz-")}
    unsigned = sorted(required - set(signed))
    if unsigned:
        raise Rejected("InvalidSignatureException", f"These headers must be signed: {', '.join(unsigned)}")
    missing = sorted(name for name in signed if name not in request.headers)
    if missing or signed != sorted(set(signed)):
        raise Rejected(
            "InvalidSignatureException", "SignedHeaders must be sorted names of headers that were sent."
        )


def _check_time(amz_date: str, scope_date: str, now: datetime) -> None:
    try:
        signed_at = datetime.strptime(amz_date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Rejected("IncompleteSignatureException", "X-Amz-Date must be like 20260706T120000Z.") from None
    if amz_date[:8] != scope_date:
        raise Rejected(
            "InvalidSignatureException", "Date in Credential scope does not match YYYYMMDD from X-Amz-Date."
        )
    if now - signed_at > MAX_CLOCK_DIFFERENCE:
        raise Rejected(
            "InvalidSignatureException", f"Signature expired: {amz_date} is more than 5 minutes ago."
        )
    if signed_at - now > MAX_CLOCK_DIFFERENCE:
        raise Rejected(
            "InvalidSignatureException", f"Signature not yet current: {amz_date} is in the future."
        )


def _string_to_sign(request: Request, claim: dict[str, str]) -> str:
    signed_headers = "".join(
        f"{name}:{' '.join(request.headers[name].split())}\n" for name in claim["headers"].split(";")
    )
    canonical_request = "\n".join(
        [
            request.method,
            quote(_without_dot_segments(request.raw_path), safe="/-_.~"),
            _canonical_query(request.raw_query),
            signed_headers,
            claim["headers"],
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    scope = f"{claim['date']}/{claim['region']}/{claim['service']}/aws4_request"
    digest = hashlib.sha256(canonical_request.encode()).hexdigest()
    return "\n".join([_ALGORITHM, request.headers["x-amz-date"], scope, digest])


def _without_dot_segments(path: str) -> str:
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            segments = segments[:-1]
        elif segment not in {"", "."}:
            segments.append(segment)
    return "/" + "/".join(segments) + ("/" if segments and path.endswith("/") else "")


def _canonical_query(raw_query: str) -> str:
    def encode(text: str) -> str:
        return quote(unquote_to_bytes(text), safe="-_.~")

    pairs = [pair.partition("=") for pair in raw_query.split("&") if pair]
    return "&".join(f"{name}={value}" for name, value in sorted((encode(n), encode(v)) for n, _, v in pairs))


def _sign(secret_access_key: str, claim: dict[str, str], text: str) -> str:
    key = f"AWS4{secret_access_key}".encode()
    for part in (claim["date"], claim["region"], claim["service"], "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
