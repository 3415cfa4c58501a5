"""The snapshot in DynamoDB: 32 items, each written only if nobody else has written it since it was read."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from functions.campaigns.snapshot import PARTS, Campaign, Part, Snapshot, Summary, Unpublished

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_dynamodb import DynamoDBClient

FORMAT: Final = 1
"""Of the items, so that a later version can read what an earlier one wrote."""
LARGEST_PART_BYTES: Final = 390 * 1024
"""DynamoDB takes items of 400 KB, names and the other members included."""


class SnapshotError(Exception):
    """The snapshot could not be read or written; `str()` says what to do and is safe to log."""


class SnapshotTable:
    """The table of one stack.

    Args:
        client: DynamoDB's.
        table: its name.
        writer: an id of this run alone, by which it recognizes its own write after a lost answer.
    """

    def __init__(self, client: DynamoDBClient, table: str, writer: str) -> None:
        self._client = client
        self._table = table
        self._writer = writer

    def read(self) -> Snapshot:
        """Return the snapshot; parts that are missing have version 0.

        Raises:
            SnapshotError: AWS gives no answer, or an item is malformed.
        """
        return Snapshot(tuple(self._read_part(number) for number in range(PARTS)))

    def write(self, before: Snapshot, after: Snapshot) -> Snapshot:
        """Write the parts that differ, in their order, and return the snapshot as stored.

        Raises:
            SnapshotError: somebody else has written, AWS refuses, or a part is too large; earlier parts are written.
        """
        return Snapshot(
            tuple(
                old if new == old else self._write_part(new)
                for old, new in zip(before.parts, after.parts, strict=True)
            )
        )

    def _read_part(self, number: int) -> Part:
        try:
            answer = self._client.get_item(
                TableName=self._table, Key={"part": {"S": f"{number:02}"}}, ConsistentRead=True
            )
        except (ClientError, BotoCoreError) as error:
            raise SnapshotError(f"the snapshot could not be read: {_name_of(error)}") from None
        item = answer.get("Item")
        if item is None:
            return Part(number)
        try:
            return _part_from(number, item)
        except (KeyError, ValueError, TypeError, AttributeError):
            raise SnapshotError(
                f"item {number:02} of the snapshot is malformed: delete it, and the next run begins a new snapshot"
            ) from None

    def _write_part(self, part: Part) -> Part:
        written = replace(part, version=part.version + 1)
        item = {**_item_of(written), "writer": {"S": self._writer}}
        size = len(item["campaigns"]["S"].encode())
        if size > LARGEST_PART_BYTES:
            raise SnapshotError(
                f"part {part.number} has {size} bytes: there are more campaigns than 32 items can hold"
            )
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(#version)"}
        if part.version:
            condition = {
                "ConditionExpression": "#version = :version",
                "ExpressionAttributeValues": {":version": {"N": str(part.version)}},
            }
        try:
            self._client.put_item(
                TableName=self._table,
                Item=item,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                ExpressionAttributeNames={"#version": "version"},
                **condition,
            )
        except ClientError as error:
            # botocore's types do not know the item that this error contains.
            found: Mapping[str, Any] = error.response.get("Item", {})  # type: ignore[assignment]
            if (found.get("writer"), found.get("version")) != (item["writer"], item["version"]):
                raise SnapshotError(f"the snapshot could not be written: {_name_of(error)}") from None
        except BotoCoreError as error:
            raise SnapshotError(f"the snapshot could not be written: {_name_of(error)}") from None
        return written


def _name_of(error: ClientError | BotoCoreError) -> str:
    if not isinstance(error, ClientError):
        return type(error).__name__
    code = str(error.response["Error"]["Code"])
    return "another run has written it meanwhile" if code == "ConditionalCheckFailedException" else code


def _item_of(part: Part) -> dict[str, Any]:
    campaigns = {name: _members_of(campaign) for name, campaign in part.campaigns.items()}
    item = {
        "part": {"S": f"{part.number:02}"},
        "format": {"N": str(FORMAT)},
        "version": {"N": str(part.version)},
        "snapshot_id": {"S": part.snapshot_id},
        "first_revision": {"N": str(part.first_revision)},
        "campaigns": {"S": _json(campaigns)},
    }
    return {**item, "summary": {"S": _json(asdict(part.summary))}} if part.summary else item


def _members_of(campaign: Campaign) -> dict[str, Any]:
    return {name: value for name, value in asdict(campaign).items() if name == "status" or value is not None}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _part_from(number: int, item: Mapping[str, Any]) -> Part:
    summary = item.get("summary")
    return Part(
        number,
        int(item["version"]["N"]),
        item["snapshot_id"]["S"],
        int(item["first_revision"]["N"]),
        {name: _campaign_from(members) for name, members in json.loads(item["campaigns"]["S"]).items()},
        Summary(**json.loads(summary["S"])) if summary else None,
    )


def _campaign_from(members: dict[str, Any]) -> Campaign:
    unpublished = members.pop("unpublished", None)
    return Campaign(**members, unpublished=Unpublished(**unpublished) if unpublished else None)
