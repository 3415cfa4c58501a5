"""What the token table holds, as data: the token, the refresh lock, the memory of failures; and how asking it fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Answer = TypeVar("Answer")

# As botocore's standard retries know them, as far as these two services use them.
_TOO_MANY_CALLS = frozenset(
    {"ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException", "Throttling"}
)
TOKEN_RECORD = "token"  # noqa: S105 - the sort key of the item, not a credential


@dataclass(frozen=True, slots=True)
class PublishedToken:
    """The token in the item. Times are epoch seconds; `expires_at` is None where no expiry is known."""

    token_id: str
    sealed: bytes = field(repr=False)
    fence: int
    generation: int
    issued_at_epoch_s: float
    expires_at_epoch_s: float | None
    lifetime_s: float
    scope: str | None
    secret_version: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failed mint since the last publish."""

    code: str
    terminal: bool
    secret_version: str
    count: int
    at_epoch_s: float


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What the item said when it was read. Times are epoch seconds; 0 where nothing is set."""

    connection: str
    token: PublishedToken | None = None
    fence: int = 0
    lock_owner: str = ""
    lock_until_epoch_s: float = 0.0
    next_refresh_at_epoch_s: float = 0.0
    next_attempt_at_epoch_s: float = 0.0
    failure: Failure | None = None
    mints_day: str = ""
    mints_today: int = 0
    rejections: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def generation(self) -> int:
        return self.token.generation if self.token else 0

    def mints_on(self, day: str) -> int:
        """Return how many mints were begun on that UTC day (YYYY-MM-DD)."""
        return self.mints_today if self.mints_day == day else 0


class StoreUnavailableError(Exception):
    """DynamoDB or KMS did not do its part; the text is the AWS error code."""


class StoreBusyError(StoreUnavailableError):
    """DynamoDB or KMS refused a call because there are too many: it is there, and will answer in a moment."""


class ConditionFailedError(Exception):
    """Somebody else has written; `item` is what stands there now."""

    def __init__(self, item: dict[str, Any] | None) -> None:
        super().__init__()
        self.item = item


def call_store(request: Callable[[], Answer]) -> Answer:
    """Return what `request` takes from the answer of one AWS call, its failure translated.

    Raises:
        ConditionFailedError: a conditional write was refused.
        StoreBusyError: too many calls.
        StoreUnavailableError: anything else went wrong.
    """
    try:
        return request()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ConditionalCheckFailedException":
            # botocore's types do not know of the item that this error brings along, free of charge.
            item: dict[str, Any] | None = error.response.get("Item")  # type: ignore[assignment]
            raise ConditionFailedError(item) from None
        raise (StoreBusyError if code in _TOO_MANY_CALLS else StoreUnavailableError)(code) from None
    except (BotoCoreError, ResponseParserError) as error:
        raise StoreUnavailableError(type(error).__name__) from None
    except KeyError:
        # To the SDK an answer that was cut off is one without members.
        raise StoreUnavailableError("MalformedAnswer") from None


def token_key(connection: str) -> dict[str, Any]:
    """Return the primary key of a connection's token item."""
    return {"connection": {"S": connection}, "record": {"S": TOKEN_RECORD}}


def to_attribute(value: object) -> dict[str, Any]:
    """Return the DynamoDB attribute of a plain value; times keep milliseconds."""
    match value:
        case str():
            return {"S": value}
        case bytes():
            return {"B": value}
        case float():
            return {"N": f"{value:.3f}"}
        case int():
            return {"N": str(value)}
        case dict():
            return {"M": {name: to_attribute(member) for name, member in value.items()}}
        case list() | tuple():
            return {"L": [to_attribute(member) for member in value]}
    raise TypeError(type(value).__name__)


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


def token_record(connection: str, item: Mapping[str, Any] | None) -> TokenRecord:
    """Return the record of an item, an empty one where there is no item."""
    if not item:
        return TokenRecord(connection)
    found = {name: from_attribute(value) for name, value in item.items()}
    token = None
    if "sealed" in found:
        token = PublishedToken(
            token_id=found["token_id"],
            sealed=found["sealed"],
            fence=int(found["token_fence"]),
            generation=int(found["generation"]),
            issued_at_epoch_s=found["issued_at_epoch_s"],
            expires_at_epoch_s=found.get("expires_at_epoch_s"),
            lifetime_s=found["lifetime_s"],
            scope=found.get("scope"),
            secret_version=found["secret_version"],
        )
    failure = found.get("failure")
    return TokenRecord(
        connection=connection,
        token=token,
        fence=int(found["fence"]),
        lock_owner=found["lock_owner"],
        lock_until_epoch_s=found["lock_until_epoch_s"],
        next_refresh_at_epoch_s=found.get("next_refresh_at_epoch_s", 0.0),
        next_attempt_at_epoch_s=found.get("next_attempt_at_epoch_s", 0.0),
        failure=Failure(
            code=failure["code"],
            terminal=bool(failure["terminal"]),
            secret_version=failure["secret_version"],
            count=int(failure["count"]),
            at_epoch_s=failure["at_epoch_s"],
        )
        if failure
        else None,
        mints_day=found.get("mints_day", ""),
        mints_today=int(found.get("mints_today", 0)),
        rejections=found.get("rejections", {}),
    )
