"""What a caller may send: everything. What comes back for bad input: a 4xx with a sentence, at once, and never a 5xx."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.broker.http_api import (
    LONGEST_BODY_BYTES,
    StatusRequest,
    TokenRequest,
    failure,
    object_at,
    read_request,
    success,
)
from tests.unit.odd_events import (
    BODIES,
    BOUNDED,
    FIELD_VALUES,
    FIELDS,
    JSON_VALUES,
    LONGEST_ANSWER_S,
    PATHS,
    changed,
    event_of,
)
from token_broker.errors import InvalidRequest, SlowDown, TokenBrokerError


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
        "connection=a&connection=b", "connection", "&", "=", "a=b;c", "connection=%ff", "other=%ff", "min_ttl=1.5", "min_ttl=", "min_ttl=%D9%A3",
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
    [("not base64!", True), ("e!30=", True), ("/w==", True), ("é", True), ("{}", True), (5, False), ([], False), ({}, False), (True, False), (b"x", False)],
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


def test_half_a_character_in_a_body_is_no_error_of_ours() -> None:
    assert reason_of(event_of('{"other": "\ud800"}')) is None


def test_a_huge_body_is_refused_at_once() -> None:
    huge = "A" * 6_000_000

    assert isinstance(reason_of(event_of(huge)), InvalidRequest)
    assert isinstance(reason_of(event_of(huge, isBase64Encoded=True)), InvalidRequest)
    assert isinstance(reason_of(event_of("é" * (LONGEST_BODY_BYTES // 2 + 1))), InvalidRequest)


@pytest.mark.parametrize("filler", ["a", "é"])
def test_a_body_has_at_most_8192_bytes(filler: str) -> None:
    longest = '{"x":""}'
    longest = longest.replace('""', f'"{filler * ((8192 - len(longest)) // len(filler.encode()))}"')
    assert len(longest.encode()) == 8192

    assert read_request(event_of(longest)) == TokenRequest()
    assert isinstance(reason_of(event_of(longest + " ")), InvalidRequest)


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
