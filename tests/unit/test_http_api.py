"""A caller may send anything. Bad input gets a 4xx with a sentence, at once, and never a 5xx."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from functions.broker.http_api import (
    LONGEST_BODY_BYTES,
    StatusRequest,
    TokenRequest,
    failure,
    read_request,
    success,
)
from tests.unit.odd_events import LONGEST_ANSWER_S, event_of
from token_broker.errors import InvalidRequest, SlowDown, TokenBrokerError


def refusal(event: dict[str, Any]) -> tuple[int, str]:
    """Return status and code of an event's error, having checked the answer, and that it came at once."""
    started_s = time.perf_counter()
    with pytest.raises(TokenBrokerError) as refused:
        read_request(event)
    assert time.perf_counter() - started_s < LONGEST_ANSWER_S
    answer = failure(refused.value, "request-1")
    assert json.loads(answer["body"])["error"] == refused.value.code
    assert len(answer["body"]) < 400, "nothing long is echoed"
    return answer["statusCode"], refused.value.code


INVALID = 400, "invalid_request"
FORM = "application/x-www-form-urlencoded"


# --- good requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [None, "", "{}", ' {"connection": null, "min_ttl": null, "rejected_token_id": null} ']
)
def test_every_field_is_optional(body: str | None) -> None:
    assert read_request(event_of(body)) == TokenRequest("digishare", 0, None, None)


def test_missing_keys_count_as_null() -> None:
    event = event_of()
    for name in ("body", "headers", "isBase64Encoded", "queryStringParameters"):
        event.pop(name, None)

    assert read_request(event) == TokenRequest()


FULL = TokenRequest("other-1", 600, "0123456789abcdef", "a b")
FULL_JSON = json.dumps(
    {"connection": "other-1", "min_ttl": 600, "rejected_token_id": "0123456789abcdef",
        "grant_type": "client_credentials",
     "scope": "a b", "more": {"is": "ignored"}}
)  # fmt: skip
FULL_FORM = "connection=other-1&min_ttl=600&rejected_token_id=0123456789abcdef&grant_type=client_credentials&scope=a+b"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (FULL_JSON, "application/json"),
        (FULL_JSON, "Application/JSON; charset=utf-8"),
        (FULL_JSON, None),
        (FULL_FORM, FORM),
        (FULL_FORM, f"{FORM};charset=UTF-8"),
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_json_and_form_say_the_same(body: str, content_type: str | None, *, encoded: bool) -> None:
    if encoded:
        body = base64.b64encode(body.encode()).decode()

    assert read_request(event_of(body, content_type=content_type, isBase64Encoded=encoded)) == FULL


@pytest.mark.parametrize(("query", "connection"),
    [(None, None), ({}, None), ({"connection": "a"}, "a"), ({"x": "y"}, None), ([], None)])  # fmt: skip
def test_status_may_name_a_connection(query: object, connection: str | None) -> None:
    event = event_of(path="/status", method="GET", queryStringParameters=query)

    assert read_request(event) == StatusRequest(connection)


# --- bad requests, one by one -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "[]", "null", "1", '"text"', "{", "{]", "nonsense", "{'connection': 'a'}", "\ufeff{}", "\x00", "{}{}",
        '{"a":1,}',
        '{"min_ttl": NaN}', '{"min_ttl": Infinity}', '{"min_ttl": -Infinity}', '{"x": NaN}',
        '{"connection":"a","connection":"b"}', '{"x":{"y":1,"y":2}}',
        '{"min_ttl": "ten"}', '{"min_ttl": -1}', '{"min_ttl": 1.5}', '{"min_ttl": true}', '{"min_ttl": []}',
        '{"min_ttl": ""}',
        '{"min_ttl": "٣٠"}', '{"min_ttl": "²"}', '{"min_ttl": 1000000001}', '{"min_ttl": 1e400}',
        '{"min_ttl": ' + "9" * 5000 + "}",
        '{"min_ttl": "' + "9" * 5000 + '"}', '{"min_ttl": "-5"}', '{"min_ttl": " 5"}',
        '{"connection": ""}', '{"connection": 5}', '{"connection": ["digishare"]}', '{"connection": "a/b"}',
        '{"connection": "../a"}',
        '{"connection": "-a"}', '{"connection": "a b"}', '{"connection": "digishare\\n"}',
        '{"connection": "\\u0000"}',
        '{"connection": "\\ud800"}', '{"connection": "é"}', '{"connection": "\\uff44igishare"}',
        '{"connection": "' + "a" * 65 + '"}',
        '{"rejected_token_id": "xyz"}', '{"rejected_token_id": 5}', '{"rejected_token_id": ""}',
        '{"rejected_token_id": "0123456789ABCDEF"}', '{"rejected_token_id": "0123456789abcdef0"}',
        '{"rejected_token_id": "\\u0660123456789abcdef"}', '{"rejected_token_id": "0123456789abcdef\\n"}',
        '{"scope": 5}', '{"scope": ["a"]}', '{"grant_type": 5}', '{"grant_type": {}}',
        "[" * 4000 + "]" * 4000, '{"a":' * 1500 + "1" + "}" * 1500, '{"x": "' + "a" * LONGEST_BODY_BYTES + '"}',
    ],
    ids=lambda body: body[:40],
)  # fmt: skip
def test_malformed_json_is_an_invalid_request(body: str) -> None:
    assert refusal(event_of(body)) == INVALID


@pytest.mark.parametrize(
    "body",
    [
        "connection=a&connection=b", "connection", "&", "connection=%ff", "other=%ff", "min_ttl=1.5", "min_ttl=",
        "min_ttl=%D9%A3",
        "connection=", "connection=%00", "&".join(f"a{n}=1" for n in range(40)), "x=" + "a" * LONGEST_BODY_BYTES,
        "rejected_token_id=",
    ],
    ids=lambda body: body[:30],
)  # fmt: skip
def test_malformed_form_is_an_invalid_request(body: str) -> None:
    assert refusal(event_of(body, content_type=FORM)) == INVALID


@pytest.mark.parametrize("body", ["a=b;c", "=", "client_id=x&client_secret=y"])
def test_an_unknown_field_of_a_form_is_ignored(body: str) -> None:
    assert read_request(event_of(body, content_type=FORM)) == TokenRequest()


@pytest.mark.parametrize(
    ("body", "encoded"),
    [("not base64!", True), ("e!30=", True), ("/w==", True), ("é", True), ("{}", True), (5, False), ([], False),
        ({}, False), (True, False), (b"x", False)],
)  # fmt: skip
def test_a_body_that_is_no_text_is_an_invalid_request(body: object, *, encoded: bool) -> None:
    assert refusal(event_of(body, isBase64Encoded=encoded)) == INVALID


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "é", "json"]
)
def test_another_content_type_is_an_invalid_request(content_type: str) -> None:
    assert refusal(event_of("{}", content_type=content_type)) == INVALID


@pytest.mark.parametrize("grant_type", ["password", "authorization_code", "", "CLIENT_CREDENTIALS", "\ud800"])
def test_another_grant_is_unsupported(grant_type: str) -> None:
    assert refusal(event_of(json.dumps({"grant_type": grant_type}))) == (400, "unsupported_grant_type")


@pytest.mark.parametrize(
    "path", ["/", "", "/token/", "/TOKEN", "//token", "/status/x", "/../token", "é", None, 5, ["/token"]]
)
def test_another_path_is_not_found(path: object) -> None:
    assert refusal(event_of(rawPath=path)) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "method"),
    [("/token", "GET"), ("/token", "post"), ("/token", None), ("/token", ["POST"]), ("/status", "POST"),
        ("/status", 5)]
)  # fmt: skip
def test_another_method_is_not_allowed(path: str, method: Any) -> None:
    assert refusal(event_of(path=path, method=method)) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "query", [{"connection": ["a"]}, {"connection": ""}, {"connection": "a/b"}, {"connection": 5}]
)
def test_status_of_a_malformed_connection_is_an_invalid_request(query: object) -> None:
    assert refusal(event_of(path="/status", method="GET", queryStringParameters=query)) == INVALID


def test_a_lone_surrogate_in_a_body_is_no_error() -> None:
    assert read_request(event_of('{"other": "\ud800"}')) == TokenRequest()


def test_a_huge_body_is_refused_at_once() -> None:
    huge = "A" * 6_000_000

    assert refusal(event_of(huge)) == INVALID
    assert refusal(event_of(huge, isBase64Encoded=True)) == INVALID
    assert refusal(event_of("é" * (LONGEST_BODY_BYTES // 2 + 1))) == INVALID


@pytest.mark.parametrize("filler", ["a", "é"])
def test_a_body_has_at_most_8192_bytes(filler: str) -> None:
    longest = '{"x":""}'
    longest = longest.replace('""', f'"{filler * ((8192 - len(longest)) // len(filler.encode()))}"')
    assert len(longest.encode()) == 8192

    assert read_request(event_of(longest)) == TokenRequest()
    assert refusal(event_of(longest + " ")) == INVALID


# --- answers ------------------------------------------------------------------------------------------------------


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
