"""The upstream credentials that `token-broker connection put` takes: read without echo, checked before they are stored.

The broker makes the same checks when it reads them (functions/broker/adapters/client_secret.py); a test compares both.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from token_broker.cli.arguments import CREDENTIAL_TYPES
from token_broker.cli.outcome import CommandError, Exit
from token_broker.cli.prompts import UnreadableInput, read_piped
from token_broker.issued_token import BEARER_TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from token_broker.cli.outcome import Options
    from token_broker.cli.terminal import Terminal

_LARGEST_BYTES: Final = 16_384
_MEMBERS: Final = {
    "client_credentials": ({"client_id", "client_secret"}, {"type", "token_url", "scope"}),
    "personal_access_token": ({"access_token"}, {"type"}),
}


def read_credential(options: Options, terminal: Terminal) -> dict[str, str]:
    """Return the credential that a person types or that standard input contains; checked. Blocks for either.

    Raises:
        CommandError: it is not a credential; the text quotes nothing of it.
    """
    if sys.stdin.isatty():
        return checked(_ask(options, terminal))
    try:
        content = read_piped(_LARGEST_BYTES)
    except UnreadableInput as error:
        raise _malformed(str(error)) from None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        # The decoder's error contains the whole text.
        raise _malformed("it is not UTF-8 text, as UTF-16 is not: save it as UTF-8") from None
    return checked_text(text)


def checked_text(text: str) -> dict[str, str]:
    """Return the credential in this JSON text, with or without a byte order mark before it.

    Raises:
        CommandError: it is none; the text quotes nothing of it.
    """
    if "\0" in text:
        raise _malformed("it has NUL characters, as UTF-16 has: save it as UTF-8")
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        # The parser's error contains the whole text.
        raise _malformed("it is not JSON") from None
    if not isinstance(value, dict):
        raise _malformed("it is not a JSON object")
    return checked(value)


def checked(value: Mapping[str, object]) -> dict[str, str]:
    """Return the credential with its `type`. Raises CommandError, which quotes nothing of it."""
    kind = value.get("type", CREDENTIAL_TYPES[0])
    if not isinstance(kind, str) or kind not in _MEMBERS:
        raise _malformed(f"`type` must be {' or '.join(CREDENTIAL_TYPES)}")
    needed, optional = _MEMBERS[kind]
    if set(value) - needed - optional:
        # The member is not named, because a secret in the wrong place must not be shown.
        raise _malformed(f"{kind} has no other members than {', '.join(sorted(needed | optional))}")
    credential = {"type": kind}
    for name in sorted(needed | (optional & set(value)) - {"type"}):
        member = value.get(name)
        if name == "scope" and not member:
            continue
        if not isinstance(member, str) or not member or not (member.isascii() and member.isprintable()):
            raise _malformed(f"`{name}` must be printable ASCII text")
        if name == "access_token" and not BEARER_TOKEN.fullmatch(member):
            raise _malformed("`access_token` must have 1 to 4,096 characters and no spaces")
        credential[name] = member
    token_url = credential.get("token_url")
    if token_url is not None and host_of(token_url) is None:
        raise _malformed("`token_url` must be like https://HOST/PATH")
    return credential


def host_of(token_url: str) -> str | None:
    """Return `host` or `host:port` of an https URL; None if it is none."""
    try:
        parts = urlsplit(token_url)
        well_formed = (
            parts.scheme == "https" and bool(parts.hostname) and parts.username is None and parts.port != 0
        )
    except ValueError:
        return None
    return parts.netloc.lower() if well_formed else None


def _ask(options: Options, terminal: Terminal) -> dict[str, object]:
    def answered(answer: str) -> str:
        if not answer:
            raise _malformed("nothing was typed")
        return answer

    if options.type == "personal_access_token":
        access_token = answered(terminal.ask_hidden("Personal access token (hidden): "))
        return {"type": options.type, "access_token": access_token}
    credential: dict[str, object] = {"type": options.type}
    credential["client_id"] = answered(terminal.ask("Client id: "))
    credential["client_secret"] = answered(terminal.ask_hidden("Client secret (hidden): "))
    if options.token_url:
        credential["token_url"] = options.token_url
    if options.scope:
        credential["scope"] = options.scope
    return credential


def _malformed(reason: str) -> CommandError:
    return CommandError(
        f"this is not a credential: {reason}; nothing was stored",
        fix='as JSON: {"type": "client_credentials", "client_id": "…", "client_secret": "…"} '
        'or {"type": "personal_access_token", "access_token": "…"}',
        exit_code=Exit.USAGE,
        code="malformed_credential",
    )
