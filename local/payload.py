"""Payload format 2.0: the event that a Function URL makes of a request, and the HTTP answer to what the handler returns.

Source: the Lambda guide's "Invoking Function URLs".
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from local.signature import Caller, Request

_TEXT_TYPES = frozenset({"application/json", "application/javascript", "application/xml"})


@dataclass(frozen=True)
class FunctionUrl:
    """The URL that this front serves, and what it invokes: the ARN includes the alias, where there is one."""

    url_id: str
    account_id: str
    region: str
    function_arn: str

    @property
    def domain_name(self) -> str:
        return f"{self.url_id}.lambda-url.{self.region}.on.aws"


class FunctionFailed(Exception):
    """The handler raised, timed out or could not start."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


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
        event["queryStringParameters"] = join_pairs(parse_qsl(request.raw_query, keep_blank_values=True))
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
            pass  # not the text that it claims to be: base64 preserves every byte
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


def join_pairs(pairs: Iterable[tuple[str, str]], separator: str = ",") -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]}{separator}{value}" if name in joined else value
    return joined
