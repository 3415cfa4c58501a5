"""Malformed Function URL events, and how to draw more."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

BOUNDED = settings(max_examples=120, deadline=None, database=None)
LONGEST_ANSWER_S = 1.0
SAMPLE: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "events" / "token-default.json").read_text(encoding="utf-8")
)

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=9).map(repr),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("connection", "min_ttl", "rejected_token_id", "grant_type", "scope")
FIELD_VALUES = JSON_VALUES | st.sampled_from(
    ["digishare", "0123456789abcdef", "client_credentials", "٣٠", "²", "\ud800", "\u0000", "a" * 65, "../x", 900,
        -1, 10**400, 0.5]
)  # fmt: skip
USER_ARN = ("requestContext", "authorizer", "iam", "userArn")
PATHS: list[tuple[str, ...]] = [
    ("rawPath",), ("headers",), ("headers", "content-type"), ("requestContext",), ("requestContext", "http"),
    ("requestContext", "http", "method"), ("requestContext", "authorizer"),
    ("requestContext", "authorizer", "iam"),
    USER_ARN, ("body",), ("isBase64Encoded",), ("queryStringParameters",),
    ("cookies",), ("version",),
]  # fmt: skip
BODIES = (
    st.text(max_size=100)
    | JSON_VALUES.map(json.dumps)
    | st.dictionaries(st.sampled_from(FIELDS), FIELD_VALUES).map(json.dumps)
    | st.binary(max_size=200).map(lambda raw: base64.b64encode(raw).decode())
)


def event_of(
    body: object = None,
    *,
    content_type: str | None = "application/json",
    method: str = "POST",
    path: str = "/token",
    **members: object,
) -> dict[str, Any]:
    event = copy.deepcopy(SAMPLE)
    event |= {"rawPath": path, "body": body, **members}
    event["requestContext"]["http"] |= {"method": method, "path": path}
    user_arn = "arn:aws:sts::000000000000:assumed-role/orders/session"
    event["requestContext"]["authorizer"]["iam"]["userArn"] = user_arn
    event["headers"].pop("content-type", None)
    if content_type is not None:
        event["headers"]["content-type"] = content_type
    return event


def changed(event: dict[str, Any], path: tuple[str, ...], value: object, *, drop: bool) -> dict[str, Any]:
    """Return the event with the member at a path replaced, or dropped; unchanged if the path is gone already."""
    event = copy.deepcopy(event)
    parent: Any = event
    for name in path[:-1]:
        parent = parent.get(name) if isinstance(parent, dict) else None
    if isinstance(parent, dict):
        parent[path[-1]] = value
        if drop:
            del parent[path[-1]]
    return event
