"""`token-broker mints record`: the ledger's row of a token that a person got by hand, while the broker was unavailable.

The row is like the broker's own (`token_broker/ledger_row.py`). Nothing else is written: the item says which token is
in service, and no row changes that.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from token_broker.cli.deployment import THE_STACK, Deployment, call_aws, statement
from token_broker.cli.outcome import CommandError, Exit
from token_broker.cli.prompts import UnreadableInput, read_piped
from token_broker.issued_token import ClearToken, Token, expiry_of, members_of, token_id_of, token_in
from token_broker.ledger_row import Mint, delete_after, item_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from token_broker.cli.outcome import Options
    from token_broker.cli.terminal import Terminal

_LARGEST_BYTES: Final = 64 * 1024
_LATEST_EPOCH_S: Final = 253_402_300_799.0  # the year 9999, the last that ISO 8601 has here
_FIX_TIME: Final = (
    "correct --issued-at and this machine's clock; it is the moment at which the token was asked for"
)


def record_mint(options: Options, terminal: Terminal, clock: Callable[[], float]) -> int:
    """Write the row, and show the token's id, its JTI and its expiry."""
    row = _read_row(options, terminal, clock())
    try:
        is_new, row = _store(row, Deployment(options), terminal)
    except CommandError:
        terminal.note(
            f"not recorded: token {_names(row)}. Store the answer where only you can read it, and record it again"
        )
        raise
    expires_at = iso(row.token.expires_at_epoch_s) if row.token else None
    if terminal.as_json:
        told = {
            "connection": row.connection,
            "token_id": row.token and row.token.token_id,
            "jti": row.jti or None,
        }
        terminal.show_json({**told, "expires_at": expires_at, "caller": row.caller, "recorded": is_new})
    elif is_new:
        terminal.show(f"recorded token {_names(row)}; expires {expires_at}")
        terminal.note(
            f"revoke it in Digishare's dashboard when nothing uses it: token-broker mints --connection {row.connection}"
        )
    else:
        terminal.show(f"token {_names(row)} is in the ledger already; nothing was written")
    return Exit.OK


def iso(epoch_s: float | None) -> str | None:
    """Return a moment as text; None where there is none."""
    if epoch_s is None:
        return None
    moment = datetime.fromtimestamp(min(max(0.0, epoch_s), _LATEST_EPOCH_S), UTC)
    return moment.isoformat(timespec="seconds")


def _read_row(options: Options, terminal: Terminal, now: float) -> Mint:
    """Return the row of the token in the answer, without its caller."""
    issued_at = now if options.issued_at is None else options.issued_at
    if issued_at > now:
        raise _wrong_time("--issued-at is in the future")
    members = members_of(_read_answer(terminal))
    answer = token_in(members)
    if answer is None:
        raise _malformed(_reason(members))
    expires_at, lifetime_s = expiry_of(answer.access_token, answer.expires_in, issued_at)
    token_id = token_id_of(answer.access_token)
    token = Token(token_id, issued_at, expires_at, lifetime_s, answer.scope, secret_version="").rounded()
    row = Mint(
        connection=options.name,
        fence=0,
        owner=f"by-hand-{token_id}",
        begun_at_epoch_s=token.issued_at_epoch_s,
        reason=f"by hand: {options.reason}",
        caller="",
        secret_version="",
    ).issued(ClearToken(token, answer.access_token))
    if (delete_after(row) or now) < now:
        raise _wrong_time("issued at that time, the token would have expired already")
    return row


def _read_answer(terminal: Terminal) -> bytes:
    if sys.stdin.isatty():
        return terminal.ask_hidden("The token endpoint's answer, JSON on one line (hidden): ").encode(
            errors="replace"
        )
    try:
        return read_piped(_LARGEST_BYTES)
    except UnreadableInput as error:
        raise _malformed(str(error)) from None


def _reason(members: dict[str, object]) -> str:
    """Return why there is no token in these members; quotes nothing of them."""
    if not members:
        return "it is not a JSON object"
    if "access_token" in members:
        return "its `access_token` is none that a Bearer header can contain"
    if "error" in members:
        return "it is an `error` of the token endpoint, and has no `access_token`"
    return "it has no `access_token`"


def _store(row: Mint, deployment: Deployment, terminal: Terminal) -> tuple[bool, Mint]:
    """Return whether the row is new, and the row with the AWS identity that writes it."""
    with terminal.waiting(THE_STACK):
        table = deployment.token_table()
    sts, dynamodb = deployment.client("sts"), deployment.client("dynamodb")
    needed = statement(
        "RecordMints", ["dynamodb:PutItem"], f"arn:{deployment.partition}:dynamodb:*:*:table/{table}"
    )
    with terminal.waiting("AWS"):
        who = call_aws(
            lambda: str(sts.get_caller_identity()["Arn"]),
            "asking AWS whose credentials these are",
            statement("KnowMyself", ["sts:GetCallerIdentity"], "*"),
        )
        named = replace(row, caller=who)
        return call_aws(lambda: _put(dynamodb, table, named), f"writing to the table {table}", needed), named


def _put(dynamodb: Any, table: str, row: Mint) -> bool:
    try:
        dynamodb.put_item(
            TableName=table,
            Item=item_of(row),
            ConditionExpression="attribute_not_exists(#record)",
            ExpressionAttributeNames={"#record": "record"},
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    except dynamodb.exceptions.ResourceNotFoundException:
        raise CommandError(
            f"there is no table {table}",
            fix="pass --table or --region; `aws dynamodb list-tables` shows what is there",
            code="no_table",
        ) from None
    return True


def _names(row: Mint) -> str:
    """Return how broker and upstream name the token, and when it was asked for."""
    token_id = row.token.token_id if row.token else None
    jti = f" (JTI {row.jti})" if row.jti else ""
    return f"{token_id}{jti} of {row.connection}, asked for at {iso(row.begun_at_epoch_s)}"


def _wrong_time(text: str) -> CommandError:
    return CommandError(f"{text}; nothing was recorded", fix=_FIX_TIME, exit_code=Exit.USAGE, code="usage")


def _malformed(reason: str) -> CommandError:
    return CommandError(
        f"this is not a token endpoint's answer: {reason}; nothing was recorded",
        fix='pass what it answered as it is: {"token_type": "Bearer", "expires_in": …, "access_token": "…"}. If a token may '
        "have been issued nevertheless, look for it in Digishare's dashboard by its time, and revoke it there",
        exit_code=Exit.USAGE,
        code="malformed_answer",
    )
