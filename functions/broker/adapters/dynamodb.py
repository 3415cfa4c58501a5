"""Between plain values and what DynamoDB holds: attributes, and the token item as a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from functions.broker.ports import AwsRefusedError
from functions.broker.token import Failure, FailureKind, Lock, Pace, SealedToken, Token, TokenRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
"""Of the token item and of the ledger's rows, so that a later version can read what an earlier one wrote."""
TOKEN_RECORD = "token"  # noqa: S105 - the sort key of the item, not a credential


def token_key(connection: str) -> dict[str, Any]:
    """Return the primary key of a connection's token item."""
    return {"connection": {"S": connection}, "record": {"S": TOKEN_RECORD}}


def to_attribute(value: object) -> dict[str, Any]:
    """Return the DynamoDB attribute of a plain value; numbers keep three decimals."""
    match value:
        case str():
            return {"S": value}
        case bytes():
            return {"B": value}
        case float():
            return {"N": number_text(value)}
        case int():
            return {"N": str(value)}
        case dict():
            return {"M": {name: to_attribute(member) for name, member in value.items()}}
        case list() | tuple():
            return {"L": [to_attribute(member) for member in value]}
    raise TypeError(type(value).__name__)


def number_text(value: float) -> str:
    """Return a number as DynamoDB gives it back: three decimals, without needless zeros."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def from_attribute(value: Mapping[str, Any]) -> Any:
    """Return the plain value of a DynamoDB attribute; every number comes back as a float."""
    ((kind, content),) = value.items()
    match kind:
        case "N":
            return float(content)
        case "M":
            return {name: from_attribute(member) for name, member in content.items()}
        case "L":
            return [from_attribute(member) for member in content]
    return content


def plain_token(token: Token) -> dict[str, object]:
    """Return a token's members, without those that are not known."""
    members = {
        "token_id": token.token_id,
        "issued_at_epoch_s": token.issued_at_epoch_s,
        "expires_at_epoch_s": token.expires_at_epoch_s,
        "lifetime_s": token.lifetime_s,
        "scope": token.scope,
        "secret_version": token.secret_version,
        "version_stage": token.version_stage,
    }
    return {name: value for name, value in members.items() if value is not None}


def token_from(members: Mapping[str, Any]) -> Token:
    """Return the token of `plain_token`; other members are left alone."""
    expires_at, lifetime_s = members.get("expires_at_epoch_s"), members.get("lifetime_s")
    return Token(
        token_id=members["token_id"],
        issued_at_epoch_s=_number(members["issued_at_epoch_s"]),
        expires_at_epoch_s=None if expires_at is None else _number(expires_at),
        lifetime_s=None if lifetime_s is None else _number(lifetime_s),
        scope=members.get("scope"),
        secret_version=members["secret_version"],
        version_stage=members["version_stage"],
    )


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
        AwsRefusedError: somebody has written something else into the item; an operator must look at it.
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
        lock=Lock(found["lock_owner"], _number(found["lock_until_epoch_s"]))
        if "lock_owner" in found
        else None,
        pace=Pace(_number(pace["left"]), _number(pace["since_epoch_s"])) if pace else Pace(),
        failure=Failure(
            code=failure["code"],
            kind=FailureKind(failure["kind"]),
            count=int(failure["count"]),
            not_before_epoch_s=_number(failure["not_before_epoch_s"]),
        )
        if failure
        else None,
        refresh_at_epoch_s=_number(found.get("refresh_at_epoch_s", 0.0)),
        refused_versions=tuple(found.get("refused_versions", ())),
        reports={
            caller: [_number(at) for at in moments] for caller, moments in found.get("reports", {}).items()
        },
    )


def _number(value: object) -> float:
    """Return a number of the item; a text would fail only where it is reckoned with, and memory would not be served."""
    if not isinstance(value, float):
        raise TypeError(type(value).__name__)
    return value
