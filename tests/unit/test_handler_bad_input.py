"""The whole handler on bad input: it never raises, and never answers 5xx for what a caller has sent."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from functions.broker import handler
from functions.broker.assembly import Broker
from functions.broker.audit import Audit
from functions.broker.grants import load_grants
from functions.broker.issue_token import Issued
from functions.broker.settings import Settings
from functions.broker.token import TokenRecord
from tests.unit.odd_events import BODIES, BOUNDED, JSON_VALUES, LONGEST_ANSWER_S, PATHS, changed, event_of
from token_broker.issued_token import ClearToken, Token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from functions.broker.adapters.token_store import TokenStore
    from functions.broker.decide import TokenWanted
    from functions.broker.issue_token import TokenIssuer


@dataclass(frozen=True)
class _Context:
    aws_request_id: str = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 31_000


class _Issuer:
    def issue(self, wanted: TokenWanted, deadline_epoch_s: float) -> Issued:
        token = Token("0123456789abcdef", 0.0, None, None, "a b", "v1")
        return Issued(ClearToken(token, "T1"), 1, "memory")


class _Store:
    def read(self, connection: str) -> TokenRecord:
        return TokenRecord(connection)


@pytest.fixture(scope="module")
def stub_broker() -> Iterator[None]:
    """The handler with the real grants and audit, and an issuer that always has a token."""
    audit = Audit()
    broker = Broker(
        Settings("t", "k", "p", frozenset({"h"}), None, "https://h/", 900, "campaigns-role"),
        load_grants("000000000000", "campaigns-role"),
        audit,
        cast("TokenStore", _Store()),
        cast("TokenIssuer", _Issuer()),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "_audit", lambda: audit)
        patch.setattr(handler, "_broker", lambda: broker)
        yield


def answer_of(event: object) -> dict[str, Any]:
    """Return what the handler answers, having checked that it is an answer, prompt, and no 5xx."""
    started_s = time.perf_counter()
    answer = handler.lambda_handler(cast("dict[str, Any]", event), cast("Any", _Context()))
    assert time.perf_counter() - started_s < LONGEST_ANSWER_S
    assert answer["statusCode"] == 200 or 400 <= answer["statusCode"] < 500, answer
    assert answer["headers"]["Cache-Control"] == "no-store"
    assert isinstance(json.loads(answer["body"]), dict)
    return answer


@pytest.mark.usefixtures("stub_broker")
def test_a_good_request_gets_a_token() -> None:
    answer = answer_of(event_of('{"min_ttl": 60, "scope": "a"}'))

    assert json.loads(answer["body"]) == {
        "access_token": "T1", "token_type": "Bearer", "expires_in": 900, "token_id": "0123456789abcdef",
        "connection": "digishare", "scope": "a b",
    }  # fmt: skip


@pytest.mark.usefixtures("stub_broker")
@pytest.mark.parametrize("scope", ["c", "a c", "\ud800", "A"])
def test_a_scope_that_the_token_has_not_is_invalid(scope: str) -> None:
    answer = answer_of(event_of(json.dumps({"scope": scope})))

    assert (answer["statusCode"], json.loads(answer["body"])["error"]) == (400, "invalid_scope")


@pytest.mark.usefixtures("stub_broker")
@pytest.mark.parametrize("value", [None, [], [1], "text", 5, {}, {"authorizer": [1]}, {"authorizer": {"iam": "x"}}, {"authorizer": {"iam": {"userArn": 5}}}])  # fmt: skip
@pytest.mark.parametrize("path", ["/token", "/status"])
def test_an_event_without_a_caller_gets_a_4xx(path: str, value: Any) -> None:
    event = event_of(path=path, method="GET" if path == "/status" else "POST")
    context = {"http": event["requestContext"]["http"], **value} if isinstance(value, dict) else value

    assert answer_of(event | {"requestContext": context})["statusCode"] in {403, 405}


@pytest.mark.usefixtures("stub_broker")
@BOUNDED
@given(
    changes=st.lists(st.tuples(st.sampled_from(PATHS), JSON_VALUES, st.booleans()), max_size=3),
    body=BODIES,
    status=st.booleans(),
)
@example(changes=[(("requestContext", "authorizer"), [1], False)], body="{}", status=False)
@example(changes=[(("requestContext", "authorizer", "iam", "userArn"), "arn:aws:sts::000000000000:assumed-role/local-a/\ud800\n", False)], body="{}", status=False)  # fmt: skip
def test_the_handler_never_raises_and_never_answers_5xx(
    *,
    changes: list[tuple[tuple[str, ...], object, bool]],
    body: str,
    status: bool,
) -> None:
    event = event_of(path="/status", method="GET") if status else event_of(body)
    for path, value, drop in changes:
        event = changed(event, path, value, drop=drop)

    answer_of(event)


@pytest.mark.usefixtures("stub_broker")
@BOUNDED
@given(JSON_VALUES)
def test_the_handler_answers_anything_at_all(event: object) -> None:
    assert answer_of(event)["statusCode"] >= 400
