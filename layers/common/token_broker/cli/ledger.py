"""`token-broker mints`: the broker's ledger, for the person who must revoke tokens by hand at Digishare.

Reads the token table with the operator's own AWS permissions. The rows (`token_broker/ledger_row.py`) are written by
functions/broker/adapters/mint_ledger.py, or by recording.py for tokens got by hand; the item by token_store.py:

    connection (hash key), record "mint#FENCE#OWNER" (range key): a row; fence 0 for a token got by hand
    connection, record "token": token {token_id, issued_at_epoch_s, ...}

No row says whether its token is in service: the item does, by token id.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from token_broker.cli.deployment import THE_STACK, Deployment, call_aws, statement
from token_broker.cli.outcome import CommandError, Exit
from token_broker.cli.recording import iso, record_mint
from token_broker.client import DEFAULT_CONNECTION
from token_broker.dynamodb_attributes import FORMAT
from token_broker.issued_token import LONGEST_LIFETIME_S
from token_broker.ledger_row import ROW_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from token_broker.cli.outcome import Options
    from token_broker.cli.terminal import Terminal

COLUMNS: Final = {
    "token_id": "TOKEN ID",
    "use": "USE",
    "begun_at": "MINTED",
    "expires_at": "EXPIRES",
    "revoke_after": "REVOKE AFTER",
    "jti": "JTI",
    "reason": "REASON",
    "caller": "CALLER",
    "secret_version": "SECRET VERSION",
    "error": "ERROR",
}
_NOTES: Final = {
    "to revoke": "to revoke: no lease on it is left; find it in Digishare's dashboard by its JTI, or by when it was minted",
    "still leased": "still leased: callers may use it until REVOKE AFTER; then revoke it",
    "unknown": "unknown: its exchange had no end that the broker saw, so a token may exist that only Digishare's list shows",
    "under way": "under way: an exchange that has just begun; look again in a minute",
}
_LONGEST_LOCK_S: Final = 60.0
"""No exchange is under way for longer."""
_DEFAULT_LEASE_S: Final = 900.0
_HANDOVER_S: Final = 90.0
"""From the beginning of an exchange until no instance serves the token before it: the exchange, its publish, and the
minute for which instances serve what they have in memory."""


@dataclass(frozen=True)
class _InService:
    """What the item says of its token; `since_epoch_s` is -infinity where it has none."""

    token_id: str | None = None
    since_epoch_s: float = -math.inf


def run(options: Options, terminal: Terminal, clock: Callable[[], float]) -> int:
    """Show the ledger, or record a token in it."""
    if options.action == "record":
        return record_mint(options, terminal, clock)
    return _list_mints(options, terminal, clock)


def _list_mints(options: Options, terminal: Terminal, clock: Callable[[], float]) -> int:
    """Show the ledger's rows of one connection, oldest first: those of tokens that may be valid, or all."""
    deployment = Deployment(options)
    with terminal.waiting(THE_STACK):
        table = deployment.token_table()
    connection = options.connection or os.environ.get("TOKEN_BROKER_CONNECTION") or DEFAULT_CONNECTION
    dynamodb = deployment.client("dynamodb")
    resource = f"arn:{deployment.partition}:dynamodb:*:*:table/{table}"
    needed = statement("ReadLedger", ["dynamodb:Query", "dynamodb:GetItem"], resource)
    with terminal.waiting("the token table"):
        rows, in_service = call_aws(
            lambda: (
                _read_rows(dynamodb, table, connection),
                _read_token_in_service(dynamodb, table, connection),
            ),
            f"reading the table {table}",
            needed,
        )
    _require_known_format(rows)
    with terminal.waiting(THE_STACK):
        stack_says = _longest_lease_s(deployment)
    lease_s = stack_says or _DEFAULT_LEASE_S
    rows.sort(key=lambda row: (row.get("begun_at_epoch_s", 0.0), row["record"]))
    shown = [
        row
        for row in (_describe(row, in_service, clock(), lease_s) for row in rows)
        if options.all or row["may_be_alive"]
    ]
    if terminal.as_json:
        terminal.show_json({"connection": connection, "lease_seconds": int(lease_s), "mints": shown})
        return Exit.OK
    if not shown:
        terminal.note(
            f"no tokens of {connection} that may be valid" if not options.all else "the ledger is empty"
        )
        return Exit.OK
    terminal.show_table(COLUMNS, shown)
    for use, note in _NOTES.items():
        if any(row["use"] == use for row in shown):
            terminal.note(note)
    if any(row["revoke_after"] for row in shown) and stack_says is None:
        terminal.note(
            f"LeaseSeconds of the stack {options.stack} cannot be read: the longest lease is taken as {lease_s:.0f} s"
        )
    return Exit.OK


def _read_rows(dynamodb: Any, table: str, connection: str) -> list[dict[str, Any]]:
    pages = dynamodb.get_paginator("query").paginate(
        TableName=table,
        ConsistentRead=True,
        KeyConditionExpression="#connection = :connection AND begins_with(#record, :prefix)",
        ExpressionAttributeNames={"#connection": "connection", "#record": "record"},
        ExpressionAttributeValues={":connection": {"S": connection}, ":prefix": {"S": ROW_PREFIX}},
    )
    return [_plain(item) for page in pages for item in page["Items"]]


def _read_token_in_service(dynamodb: Any, table: str, connection: str) -> _InService:
    answer = dynamodb.get_item(
        TableName=table,
        ConsistentRead=True,
        Key={"connection": {"S": connection}, "record": {"S": "token"}},
        ProjectionExpression="#token.#token_id, #token.#issued_at",
        ExpressionAttributeNames={
            "#token": "token",
            "#token_id": "token_id",
            "#issued_at": "issued_at_epoch_s",
        },
    )
    token = _plain(_plain(answer.get("Item", {})).get("token", {}))
    return _InService(token.get("token_id"), token.get("issued_at_epoch_s", -math.inf))


def _plain(item: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the texts and numbers of an item, and its maps as they are."""
    return {
        name: float(content) if kind == "N" else content
        for name, value in item.items()
        for kind, content in value.items()
        if kind in {"S", "N", "M"}
    }


def _require_known_format(rows: list[dict[str, Any]]) -> None:
    if any(row.get("format", FORMAT) > FORMAT for row in rows):
        raise CommandError(
            "the ledger has rows that a later version of the broker wrote",
            fix="install the command of that version: pip install '.[cli]' in its repository",
        )


def _longest_lease_s(deployment: Deployment) -> float | None:
    """Return the stack's LeaseSeconds; None where it cannot be read."""
    try:
        # CloudFormation passes a Number on as it was typed, such as 9e2.
        return float(deployment.parameter("LeaseSeconds") or "")
    except ValueError:
        return None


def _describe(
    row: Mapping[str, Any], in_service: _InService, now: float, lease_s: float
) -> dict[str, object]:
    use = _use(row, in_service, now, lease_s)
    is_replaced = use in {"to revoke", "still leased"}
    return {
        "token_id": row.get("token_id"),
        "jti": row.get("jti") or None,
        "use": use,
        "begun_at": iso(row.get("begun_at_epoch_s")),
        "expires_at": iso(row.get("expires_at_epoch_s")),
        "expiry_is_known": row.get("lifetime_s") is not None,
        "revoke_after": iso(_leased_until(row, in_service, lease_s)) if is_replaced else None,
        "reason": row.get("reason"),
        "caller": row.get("caller") or None,
        "outcome": row.get("outcome"),
        "secret_version": row.get("secret_version") or None,
        "error": row.get("error") or None,
        "fence": int(row.get("fence", 0)),
        "owner": row.get("owner"),
        "may_be_alive": use not in {"failed", "expired"},
    }


def _use(row: Mapping[str, Any], in_service: _InService, now: float, lease_s: float) -> str:
    outcome = row.get("outcome")
    if outcome == "failed":
        return "failed"
    if outcome != "issued":
        return "under way" if now - row.get("begun_at_epoch_s", 0.0) < _LONGEST_LOCK_S else "unknown"
    if _latest_expiry_epoch_s(row) <= now:
        return "expired"
    if row.get("token_id") == in_service.token_id:
        return "in service"
    return "still leased" if now < _leased_until(row, in_service, lease_s) else "to revoke"


def _latest_expiry_epoch_s(row: Mapping[str, Any]) -> float:
    """Return when a token has certainly expired at the upstream; infinity where no expiry is known at all."""
    expires_at_epoch_s: float = row.get("expires_at_epoch_s", math.inf)
    if expires_at_epoch_s < math.inf and row.get("lifetime_s") is None:
        return float(row.get("begun_at_epoch_s", math.inf)) + LONGEST_LIFETIME_S
    return expires_at_epoch_s


def _leased_until(row: Mapping[str, Any], in_service: _InService, lease_s: float) -> float:
    """Return when the last lease on a token ends that is not in service.

    It was replaced when the token in service was issued, or before; if it is the younger one, only the caller whose
    request made it was served.
    """
    last_given_epoch_s: float = max(row.get("begun_at_epoch_s", 0.0), in_service.since_epoch_s)
    return last_given_epoch_s + _HANDOVER_S + lease_s
