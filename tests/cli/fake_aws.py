"""AWS's answers over loopback HTTP, for commands that run as processes of their own."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from types import TracebackType

NAMESPACE = {
    "GetCallerIdentity": "https://sts.amazonaws.com/doc/2011-06-15/",
    "DescribeStacks": "http://cloudformation.amazonaws.com/doc/2010-05-15/",
}


class FakeAws:
    """Use as a context manager. `answers` maps an operation to its answer: an object, or the result in XML."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, Any] = {
            "GetCallerIdentity": "<Arn>arn:aws:iam::123456789012:user/test</Arn>"
            "<UserId>AIDAEXAMPLE</UserId><Account>123456789012</Account>",
            "DescribeStacks": "<Stacks></Stacks>",
        }
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.aws = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    aws: FakeAws


class _Handler(BaseHTTPRequestHandler):
    timeout = 20
    server: _Server

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        target = self.headers.get("X-Amz-Target")
        request = json.loads(content) if target else parse_qs(content)
        operation = target.rpartition(".")[2] if target else request["Action"][0]
        aws = self.server.aws
        aws.asked.append((operation, request))
        aws.may_answer.wait(20)
        answer = aws.answers.get(operation)
        status = 200 if answer is not None else 400
        if target:
            body = json.dumps(answer if answer is not None else {"__type": "ResourceNotFoundException"})
        else:
            result = f"<{operation}Result>{answer}</{operation}Result>"
            body = f'<{operation}Response xmlns="{NAMESPACE[operation]}">{result}</{operation}Response>'
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the tests look at what was recorded."""
