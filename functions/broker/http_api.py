"""The broker's HTTP interface: from a Function URL event to a typed request, and from a result to its answer.

Everything that a caller sends is checked here, before the broker reads anything.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import parse_qsl

from functions.broker.grants import CONNECTION_NAME
from token_broker.errors import InvalidRequest, MethodNotAllowed, NotFound, UnsupportedGrantType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from token_broker.errors import TokenBrokerError

DEFAULT_CONNECTION = "digishare"
LONGEST_BODY_BYTES = 8 * 1024
# `json.dumps` would make an encoder for each answer, as `json.loads` would make a decoder for each body.
_encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")
_LONGEST_MIN_TTL_S = 10**9
_METHODS = {"/token": "POST", "/status": "GET"}
_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache"}


class TokenRequest(NamedTuple):
    """`POST /token`, checked. `min_ttl_s` is seconds."""

    connection: str = DEFAULT_CONNECTION
    min_ttl_s: int = 0
    rejected_token_id: str | None = None
    scope: str | None = None


class StatusRequest(NamedTuple):
    """`GET /status`; without a connection: all connections that the caller's grants name."""

    connection: str | None = None


def read_request(event: Mapping[str, Any]) -> TokenRequest | StatusRequest:
    """Return what a Function URL event (payload format 2.0) asks for.

    Raises:
        NotFound, MethodNotAllowed, InvalidRequest, UnsupportedGrantType: each with a sentence for the caller.
    """
    path = object_at(event).get("rawPath")
    if not isinstance(path, str) or path not in _METHODS:
        raise NotFound("there are POST /token and GET /status")
    if object_at(event, "requestContext", "http").get("method") != _METHODS[path]:
        raise MethodNotAllowed(f"{path} takes {_METHODS[path]}")
    if path == "/status":
        value = object_at(event, "queryStringParameters").get("connection")
        return StatusRequest(None if value is None else _connection(value))
    return _token_request(_fields(event))


def object_at(event: object, *path: str) -> Mapping[str, Any]:
    """Return the object at a path of an event; an empty one where there is no object."""
    value = event
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def success(body: Mapping[str, object]) -> dict[str, Any]:
    """Return the answer 200."""
    return {"statusCode": 200, "headers": dict(_HEADERS), "body": _encode(body)}


def failure(error: TokenBrokerError, request_id: str) -> dict[str, Any]:
    """Return the answer of an error (RFC 6749 §5.2), with `Retry-After` where waiting helps."""
    headers = dict(_HEADERS)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    body = {"error": error.code, "error_description": error.description, "request_id": request_id}
    return {"statusCode": error.status, "headers": headers, "body": _encode(body)}


def _token_request(fields: Mapping[str, object]) -> TokenRequest:
    def text(name: str) -> str | None:
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"`{name}` must be text")
        return value

    grant_type = text("grant_type")
    if grant_type not in {None, "client_credentials"}:
        raise UnsupportedGrantType("`grant_type` must be client_credentials, or left out")
    rejected = text("rejected_token_id")
    if rejected is not None and not _TOKEN_ID.fullmatch(rejected):
        raise InvalidRequest("`rejected_token_id` must be the 16 hex digits of an answer's `token_id`")
    connection = text("connection")
    return TokenRequest(
        connection=DEFAULT_CONNECTION if connection is None else _connection(connection),
        min_ttl_s=_seconds(fields.get("min_ttl")),
        rejected_token_id=rejected,
        scope=text("scope") or None,
    )


def _fields(event: Mapping[str, Any]) -> Mapping[str, object]:
    """Return the members of the body, JSON or form; none where there is no body."""
    body = event.get("body")
    if body is None or body == "":
        return {}
    if not isinstance(body, str):
        raise InvalidRequest("the body must be text")
    if event.get("isBase64Encoded"):
        try:
            body = base64.b64decode(body, validate=True).decode()
        except (binascii.Error, ValueError):
            raise InvalidRequest("the body must be UTF-8 text") from None
    if len(body.encode(errors="replace")) > LONGEST_BODY_BYTES:
        raise InvalidRequest(f"the body must have at most {LONGEST_BODY_BYTES} bytes")
    content_type = object_at(event, "headers").get("content-type")
    media_type = content_type.split(";")[0].strip().lower() if isinstance(content_type, str) else ""
    if media_type == "application/x-www-form-urlencoded":
        return _form(body)
    if media_type in {"application/json", ""}:
        return _json(body)
    raise InvalidRequest("the body must be application/json or application/x-www-form-urlencoded")


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidRequest("a member appears twice in the body")
    return members


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not JSON")


_decode = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant).decode


def _json(body: str) -> Mapping[str, object]:
    try:
        value = _decode(body)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def _form(body: str) -> Mapping[str, object]:
    try:
        pairs = parse_qsl(
            body, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=32
        )
    except ValueError:
        raise InvalidRequest("the body is not a form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidRequest("a field appears twice in the body")
    return fields


def _connection(value: object) -> str:
    if not isinstance(value, str) or not CONNECTION_NAME.fullmatch(value):
        raise InvalidRequest("`connection` must be 1 to 64 letters, digits, `_`, `.` or `-`")
    return value


def _seconds(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:12])
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LONGEST_MIN_TTL_S:
        raise InvalidRequest("`min_ttl` must be a whole number of seconds, 0 or more")
    return value
