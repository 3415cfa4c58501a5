"""The token item in DynamoDB: the shared copy of the token, sealed with KMS, and the fenced right to replace it.

One item per connection contains the token, the lock and the last failure, so that each step is one conditional
update::

    instance A                        item                              instance B
      | lock (fence = 6, free)          | fence 6                           |
      |-------------------------------->| fence 7, A's until t + 14.5       |
      |                                 |<-------- lock (fence = 6) --------|  refused: B waits
      | exchanges at the upstream       |                                   |
      | publish if fence 7 is A's       |                                   |
      |-------------------------------->| token of fence 7, lock removed    |
      |                                 |<-------- read --------------------|  B serves A's token

    and when A is cut off in the middle:
      |-- x                             | fence 7, A's until t + 14.5       |
                                        |<-------- lock after t + 14.5 -----|  fence 8, B's: B exchanges
      | publish if fence 7 is A's       |                                   |
      |-------------------------------->| refused: A's token serves A's caller only; its row in the ledger says
                                        | what is to be revoked

The fence only grows, so a lock that was taken later is recognized. The owner is also compared: two attempts can have
the same fence if somebody deleted or restored the item in between. Publishing and giving back remove the owner, so that
nobody publishes twice under one fence. Locking, publishing and giving back are all the one conditional write below;
what each makes of the record is in `attempt.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from functions.broker.adapters.aws_calls import ConditionFailedError, call_aws
from functions.broker.adapters.dynamodb import plain_record, token_key, token_record
from functions.broker.ports import AwsRefusedError, AwsUnavailableError
from functions.broker.token import SealedToken
from token_broker.dynamodb_attributes import number_text, to_attribute
from token_broker.issued_token import token_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kms import KMSClient

    from functions.broker.token import TokenRecord
    from token_broker.issued_token import Token


class SealBrokenError(Exception):
    """The ciphertext in the item is not one that this key made for this connection, fence, expiry and token id."""


class TokenStore:
    """The token items of all connections.

    Every method raises AwsUnavailableError, AwsBusyError or AwsRefusedError where a call to DynamoDB or KMS fails.

    Args:
        dynamodb: a client with short time-outs that repeats nothing.
        kms: the same.
        table: name of the table.
        key_arn: KMS key that seals.
    """

    def __init__(self, dynamodb: DynamoDBClient, kms: KMSClient, *, table: str, key_arn: str) -> None:
        self._dynamodb = dynamodb
        self._kms = kms
        self._table = table
        self._key_arn = key_arn

    def read(self, connection: str) -> TokenRecord:
        """Return the item by a consistent read; an empty record where there is none."""
        answer = call_aws(
            lambda: self._dynamodb.get_item(
                TableName=self._table, Key=token_key(connection), ConsistentRead=True
            )
        )
        if "Item" not in answer and _was_longer(answer):
            raise AwsUnavailableError("MalformedAnswer")
        return token_record(connection, answer.get("Item"))

    def write(self, before: TokenRecord, after: TokenRecord) -> TokenRecord | None:
        """Replace a record by another, if fence and lock are still `before`'s; only what differs is written.

        Args:
            before: as `read` or `write` returned it. The caller has checked whether its lock has ended.
            after: with another fence or lock, so that nobody writes twice.

        Returns:
            The record as it is now; None if somebody else has written meanwhile.
        """
        old, new = plain_record(before), plain_record(after)
        changed = {name: value for name, value in new.items() if value != old.get(name)}
        removed = old.keys() - new.keys()
        expected: dict[str, object] = {"seen_fence": before.fence} if before.fence else {}
        condition = "#fence = :seen_fence" if before.fence else "attribute_not_exists(#fence)"
        if before.lock:
            condition += " AND #lock_owner = :seen_owner"
            expected["seen_owner"] = before.lock.owner
        else:
            condition += " AND attribute_not_exists(#lock_owner)"
        try:
            return self._update(before.connection, changed, sorted(removed), condition, expected)
        except ConditionFailedError as refused:
            there = token_record(before.connection, refused.item)
        # A publish that is repeated after a lost answer finds its own write.
        return there if before.token != there.token == after.token else None

    # --- sealing ------------------------------------------------------------------------------------------------

    def seal(self, connection: str, fence: int, token: Token, access_token: str) -> SealedToken:
        """Encrypt a token so that it opens only for this connection, fence and expiry."""
        sealed = call_aws(
            lambda: self._kms.encrypt(
                KeyId=self._key_arn,
                Plaintext=access_token.encode(),
                EncryptionContext=_context(connection, fence, token.expires_at_epoch_s),
            )["CiphertextBlob"]
        )
        return SealedToken(token, sealed, fence)

    def probe_key(self, connection: str) -> None:
        """Prove that the key seals: a token that could not be stored is not requested."""
        call_aws(
            lambda: self._kms.encrypt(
                KeyId=self._key_arn, Plaintext=b"probe", EncryptionContext=_context(connection, 0, None)
            )["CiphertextBlob"]
        )

    def open(self, connection: str, sealed: SealedToken) -> str:
        """Decrypt the token of an item.

        Raises:
            SealBrokenError: the ciphertext was not made for this connection, fence and expiry, or for another token.
                (A key that is disabled, denied or unavailable says nothing about the token: an AwsError.)
        """
        try:
            plaintext = call_aws(
                lambda: self._kms.decrypt(
                    KeyId=self._key_arn,
                    CiphertextBlob=sealed.sealed,
                    EncryptionContext=_context(connection, sealed.fence, sealed.token.expires_at_epoch_s),
                )["Plaintext"]
            )
        except AwsRefusedError as error:
            if str(error) in {"InvalidCiphertextException", "IncorrectKeyException"}:
                raise SealBrokenError from None
            raise
        access_token = plaintext.decode(errors="replace")
        if token_id_of(access_token) != sealed.token.token_id:
            raise SealBrokenError
        return access_token

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _update(
        self,
        connection: str,
        values: Mapping[str, object],
        removed: Sequence[str],
        condition: str,
        expected: Mapping[str, object],
    ) -> TokenRecord:
        expression = f"SET {', '.join(f'#{name} = :{name}' for name in values)}" if values else ""
        expression += f" REMOVE {', '.join(f'#{name}' for name in removed)}" if removed else ""
        attributes = call_aws(
            lambda: self._dynamodb.update_item(
                TableName=self._table,
                Key=token_key(connection),
                UpdateExpression=expression,
                ConditionExpression=condition,
                ExpressionAttributeNames={
                    name: name[1:] for name in re.findall(r"#\w+", f"{expression} {condition}")
                },
                ExpressionAttributeValues={
                    f":{name}": to_attribute(value) for name, value in {**values, **expected}.items()
                },
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )["Attributes"]
        )
        return token_record(connection, attributes)


def _was_longer(answer: Mapping[str, Any]) -> bool:
    """Return whether an answer was longer than `{}`; the SDK reads an answer that was cut off as `{}`, too."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return int(headers.get("content-length", 0)) > len("{}")


def _context(connection: str, fence: int, expires_at_epoch_s: float | None) -> dict[str, str]:
    # CloudTrail shows this in clear.
    expires_at = "none" if expires_at_epoch_s is None else number_text(expires_at_epoch_s)
    return {"connection": connection, "fence": str(fence), "expires_at": expires_at}
