"""Converts a record into DynamoDB's attributes and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from functions.broker.ports import AwsRefusedError
from functions.broker.token import Failure, FailureKind, Lock, Pace, SealedToken, TokenRecord
from token_broker.dynamodb_attributes import FORMAT, from_attribute, number, plain_token, token_from

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_RECORD = "token"  # noqa: S105 - the sort key of the item, not a credential


def token_key(connection: str) -> dict[str, Any]:
    """Return the primary key of a connection's token item."""
    return {"connection": {"S": connection}, "record": {"S": TOKEN_RECORD}}


def plain_record(record: TokenRecord) -> dict[str, object]:
    """Return a record's members, without those that are not set; none where there is no item."""
    if not record.fence:
        return {}
    members: dict[str, object] = {
        "format": FORMAT,
        "fence": record.fence,
        "generation": record.generation,
        "pace": {"left": record.pace.left, "since_epoch_s": record.pace.since_epoch_s},
    }
    if sealed := record.token:
        members["token"] = {**plain_token(sealed.token), "sealed": sealed.sealed, "fence": sealed.fence}
    if lock := record.lock:
        members |= {"lock_owner": lock.owner, "lock_until_epoch_s": lock.until_epoch_s}
    if failure := record.failure:
        members["failure"] = {
            "code": failure.code,
            "kind": str(failure.kind),
            "count": failure.count,
            "not_before_epoch_s": failure.not_before_epoch_s,
        }
    if record.refresh_at_epoch_s:
        members["refresh_at_epoch_s"] = record.refresh_at_epoch_s
    if record.refused_versions:
        members["refused_versions"] = record.refused_versions
    if record.reports:
        members["reports"] = dict(record.reports)
    return members


def token_record(connection: str, item: Mapping[str, Any] | None) -> TokenRecord:
    """Return the record of an item, an empty one where there is no item.

    Raises:
        AwsRefusedError: somebody else has written into the item; an operator must correct it.
    """
    if not item:
        return TokenRecord(connection)
    try:
        return _record(connection, {name: from_attribute(value) for name, value in item.items()})
    except (KeyError, ValueError, TypeError, AttributeError):
        raise AwsRefusedError("MalformedItem") from None


def _record(connection: str, found: Mapping[str, Any]) -> TokenRecord:
    token, failure, pace = found.get("token"), found.get("failure"), found.get("pace")
    return TokenRecord(
        connection=connection,
        token=SealedToken(token_from(token), token["sealed"], int(token["fence"])) if token else None,
        generation=int(found["generation"]),
        fence=int(found["fence"]),
        lock=Lock(found["lock_owner"], number(found["lock_until_epoch_s"]))
        if "lock_owner" in found
        else None,
        pace=Pace(number(pace["left"]), number(pace["since_epoch_s"])) if pace else Pace(),
        failure=Failure(
            code=failure["code"],
            kind=FailureKind(failure["kind"]),
            count=int(failure["count"]),
            not_before_epoch_s=number(failure["not_before_epoch_s"]),
        )
        if failure
        else None,
        refresh_at_epoch_s=number(found.get("refresh_at_epoch_s", 0.0)),
        refused_versions=tuple(found.get("refused_versions", ())),
        reports={
            caller: [number(at) for at in moments] for caller, moments in found.get("reports", {}).items()
        },
    )
