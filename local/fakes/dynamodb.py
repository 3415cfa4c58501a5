"""In-memory DynamoDB in the shape of botocore's client, as far as it is used; see `aws.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local.fakes.expressions import Placeholders, holds, updated
from local.fakes.wire import Wire, aws_error, refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from local.fakes.expressions import Attribute, Item

_NUMBER = re.compile(r"-?\d{1,38}(\.\d{1,38})?")
_LARGEST_ITEM_BYTES = 400 * 1_024


class FakeDynamoDB:
    """One table whose keys are strings.

    Attributes:
        items: the table's items, by their keys' values: for tests to read, and to prepare.
        page_items: how many items a page of a query has; few, so that a caller that reads one page only is found.
    """

    def __init__(
        self,
        wire: Wire | None = None,
        *,
        table: str = "tokens",
        keys: tuple[str, ...] = ("connection", "record"),
        page_items: int = 3,
    ) -> None:
        self._wire = wire or Wire()
        self._table = table
        self._keys = keys
        self.page_items = page_items
        self.items: dict[tuple[str, ...], dict[str, Attribute]] = {}
        self._before: dict[tuple[str, ...], dict[str, Attribute] | None] = {}

    def get_item(self, **request: Any) -> dict[str, Any]:
        refuse_unknown(request, "TableName Key ConsistentRead")

        def take_effect() -> dict[str, Any]:
            key = self._key(request)
            is_consistent = request.get("ConsistentRead", False)
            item = (self.items if is_consistent else {**self.items, **self._before}).get(key)
            return {} if item is None else {"Item": dict(item)}

        return self._wire.run("dynamodb.get_item", request, take_effect)

    def put_item(self, **request: Any) -> dict[str, Any]:
        refuse_unknown(request, f"TableName Item {_CONDITION} {_PLACEHOLDERS}")

        def take_effect() -> dict[str, Any]:
            item = request["Item"]
            key = self._key({**request, "Key": {name: item.get(name) for name in self._keys}})
            self._check_condition("PutItem", request, self.items.get(key))
            self._write(key, item)
            return {}

        return self._wire.run("dynamodb.put_item", request, take_effect)

    def update_item(self, **request: Any) -> dict[str, Any]:
        refuse_unknown(request, f"TableName Key UpdateExpression ReturnValues {_CONDITION} {_PLACEHOLDERS}")

        def take_effect() -> dict[str, Any]:
            key = self._key(request)
            before = self.items.get(key)
            placeholders = self._check_condition("UpdateItem", request, before)
            after = updated(request["UpdateExpression"], before or request["Key"], placeholders)
            if any(after.get(name) != request["Key"][name] for name in self._keys):
                raise aws_error("ValidationException", "UpdateItem")
            self._write(key, after)
            return {"Attributes": dict(self.items[key])} if request.get("ReturnValues") == "ALL_NEW" else {}

        return self._wire.run("dynamodb.update_item", request, take_effect)

    def get_paginator(self, operation: str) -> _QueryPaginator:
        if operation != "query":
            raise NotImplementedError(operation)
        return _QueryPaginator(self)

    def query(self, **request: Any) -> dict[str, Any]:
        refuse_unknown(
            request, f"TableName KeyConditionExpression ConsistentRead ExclusiveStartKey {_PLACEHOLDERS}"
        )

        def take_effect() -> dict[str, Any]:
            self._check_table(request)
            condition, placeholders = request["KeyConditionExpression"], _placeholders(request)
            placeholders.check(condition)
            found = [
                self.items[key]
                for key in sorted(self.items, key=lambda key: [part.encode() for part in key])
                if holds(condition, self.items[key], placeholders)
            ]
            if start := request.get("ExclusiveStartKey"):
                found = [
                    item for item in found if item["record"]["S"].encode() > start["record"]["S"].encode()
                ]
            page = found[: self.page_items]
            answer: dict[str, Any] = {"Items": [dict(item) for item in page], "Count": len(page)}
            if len(found) > len(page):
                answer["LastEvaluatedKey"] = {name: page[-1][name] for name in self._keys}
            return answer

        return self._wire.run("dynamodb.query", request, take_effect)

    def _write(self, key: tuple[str, ...], item: Item) -> None:
        # A read that is not consistent may still return the item as it was before.
        self._before[key], self.items[key] = self.items.get(key), _stored(item)

    def _check_condition(self, operation: str, request: Mapping[str, Any], item: Item | None) -> Placeholders:
        placeholders, condition = _placeholders(request), request.get("ConditionExpression", "")
        placeholders.check(condition, request.get("UpdateExpression", ""))
        if condition and not holds(condition, item or {}, placeholders):
            wants_item = request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
            members = {"Item": dict(item)} if wants_item and item is not None else {}
            raise aws_error("ConditionalCheckFailedException", operation, **members)
        return placeholders

    def _key(self, request: Mapping[str, Any]) -> tuple[str, ...]:
        self._check_table(request)
        key = request["Key"]
        texts = [(key.get(name) or {}).get("S", "") for name in self._keys]
        if set(key) != set(self._keys) or not all(texts):
            raise aws_error("ValidationException")
        return tuple(texts)

    def _check_table(self, request: Mapping[str, Any]) -> None:
        if request["TableName"] != self._table:
            raise aws_error("ResourceNotFoundException")


_CONDITION = "ConditionExpression ReturnValuesOnConditionCheckFailure"
_PLACEHOLDERS = "ExpressionAttributeNames ExpressionAttributeValues"


@dataclass(frozen=True, slots=True)
class _QueryPaginator:
    dynamodb: FakeDynamoDB

    def paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
        while True:
            page = self.dynamodb.query(**request)
            yield page
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def _placeholders(request: Mapping[str, Any]) -> Placeholders:
    return Placeholders(
        request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
    )


def _stored(item: Item) -> dict[str, Attribute]:
    """Return the item as DynamoDB gives it back: a copy, numbers without needless zeros."""
    copied = {name: _stored_attribute(value) for name, value in item.items()}
    if len(repr(copied)) > _LARGEST_ITEM_BYTES:
        raise aws_error("ValidationException")
    return copied


def _stored_attribute(value: Attribute) -> Attribute:
    ((kind, content),) = value.items()
    match kind:
        case "N":
            if not _NUMBER.fullmatch(content):
                raise aws_error("ValidationException")
            number = format(Decimal(content), "f")
            return {"N": number.rstrip("0").rstrip(".") if "." in number else number}
        case "M":
            return {"M": {name: _stored_attribute(member) for name, member in content.items()}}
        case "L":
            return {"L": [_stored_attribute(member) for member in content]}
        case "S" | "B":
            return {kind: content}
    raise NotImplementedError(kind)
