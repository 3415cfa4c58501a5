"""`Campaigns Changed` on an EventBridge bus: every event is checked against its schema before it is sent."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import fastjsonschema
from botocore.exceptions import BotoCoreError, ClientError

from functions.campaigns.publish import EventsUnsent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_events import EventBridgeClient

SOURCE: Final = "token-broker.campaigns"
DETAIL_TYPE: Final = "Campaigns Changed"
SCHEMA_FILE: Final = Path(__file__).parent.parent / "campaigns-changed.schema.json"


class EventBus:
    """One bus.

    Args:
        client: EventBridge's.
        name: the bus; `default` is every account's own.
    """

    def __init__(self, client: EventBridgeClient, name: str) -> None:
        self._client = client
        self._name = name
        self._is_known_to_exist = False

    def put(self, detail: Mapping[str, object]) -> str:
        """Send one event; return the code with which EventBridge has refused this one, "" if it has not.

        Raises:
            EventsUnsent: the bus does not exist, refuses all events, or does not answer.
            ValueError: the event does not match its own schema: a bug.
        """
        _check(detail)
        try:
            self._check_that_it_exists()
            answer = self._client.put_events(
                Entries=[
                    {
                        "EventBusName": self._name,
                        "Source": SOURCE,
                        "DetailType": DETAIL_TYPE,
                        "Detail": json.dumps(detail, separators=(",", ":"), ensure_ascii=False),
                    }
                ]
            )
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            is_missing = code == "ResourceNotFoundException"
            raise EventsUnsent(f"there is no event bus {self._name}" if is_missing else code) from None
        except BotoCoreError as error:
            raise EventsUnsent(type(error).__name__) from None
        # The call succeeds even if its entry fails.
        (entry,) = answer["Entries"]
        return "" if entry.get("EventId") else str(entry.get("ErrorCode", "NoEventId"))

    def _check_that_it_exists(self) -> None:
        # EventBridge accepts events for a bus that does not exist, and drops them.
        if not self._is_known_to_exist:
            self._client.describe_event_bus(Name=self._name)
            self._is_known_to_exist = True


def _check(detail: Mapping[str, object]) -> None:
    problem = ""
    try:
        _validator()(detail)
    except fastjsonschema.JsonSchemaValueException as error:
        problem = f"{error.name} breaks the rule {error.rule}"
    if problem:  # raised here, because the library's error contains the value
        raise ValueError(problem)


@cache
def _validator() -> Callable[[object], object]:
    compiled: Callable[[object], object] = fastjsonschema.compile(json.loads(SCHEMA_FILE.read_text()))
    return compiled
