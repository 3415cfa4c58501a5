"""What a caller may send: everything. What comes back for bad input: a 4xx with a sentence, at once, and never a 5xx."""

from __future__ import annotations

import base64
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from functions.broker import handler
from functions.broker.assembly import Broker
from functions.broker.audit import Audit
from functions.broker.grants import load_grants
from functions.broker.http_api import (
    LONGEST_BODY_BYTES,
    StatusRequest,
    TokenRequest,
    failure,
    object_at,
    read_request,
    success,
)
from functions.broker.issue_token import IssuedToken
from functions.broker.settings import Settings
from functions.broker.token_record import TokenRecord
from token_broker.errors import InvalidRequest, SlowDown, TokenBrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from functions.broker.issue_token import TokenIssuer
    from functions.broker.token_need import TokenWanted
    from functions.broker.token_store import TokenStore

BOUNDED = settings(max_examples=120, deadline=None, database=None)
LONGEST_ANSWER_S = 1.0
SAMPLE: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "events" / "token-default.json").read_text(encoding="utf-8")
)

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=9).map(repr),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = ("connection", "min_ttl", "rejected_token_id", "grant_type", "scope")
FIELD_VALUES = JSON_VALUES | st.sampled_from(
    ["digishare", "0123456789abcdef", "client_credentials", "٣٠", "²", "\ud800", "\u0000", "a" * 65, "../x", 900, -1, 10**400, 0.5]
)  # fmt: skip
PATHS: list[tuple[str, ...]] = [
    ("rawPath",), ("headers",), ("headers", "content-type"), ("requestContext",), ("requestContext", "http"),
    ("requestContext", "http", "method"), ("requestContext", "authorizer"), ("requestContext", "authorizer", "iam"),
    ("requestContext", "authorizer", "iam", "userArn"), ("body",), ("isBase64Encoded",), ("queryStringParameters",),
    ("cookies",), ("version",),
]  # fmt: skip
BODIES = (
    st.text(max_size=100)
    | JSON_VALUES.map(json.dumps)
    | st.dictionaries(st.sampled_from(FIELDS), FIELD_VALUES).map(json.dumps)
    | st.binary(max_size=200).map(lambda raw: base64.b64encode(raw).decode())
)


def event_of(
    body: object = None,
    *,
    content_type: str | None = "application/json",
    method: str = "POST",
    path: str = "/token",
    **members: object,
) -> dict[str, Any]:
    event = copy.deepcopy(SAMPLE)
    event |= {"rawPath": path, "body": body, **members}
    event["requestContext"]["http"] |= {"method": method, "path": path}
    event["headers"].pop("content-type", None)
    if content_type is not None:
        event["headers"]["content-type"] = content_type
    return event


def changed(event: dict[str, Any], path: tuple[str, ...], value: object, *, drop: bool) -> dict[str, Any]:
    """Return the event with the member at a path replaced, or dropped; unchanged if the path is gone already."""
    event = copy.deepcopy(event)
    parent: Any = event
    for name in path[:-1]:
        parent = parent.get(name) if isinstance(parent, dict) else None
    if isinstance(parent, dict):
        parent[path[-1]] = value
        if drop:
            del parent[path[-1]]
    return event


def read_token_request(event: dict[str, Any]) -> TokenRequest:
    request = read_request(event)
    assert isinstance(request, TokenRequest)
    return request


def reason_of(event: object) -> TokenBrokerError | None:
    """Return the error that an event gets, having checked that it is a prompt 4xx with a fit answer."""
    started_s = time.perf_counter()
    try:
        read_request(cast("dict[str, Any]", event))
    except TokenBrokerError as error:
        reason: TokenBrokerError | None = error
    else:
        reason = None
    assert time.perf_counter() - started_s < LONGEST_ANSWER_S
    if reason is not None:
        assert 400 <= reason.status < 500
        answer = failure(reason, "request-1")
        assert json.loads(answer["body"])["error"] == reason.code
        assert len(answer["body"]) < 400, "nothing long is echoed"
    return reason


# --- good requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [None, "", "{}", ' {"connection": null, "min_ttl": null, "rejected_token_id": null} ']
)
def test_every_field_is_optional(body: str | None) -> None:
    assert read_token_request(event_of(body)) == TokenRequest("digishare", 0, None, None)


def test_missing_keys_are_as_good_as_null() -> None:
    event = event_of()
    for name in ("body", "headers", "isBase64Encoded", "queryStringParameters"):
        event.pop(name, None)

    assert read_request(event) == TokenRequest()


FULL = TokenRequest("other-1", 600, "0123456789abcdef", "a b")
FULL_JSON = json.dumps(
    {"connection": "other-1", "min_ttl": 600, "rejected_token_id": "0123456789abcdef", "grant_type": "client_credentials",
     "scope": "a b", "more": {"is": "ignored"}}
)  # fmt: skip
FULL_FORM = "connection=other-1&min_ttl=600&rejected_token_id=0123456789abcdef&grant_type=client_credentials&scope=a+b"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (FULL_JSON, "application/json"),
        (FULL_JSON, "Application/JSON; charset=utf-8"),
        (FULL_JSON, None),
        (FULL_FORM, "application/x-www-form-urlencoded"),
        (FULL_FORM, "application/x-www-form-urlencoded;charset=UTF-8"),
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_json_and_form_say_the_same(body: str, content_type: str | None, *, encoded: bool) -> None:
    if encoded:
        body = base64.b64encode(body.encode()).decode()

    assert read_request(event_of(body, content_type=content_type, isBase64Encoded=encoded)) == FULL


@pytest.mark.parametrize(("query", "connection"), [(None, None), ({}, None), ({"connection": "a"}, "a"), ({"x": "y"}, None), ([], None)])  # fmt: skip
def test_status_may_name_a_connection(query: object, connection: str | None) -> None:
    event = event_of(path="/status", method="GET", queryStringParameters=query)

    assert read_request(event) == StatusRequest(connection)


# --- bad requests, one by one -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "[]", "null", "1", '"text"', "{", "{]", "nonsense", "{'connection': 'a'}", "\ufeff{}", "\x00", "{}{}", '{"a":1,}',
        '{"min_ttl": NaN}', '{"min_ttl": Infinity}', '{"min_ttl": -Infinity}', '{"x": NaN}',
        '{"connection":"a","connection":"b"}', '{"x":{"y":1,"y":2}}',
        '{"min_ttl": "ten"}', '{"min_ttl": -1}', '{"min_ttl": 1.5}', '{"min_ttl": true}', '{"min_ttl": []}', '{"min_ttl": ""}',
        '{"min_ttl": "٣٠"}', '{"min_ttl": "²"}', '{"min_ttl": 1000000001}', '{"min_ttl": 1e400}', '{"min_ttl": ' + "9" * 5000 + "}",
        '{"min_ttl": "' + "9" * 5000 + '"}', '{"min_ttl": "-5"}', '{"min_ttl": " 5"}',
        '{"connection": ""}', '{"connection": 5}', '{"connection": ["digishare"]}', '{"connection": "a/b"}', '{"connection": "../a"}',
        '{"connection": "-a"}', '{"connection": "a b"}', '{"connection": "digishare\\n"}', '{"connection": "\\u0000"}',
        '{"connection": "\\ud800"}', '{"connection": "é"}', '{"connection": "\\uff44igishare"}', '{"connection": "' + "a" * 65 + '"}',
        '{"rejected_token_id": "xyz"}', '{"rejected_token_id": 5}', '{"rejected_token_id": ""}',
        '{"rejected_token_id": "0123456789ABCDEF"}', '{"rejected_token_id": "0123456789abcdef0"}',
        '{"rejected_token_id": "\\u0660123456789abcdef"}', '{"rejected_token_id": "0123456789abcdef\\n"}',
        '{"scope": 5}', '{"scope": ["a"]}', '{"grant_type": 5}', '{"grant_type": {}}',
        "[" * 4000 + "]" * 4000, '{"a":' * 1500 + "1" + "}" * 1500, '{"x": "' + "a" * LONGEST_BODY_BYTES + '"}',
    ],
    ids=lambda body: body[:40],
)  # fmt: skip
def test_malformed_json_is_an_invalid_request(body: str) -> None:
    reason = reason_of(event_of(body))

    assert isinstance(reason, InvalidRequest), reason


@pytest.mark.parametrize(
    "body",
    [
        "connection=a&connection=b", "connection", "&", "=", "a=b;c", "connection=%ff", "min_ttl=1.5", "min_ttl=", "min_ttl=%D9%A3",
        "connection=", "connection=%00", "&".join(f"a{n}=1" for n in range(40)), "x=" + "a" * LONGEST_BODY_BYTES, "rejected_token_id=",
    ],
    ids=lambda body: body[:30],
)  # fmt: skip
def test_malformed_form_is_an_invalid_request(body: str) -> None:
    reason = reason_of(event_of(body, content_type="application/x-www-form-urlencoded"))

    # "a=b;c" is one field whose value holds a semicolon: unknown, and ignored like any other.
    assert isinstance(reason, InvalidRequest) or body in {"a=b;c", "="}, reason


@pytest.mark.parametrize(
    ("body", "encoded"),
    [("not base64!", True), ("/w==", True), ("é", True), ("{}", True), (5, False), ([], False), ({}, False), (True, False), (b"x", False)],
)  # fmt: skip
def test_a_body_that_is_no_text_is_an_invalid_request(body: object, *, encoded: bool) -> None:
    assert isinstance(reason_of(event_of(body, isBase64Encoded=encoded)), InvalidRequest)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "é", "json"]
)
def test_another_content_type_is_an_invalid_request(content_type: str) -> None:
    assert isinstance(reason_of(event_of("{}", content_type=content_type)), InvalidRequest)


@pytest.mark.parametrize("grant_type", ["password", "authorization_code", "", "CLIENT_CREDENTIALS", "\ud800"])
def test_another_grant_is_unsupported(grant_type: str) -> None:
    reason = reason_of(event_of(json.dumps({"grant_type": grant_type})))

    assert reason is not None
    assert (reason.status, reason.code) == (400, "unsupported_grant_type")


@pytest.mark.parametrize(
    "path", ["/", "", "/token/", "/TOKEN", "//token", "/status/x", "/../token", "é", None, 5, ["/token"]]
)
def test_another_path_is_not_found(path: object) -> None:
    reason = reason_of(event_of(rawPath=path))

    assert reason is not None
    assert (reason.status, reason.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "method"), [("/token", "GET"), ("/token", "post"), ("/token", None), ("/token", ["POST"]), ("/status", "POST"), ("/status", 5)]
)  # fmt: skip
def test_another_method_is_not_allowed(path: str, method: Any) -> None:
    reason = reason_of(event_of(path=path, method=method))

    assert reason is not None
    assert (reason.status, reason.code) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "query", [{"connection": ["a"]}, {"connection": ""}, {"connection": "a/b"}, {"connection": 5}]
)
def test_status_of_a_malformed_connection_is_an_invalid_request(query: object) -> None:
    assert isinstance(
        reason_of(event_of(path="/status", method="GET", queryStringParameters=query)), InvalidRequest
    )


def test_a_huge_body_is_refused_at_once() -> None:
    huge = "A" * 6_000_000

    assert isinstance(reason_of(event_of(huge)), InvalidRequest)
    assert isinstance(reason_of(event_of(huge, isBase64Encoded=True)), InvalidRequest)
    assert isinstance(reason_of(event_of("é" * (LONGEST_BODY_BYTES // 2 + 1))), InvalidRequest)


@pytest.mark.parametrize(
    "event", [None, [], "text", 5, {}, {"requestContext": None}, {"rawPath": "/token", "requestContext": [1]}]
)
def test_what_is_no_event_gets_a_4xx(event: object) -> None:
    assert reason_of(event) is not None


# --- bad requests, by the thousand --------------------------------------------------------------------------------


@BOUNDED
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), FIELD_VALUES))
def test_fields_of_any_kind_get_an_answer_or_a_4xx(fields: dict[str, Any]) -> None:
    reason_of(event_of(json.dumps(fields)))


@BOUNDED
@given(
    body=BODIES,
    content_type=st.sampled_from(
        ["application/json", "application/x-www-form-urlencoded", None, "text/plain"]
    ),
    encoded=st.booleans(),
)
def test_bodies_of_any_kind_get_an_answer_or_a_4xx(
    *, body: str, content_type: str | None, encoded: bool
) -> None:
    reason_of(event_of(body, content_type=content_type, isBase64Encoded=encoded))


@BOUNDED
@given(path=st.sampled_from(PATHS), value=JSON_VALUES, drop=st.booleans())
def test_events_with_a_member_of_any_kind_get_an_answer_or_a_4xx(
    *, path: tuple[str, ...], value: object, drop: bool
) -> None:
    reason_of(changed(event_of("{}"), path, value, drop=drop))


@BOUNDED
@given(JSON_VALUES)
def test_anything_at_all_gets_a_4xx(event: object) -> None:
    assert reason_of(event) is not None


@BOUNDED
@given(JSON_VALUES, st.lists(st.text(max_size=5), max_size=4))
def test_looking_for_an_object_never_fails(event: object, path: list[str]) -> None:
    assert isinstance(object_at(event, *path), dict)


# --- answers ------------------------------------------------------------------------------------------------------


def test_no_answer_may_be_stored() -> None:
    for answer in (success({"a": 1}), failure(InvalidRequest("no"), "r")):
        assert answer["headers"]["Cache-Control"] == "no-store"
        assert answer["headers"]["Pragma"] == "no-cache"
        assert answer["headers"]["Content-Type"] == "application/json"


def test_an_error_has_a_code_a_sentence_and_the_requests_id() -> None:
    answer = failure(SlowDown("wait", retry_after_s=7), "request-9")

    assert answer["statusCode"] == 429
    assert answer["headers"]["Retry-After"] == "7"
    assert json.loads(answer["body"]) == {
        "error": "slow_down",
        "error_description": "wait",
        "request_id": "request-9",
    }
    assert "Retry-After" not in failure(InvalidRequest("no"), "r")["headers"]


def test_answers_do_not_share_their_headers() -> None:
    success({})["headers"]["X"] = "y"

    assert "X" not in success({})["headers"]


# --- the whole handler --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Context:
    aws_request_id: str = "request-1"
    invoked_function_arn: str = "arn:aws:lambda:eu-west-3:000000000000:function:broker:live"

    def get_remaining_time_in_millis(self) -> int:
        return 29_000


class _Issuer:
    def issue(self, wanted: TokenWanted, deadline_epoch_s: float) -> IssuedToken:
        return IssuedToken("T1", "0123456789abcdef", 1, None, "a b", "memory")


class _Store:
    def read(self, connection: str) -> TokenRecord:
        return TokenRecord(connection)


@pytest.fixture(scope="module")
def stub_broker() -> Iterator[None]:
    """The handler with the real grants and audit, and an issuer that always has a token."""
    audit = Audit()
    broker = Broker(
        Settings("t", "k", "p", frozenset({"h"}), None, "https://h/", 900, 24),
        load_grants(),
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
