"""A proxy between the SDK and the local AWS: it counts the calls, can delay their answers and can spoil them.

AWS_ENDPOINT_URL points the SDK at it. It passes the signed Host header on, so that signatures stay valid. With TLS, a
start loads and checks certificates as for the real AWS: the local one speaks plain HTTP.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from local.loopback import LoopbackHandler, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["error", "silent", "reset", "close", "garbled", "cut", "lost"]
_FORWARD_TIMEOUT_S: Final = 60.0
_SILENCE_S: Final = 60.0
_SERVICES: Final = {"DynamoDB_20120810": "dynamodb", "TrentService": "kms"}
_NOT_PASSED_ON: Final = {"connection", "transfer-encoding", "content-length", "date", "server"}


@dataclass(kw_only=True)
class AwsFault:
    """One thing that goes wrong with the calls that it matches.

    Attributes:
        kind: `error`: AWS answers `status` and `code`, nothing has happened. `silent`: nothing happens, and no answer
            comes. `reset`, `close`: the connection ends, nothing has happened. `garbled`: half of the true answer, with
            its own length. `cut`: half of it, and the connection ends. `lost`: it took effect, the connection is reset.
        service: "dynamodb", "kms" or "secretsmanager"; "" for all.
        operation: as in "GetItem"; "" for all.
        containing: what the request's body must contain.
        times: how many calls it spoils; None: all.
    """

    kind: Kind
    service: str = ""
    operation: str = ""
    containing: str = ""
    times: int | None = None
    status: int = 500
    code: str = "InternalServerError"

    def matches(self, service: str, operation: str, body: bytes) -> bool:
        return (
            self.times != 0
            and self.service in {"", service}
            and self.operation in {"", operation}
            and self.containing.encode() in body
        )


class AwsProxy(LoopbackServer):
    """Stands between the SDK and the local AWS; `origin` is what AWS_ENDPOINT_URL takes.

    Args:
        endpoint_url: of the local AWS, plain HTTP.

    Attributes:
        delays_s: how much longer a service's answers take ("dynamodb", "kms", "secretsmanager"); the calls themselves
            take effect at once.
        spoilt: how many calls went wrong.
    """

    def __init__(self, endpoint_url: str) -> None:
        super().__init__(_Handler)
        self.target = urlsplit(endpoint_url).netloc
        self.delays_s: Mapping[str, float] = {}
        self.spoilt = 0
        self._lock = threading.Lock()
        self._faults: list[AwsFault] = []
        self._calls: Counter[str] = Counter()

    def fail(self, fault: AwsFault) -> None:
        """Spoil calls from now on; where several faults match a call, the oldest does."""
        with self._lock:
            self._faults.append(fault)

    def recover(self) -> None:
        with self._lock:
            self._faults.clear()

    def take_calls(self) -> dict[str, int]:
        """Return how often each operation was called since the last call of this, by "service.Operation"."""
        with self._lock:
            calls, self._calls = self._calls, Counter()
        return dict(calls)

    def note_call(self, service: str, operation: str, body: bytes) -> AwsFault | None:
        """Count a call; return the fault that spoils it."""
        with self._lock:
            self._calls[f"{service}.{operation}"] += 1
            for fault in self._faults:
                if fault.matches(service, operation, body):
                    if fault.times is not None:
                        fault.times -= 1
                    self.spoilt += 1
                    return fault
        return None


class _Handler(LoopbackHandler):
    server: AwsProxy

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPConnection(self.server.target, timeout=_FORWARD_TIMEOUT_S)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def serve(self) -> None:
        body = self.read_body()
        prefix, _, operation = self.headers.get("X-Amz-Target", "unknown").partition(".")
        service = _SERVICES.get(prefix, prefix)
        fault = self.server.note_call(service, operation, body)
        if fault is None or fault.kind in {"garbled", "cut", "lost"}:
            status, headers, content = self._forward(body)
            self.server.stopping.wait(self.server.delays_s.get(service, 0.0))
            if fault is None:
                self.send(status, headers, content)
            else:
                self._send_spoilt(fault.kind, status, headers, content)
        else:
            self._refuse(fault)

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self._upstream.request("POST", self.path, body, dict(self.headers.items()))
        answer = self._upstream.getresponse()
        content = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _NOT_PASSED_ON}
        return answer.status, headers, content

    def _refuse(self, fault: AwsFault) -> None:
        if fault.kind == "error":
            headers = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-ErrorType": fault.code}
            self.send(
                fault.status, headers, json.dumps({"__type": fault.code, "message": "injected"}).encode()
            )
            return
        if fault.kind == "reset":
            self.reset()
        elif fault.kind == "silent":
            self.server.stopping.wait(_SILENCE_S)
        self.close_connection = True

    def _send_spoilt(self, kind: Kind, status: int, headers: dict[str, str], content: bytes) -> None:
        half = content[: len(content) // 2]
        if kind == "lost":
            self.reset()
        elif kind == "cut":
            self.close_connection = True
            self.send(status, headers | {"Content-Length": str(len(content))}, half)
        else:
            # Without its checksum, by which the SDK would notice.
            self.send(status, {name: headers[name] for name in headers if "crc32" not in name.lower()}, half)
