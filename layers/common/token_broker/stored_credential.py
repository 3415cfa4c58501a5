"""A connection's secret: what the broker reads, and what `token-broker connection put` stores. Pure rules: no I/O."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from token_broker.issued_token import BEARER_TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMBERS: Final = {
    "client_credentials": ({"client_id", "client_secret"}, {"token_url", "scope"}),
    "personal_access_token": ({"access_token"}, set[str]()),
}
"""Of each `type`: those that it needs, and those that it may have."""


class MalformedCredentialError(Exception):
    """It is no credential; the text says what is wrong, and quotes nothing of it."""


def object_in(text: str) -> dict[str, object]:
    """Return the JSON object that a secret's text is, a byte order mark before it or not. Raises MalformedCredentialError."""
    if "\0" in text:
        raise MalformedCredentialError("it has NUL characters, as UTF-16 has: save it as UTF-8")
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        # The parser's error holds the whole text.
        raise MalformedCredentialError("it is not JSON text") from None
    if not isinstance(value, dict):
        raise MalformedCredentialError("it is not a JSON object")
    return value


def credential_in(value: Mapping[str, object]) -> dict[str, str]:
    """Return the members that count, `type` among them; an empty scope is none. Raises MalformedCredentialError."""
    kind = value.get("type", "client_credentials")
    if not isinstance(kind, str) or kind not in MEMBERS:
        raise MalformedCredentialError(f"`type` must be {' or '.join(MEMBERS)}")
    needed, optional = MEMBERS[kind]
    credential = {"type": kind}
    for name in sorted(needed | (optional & set(value))):
        member = value.get(name)
        if name == "scope" and not member:
            continue
        if not isinstance(member, str) or not member or not (member.isascii() and member.isprintable()):
            raise MalformedCredentialError(f"`{name}` must be printable ASCII text")
        if name == "access_token" and not BEARER_TOKEN.fullmatch(member):
            raise MalformedCredentialError("`access_token` must have 1 to 4,096 characters and no spaces")
        credential[name] = member
    return credential
