"""A broker of the tests' own: a real HTTP server that checks signatures, counts its calls and fails on demand."""

from __future__ import annotations

import hashlib
import json
import ssl
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl

from local import signature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import trustme

REGION = "eu-west-3"
ACCESS_KEY_ID = "AKIAEXAMPLE"
SECRET_ACCESS_KEY = "canary-secret-key-77aa"


def token_id(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Answer:
    """One scripted answer. After `cut_after` bytes of the body the connection is closed; `drips` spreads the body.

    `raw` is sent in the place of all the rest, and the connection closed behind it.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    drips: bool = False
    raw: bytes | None = None


def failure(status: int, code: str, retry_after_s: int | None = None) -> Answer:
    body = {"error": code, "error_description": f"said {code}", "request_id": "req-1"}
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return Answer(status, json.dumps(body).encode(), headers)


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    body: dict[str, object]
    query: dict[str, str]


class FakeBroker:
    """Use as a context manager. `script` holds the next answers; when it is empty the broker works as it should."""

    def __init__(self) -> None:
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
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.broker = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        scheme = "https" if isinstance(self._server.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://localhost:{self._server.server_port}/"

    def speak_tls(self, certificate: trustme.LeafCert) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        # The handshake belongs into the request's own thread.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )

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
            body = json.dumps({"Message": str(error)}).encode()
            return Answer(403, body, {"x-amzn-ErrorType": error.error_type, "x-amzn-RequestId": "aws-1"})
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    broker: FakeBroker

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up or distrust a certificate, which is what some tests want."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    server: _Server

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.broker.answer(signature.Request(self.command, path, query, headers, content))
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.drips:
            self._drip(answer.body)
        else:
            self.wfile.write(answer.body[: answer.cut_after])
        self.close_connection = self.close_connection or answer.cut_after is not None

    def _drip(self, body: bytes) -> None:
        """Send a byte now and then, until the client has gone."""
        with suppress(OSError):
            for position in range(len(body)):
                self.wfile.write(body[position : position + 1])
                self.wfile.flush()
                time.sleep(0.03)

    do_GET = do_POST = _serve  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the tests look at what was recorded."""
