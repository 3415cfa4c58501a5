"""A broker of the tests' own: a real HTTP server that checks signatures, counts its calls and fails on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from local import signature
from local.loopback import HOST, LoopbackHandler, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Mapping

REGION = "eu-west-3"
ACCESS_KEY_ID = "AKIAEXAMPLE"
SECRET_ACCESS_KEY = "canary-secret-key-77aa"
FIRST, SECOND = "canary-token-1", "canary-token-2"


def token_id(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Answer:
    """One scripted answer. `drips`: the body comes slowly. `raw`: these bytes are sent instead, then the end."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    drips: bool = False
    raw: bytes | None = None


def failure(status: int, code: str, retry_after_s: int | None = None) -> Answer:
    body = {"error": code, "error_description": f"said {code}", "request_id": "req-1"}
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return Answer(status, json.dumps(body).encode(), headers)


def aws_refusal(error_type: str, message: str) -> Answer:
    headers = {"x-amzn-ErrorType": error_type, "x-amzn-RequestId": "aws-1"}
    return Answer(403, json.dumps({"Message": message}).encode(), headers)


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    body: dict[str, object]
    query: dict[str, str]


class FakeBroker(LoopbackServer):
    """`script` has the next answers; when it is empty the broker works as it should."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.calls: list[Call] = []
        self.refusals = 0
        self.script: deque[Answer] = deque()
        self.generation = 1
        self.lease_s = 900
        self.longest_min_ttl_s = 3600
        self.replaces_rejected = True
        self.session_token: str | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.was_asked = threading.Event()
        self._lock = threading.Lock()

    def close(self) -> None:
        self.may_answer.set()
        super().close()

    @property
    def url(self) -> str:
        return f"{self.origin.replace(HOST, 'localhost')}/"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {
            "TOKEN_BROKER_URL": self.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        }

    @property
    def token(self) -> str:
        return f"canary-token-{self.generation}"

    @property
    def token_id(self) -> str:
        return token_id(self.token)

    def answer(self, request: signature.Request) -> Answer:
        try:
            signature.authenticate(request, REGION, datetime.now(UTC), self._find_caller)
        except signature.Rejected as error:
            self.refusals += 1
            return aws_refusal(error.error_type, str(error))
        body = json.loads(request.body or b"{}")
        call = Call(request.method, request.raw_path, body, dict(parse_qsl(request.raw_query)))
        with self._lock:
            self.calls.append(call)
            scripted = self.script.popleft() if self.script else None
        self.was_asked.set()
        self.may_answer.wait(20)
        return scripted or self._work(call)

    def _work(self, call: Call) -> Answer:
        if call.method == "GET" and call.path == "/status":
            return Answer(200, json.dumps({"connections": [{"asked": call.query}]}).encode())
        with self._lock:
            if self.replaces_rejected and call.body.get("rejected_token_id") == self.token_id:
                self.generation += 1
            wanted_s = min(int(str(call.body.get("min_ttl", 0))), self.longest_min_ttl_s)
            lease = {
                "access_token": self.token,
                "token_type": "Bearer",
                "expires_in": max(self.lease_s, wanted_s),
                "token_id": self.token_id,
                "connection": call.body["connection"],
            }
        return Answer(200, json.dumps(lease).encode())

    def _find_caller(self, access_key_id: str) -> signature.Caller | None:
        if access_key_id != ACCESS_KEY_ID:
            return None
        arn = "arn:aws:iam::123456789012:user/test"
        return signature.Caller(
            ACCESS_KEY_ID, SECRET_ACCESS_KEY, self.session_token, "123456789012", arn, "AIDAEXAMPLE"
        )


class _Handler(LoopbackHandler):
    server: FakeBroker

    def serve(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = signature.Request(self.command, path, query, headers, self.read_body())
        answer = self.server.answer(request)
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            self.close_connection = True
            return
        headers = {"Content-Type": "application/json", "Content-Length": str(len(answer.body))}
        self.send(answer.status, {**answer.headers, **headers}, b"" if answer.drips else answer.body)
        if answer.drips:
            self.drip(answer.body, 0.03)
