"""The query of `GET /campaigns`: sorting, cursors and numbers, and what is refused."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local.digishare.model import TieOrder

Campaign = dict[str, object]

SORT_COLUMNS = ("created_at", "updated_at", "start_datetime", "end_datetime", "title", "status")


class Invalid(Exception):
    """The request is refused with this status and JSON body."""

    def __init__(self, status: int, body: Mapping[str, object]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Order:
    """What the database sorts by."""

    column: str
    is_descending: bool
    tie_order: TieOrder

    @classmethod
    def of(cls, query: Mapping[str, str], tie_order: TieOrder) -> Order:
        column = query.get("sort_by") or "created_at"
        direction = query.get("sort_direction") or "desc"
        if column not in SORT_COLUMNS:
            raise invalid("sort_by", "The selected sort by is invalid.")
        if direction not in ("asc", "desc"):
            raise invalid("sort_direction", "The selected sort direction is invalid.")
        return cls(column, direction == "desc", tie_order)

    def key(self, campaign: Campaign) -> tuple[str, ...]:
        match self.tie_order:
            case "stable":
                return str(campaign[self.column]), str(campaign["id"])
            case "unstable":
                return (str(campaign[self.column]),)
            case "sort_ignored":
                return ()

    def is_behind(self, campaign: Campaign, values: tuple[str, ...]) -> bool:
        return self.key(campaign) < values if self.is_descending else self.key(campaign) > values


def encode_cursor(number: int, behind: tuple[str, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps([number, *behind]).encode()).decode().rstrip("=")


def decode_cursor(text: str) -> tuple[int, tuple[str, ...]] | None:
    """Return the page's number and the values that it starts behind; a cursor that cannot be read is no cursor."""
    try:
        number, *behind = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        return None
    return number, tuple(behind)


def whole_number(query: Mapping[str, str], name: str, *, default: int, highest: int | None) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= 1):  # noqa: PLR2004 - fits an int32
        raise invalid(name, f"The {name} must be a whole number of at least 1.")
    if highest is not None and int(text) > highest:
        raise invalid(name, f"The {name} must not be greater than {highest}.")
    return int(text)


def invalid(field: str, message: str) -> Invalid:
    return Invalid(422, {"message": message, "errors": {field: [message]}})
