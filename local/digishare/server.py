"""The fake on real sockets: TLS, many clients at once, and the delivery of spoilt answers."""

from __future__ import annotations

import logging
import tempfile
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import trustme

from local.digishare.api import TARGET_OF_PATH, DigishareApi
from local.digishare.model import Answer, Client, PersonalAccessToken, Request, json_object
from local.digishare.tokens import signing_key
from local.loopback import HOST, LoopbackHandler, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from local.digishare.faults import Fault

_log = logging.getLogger("digishare")

_MAX_REQUEST_BYTES = 5_000_000
_PIECE = b"x" * 65_536
_WBITS = {"gzip": 31, "zlib": 15, "deflate": -15}


class _DigishareServer(LoopbackServer):
    def __init__(self, port: int, api: DigishareApi) -> None:
        self.api = api
        super().__init__(_Handler, port)


class _Handler(LoopbackHandler):
    server: _DigishareServer

    def serve(self) -> None:
        request = self._read_request()
        if request is None:
            return
        api = self.server.api
        fault = api.receive(request)
        if fault is None:
            self._send(api.answer(request))
        else:
            self._send_spoilt(fault, request)

    def _read_request(self) -> Request | None:
        """Return the request, or answer it with 411 or 413 and return None."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            self._send_error(411)
            return None
        if int(length) > _MAX_REQUEST_BYTES:
            self._send_error(413)
            return None
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.command, self.path, headers, self.read_body())

    def _send_error(self, status: int) -> None:
        self._send(Answer(status, b'{"message":"Bad Request"}', {"Connection": "close"}))

    def _send(self, answer: Answer) -> None:
        self.send(answer.status, self._headers(answer), answer.body)

    def _headers(self, answer: Answer) -> dict[str, str]:
        self._note(str(answer.status))
        return {
            "Server": "nginx",
            "Content-Type": answer.content_type,
            "Cache-Control": "no-cache, private",
            **answer.headers,
        }

    # --- faults -----------------------------------------------------------------------------------------------

    def _send_spoilt(self, fault: Fault, request: Request) -> None:
        answer = self._spoilt_answer(fault, request)
        if self.server.stopping.wait(fault.delay_s):
            return
        if fault.delivery == "whole":
            self._send(answer)
            return
        self._note(fault.name)
        if fault.delivery == "raw":
            self._send_raw(fault, answer)
            return
        self.close_connection = True  # which is all that "close" does
        match fault.delivery:
            case "hang":
                self.server.stopping.wait(fault.cap_s)
            case "reset":
                self.reset()
            case "drip_headers":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
                self.drip(b"." * 60_000, fault.interval_s, fault.cap_s)
            case "drip_body":
                self._send_cut(answer, 0)
                self.drip(answer.body, fault.interval_s, fault.cap_s)
            case "cut_body":
                self._send_cut(answer, len(answer.body) // 2)
            case "stream":
                self._stream(answer, fault)

    def _send_cut(self, answer: Answer, length: int) -> None:
        headers = self._headers(answer) | {"Content-Length": str(len(answer.body))}
        self.send(answer.status, headers, answer.body[:length])

    def _spoilt_answer(self, fault: Fault, request: Request) -> Answer:
        if fault.processed:
            answer = self.server.api.answer(request)
        else:
            answer = Answer(fault.status, fault.body, fault.headers)
        body = answer.body[: len(answer.body) // 2] if fault.keep_half_of_body else answer.body
        return Answer(answer.status, body, answer.headers, fault.content_type or answer.content_type)

    def _send_raw(self, fault: Fault, answer: Answer) -> None:
        template = fault.template.encode("latin-1")
        body = fault.body
        if fault.processed:
            token = str(json_object(answer.body).get("access_token", "")).encode()
            template, body = (text.replace(b"<token>", token) for text in (template, body))
        if fault.packing:
            packer = zlib.compressobj(wbits=_WBITS[fault.packing])
            body = packer.compress(body) + packer.flush()
        length = len(body.replace(b"<pause>", b""))
        content = template.replace(b"<length>", b"%d" % length).replace(b"<hex>", b"%x" % length)
        for index, piece in enumerate(content.replace(b"<body>", body).split(b"<pause>")):
            if index and self.server.stopping.wait(fault.interval_s):
                return
            self.wfile.write(piece)

    def _stream(self, answer: Answer, fault: Fault) -> None:
        start, end = b'{"access_token":"', b'"}'
        framing = (
            {"Transfer-Encoding": "chunked"} if fault.chunked else {"Content-Length": str(fault.size_bytes)}
        )
        self.wfile.write(self.head(answer.status, self._headers(answer) | framing))
        left = fault.size_bytes - len(start) - len(end)
        self._write_piece(start, fault)
        while left > 0 and not self.server.stopping.is_set():
            self._write_piece(_PIECE[:left], fault)
            left -= len(_PIECE)
        self._write_piece(end, fault)
        if fault.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _write_piece(self, piece: bytes, fault: Fault) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if fault.chunked else piece)

    # --- logging: the known path and the outcome, never a query, a header or a body ---------------------------

    def _note(self, outcome: str) -> None:
        path = self.path.partition("?")[0]
        _log.info("%s %s -> %s", self.command, path if path in TARGET_OF_PATH else "(unknown path)", outcome)


class FakeDigishare(DigishareApi):
    """Digishare's API over TLS on 127.0.0.1, in threads of this process, for as long as the `with` block runs.

    Args:
        clients: OAuth clients that may mint; none by default.
        personal_access_tokens: tokens that are valid from the start.
        port: 0 for a free one.
        tls_dir: where the CA's certificate is written; a folder of its own if None.
        clock: epoch seconds, for issue and expiry of tokens.

    `url` is `https://127.0.0.1:PORT`, `ca_file` the CA to trust. Everything else is `DigishareApi`.
    """

    url: str
    port: int
    ca_file: Path

    def __init__(
        self,
        *,
        clients: Iterable[Client] = (),
        personal_access_tokens: Iterable[PersonalAccessToken] = (),
        port: int = 0,
        tls_dir: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clients=clients, personal_access_tokens=personal_access_tokens, clock=clock)
        self._wanted_port = port
        self._tls_dir = tls_dir
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        signing_key()
        directory = self._tls_dir
        if directory is None:
            directory = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="digishare-")))
        directory.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA(organization_name="Fake Digishare")
        self.ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        server = _DigishareServer(self._wanted_port, self)
        server.speak_tls(authority.issue_cert(HOST, "localhost"))
        self._cleanup.enter_context(server)
        self.url, self.port = server.origin, server.port
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()
