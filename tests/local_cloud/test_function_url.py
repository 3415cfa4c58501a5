"""The Function URL front against a stand-in for AWS: which requests it passes on, and as which event.

Requests are signed by botocore, so that the check is not compared with itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from local.function_url import MAX_BODY_BYTES, FunctionUrlFront, Throttled
from local.payload import FunctionFailed, FunctionUrl
from local.signature import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEY = "AKIAEXAMPLE"
SECRET = "the-secret-access-key"
TOKEN = "the-session-token"
HOST = "127.0.0.1:9"
STACK = "token-broker"
ACCOUNT, REGION = "111122223333", "eu-west-3"
TARGET = FunctionUrl("u1", ACCOUNT, REGION, f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:f:live")
USER = f"arn:aws:iam::{ACCOUNT}:user/u"
URL_PERMISSION = ("lambda:InvokeFunctionUrl", {"lambda:FunctionUrlAuthType": "AWS_IAM"})
INVOKE_PERMISSION = ("lambda:InvokeFunction", {"lambda:InvokedViaFunctionUrl": "true"})


class StandInAws:
    """One function, one caller, and a list of what the caller may do."""

    def __init__(self) -> None:
        self.caller = Caller(KEY, SECRET, None, ACCOUNT, USER, "AIDAU")
        self.permissions: list[tuple[str, dict[str, str]]] = [URL_PERMISSION, INVOKE_PERMISSION]
        self.target: FunctionUrl | None = TARGET
        self.value: object = {"statusCode": 200, "body": "ok"}
        self.events: list[Mapping[str, Any]] = []

    def find_function_url(self, stack_name: str) -> FunctionUrl | None:
        assert stack_name == STACK
        return self.target

    def find_caller(self, access_key_id: str) -> Caller | None:
        return self.caller if access_key_id == self.caller.access_key_id else None

    def is_allowed(self, caller: Caller, action: str, resource: str, context: Mapping[str, str]) -> bool:
        assert resource == TARGET.function_arn
        return (action, dict(context)) in self.permissions

    async def invoke(self, target: FunctionUrl, event: Mapping[str, Any]) -> object:
        json.dumps(event)
        self.events.append(event)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Reply:
    def __init__(self, start: dict[str, Any], content: dict[str, Any]) -> None:
        self.status: int = start["status"]
        self.header_list = [(name.decode(), value.decode()) for name, value in start["headers"]]
        self.headers = dict(self.header_list)
        self.text: str = content["body"].decode()


@pytest.fixture
def aws() -> StandInAws:
    return StandInAws()


def sign(
    method: str = "POST",
    path: str = "/token",
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    service: str = "lambda",
    region: str = REGION,
    secret: str = SECRET,
    token: str | None = None,
    key: str = KEY,
) -> dict[str, str]:
    """Return the headers of a request as botocore signs it."""
    request = AWSRequest(method, f"http://{HOST}{path}", headers=dict(headers or {}), data=body)
    SigV4Auth(Credentials(key, secret, token), service, region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def send(
    aws: StandInAws,
    headers: Mapping[str, str],
    method: str = "POST",
    path: str = "/token",
    body: bytes = b"",
    *,
    clock_ahead: timedelta = timedelta(),
) -> Reply:
    """Hand a request to the front as a server would, and return its answer."""
    front = FunctionUrlFront(aws, REGION, STACK, lambda: datetime.now(UTC) + clock_ahead)
    raw_path, _, raw_query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "raw_path": raw_path.encode(),
        "query_string": raw_query.encode(),
        "headers": [(n.encode(), v.encode()) for n, v in {"host": HOST, **headers}.items()],
        "client": ("127.0.0.1", 5),
    }
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    async def collect(message: dict[str, object]) -> None:
        messages.append(message)

    # It never really waits: no event loop is needed.
    with pytest.raises(StopIteration):
        front(scope, receive, collect).send(None)
    return Reply(*messages)


def test_signed_request_of_a_permitted_caller_reaches_the_function(aws: StandInAws) -> None:
    reply = send(aws, sign())
    assert (reply.status, reply.text) == (200, "ok")
    assert len(aws.events) == 1


NOT_PROVEN: dict[str, tuple[str, Callable[[], dict[str, str]]]] = {
    "unsigned": ("AccessDenied", dict),
    "another scheme": ("AccessDenied", lambda: {"authorization": "Bearer x"}),
    "malformed": ("IncompleteSignature", lambda: {"authorization": "AWS4-HMAC-SHA256 x"}),
    "wrong secret key": ("InvalidSignature", lambda: sign(secret="wrong")),
    "unknown key": ("UnrecognizedClient", lambda: sign(key="AKIAUNKNOWN")),
    "spurious session token": ("UnrecognizedClient", lambda: sign(token="spurious")),
    "wrong service": ("InvalidSignature", lambda: sign(service="execute-api")),
    "wrong region": ("InvalidSignature", lambda: sign(region="us-east-1")),
    "another path": ("InvalidSignature", lambda: sign(path="/other")),
    "another method": ("InvalidSignature", lambda: sign(method="PUT")),
    "another body": ("InvalidSignature", lambda: sign(body=b"other")),
    "another query": ("InvalidSignature", lambda: sign(path="/token?a=1")),
    "unsigned amz header": ("InvalidSignature", lambda: {**sign(), "x-amz-extra": "1"}),
    "malformed date": ("IncompleteSignature", lambda: {**sign(), "x-amz-date": "now"}),
}


@pytest.mark.parametrize(("error", "make_headers"), NOT_PROVEN.values(), ids=NOT_PROVEN)
def test_request_that_does_not_prove_its_sender_gets_403(
    aws: StandInAws, error: str, make_headers: Callable[[], dict[str, str]]
) -> None:
    reply = send(aws, make_headers())
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (403, f"{error}Exception")
    assert set(json.loads(reply.text)) == {"Message"}
    assert aws.events == []
    assert SECRET not in reply.text


@pytest.mark.parametrize("name", ["host", "x-amz-date"])
def test_host_and_date_must_be_signed(aws: StandInAws, name: str) -> None:
    headers = sign()
    signed = headers["authorization"]
    names = signed.partition("SignedHeaders=")[2].partition(",")[0]
    fewer = ";".join(n for n in names.split(";") if n != name)
    reply = send(aws, {**headers, "authorization": signed.replace(names, fewer)})
    assert (reply.status, name in json.loads(reply.text)["Message"]) == (403, True)


@pytest.mark.parametrize(("seconds", "status"), [(-302, 403), (-298, 200), (298, 200), (302, 403)], ids=str)
def test_signature_is_good_for_five_minutes_either_way(aws: StandInAws, seconds: int, status: int) -> None:
    assert send(aws, sign(), clock_ahead=timedelta(seconds=seconds)).status == status


def test_date_of_the_scope_must_be_the_date_of_the_request(aws: StandInAws) -> None:
    reply = send(aws, {**sign(), "x-amz-date": "20200101T000000Z"})
    assert (reply.status, "Date in Credential scope" in reply.text) == (403, True)


def test_stated_body_hash_is_checked_against_the_body(aws: StandInAws) -> None:
    stated = {"x-amz-content-sha256": hashlib.sha256(b"one").hexdigest()}
    assert send(aws, sign(body=b"one", headers=stated), body=b"one").status == 200
    changed = send(aws, sign(body=b"one", headers=stated), body=b"two")
    assert (changed.status, "x-amz-content-sha256" in changed.text) == (403, True)
    assert send(aws, sign(headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})).status == 403


def test_session_needs_exactly_its_token_and_ends(aws: StandInAws) -> None:
    end_s = datetime.now(UTC).timestamp() + 60
    aws.caller = Caller(KEY, SECRET, TOKEN, "1", "arn:aws:sts::1:assumed-role/r/s", "AROA:s", end_s)
    assert send(aws, sign(token=TOKEN)).status == 200
    assert send(aws, sign()).status == 403
    assert send(aws, sign(token="another")).status == 403
    late = send(aws, sign(token=TOKEN), clock_ahead=timedelta(seconds=61))
    assert late.headers["x-amzn-errortype"] == "ExpiredTokenException"


@pytest.mark.parametrize("path", ["/a b%2Fc/é?x=1&x=2&b=%20y&empty=", "//token/./x/../", "/?z=1&a=%C3%A9"])
def test_odd_paths_and_queries_are_verified_as_sent(aws: StandInAws, path: str) -> None:
    sent = path.replace(" ", "%20").replace("é", "%C3%A9")
    assert send(aws, sign(path=sent), path=sent).status == 200
    (event,) = aws.events
    assert (event["rawPath"], event["rawQueryString"]) == sent.partition("?")[::2]


@pytest.mark.parametrize("missing", [URL_PERMISSION, INVOKE_PERMISSION], ids=["url", "invoke"])
def test_each_of_the_two_permissions_is_needed(aws: StandInAws, missing: tuple[str, dict[str, str]]) -> None:
    aws.permissions.remove(missing)
    reply = send(aws, sign())
    assert (reply.status, json.loads(reply.text)) == (403, {"Message": "Forbidden"})
    assert reply.headers["x-amzn-errortype"] == "AccessDeniedException"
    assert aws.events == []


def test_event_names_the_true_caller(aws: StandInAws) -> None:
    send(aws, sign())
    assert aws.events[0]["requestContext"]["authorizer"] == {
        "iam": {
            "accessKey": KEY,
            "accountId": ACCOUNT,
            "callerId": "AIDAU",
            "cognitoIdentity": None,
            "principalOrgId": None,
            "userArn": USER,
            "userId": "AIDAU",
        }
    }


def test_event_has_payload_format_two(aws: StandInAws) -> None:
    headers = {"cookie": "a=1; b=2", "X-Mixed-Case": "V", "content-type": "application/json; charset=utf-8"}
    path, body = "/token?k=1&k=2&l=a%20b", b'{"connection":"digishare"}'
    assert send(aws, sign(path=path, body=body, headers=headers), path=path, body=body).status == 200
    event = aws.events[0]
    assert (event["version"], f"{event['rawPath']}?{event['rawQueryString']}") == ("2.0", path)
    assert event["queryStringParameters"] == {"k": "1,2", "l": "a b"}
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["headers"]["x-mixed-case"] == "V"
    assert "cookie" not in event["headers"]
    assert (event["body"], event["isBase64Encoded"]) == (body.decode(), False)
    assert event["requestContext"]["http"]["method"] == "POST"


def test_absent_parts_are_absent_from_the_event(aws: StandInAws) -> None:
    send(aws, sign("GET", "/status"), "GET", "/status")
    assert not {"body", "cookies", "queryStringParameters"} & set(aws.events[0])
    assert aws.events[0]["isBase64Encoded"] is False


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/x-www-form-urlencoded", b"grant_type=x"), ("", b"{}"), ("application/json", b"\xff{")],
    ids=["form", "none", "json-that-is-not-utf8"],
)
def test_body_that_is_not_text_arrives_as_base64(aws: StandInAws, content_type: str, body: bytes) -> None:
    headers = {"content-type": content_type} if content_type else {}
    send(aws, sign(body=body, headers=headers), body=body)
    assert aws.events[0]["isBase64Encoded"] is True
    assert base64.b64decode(aws.events[0]["body"]) == body


def test_body_over_six_megabytes_gets_413_before_anything_else(aws: StandInAws) -> None:
    assert send(aws, {}, body=b"x" * (MAX_BODY_BYTES + 1)).status == 413
    body = b"x" * MAX_BODY_BYTES
    assert send(aws, sign(body=body), body=body).status == 200


def test_value_without_status_code_is_a_200_with_the_value(aws: StandInAws) -> None:
    aws.value = {"token": "t"}
    reply = send(aws, sign())
    assert (reply.status, json.loads(reply.text)) == (200, {"token": "t"})


def test_answer_of_the_function_is_passed_on_whole(aws: StandInAws) -> None:
    aws.value = {
        "statusCode": 418,
        "headers": {"X-Kind": "teapot", "Retry-After": 7},
        "cookies": ["a=1", "b=2"],
        "body": base64.b64encode(b"short").decode(),
        "isBase64Encoded": True,
    }
    reply = send(aws, sign())
    assert (reply.status, reply.text) == (418, "short")
    assert {"x-kind": "teapot", "retry-after": "7"}.items() <= reply.headers.items()
    assert [value for name, value in reply.header_list if name == "set-cookie"] == ["a=1", "b=2"]


FAILURES: dict[str, tuple[object, int]] = {
    "raised": (FunctionFailed("canary"), 502),
    "status is no number": ({"statusCode": "x", "body": "canary"}, 502),
    "body is no text": ({"statusCode": 200, "body": {"canary": 1}}, 502),
    "throttled": (Throttled(), 429),
}


@pytest.mark.parametrize(("value", "status"), FAILURES.values(), ids=FAILURES)
def test_failures_show_nothing_of_the_function(aws: StandInAws, value: object, status: int) -> None:
    aws.value = value
    reply = send(aws, sign())
    assert (reply.status, "canary" in reply.text) == (status, False)


def test_without_exactly_one_url_the_answer_is_404(aws: StandInAws) -> None:
    aws.target = None
    assert send(aws, sign()).status == 404
