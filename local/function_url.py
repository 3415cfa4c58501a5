"""A stack's Function URL with `AuthType: AWS_IAM` on a loopback port, as strict as the one on AWS.

    request ─▶ signature ─▶ both permissions ─▶ payload-2.0 event ─▶ function ─▶ answer
               403          403                                       429, 502    200 …

The local AWS has Function URLs of its own, but they accept a signature for any service and region, ask for one
permission of the two, and tell the function nothing about who called. This front closes those gaps. It knows the
local AWS only as a `Backend`. Presigned query strings are refused.

Sources: the Lambda guide's "Control access to Function URLs" and "Invoking Function URLs" (payload format 2.0).
"""

from __future__ import annotations

import base64
import json
import secrets
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl

from local.signature import Caller, Rejected, Request, authenticate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    Message = dict[str, object]

MAX_BODY_BYTES = 6 * 1024 * 1024

_TEXT_TYPES = frozenset({"application/json", "application/javascript", "application/xml"})


@dataclass(frozen=True)
class FunctionUrl:
    """The URL that this front serves, and what it invokes: the ARN carries the alias, where there is one."""

    url_id: str
    account_id: str
    region: str
    function_arn: str

    @property
    def domain_name(self) -> str:
        return f"{self.url_id}.lambda-url.{self.region}.on.aws"


class Throttled(Exception):
    """No concurrency is left for the function."""


class FunctionFailed(Exception):
    """The handler raised, timed out or could not start."""


class Backend(Protocol):
    """What the front asks of the AWS behind it."""

    def find_function_url(self, stack_name: str) -> FunctionUrl | None:
        """Return the one `AWS_IAM` URL of the stack's functions; None where there is none, or more than one."""

    def find_caller(self, access_key_id: str) -> Caller | None:
        """Return the owner of an active IAM user's or STS session's key; None for any other key."""

    def is_allowed(self, caller: Caller, action: str, resource: str, context: Mapping[str, str]) -> bool:
        """Say whether identity and resource policies together allow `action`, given these condition keys."""

    async def invoke(self, target: FunctionUrl, event: Mapping[str, object]) -> object:
        """Run the function and return its value.

        Raises:
            Throttled: nothing ran.
            FunctionFailed: it ran, and raised or timed out.
        """


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class FunctionUrlFront:
    """The ASGI application. `now` is the clock that signatures are checked against."""

    def __init__(
        self,
        backend: Backend,
        region: str,
        stack_name: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._backend = backend
        self._region = region
        self._stack_name = stack_name
        self._now = now

    async def __call__(
        self,
        scope: Mapping[str, object],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _acknowledge_lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        request_id = str(uuid.uuid4())
        body = await _read_body(receive)
        if body is None:
            answer = _error(
                413, "RequestEntityTooLargeException", "Request must be smaller than 6291456 bytes"
            )
        else:
            answer = await self._answer(_request(scope, body), _source_ip(scope), request_id)
        headers = [
            *answer.headers,
            # AWS's clock: `token-broker doctor` compares the caller's with it.
            ("date", formatdate(usegmt=True)),
            ("content-length", str(len(answer.body))),
            ("x-amzn-requestid", request_id),
        ]
        start: Message = {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        }
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, request: Request, source_ip: str, request_id: str) -> Answer:
        target = self._backend.find_function_url(self._stack_name)
        if target is None:
            message = f"Stack {self._stack_name} has not exactly one Function URL with AWS_IAM"
            return _error(404, "ResourceNotFoundException", message)
        try:
            caller = authenticate(request, self._region, self._now(), self._backend.find_caller)
        except Rejected as rejection:
            return _error(403, rejection.error_type, str(rejection))
        if not self._may_call(caller, target):
            return _error(403, "AccessDeniedException", "Forbidden")
        try:
            value = await self._backend.invoke(
                target, build_event(request, target, caller, source_ip, request_id)
            )
            return read_answer(value)
        except Throttled:
            return _error(429, "TooManyRequestsException", "Rate Exceeded.")
        except FunctionFailed:
            return Answer(502, (("content-type", "application/json"),), b"Internal Server Error")

    def _may_call(self, caller: Caller, target: FunctionUrl) -> bool:
        """Function URLs need both permissions since October 2025."""
        needed = (
            ("lambda:InvokeFunctionUrl", {"lambda:FunctionUrlAuthType": "AWS_IAM"}),
            ("lambda:InvokeFunction", {"lambda:InvokedViaFunctionUrl": "true"}),
        )
        return all(
            self._backend.is_allowed(caller, action, target.function_arn, context)
            for action, context in needed
        )


def build_event(
    request: Request, target: FunctionUrl, caller: Caller, source_ip: str, request_id: str
) -> dict[str, object]:
    """Return the payload-2.0 event of a request: keys without a value are absent, except where AWS sends null."""
    body, is_base64 = _event_body(request)
    headers, cookies = _event_headers(request, target, source_ip)
    now_epoch_s = time.time()
    event: dict[str, object] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.raw_path,
        "rawQueryString": request.raw_query,
        "headers": headers,
        "requestContext": {
            "accountId": target.account_id,
            "apiId": target.url_id,
            "authentication": None,
            "authorizer": {"iam": _describe(caller)},
            "domainName": target.domain_name,
            "domainPrefix": target.url_id,
            "http": {
                "method": request.method,
                "path": request.raw_path,
                "protocol": "HTTP/1.1",
                "sourceIp": source_ip,
                "userAgent": request.headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now_epoch_s)),
            "timeEpoch": int(now_epoch_s * 1000),
        },
        "isBase64Encoded": is_base64,
    }
    if body is not None:
        event["body"] = body
    if cookies:
        event["cookies"] = cookies
    if request.raw_query:
        event["queryStringParameters"] = _joined(parse_qsl(request.raw_query, keep_blank_values=True))
    return event


def read_answer(value: object) -> Answer:
    """Turn what the handler returned into HTTP, as payload format 2.0 says.

    A value without `statusCode` is a 200 with the whole value as JSON.

    Raises:
        FunctionFailed: there is a `statusCode`, and the rest cannot be an answer (AWS answers 502).
    """
    if not isinstance(value, dict) or "statusCode" not in value:
        return Answer(200, (("content-type", "application/json"),), json.dumps(value).encode())
    body = value.get("body") or ""
    headers = value.get("headers") or {}
    try:
        status = int(value["statusCode"])
        content = base64.b64decode(body, validate=True) if value.get("isBase64Encoded") else body.encode()
        fields = {name.lower(): str(text) for name, text in headers.items()}
    except (AttributeError, TypeError, ValueError):
        raise FunctionFailed("The function's answer is malformed") from None
    fields.setdefault("content-type", "application/json")
    cookies = tuple(("set-cookie", str(cookie)) for cookie in value.get("cookies") or ())
    return Answer(status, (*fields.items(), *cookies), content)


def _describe(caller: Caller) -> dict[str, str | None]:
    return {
        "accessKey": caller.access_key_id,
        "accountId": caller.account_id,
        "callerId": caller.user_id,
        "cognitoIdentity": None,
        "principalOrgId": None,
        "userArn": caller.user_arn,
        "userId": caller.user_id,
    }


def _event_body(request: Request) -> tuple[str | None, bool]:
    """Return the body as text, or as base64 for any content type that is neither text nor JSON."""
    if not request.body:
        return None, False
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type.startswith("text/") or content_type in _TEXT_TYPES:
        try:
            return request.body.decode(), False
        except UnicodeDecodeError:
            pass  # not the text that it claims to be: base64 keeps every byte
    return base64.b64encode(request.body).decode(), True


def _event_headers(request: Request, target: FunctionUrl, source_ip: str) -> tuple[dict[str, str], list[str]]:
    headers = dict(request.headers)
    cookies = [cookie.strip() for cookie in headers.pop("cookie", "").split(";") if cookie.strip()]
    headers |= {
        "host": target.domain_name,
        "x-amzn-tls-version": "TLSv1.3",
        "x-amzn-trace-id": f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)}",
        "x-forwarded-for": source_ip,
        "x-forwarded-port": "443",
        "x-forwarded-proto": "https",
    }
    return headers, cookies


def _joined(pairs: Iterable[tuple[str, str]], separator: str = ",") -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]}{separator}{value}" if name in joined else value
    return joined


def _error(status: int, error_type: str, message: str) -> Answer:
    headers = (("content-type", "application/json"), ("x-amzn-errortype", error_type))
    return Answer(status, headers, json.dumps({"Message": message}).encode())


def _request(scope: Mapping[str, object], body: bytes) -> Request:
    raw_headers = scope["headers"]
    raw_path, raw_query = scope["raw_path"], scope["query_string"]
    if (
        not isinstance(raw_path, bytes)
        or not isinstance(raw_query, bytes)
        or not isinstance(raw_headers, list | tuple)
    ):
        raise TypeError("the ASGI server must pass raw_path, query_string and headers as they were sent")
    pairs = ((name.decode("latin-1").lower(), value.decode("latin-1").strip()) for name, value in raw_headers)
    return Request(
        method=str(scope["method"]),
        raw_path=raw_path.decode("latin-1").partition("?")[0] or "/",
        raw_query=raw_query.decode("latin-1"),
        headers=_joined(pairs),
        body=body,
    )


def _source_ip(scope: Mapping[str, object]) -> str:
    client = scope.get("client")
    return str(client[0]) if isinstance(client, list | tuple) and client else "127.0.0.1"


async def _read_body(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    """Return the whole body, or None once it is larger than AWS takes."""
    body = bytearray()
    while True:
        message = await receive()
        part = message.get("body", b"")
        if isinstance(part, bytes):
            body += part
        if len(body) > MAX_BODY_BYTES:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return bytes(body)


async def _acknowledge_lifespan(
    receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
