"""The token item in DynamoDB: the shared copy of the token, sealed with KMS, and the fenced right to replace it.

One item per connection holds the token, the refresh lock and the memory of failures, so that one conditional
update suffices for each step::

    instance A                        item                              instance B
      | acquire (fence = 6, lock free)  | fence 6                           |
      |-------------------------------->| fence 7, locked until t+20        |
      |                                 |<-------- acquire (fence = 6) -----|  refused: B learns of fence 7, waits
      | mints at the upstream           |                                   |
      | publish if fence is still 7     |                                   |
      |-------------------------------->| token of fence 7, lock free       |
      |                                 |<-------- read --------------------|  B serves A's token

    and when A is cut off in the middle:
      |-- x                             | fence 7, locked until t+20        |
                                        |<-------- acquire after t+20 ------|  fence 8: B mints
      | publish if fence is still 7     |                                   |
      |-------------------------------->| refused: A serves what B publishes, its own token goes into the ledger

A random id could not fence: A would still hold a right that looks valid. A number that only grows can.
The item has no time to live: if it were deleted, fences would start again below one that is still in use.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from functions.broker.token_record import (
    ConditionFailedError,
    StoreUnavailableError,
    call_store,
    to_attribute,
    token_key,
    token_record,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kms import KMSClient

    from functions.broker.token_record import Failure, PublishedToken, TokenRecord


class SealBrokenError(Exception):
    """The ciphertext in the item is not one that this key made for this connection and fence."""


class TokenStore:
    """The token items of all connections.

    Args:
        dynamodb: a client with short time-outs and few attempts.
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
        """Return the item as every write before now left it; an empty record where there is none.

        Raises:
            StoreUnavailableError: DynamoDB is away.
        """
        answer = call_store(
            lambda: self._dynamodb.get_item(
                TableName=self._table, Key=token_key(connection), ConsistentRead=True
            )
        )
        return token_record(connection, answer.get("Item"))

    def acquire_lock(
        self, seen: TokenRecord, *, owner: str, lock_until_epoch_s: float, day: str
    ) -> tuple[bool, TokenRecord]:
        """Take the right to mint, provided that nobody has written since `seen` was read.

        The fence and the day's count of mints go up by one. The caller checks that the lock in `seen` has ended.

        Args:
            seen: the record that the decision was made on.
            owner: unique to this attempt, so that a retry of the SDK recognises its own write.
            lock_until_epoch_s: when the right lapses by itself.
            day: today in UTC, YYYY-MM-DD.

        Returns:
            Whether the lock is ours, and the record as it is now.

        Raises:
            StoreUnavailableError: DynamoDB is away.
        """
        if seen.fence:
            condition = "#fence = :seen_fence AND #lock_until_epoch_s = :seen_lock_until"
            expected = {":seen_fence": seen.fence, ":seen_lock_until": seen.lock_until_epoch_s}
        else:
            condition, expected = "attribute_not_exists(#fence)", {}
        fence = seen.fence + 1
        applied, record = self._write(
            seen.connection,
            values={
                "fence": fence,
                "lock_owner": owner,
                "lock_until_epoch_s": lock_until_epoch_s,
                "mints_day": day,
                "mints_today": seen.mints_on(day) + 1,
            },
            condition=condition,
            expected=expected,
        )
        return applied or (record.fence == fence and record.lock_owner == owner), record

    def publish(
        self,
        lock: TokenRecord,
        token: PublishedToken,
        *,
        next_refresh_at_epoch_s: float,
        rejections: Mapping[str, Sequence[float]],
    ) -> tuple[bool, TokenRecord]:
        """Make the token everybody's and give the lock back, provided that the lock's fence is still the newest.

        Returns:
            Whether it was published, and the record as it is now (the winner's where it was not).

        Raises:
            StoreUnavailableError: DynamoDB is away.
        """
        values: dict[str, object] = {
            "token_id": token.token_id,
            "sealed": token.sealed,
            "token_fence": token.fence,
            "generation": token.generation,
            "issued_at_epoch_s": token.issued_at_epoch_s,
            "lifetime_s": token.lifetime_s,
            "secret_version": token.secret_version,
            "lock_until_epoch_s": 0,
            "next_refresh_at_epoch_s": next_refresh_at_epoch_s,
            "next_attempt_at_epoch_s": 0,
            "rejections": rejections,
        }
        removed = ["failure"]
        for name, value in (("expires_at_epoch_s", token.expires_at_epoch_s), ("scope", token.scope)):
            if value is None:
                removed.append(name)
            else:
                values[name] = value
        applied, record = self._write_as_holder(lock, values, removed)
        mine = record.token is not None and record.token.token_id == token.token_id
        return applied or (mine and record.fence == lock.fence), record

    def give_back(
        self,
        lock: TokenRecord,
        *,
        failure: Failure | None,
        next_attempt_at_epoch_s: float,
        next_refresh_at_epoch_s: float,
        minted: bool,
    ) -> TokenRecord:
        """Give the lock back without a new token; does nothing if somebody else has taken over meanwhile.

        Args:
            lock: what `acquire_lock` returned.
            failure: what to remember, or None if nothing went wrong (an undated token that is still the same).
            next_attempt_at_epoch_s: nobody asks the upstream before this.
            next_refresh_at_epoch_s: nobody refreshes ahead before this.
            minted: whether a token may have come into being; if not, the day's count goes back by one.

        Raises:
            StoreUnavailableError: DynamoDB is away.
        """
        values: dict[str, object] = {
            "lock_until_epoch_s": 0,
            "next_attempt_at_epoch_s": next_attempt_at_epoch_s,
            "next_refresh_at_epoch_s": next_refresh_at_epoch_s,
        }
        if not minted:
            values["mints_today"] = lock.mints_today - 1
        if failure:
            values["failure"] = {
                "code": failure.code,
                "terminal": int(failure.terminal),
                "secret_version": failure.secret_version,
                "count": failure.count,
                "at_epoch_s": failure.at_epoch_s,
            }
        _, record = self._write_as_holder(lock, values, [] if failure else ["failure"])
        return record

    # --- sealing ------------------------------------------------------------------------------------------------

    def seal(self, connection: str, fence: int, access_token: str) -> bytes:
        """Encrypt a token so that it opens only for this connection and fence.

        Raises:
            StoreUnavailableError: KMS is away.
        """
        return call_store(
            lambda: self._kms.encrypt(
                KeyId=self._key_arn,
                Plaintext=access_token.encode(),
                EncryptionContext=_context(connection, fence),
            )["CiphertextBlob"]
        )

    def open(self, connection: str, token: PublishedToken) -> str:
        """Decrypt the token of an item.

        Raises:
            SealBrokenError: the ciphertext was not made for this connection and fence.
            StoreUnavailableError: KMS is away.
        """
        try:
            plaintext = call_store(
                lambda: self._kms.decrypt(
                    KeyId=self._key_arn,
                    CiphertextBlob=token.sealed,
                    EncryptionContext=_context(connection, token.fence),
                )["Plaintext"]
            )
        except StoreUnavailableError as error:
            if str(error) in {"InvalidCiphertextException", "IncorrectKeyException"}:
                raise SealBrokenError from None
            raise
        return plaintext.decode()

    # --- the conditional write ----------------------------------------------------------------------------------

    def _write_as_holder(
        self, lock: TokenRecord, values: Mapping[str, object], removed: Sequence[str]
    ) -> tuple[bool, TokenRecord]:
        # The second half keeps one fence from publishing twice, whoever repeats the call.
        return self._write(
            lock.connection,
            values=values,
            removed=removed,
            condition="#fence = :mine AND (attribute_not_exists(#token_fence) OR #token_fence < :mine)",
            expected={":mine": lock.fence},
        )

    def _write(
        self,
        connection: str,
        *,
        values: Mapping[str, object],
        condition: str,
        expected: Mapping[str, object],
        removed: Sequence[str] = (),
    ) -> tuple[bool, TokenRecord]:
        """Update under a condition: (True, the new record), or (False, the record that stood in the way)."""
        expression = "SET " + ", ".join(f"#{name} = :{name}" for name in values)
        if removed:
            expression += " REMOVE " + ", ".join(f"#{name}" for name in removed)
        try:
            attributes = call_store(
                lambda: self._dynamodb.update_item(
                    TableName=self._table,
                    Key=token_key(connection),
                    UpdateExpression=expression,
                    ConditionExpression=condition,
                    ExpressionAttributeNames={
                        name: name[1:] for name in re.findall(r"#\w+", f"{expression} {condition}")
                    },
                    ExpressionAttributeValues={
                        **{f":{name}": to_attribute(value) for name, value in values.items()},
                        **{name: to_attribute(value) for name, value in expected.items()},
                    },
                    ReturnValues="ALL_NEW",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )["Attributes"]
            )
        except ConditionFailedError as refused:
            return False, token_record(connection, refused.item)
        return True, token_record(connection, attributes)


def _context(connection: str, fence: int) -> dict[str, str]:
    # Appears in clear in CloudTrail.
    return {"connection": connection, "fence": str(fence)}
