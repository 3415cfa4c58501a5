"""An API on loopback that needs bearer tokens. It accepts every host name."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from urllib.parse import unquote

from local.loopback import LoopbackHandler, LoopbackServer

HOSTS_ELSEWHERE = ("example.com", "api.example.com", "api.digishare.ma.example.com")
URLS_ELSEWHERE = (
    "https://api.digishare.ma.example.com:{port}/",
    "https://api.digishare.ma@example.com:{port}/",
    "https://api.digishare.ma:secret@example.com:{port}/",
    "https://api.digishare.ma%2f@example.com:{port}/",
    "https://example.com:{port}/https://api.digishare.ma/",
    "https://example.com:{port}?@api.digishare.ma/",
    "https://example.com:{port}#@api.digishare.ma/",
    "https://api.example.com:{port}/api.digishare.ma",
)
"""URLs that a comparison of prefixes, or a person, may take for Digishare's."""


@dataclass(frozen=True)
class Seen:
    """A request. `bearer` is the whole Authorization where it is of another scheme."""

    host: str
    path: str
    bearer: str | None
    body: bytes


class FakeApi(LoopbackServer):
    """`/redirect/STATUS/URL` redirects, `/forbidden` is 403, all else needs a good token.

    `first_statuses` come before all that. Errors have `error_headers`; with `dripping_401` its body drips for ten
    seconds, or until the client hangs up, which `hung_up` tells.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.seen: list[Seen] = []
        self.refused: set[str] = set()
        self.first_statuses: deque[int] = deque()
        self.error_headers: dict[str, str] = {}
        self.dripping_401 = False
        self.hung_up = threading.Event()
        self.body: bytes | None = None

    @property
    def bearers(self) -> list[str | None]:
        return [seen.bearer for seen in self.seen]

    def url(self, path: str = "/things", host: str = "localhost") -> str:
        return f"http://{host}:{self.port}{path}"

    def status_of(self, seen: Seen) -> int:
        self.seen.append(seen)
        if self.first_statuses:
            return self.first_statuses.popleft()
        if seen.path == "/forbidden":
            return 403
        if seen.path.startswith("/redirect/"):
            return int(seen.path.split("/")[2])
        return 401 if seen.bearer is None or seen.bearer in self.refused else 200


class _Handler(LoopbackHandler):
    server: FakeApi

    def serve(self) -> None:
        api = self.server
        authorization = self.headers.get("Authorization")
        bearer = None if authorization is None else authorization.removeprefix("Bearer ")
        status = api.status_of(Seen(self.headers["Host"], self.path, bearer, self.read_body()))
        headers = dict(api.error_headers) if status >= 400 else {}
        if self.path.startswith("/redirect/"):
            headers["Location"] = unquote(self.path.split("/", 3)[3])
        if status == 401 and api.dripping_401:
            self.close_connection = True
            self.wfile.write(self.head(401, headers))
            try:
                self.drip(b"." * 500, 0.02)
            except OSError:
                api.hung_up.set()
        else:
            self.send(status, headers, b'{"status":%d}' % status if api.body is None else api.body)
