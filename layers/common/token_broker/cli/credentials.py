"""The upstream credentials that `token-broker connection put` takes: read without echo, checked before they are stored.

The broker makes the same checks when it reads them (functions/broker/adapters/client_secret.py); a test compares both.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from token_broker.cli.outcome import CommandError, Exit
from token_broker.cli.prompts import UnreadableInput, read_piped
from token_broker.stored_credential import MEMBERS, MalformedCredentialError, credential_in, object_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from token_broker.cli.outcome import Options
    from token_broker.cli.terminal import Terminal

_LARGEST_BYTES: Final = 16_384


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
    try:
        return checked(object_in(text))
    except MalformedCredentialError as error:
        raise _malformed(str(error)) from None


def checked(value: Mapping[str, object]) -> dict[str, str]:
    """Return the credential with its `type`. Raises CommandError, which quotes nothing of it."""
    try:
        credential = credential_in(value)
    except MalformedCredentialError as error:
        raise _malformed(str(error)) from None
    known = set().union({"type"}, *MEMBERS[credential["type"]])
    if set(value) - known:
        # Not named: a secret in the wrong place must not be shown.
        raise _malformed(f"{credential['type']} has no other members than {', '.join(sorted(known))}")
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
