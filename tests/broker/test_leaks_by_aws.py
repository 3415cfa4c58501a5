"""What AWS says in its errors, and what the broker does about it, shows neither the secret nor a token."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from tests.conftest import CANARY_CLIENT_ID, CANARY_SECRET, LambdaContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.fake_digishare import FakeDigishare
    from tests.broker.conftest import Output
    from tests.conftest import Account, Invoke

CANARY = "canary-in-what-aws-says"
MINTED = "eyJ"
"""How every token of the fake Digishare begins."""


def answered(code: str, status: int = 400) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": CANARY},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": CANARY},
        "Item": {"token": {"S": CANARY}},
    }
    return ClientError(response, "Operation")


ERRORS = {
    "refused": answered("AccessDeniedException"),
    "busy": answered("ThrottlingException"),
    "failed": answered("InternalFailure", 500),
    "malformed": ResponseParserError(CANARY),
    "unanswered": ReadTimeoutError(endpoint_url=f"https://{CANARY}"),
    "without members": KeyError(CANARY),
}


@dataclass
class Aws:
    """Lets calls fail.

    Attributes:
        fails: by operation, the error and a function that tells whether to raise it now. The call's number would not
            do: a busy machine can be too late to send, and then everything is repeated.
        seen: operations that were called.
    """

    fails: dict[str, tuple[Exception, Callable[[], bool]]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def before(self, operation: str) -> None:
        self.seen.add(operation)
        error, strikes = self.fails.get(operation, (None, bool))
        if error and strikes():
            raise error


def always() -> bool:
    return True


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Aws:
    aws = Aws()
    send = BaseClient._make_api_call  # type: ignore[attr-defined] # botocore's types leave it out

    def call(self: BaseClient, operation: str, request: dict[str, Any]) -> Any:
        aws.before(operation)
        return send(self, operation, request)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    return aws


def events(caplog: pytest.LogCaptureFixture) -> set[str]:
    return {record.getMessage() for record in caplog.records}


def assert_silent(text: str) -> None:
    assert "canary" not in text
    assert CANARY_SECRET not in text
    assert MINTED not in text


@pytest.mark.parametrize(
    "operation", ["GetItem", "Decrypt", "Encrypt", "GetSecretValue", "UpdateItem", "PutItem"]
)
@pytest.mark.parametrize("name", ERRORS)
def test_no_error_of_aws_shows_what_it_says(
    name: str, operation: str, new_broker: Callable[[], Invoke], aws: Aws, output: Output
) -> None:
    if operation == "Decrypt":
        new_broker()()  # there is a token to open
    invoke = new_broker()
    aws.fails[operation] = (ERRORS[name], always)
    # Enough for a lock where one comes first, and for little more: nothing is tried a second time.
    remaining_ms = 3_500 if operation in {"GetItem", "Decrypt"} else 14_600

    answer = invoke(context=LambdaContext(remaining_ms=remaining_ms))

    assert answer["statusCode"] == 503
    assert operation in aws.seen
    assert_silent(output(answer))


@pytest.mark.parametrize("name", ["refused", "busy"])
def test_a_token_whose_publish_was_lost_is_logged_by_its_id_only(
    name: str, invoke: Invoke, aws: Aws, account: Account, digishare: FakeDigishare, output: Output
) -> None:
    times = iter([True, False])
    aws.fails["UpdateItem"] = (ERRORS[name], lambda: bool(digishare.mints) and next(times))

    answer = invoke()

    token = json.loads(answer["body"])
    assert answer["statusCode"] == 200
    assert token["access_token"].startswith(MINTED)
    text = output()
    for event in {"refused": ("AwsRefused", "PublishLost"), "busy": ("AwsBusy", "Mint")}[name]:
        assert f'"message":"{event}"' in text
    assert token["token_id"] in text
    assert_silent(text + repr(account.items()))


def test_an_item_that_somebody_has_changed_and_its_token_are_not_shown(
    new_broker: Callable[[], Invoke], account: Account, output: Output, caplog: pytest.LogCaptureFixture
) -> None:
    first = json.loads(new_broker()()["body"])
    item = account.item()
    item["token"]["M"]["expires_at_epoch_s"] = {"N": "1900000000"}
    boto3.client("dynamodb").put_item(TableName=account.table, Item=item)

    answer = new_broker()()

    assert json.loads(answer["body"])["token_id"] != first["token_id"]
    assert {"SealBroken", "Mint"} <= events(caplog)
    assert_silent(output(account.items()))


def test_a_secret_that_is_refused_and_the_one_before_it_are_not_shown(
    invoke: Invoke, account: Account, output: Output, caplog: pytest.LogCaptureFixture
) -> None:
    account.put_secret("digishare", {"client_id": CANARY_CLIENT_ID, "client_secret": "canary-wrong"})

    answer = invoke()

    assert answer["statusCode"] == 200
    assert {"MintFailed", "Mint", "PreviousSecretUsed"} <= events(caplog)
    assert_silent(output(account.items()))


def test_a_refused_secret_that_cannot_be_read_again_is_not_shown(
    invoke: Invoke,
    account: Account,
    aws: Aws,
    digishare: FakeDigishare,
    output: Output,
    caplog: pytest.LogCaptureFixture,
) -> None:
    digishare.set_clients([])
    aws.fails["GetSecretValue"] = (ERRORS["refused"], lambda: bool(digishare.calls))

    answer = invoke()

    assert answer["statusCode"] == 502
    assert {"MintFailed", "SecretUnreadable"} <= events(caplog)
    assert_silent(output(answer, account.items()))
