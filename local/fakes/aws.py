"""In-memory KMS, Secrets Manager and EventBridge in the shape of botocore's clients, as far as they are used.

The real adapters (TokenStore, SnapshotTable ...) use them and the DynamoDB of `dynamodb.py` where moto would be too slow
(hundreds of calls a second instead of tens of thousands). tests/fakes runs the same tests on them and on moto. They
refuse what they do not know. The upstream's fake is in `upstream.py`, the hooks for faults in `wire.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local.fakes.wire import Wire, aws_error, refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_PLAINTEXT_BYTES = 4_096
_LARGEST_EVENT_BYTES = 256 * 1_024


class FakeKMS:
    """One symmetric key; a ciphertext opens only with its encryption context, and does not contain its plaintext."""

    def __init__(
        self, wire: Wire | None = None, *, key_arn: str = "arn:aws:kms:x:000000000000:key/a"
    ) -> None:
        self._wire = wire or Wire()
        self._key_arn = key_arn
        self._numbers = itertools.count(1)

    def encrypt(self, **request: Any) -> dict[str, Any]:
        refuse_unknown(request, "KeyId Plaintext EncryptionContext")

        def take_effect() -> dict[str, Any]:
            plaintext: bytes = request["Plaintext"]
            if request["KeyId"] != self._key_arn:
                raise aws_error("NotFoundException", "Encrypt")
            if not 1 <= len(plaintext) <= _LONGEST_PLAINTEXT_BYTES:
                raise aws_error("ValidationException", "Encrypt")
            content = [next(self._numbers), plaintext.hex(), request.get("EncryptionContext", {})]
            return {"CiphertextBlob": json.dumps(content).encode().hex().encode(), "KeyId": self._key_arn}

        return self._wire.run("kms.encrypt", request, take_effect)

    def decrypt(self, **request: Any) -> dict[str, Any]:
        refuse_unknown(request, "KeyId CiphertextBlob EncryptionContext")

        def take_effect() -> dict[str, Any]:
            if request.get("KeyId", self._key_arn) != self._key_arn:
                raise aws_error("IncorrectKeyException", "Decrypt")
            with contextlib.suppress(ValueError):
                _, plaintext, context = json.loads(bytes.fromhex(request["CiphertextBlob"].decode()))
                if context == request.get("EncryptionContext", {}):
                    return {"Plaintext": bytes.fromhex(plaintext), "KeyId": self._key_arn}
            raise aws_error("InvalidCiphertextException", "Decrypt")

        return self._wire.run("kms.decrypt", request, take_effect)


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
        """Create or rotate the secret with a value (text, bytes, or a JSON value); return the new VersionId.

        The value becomes AWSCURRENT, the one before AWSPREVIOUS.
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
        refuse_unknown(request, "SecretId VersionStage")

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


class FakeEventBridge:
    """Buses that take events; events for a bus that does not exist are dropped silently, as on AWS.

    Attributes:
        buses: the names of those that exist.
        events: every entry that was taken, in order.
    """

    def __init__(self, wire: Wire | None = None) -> None:
        self._wire = wire or Wire()
        self.buses = {"default"}
        self.events: list[dict[str, str]] = []
        self.refuse: Callable[[], str] = lambda: ""

    def describe_event_bus(self, **request: Any) -> dict[str, Any]:
        refuse_unknown(request, "Name")

        def take_effect() -> dict[str, Any]:
            if request["Name"] not in self.buses:
                raise aws_error("ResourceNotFoundException", "DescribeEventBus")
            return {"Name": request["Name"]}

        return self._wire.run("events.describe_event_bus", request, take_effect)

    def put_events(self, **request: Any) -> dict[str, Any]:
        refuse_unknown(request, "Entries")

        def take_effect() -> dict[str, Any]:
            results = [self._result(entry) for entry in request["Entries"]]
            return {"Entries": results, "FailedEntryCount": sum("ErrorCode" in each for each in results)}

        return self._wire.run("events.put_events", request, take_effect)

    def _result(self, entry: dict[str, str]) -> dict[str, str]:
        refuse_unknown(entry, "EventBusName Source DetailType Detail")
        if len("".join(entry.values()).encode()) > _LARGEST_EVENT_BYTES:
            raise aws_error("ValidationException", "PutEvents")
        if code := self.refuse():
            return {"ErrorCode": code, "ErrorMessage": code}
        if entry["EventBusName"] in self.buses:
            self.events.append(entry)
        return {"EventId": f"event-{len(self.events)}"}
