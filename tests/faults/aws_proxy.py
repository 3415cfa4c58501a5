"""A loopback proxy between the SDK and the local AWS: real sockets, and whatever can go wrong on them.

The SDK is pointed at it by AWS_ENDPOINT_URL. It passes the signed Host header on, so that signatures stay right.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from local.digishare.sockets import SocketServer

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["error", "slow", "silent", "reset", "close", "garbled", "cut", "lost"]
_FORWARD_TIMEOUT_S = 30.0
_SILENCE_S = 60.0
SERVICES = {"DynamoDB_20120810": "dynamodb", "TrentService": "kms", "secretsmanager": "secretsmanager"}


@dataclass(kw_only=True)
class AwsFault:
    """One thing that goes wrong with the calls that it matches.

    Attributes:
        kind: `error`: AWS answers `status` and `code`, nothing has happened. `slow`: it takes effect, the answer comes
            `delay_s` later. `silent`: nothing happens, and no answer comes. `reset`, `close`: the connection ends,
            nothing has happened. `garbled`: a well-framed half of the true answer. `cut`: half of it, and the
            connection ends. `lost`: it took effect, the connection is reset.
        service: "dynamodb", "kms" or "secretsmanager"; "" for all.
        operation: as in "GetItem"; "" for all.
        containing: what the request's body must hold.
        times: how many calls it spoils; None: all.
    """

    kind: Kind
    service: str = ""
    operation: str = ""
    containing: str = ""
    times: int | None = None
    status: int = 500
    code: str = "InternalServerError"
    delay_s: float = 0.0

    def matches(self, service: str, operation: str, body: bytes) -> bool:
        return (
            self.service in {"", service}
            and self.operation in {"", operation}
            and self.containing.encode() in body
        )


class AwsProxy:
    """Stands between the SDK and the local AWS while its `with` block runs.

    Attributes:
        url: where the SDK goes.
        spoilt: how many calls went wrong.
    """

    def __init__(self, endpoint_url: str) -> None:
        self._endpoint = urlsplit(endpoint_url).netloc
        self._lock = threading.Lock()
        self._faults: list[AwsFault] = []
        self.spoilt = 0

    def __enter__(self) -> Self:
        self._server = _ProxyServer(self)
        self._server.start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.close()

    def fail(self, fault: AwsFault) -> AwsFault:
        """Spoil calls from now on; where several faults match a call, the oldest does."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def recover(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, service: str, operation: str, body: bytes) -> AwsFault | None:
        """Return what is to go wrong with a call."""
        with self._lock:
            for fault in self._faults:
                if fault.matches(service, operation, body) and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    self.spoilt += 1
                    return fault
        return None

    def forward(
        self, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._endpoint, timeout=_FORWARD_TIMEOUT_S)
        try:
            connection.request("POST", path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


class _ProxyServer(SocketServer):
    def __init__(self, proxy: AwsProxy) -> None:
        self.proxy = proxy
        super().__init__(0, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _ProxyServer
    connection: socket.socket
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        target, _, operation = self.headers["X-Amz-Target"].partition(".")
        fault = self.server.proxy.take(SERVICES[target], operation, body)
        match fault.kind if fault else None:
            case "error":
                self._send(*_error(fault))
            case "reset":
                self._reset()
            case "close":
                self.close_connection = True
            case "silent":
                self.close_connection = True
                self.server.stopping.wait(_SILENCE_S)
            case _:
                self._send_spoilt(fault, *self._forwarded(body))

    def _forwarded(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        return self.server.proxy.forward(self.path, dict(self.headers.items()), body)

    def _send_spoilt(self, fault: AwsFault | None, status: int, headers: dict[str, str], body: bytes) -> None:
        match fault.kind if fault else None:
            case "lost":
                self._reset()
            case "slow":
                self.server.stopping.wait(fault.delay_s if fault else 0)
                self._send(status, headers, body)
            case "garbled":
                # Without its checksum, which would give it away.
                unchecked = {name: value for name, value in headers.items() if "crc32" not in name.lower()}
                self._send(status, unchecked, body[: len(body) // 2])
            case "cut":
                self.close_connection = True
                self._send(status, headers, body[: len(body) // 2], length=len(body))
            case _:
                self._send(status, headers, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes, *, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it holds the socket open
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def _error(fault: AwsFault | None) -> tuple[int, dict[str, str], bytes]:
    assert fault is not None
    body = {"__type": fault.code, "message": "injected"}
    headers = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-ErrorType": fault.code}
    return fault.status, headers, json.dumps(body).encode()
