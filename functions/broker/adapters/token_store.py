"""The token item in DynamoDB: the shared copy of the token, sealed with KMS, and the fenced right to replace it.

One item per connection holds the token, the refresh lock and the memory of failures, so that one conditional
update suffices for each step::

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

A random owner alone could not fence: A would still hold a right that looks valid. A number that only grows can. The
owner keeps two apart who both made fence 7 because somebody deleted or restored the item in between. Publishing and
giving back remove the owner, so that nobody publishes twice under one fence.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from functions.broker.adapters.aws_calls import ConditionFailedError, call_aws
from functions.broker.adapters.dynamodb import (
    FORMAT,
    number_text,
    plain_token,
    to_attribute,
    token_key,
    token_record,
)
from functions.broker.lifetime import token_id_of
from functions.broker.ports import AwsRefusedError, AwsUnavailableError
from functions.broker.token import SealedToken

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kms import KMSClient

    from functions.broker.token import Failure, Lock, Pace, Token, TokenRecord


class SealBrokenError(Exception):
    """The ciphertext in the item is not one that this key made for this connection, fence, expiry and token id."""


class TokenStore:
    """The token items of all connections.

    Every method raises AwsUnavailableError, AwsBusyError or AwsRefusedError where DynamoDB or KMS does not do its part.

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
        """Return the item as every write before now left it; an empty record where there is none."""
        answer = call_aws(
            lambda: self._dynamodb.get_item(
                TableName=self._table, Key=token_key(connection), ConsistentRead=True
            )
        )
        if "Item" not in answer and _was_longer(answer):
            raise AwsUnavailableError("MalformedAnswer")
        return token_record(connection, answer.get("Item"))

    def acquire_lock(
        self, seen: TokenRecord, *, lock: Lock, pace: Pace, failure: Failure, refresh_at_epoch_s: float
    ) -> TokenRecord | None:
        """Take the right to make one exchange, if fence and lock are still as seen; the fence goes up by one.

        Args:
            seen: the record that the decision was made on. The caller checks that its lock has ended.
            lock: the new one.
            pace: what is left once this exchange is taken from it.
            failure: what is known if nothing follows.
            refresh_at_epoch_s: when a usable token is refreshed if nothing follows; 0 for at once.

        Returns:
            The record as it is now; None if somebody else has written meanwhile.
        """
        expected: dict[str, object] = {}
        if not seen.fence:
            condition = "attribute_not_exists(#fence)"
        elif seen.lock is None:
            condition = "#fence = :seen_fence AND attribute_not_exists(#lock_owner)"
            expected = {"seen_fence": seen.fence}
        else:
            condition = "#fence = :seen_fence AND #lock_until_epoch_s = :seen_until"
            expected = {"seen_fence": seen.fence, "seen_until": seen.lock.until_epoch_s}
        values = {
            "format": FORMAT,
            "fence": seen.fence + 1,
            "generation": seen.generation,
            "lock_owner": lock.owner,
            "lock_until_epoch_s": lock.until_epoch_s,
            "pace": _plain_pace(pace),
            "failure": _plain_failure(failure),
            "refresh_at_epoch_s": refresh_at_epoch_s,
        }
        try:
            return self._update(seen.connection, values, (), condition, expected)
        except ConditionFailedError:
            return None

    def publish(
        self, lock: TokenRecord, token: SealedToken, *, reports: Mapping[str, Sequence[float]], pace: Pace
    ) -> TokenRecord | None:
        """Make the token everybody's and remove lock and failures, if the lock is still ours.

        Args:
            lock: what `acquire_lock` returned.
            token: sealed for that lock's fence.
            reports: that are to be remembered.
            pace: what is left.

        Returns:
            The record as it is now; None if the lock was lost, and the token with it.
        """
        values = {
            "token": {**plain_token(token.token), "sealed": token.sealed, "fence": token.fence},
            "generation": lock.generation + 1,
            "reports": dict(reports),
            "pace": _plain_pace(pace),
        }
        removed = ("failure", "refresh_at_epoch_s", "refused_versions")
        record, is_applied = self._update_as_holder(lock, values, removed)
        # A publish whose answer was lost is repeated, and finds its own work.
        return record if is_applied or record.token == token else None

    def give_back(
        self,
        lock: TokenRecord,
        *,
        failure: Failure | None,
        refresh_at_epoch_s: float,
        refused_versions: Sequence[str],
        pace: Pace,
    ) -> None:
        """Remove the lock without a new token; does nothing if it is no longer ours.

        Args:
            lock: what `acquire_lock` returned.
            failure: what is to be remembered, None for nothing.
            refresh_at_epoch_s: a usable token is not refreshed before this; 0 for at once.
            refused_versions: of the secret, all that are to be remembered.
            pace: what is left.
        """
        values: dict[str, object] = {
            "refresh_at_epoch_s": refresh_at_epoch_s,
            "refused_versions": refused_versions,
            "pace": _plain_pace(pace),
        }
        if failure:
            values["failure"] = _plain_failure(failure)
        self._update_as_holder(lock, values, () if failure else ("failure",))

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
        """Prove that the key seals: what could not be kept is not asked for."""
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

    # --- the conditional write ----------------------------------------------------------------------------------

    def _update_as_holder(
        self, lock: TokenRecord, values: Mapping[str, object], removed: Sequence[str]
    ) -> tuple[TokenRecord, bool]:
        """Update and remove the lock, if it is ours; return the record as it is now, and whether it was."""
        assert lock.lock is not None  # noqa: S101 - from acquire_lock
        expected = {"my_fence": lock.fence, "my_owner": lock.lock.owner}
        try:
            record = self._update(
                lock.connection,
                values,
                (*removed, "lock_owner", "lock_until_epoch_s"),
                "#fence = :my_fence AND #lock_owner = :my_owner",
                expected,
            )
        except ConditionFailedError as refused:
            return token_record(lock.connection, refused.item), False
        return record, True

    def _update(
        self,
        connection: str,
        values: Mapping[str, object],
        removed: Sequence[str],
        condition: str,
        expected: Mapping[str, object],
    ) -> TokenRecord:
        expression = "SET " + ", ".join(f"#{name} = :{name}" for name in values)
        if removed:
            expression += " REMOVE " + ", ".join(f"#{name}" for name in removed)
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
    """Return whether an answer had more to say than `{}`: one that was cut off has no members for the SDK, either."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return int(headers.get("content-length", 0)) > len("{}")


def _plain_failure(failure: Failure) -> dict[str, object]:
    return {
        "code": failure.code,
        "kind": str(failure.kind),
        "count": failure.count,
        "not_before_epoch_s": failure.not_before_epoch_s,
    }


def _plain_pace(pace: Pace) -> dict[str, object]:
    return {"left": pace.left, "since_epoch_s": pace.since_epoch_s}


def _context(connection: str, fence: int, expires_at_epoch_s: float | None) -> dict[str, str]:
    # Appears in clear in CloudTrail.
    expires_at = "none" if expires_at_epoch_s is None else number_text(expires_at_epoch_s)
    return {"connection": connection, "fence": str(fence), "expires_at": expires_at}
