"""TLS in front of the local AWS, as in front of the real one: it counts the calls, and can make them take their time.

Without it nothing of what a start pays for certificates would show, since the local AWS speaks plain HTTP.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    import trustme

_NOT_PASSED_ON: Final = {"connection", "transfer-encoding", "content-length", "date", "server"}


class AwsFront:
    """A context manager; `url` is what AWS_ENDPOINT_URL takes.

    Args:
        endpoint_url: of the local AWS, plain HTTP.
        authority: signs the front's certificate.

    Attributes:
        delays_s: how much longer each service's answers take ("dynamodb", "kms", "secretsmanager").
    """

    def __init__(self, endpoint_url: str, authority: trustme.CA) -> None:
        self.delays_s: Mapping[str, float] = {}
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.front = self
        self._server.target = urlsplit(endpoint_url).netloc
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take_calls(self) -> dict[str, int]:
        """Return how often each operation was called since the last time this was asked, by "service.Operation"."""
        with self._lock:
            calls, self._calls = self._calls, Counter()
        return dict(calls)

    def note(self, target: str) -> None:
        """Count one call by its X-Amz-Target header, and wait as long as its service is to take."""
        prefix, _, operation = target.partition(".")
        service = {"DynamoDB_20120810": "dynamodb", "TrentService": "kms"}.get(prefix, prefix)
        with self._lock:
            self._calls[f"{service}.{operation}"] += 1
        time.sleep(self.delays_s.get(service, 0.0))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    front: AwsFront
    target: str


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPConnection(self.server.target, timeout=60)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.front.note(self.headers.get("X-Amz-Target", "unknown"))
        self._upstream.request("POST", self.path, body, dict(self.headers.items()))
        answer = self._upstream.getresponse()
        content = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _NOT_PASSED_ON:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing: this is on the measured path."""
