"""`token-broker mints`: the broker's ledger, for whoever must revoke tokens by hand at Digishare.

Reads the token table with the operator's own AWS rights. The rows are written by functions/broker/mint_ledger.py:

    connection (hash key), record "mint#FENCE" or "mint#direct#TOKEN_ID" (range key),
    outcome begun | issued | orphan | failed, token_id, generation, begun_at_epoch_s, expires_at_epoch_s?, ...
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from token_broker.cli.deployment import Deployment, call_aws, statement
from token_broker.cli.outcome import Exit
from token_broker.client import DEFAULT_CONNECTION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from token_broker.cli.outcome import Options
    from token_broker.cli.terminal import Terminal

COLUMNS: Final = {
    "token_id": "TOKEN ID",
    "use": "USE",
    "begun_at": "MINTED",
    "expires_at": "EXPIRES",
    "generation": "GENERATION",
    "reason": "REASON",
    "secret_version": "SECRET VERSION",
    "error": "ERROR",
}
_NOTES: Final = {
    "unknown": "unknown: the exchange was cut off, and a token may exist: compare Digishare's list with this one",
    "orphan": "orphan: nobody is served this token: revoke it",
    "superseded": "superseded: revoke it once the leases on it have ended (15 minutes after the next was minted)",
    "direct": "direct: minted while the table was away; one instance may still serve it: revoke it after an hour",
}


def list_mints(options: Options, terminal: Terminal, clock: Callable[[], float]) -> int:
    """Show the ledger's rows of one connection, oldest first: those of tokens that may be alive, or all."""
    deployment = Deployment(options)
    table = (
        options.table
        or os.environ.get("TOKEN_BROKER_TABLE")
        or deployment.output("TokenTableName", "--table")
    )
    connection = options.connection or os.environ.get("TOKEN_BROKER_CONNECTION") or DEFAULT_CONNECTION
    dynamodb = deployment.client("dynamodb")
    needed = statement(
        "ReadLedger", ["dynamodb:Query", "dynamodb:GetItem"], f"arn:aws:dynamodb:*:*:table/{table}"
    )
    rows, served = call_aws(
        lambda: (
            _read_rows(dynamodb, table, connection),
            _read_token_in_service(dynamodb, table, connection),
        ),
        f"reading the table {table}",
        needed,
    )
    shown = [
        row for row in (_describe(row, served, clock()) for row in rows) if options.all or row["may_be_alive"]
    ]
    shown.sort(key=lambda row: str(row["begun_at"]))
    if terminal.as_json:
        terminal.show_json({"connection": connection, "mints": shown})
        return Exit.OK
    if not shown:
        terminal.note(
            f"no tokens of {connection} that may be alive" if not options.all else "the ledger is empty"
        )
        return Exit.OK
    terminal.show_table(COLUMNS, shown)
    for use, note in _NOTES.items():
        if any(row["use"] == use for row in shown):
            terminal.note(note)
    return Exit.OK


def _read_rows(dynamodb: Any, table: str, connection: str) -> list[dict[str, Any]]:
    pages = dynamodb.get_paginator("query").paginate(
        TableName=table,
        ConsistentRead=True,
        KeyConditionExpression="#connection = :connection AND begins_with(#record, :prefix)",
        ExpressionAttributeNames={"#connection": "connection", "#record": "record"},
        ExpressionAttributeValues={":connection": {"S": connection}, ":prefix": {"S": "mint#"}},
    )
    return [_plain(item) for page in pages for item in page["Items"]]


def _read_token_in_service(dynamodb: Any, table: str, connection: str) -> str | None:
    answer = dynamodb.get_item(
        TableName=table,
        ConsistentRead=True,
        Key={"connection": {"S": connection}, "record": {"S": "token"}},
        ProjectionExpression="token_id",
    )
    token_id: str | None = _plain(answer.get("Item", {})).get("token_id")
    return token_id


def _plain(item: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return the texts and numbers of an item."""
    return {
        name: float(content) if kind == "N" else content
        for name, value in item.items()
        for kind, content in value.items()
        if kind in {"S", "N"}
    }


def _describe(row: Mapping[str, Any], served: str | None, now: float) -> dict[str, object]:
    outcome, token_id = row["outcome"], row.get("token_id") or None
    expires_at_epoch_s = row.get("expires_at_epoch_s")
    has_expired = expires_at_epoch_s is not None and expires_at_epoch_s <= now
    return {
        "token_id": token_id,
        "use": _use(row, served, has_expired=has_expired),
        "begun_at": _iso(row["begun_at_epoch_s"]),
        "expires_at": _iso(expires_at_epoch_s),
        "generation": int(row.get("generation", 0)) or None,
        "reason": row.get("reason"),
        "outcome": outcome,
        "secret_version": row.get("secret_version") or None,
        "error": row.get("error") or None,
        "may_be_alive": outcome != "failed" and not has_expired,
    }


def _use(row: Mapping[str, Any], served: str | None, *, has_expired: bool) -> str:
    outcome = row["outcome"]
    if outcome == "begun":
        return "unknown"
    if outcome == "failed":
        return "failed"
    if has_expired:
        return "expired"
    if row.get("token_id") == served:
        return "in service"
    if outcome == "orphan":
        return "orphan"
    return "direct" if not row.get("generation") else "superseded"


def _iso(epoch_s: float | None) -> str | None:
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds")
