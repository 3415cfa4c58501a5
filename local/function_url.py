"""A stack's Function URL with `AuthType: AWS_IAM` on a loopback port, as strict as the one on AWS.

    request ─▶ signature ─▶ both permissions ─▶ payload-2.0 event ─▶ function ─▶ answer
               403          403                                       429, 502    200 …

The local AWS has Function URLs of its own, but they accept a signature for any service and region, require one
permission of the two, and do not tell the function who called. This front does all that. It uses the local AWS only as
a `Backend`. Presigned query strings are refused.

Sources: the Lambda guide's "Control access to Function URLs" and "Invoking Function URLs" (payload format 2.0).
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Protocol

from local.payload import Answer, FunctionFailed, FunctionUrl, build_event, join_pairs, read_answer
from local.signature import Caller, Rejected, Request, authenticate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Message = dict[str, object]

MAX_BODY_BYTES = 6 * 1024 * 1024


class Throttled(Exception):
    """No concurrency is left for the function."""


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
        if scope["type"] != "http":
            return  # the server's own start and end
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


def _error(status: int, error_type: str, message: str) -> Answer:
    headers = (("content-type", "application/json"), ("x-amzn-errortype", error_type))
    return Answer(status, headers, json.dumps({"Message": message}).encode())


def _request(scope: Mapping[str, Any], body: bytes) -> Request:
    headers = scope["headers"]
    pairs = ((name.decode("latin-1").lower(), value.decode("latin-1").strip()) for name, value in headers)
    return Request(
        method=str(scope["method"]),
        raw_path=scope["raw_path"].decode("latin-1").partition("?")[0] or "/",
        raw_query=scope["query_string"].decode("latin-1"),
        headers=join_pairs(pairs),
        body=body,
    )


def _source_ip(scope: Mapping[str, object]) -> str:
    client = scope.get("client")
    return str(client[0]) if isinstance(client, list | tuple) and client else "127.0.0.1"


async def _read_body(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    """Return the whole body, or None once it is larger than AWS accepts."""
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
