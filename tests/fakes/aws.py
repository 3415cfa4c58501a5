"""In-memory DynamoDB, KMS, Secrets Manager and EventBridge in the shape of botocore's clients, as far as they are used.

They stand under the real adapters (TokenStore, SnapshotTable ...) where moto would be too slow (tens of thousands
of calls a second instead of hundreds). `test_fakes.py` holds them and moto to the same promises. What they do not know they refuse.
The upstream's stand-in is in `upstream.py`, the hooks for faults in `wire.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.fakes.expressions import Placeholders, holds, updated
from tests.fakes.wire import Wire, aws_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.fakes.expressions import Attribute, Item

_NUMBER = re.compile(r"-?\d{1,38}(\.\d{1,38})?")
_LONGEST_PLAINTEXT_BYTES = 4_096
_LARGEST_ITEM_BYTES = 400 * 1_024
_LARGEST_EVENT_BYTES = 256 * 1_024


class FakeDynamoDB:
    """One table whose keys are strings.

    Attributes:
        items: what the table holds, by its keys' values: to look at, and to prepare.
        page_items: how many items a page of a query has; few, so that nobody forgets to turn the page.
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
        _refuse_unknown(request, "TableName Key ConsistentRead")

        def take_effect() -> dict[str, Any]:
            key = self._key(request)
            is_consistent = request.get("ConsistentRead", False)
            item = (self.items if is_consistent else {**self.items, **self._before}).get(key)
            return {} if item is None else {"Item": dict(item)}

        return self._wire.run("dynamodb.get_item", request, take_effect)

    def put_item(self, **request: Any) -> dict[str, Any]:
        _refuse_unknown(request, f"TableName Item {_CONDITION} {_PLACEHOLDERS}")

        def take_effect() -> dict[str, Any]:
            item = request["Item"]
            key = self._key({**request, "Key": {name: item.get(name) for name in self._keys}})
            self._check_condition("PutItem", request, self.items.get(key))
            self._write(key, item)
            return {}

        return self._wire.run("dynamodb.put_item", request, take_effect)

    def update_item(self, **request: Any) -> dict[str, Any]:
        _refuse_unknown(request, f"TableName Key UpdateExpression ReturnValues {_CONDITION} {_PLACEHOLDERS}")

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
        _refuse_unknown(
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
        # What a read that does not ask for consistency may still be given: the item as it was before.
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


class FakeKMS:
    """Symmetric keys; a ciphertext opens only with its key and its encryption context, and shows nothing inside."""

    def __init__(
        self, wire: Wire | None = None, *, key_arn: str = "arn:aws:kms:x:000000000000:key/a"
    ) -> None:
        self._wire = wire or Wire()
        self._key_arn = key_arn
        self._nonces = itertools.count(1)

    def encrypt(self, **request: Any) -> dict[str, Any]:
        _refuse_unknown(request, "KeyId Plaintext EncryptionContext")

        def take_effect() -> dict[str, Any]:
            plaintext: bytes = request["Plaintext"]
            if request["KeyId"] != self._key_arn:
                raise aws_error("NotFoundException", "Encrypt")
            if not 1 <= len(plaintext) <= _LONGEST_PLAINTEXT_BYTES:
                raise aws_error("ValidationException", "Encrypt")
            nonce = next(self._nonces).to_bytes(8, "big")
            tag = self._tag(nonce, request, plaintext)
            return {"CiphertextBlob": nonce + tag + self._mask(nonce, plaintext), "KeyId": self._key_arn}

        return self._wire.run("kms.encrypt", request, take_effect)

    def decrypt(self, **request: Any) -> dict[str, Any]:
        _refuse_unknown(request, "KeyId CiphertextBlob EncryptionContext")

        def take_effect() -> dict[str, Any]:
            sealed: bytes = request["CiphertextBlob"]
            nonce, tag = sealed[:8], sealed[8:24]
            plaintext = self._mask(nonce, sealed[24:])
            if request.get("KeyId", self._key_arn) != self._key_arn:
                raise aws_error("IncorrectKeyException", "Decrypt")
            if not hmac.compare_digest(tag, self._tag(nonce, request, plaintext)):
                raise aws_error("InvalidCiphertextException", "Decrypt")
            return {"Plaintext": plaintext, "KeyId": self._key_arn}

        return self._wire.run("kms.decrypt", request, take_effect)

    def _tag(self, nonce: bytes, request: Mapping[str, Any], plaintext: bytes) -> bytes:
        context = json.dumps(request.get("EncryptionContext", {}), sort_keys=True)
        return hmac.digest(self._key_arn.encode(), nonce + context.encode() + b"\0" + plaintext, "sha256")[
            :16
        ]

    def _mask(self, nonce: bytes, text: bytes) -> bytes:
        stream = hashlib.shake_128(self._key_arn.encode() + nonce).digest(len(text))
        return bytes(a ^ b for a, b in zip(text, stream, strict=True))


@dataclass(slots=True)
class _Secret:
    versions: dict[str, str | bytes]
    stages: dict[str, str]
    deleted: bool = False


class FakeSecretsManager:
    """Secrets with their versions; `put`, `delete` and `drop_previous` are what an operator does."""

    def __init__(self, wire: Wire | None = None) -> None:
        self._wire = wire or Wire()
        self._secrets: dict[str, _Secret] = {}
        self._numbers = itertools.count(1)

    def put(self, name: str, value: object) -> str:
        """Create the secret, or rotate it: the value (text, bytes, or what JSON can hold) becomes AWSCURRENT, the one before AWSPREVIOUS.

        Returns:
            The new VersionId.
        """
        secret = self._secrets.setdefault(name, _Secret({}, {}))
        version_id = f"00000000-0000-4000-8000-{next(self._numbers):012d}"
        if "AWSCURRENT" in secret.stages:
            secret.stages["AWSPREVIOUS"] = secret.stages["AWSCURRENT"]
        secret.stages["AWSCURRENT"] = version_id
        secret.versions[version_id] = value if isinstance(value, str | bytes) else json.dumps(value)
        secret.deleted = False
        return version_id

    def delete(self, name: str) -> None:
        """Mark the secret for deletion: from now on it cannot be read."""
        self._secrets[name].deleted = True

    def get_secret_value(self, **request: Any) -> dict[str, Any]:
        _refuse_unknown(request, "SecretId VersionStage")

        def take_effect() -> dict[str, Any]:
            secret = self._secrets.get(request["SecretId"])
            if secret is None:
                raise aws_error("ResourceNotFoundException", "GetSecretValue")
            if secret.deleted:
                raise aws_error("InvalidRequestException", "GetSecretValue")
            version_id = secret.stages.get(request.get("VersionStage", "AWSCURRENT"))
            if version_id is None:
                raise aws_error("ResourceNotFoundException", "GetSecretValue")
            value = secret.versions[version_id]
            return {
                "VersionId": version_id,
                "SecretBinary" if isinstance(value, bytes) else "SecretString": value,
            }

        return self._wire.run("secretsmanager.get_secret_value", request, take_effect)


def _placeholders(request: Mapping[str, Any]) -> Placeholders:
    return Placeholders(
        request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
    )


def _refuse_unknown(request: Mapping[str, Any], known: str) -> None:
    if unknown := set(request) - set(known.split()):
        raise NotImplementedError(", ".join(sorted(unknown)))


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


class FakeEventBridge:
    """Buses that take events, and drop them without a word where there is no such bus.

    Attributes:
        buses: the names of those that are there.
        events: every entry that was taken, in its order.
    """

    def __init__(self, wire: Wire | None = None) -> None:
        self._wire = wire or Wire()
        self.buses = {"default"}
        self.events: list[dict[str, str]] = []
        self.refuse: Callable[[], str] = lambda: ""

    def describe_event_bus(self, **request: Any) -> dict[str, Any]:
        _refuse_unknown(request, "Name")

        def take_effect() -> dict[str, Any]:
            if request["Name"] not in self.buses:
                raise aws_error("ResourceNotFoundException", "DescribeEventBus")
            return {"Name": request["Name"]}

        return self._wire.run("events.describe_event_bus", request, take_effect)

    def put_events(self, **request: Any) -> dict[str, Any]:
        _refuse_unknown(request, "Entries")

        def take_effect() -> dict[str, Any]:
            results = [self._result(entry) for entry in request["Entries"]]
            return {"Entries": results, "FailedEntryCount": sum("ErrorCode" in each for each in results)}

        return self._wire.run("events.put_events", request, take_effect)

    def _result(self, entry: dict[str, str]) -> dict[str, str]:
        _refuse_unknown(entry, "EventBusName Source DetailType Detail")
        if len("".join(entry.values()).encode()) > _LARGEST_EVENT_BYTES:
            raise aws_error("ValidationException", "PutEvents")
        if code := self.refuse():
            return {"ErrorCode": code, "ErrorMessage": code}
        if entry["EventBusName"] in self.buses:
            self.events.append(entry)
        return {"EventId": f"event-{len(self.events)}"}
