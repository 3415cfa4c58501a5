"""Plain values and tokens as DynamoDB's attributes, the same in the token item and in the ledger's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from token_broker.issued_token import Token

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
"""Of the token item and of the ledger's rows, so that a later version can read what an earlier one wrote."""


def to_attribute(value: object) -> dict[str, Any]:
    """Return the DynamoDB attribute of a plain value; numbers have three decimals at most."""
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
    """Return the token of `plain_token`; other members are ignored."""
    expires_at, lifetime_s = members.get("expires_at_epoch_s"), members.get("lifetime_s")
    return Token(
        token_id=members["token_id"],
        issued_at_epoch_s=number(members["issued_at_epoch_s"]),
        expires_at_epoch_s=None if expires_at is None else number(expires_at),
        lifetime_s=None if lifetime_s is None else number(lifetime_s),
        scope=members.get("scope"),
        secret_version=members["secret_version"],
        version_stage=members["version_stage"],
    )


def number(value: object) -> float:
    """Return a number of the item; raise TypeError for a text, which would fail too late for memory to be served."""
    if not isinstance(value, float):
        raise TypeError(type(value).__name__)
    return value
