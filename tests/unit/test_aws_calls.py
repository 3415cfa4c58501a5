"""How a failed AWS call is named: unavailable and busy are repeated, refused is not. The error has only a code."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
from botocore import exceptions as sdk
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from functions.broker.adapters.aws_calls import ConditionFailedError, call_aws
from functions.broker.adapters.token_store import TokenStore
from functions.broker.ports import AwsBusyError, AwsError, AwsRefusedError, AwsUnavailableError

CANARY = "canary-in-a-message"


def answered(code: str, status: int = 400, **members: Any) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": CANARY},
        "ResponseMetadata": {"HTTPStatusCode": status},
        **members,
    }
    return ClientError(response, CANARY)


def failing_with(error: Exception) -> AwsError:
    def fail() -> None:
        raise error

    with pytest.raises(AwsError) as raised:
        call_aws(fail)
    return raised.value


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        *((answered(code), AwsBusyError, code) for code in (
            "ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded")),
        (answered("ThrottlingException", 503), AwsBusyError, "ThrottlingException"),
        *((answered(code), AwsUnavailableError, code) for code in ("KMSInternalException",
                "DependencyTimeoutException")),
        *((answered(code, 500), AwsUnavailableError, code) for code in ("InternalServerError", "SomethingNew")),
        *((answered(str(status), status), AwsUnavailableError, str(status)) for status in (503, 404)),
        *((answered(code), AwsRefusedError, code) for code in (
            "AccessDeniedException", "ValidationException", "ResourceNotFoundException",
            "KMSInvalidStateException")),
        (answered("SomethingNew", 499), AwsRefusedError, "SomethingNew"),
        *((error(endpoint_url=CANARY), AwsUnavailableError, error.__name__) for error in (
            sdk.ReadTimeoutError, sdk.ConnectTimeoutError, sdk.EndpointConnectionError,
            sdk.ConnectionClosedError)),
        (sdk.NoCredentialsError(), AwsRefusedError, "NoCredentialsError"),
        (sdk.ParamValidationError(report=CANARY), AwsRefusedError, "ParamValidationError"),
        (ResponseParserError(CANARY), AwsUnavailableError, "ResponseParserError"),
        (KeyError(CANARY), AwsUnavailableError, "MalformedAnswer"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_failed_call_is_named_by_what_it_means(error: Exception, kind: type[AwsError], text: str) -> None:
    found = failing_with(error)

    assert type(found) is kind
    assert str(found) == text
    assert found.__suppress_context__


def test_each_kind_is_an_event_of_its_own() -> None:
    kinds = (AwsUnavailableError, AwsBusyError, AwsRefusedError)
    assert [kind.event for kind in kinds] == ["AwsUnavailable", "AwsBusy", "AwsRefused"]


@pytest.mark.parametrize("members", [{}, {"Item": {"fence": {"N": "7"}}}])
def test_a_condition_that_failed_has_the_item(members: dict[str, Any]) -> None:
    def fail() -> None:
        raise answered("ConditionalCheckFailedException", **members)

    with pytest.raises(ConditionFailedError) as raised:
        call_aws(fail)
    assert raised.value.item == members.get("Item")
    assert CANARY not in repr(raised.value)


def test_other_errors_than_of_aws_are_not_changed() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call_aws(fail)
    assert call_aws(lambda: 5) == 5


@pytest.mark.parametrize("length", [2, 3])
def test_an_item_that_was_cut_off_is_not_read_as_none(length: int) -> None:
    dynamodb: Any = mock.Mock()
    headers = {"content-length": str(length)}
    dynamodb.get_item.return_value = {"ResponseMetadata": {"HTTPHeaders": headers}}
    store = TokenStore(dynamodb, dynamodb, table="tokens", key_arn="arn")

    with pytest.raises(AwsUnavailableError, match="MalformedAnswer") if length > len("{}") else nullcontext():
        assert store.read("digishare").token is None
