"""How an AWS call fails, in the policy's terms: unavailable, busy, refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as SdkConnectionError
from botocore.parsers import ResponseParserError

from functions.broker.ports import AwsBusyError, AwsRefusedError, AwsUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.broker.ports import AwsError

Answer = TypeVar("Answer")

# As in botocore's standard retry mode.
_BUSY = frozenset(
    {
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_UNAVAILABLE = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "InternalServerError",
        "InternalServiceError",
        "KMSInternalException",
        "KeyUnavailableException",
        "ReplicatedWriteConflictException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "TransactionConflictException",
    }
)
_SERVER_ERRORS = 500


class ConditionFailedError(Exception):
    """A conditional write was refused: somebody else has written; `item` is the item as it is now."""

    def __init__(self, item: dict[str, Any] | None) -> None:
        super().__init__()
        self.item = item


def call_aws(request: Callable[[], Answer]) -> Answer:
    """Return what `request`, which makes one AWS call, returns; translate its failure.

    Raises:
        ConditionFailedError: a conditional write was refused.
        AwsUnavailableError, AwsBusyError, AwsRefusedError: the text is AWS's code or the SDK's class, nothing else.
    """
    try:
        return request()
    except ClientError as error:
        if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
            # botocore's types do not know the item that this error contains.
            item: dict[str, Any] | None = error.response.get("Item")  # type: ignore[assignment]
            raise ConditionFailedError(item) from None
        raise aws_error_of(error) from None
    except BotoCoreError as error:
        is_on_the_way = isinstance(error, HTTPClientError | SdkConnectionError)
        raise (AwsUnavailableError if is_on_the_way else AwsRefusedError)(type(error).__name__) from None
    except ResponseParserError as error:
        raise AwsUnavailableError(type(error).__name__) from None
    except KeyError:
        # The SDK takes an answer that was cut off for one without members.
        raise AwsUnavailableError("MalformedAnswer") from None


def aws_error_of(error: ClientError) -> AwsError:
    """Return the policy's error for one that AWS answered."""
    code = error.response["Error"]["Code"]
    if code in _BUSY:
        return AwsBusyError(code)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    # Where the SDK cannot read an error, it gives the HTTP status as the code: AWS has refused nothing.
    is_unavailable = code in _UNAVAILABLE or code == str(status) or status >= _SERVER_ERRORS
    return (AwsUnavailableError if is_unavailable else AwsRefusedError)(code)
