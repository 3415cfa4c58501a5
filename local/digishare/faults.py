"""Everything that the fake can be made to do wrong, and the queue that says when.

A fault is made by one of the functions of `FAULTS`; the admin API calls them by the same names. `processed` says
whether Digishare does the work first (a mint is then counted) and only the answer is spoilt.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Target = Literal["token", "campaigns"]
TARGETS: tuple[Target, ...] = ("token", "campaigns")

Delivery = Literal[
    "whole", "hang", "drip_headers", "drip_body", "reset", "close", "cut_body", "stream", "raw"
]

Packing = Literal["", "gzip", "zlib", "deflate"]
PACKINGS: tuple[Packing, ...] = ("", "gzip", "zlib", "deflate")

MEBIBYTE = 1 << 20
TOKEN_BODY = '{"token_type":"Bearer","expires_in":31536000,"access_token":"<token>"}'  # noqa: S105 - no password
TOKEN_ANSWER = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: <length>\r\n\r\n<body>"  # noqa: S105 - no password
_HTML = b"<!DOCTYPE html><html><head><title>Digishare</title></head><body>Welcome back</body></html>"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is answered (`processed`, or else status, headers, body) and how it is delivered."""

    name: str
    processed: bool = False
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    content_type: str | None = None
    delivery: Delivery = "whole"
    keep_half_of_body: bool = False
    delay_s: float = 0.0
    interval_s: float = 0.0
    cap_s: float = 30.0
    size_bytes: int = 0
    chunked: bool = False
    template: str = field(default="", repr=False)
    packing: Packing = ""


def status(status: int = 500, *, body: str | None = None, headers: Mapping[str, str] | None = None) -> Fault:
    """Any status with the stack's own body, or with `body` verbatim as JSON."""
    text = json.dumps({"message": _MESSAGES.get(status, "Server Error")}) if body is None else body
    return Fault(name="status", status=status, body=text.encode(), headers=headers or {})


def rate_limited(
    *, retry_after_s: int | None = None, as_date: bool = False, retry_after: str | None = None
) -> Fault:
    """429; Retry-After in seconds, as an HTTP date, verbatim (`retry_after`), or not at all."""
    headers = {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0"}
    if retry_after_s is not None:
        retry_after = formatdate(time.time() + retry_after_s, usegmt=True) if as_date else str(retry_after_s)
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    return replace(status(429, headers=headers), name="rate_limited")


def json_answer(body: object, *, status: int = 200) -> Fault:
    """Answer with this JSON value, not minting: missing or absurd fields. A string is sent verbatim."""
    text = body if isinstance(body, str) else json.dumps(body)
    return Fault(name="json_answer", status=status, body=text.encode())


def html(*, status: int = 200) -> Fault:
    return Fault(name="html", status=status, body=_HTML, content_type="text/html; charset=UTF-8")


def redirect(*, status: int = 302, location: str = "/login") -> Fault:
    return Fault(
        name="redirect", status=status, body=_HTML, headers={"Location": location}, content_type="text/html"
    )


def wrong_content_type(*, content_type: str = "text/html; charset=UTF-8") -> Fault:
    """The true answer with a wrong content type; the mint counts."""
    return Fault(name="wrong_content_type", processed=True, content_type=content_type)


def truncated_json() -> Fault:
    """The first half of the true answer, with its own length; the mint counts."""
    return Fault(name="truncated_json", processed=True, keep_half_of_body=True)


def cut_body() -> Fault:
    """Half of the true answer, with the Content-Length of all of it; the mint counts."""
    return Fault(name="cut_body", processed=True, delivery="cut_body")


def delay(*, delay_ms: int = 500) -> Fault:
    """The work is done (and the mint counted) at once, the true answer comes `delay_ms` later."""
    return Fault(name="delay", processed=True, delay_s=delay_ms / 1000)


def hang(*, cap_s: float = 30.0, processed: bool = False) -> Fault:
    """Never answer; the connection is closed after `cap_s`."""
    return Fault(name="hang", delivery="hang", cap_s=cap_s, processed=processed)


def drip_headers(*, interval_ms: int = 50, cap_s: float = 30.0, processed: bool = False) -> Fault:
    """Header bytes one at a time, without an end, for `cap_s`."""
    return _drip("drip_headers", interval_ms, cap_s, processed=processed)


def drip_body(*, interval_ms: int = 50, cap_s: float = 30.0, processed: bool = True) -> Fault:
    """The true answer's body, one byte at a time; the mint counts."""
    return _drip("drip_body", interval_ms, cap_s, processed=processed)


def _drip(name: Delivery, interval_ms: int, cap_s: float, *, processed: bool) -> Fault:
    return Fault(name=name, delivery=name, interval_s=interval_ms / 1000, cap_s=cap_s, processed=processed)


def reset(*, processed: bool = False) -> Fault:
    """A TCP reset in place of an answer."""
    return Fault(name="reset", delivery="reset", processed=processed)


def close(*, processed: bool = False) -> Fault:
    """The connection is closed without an answer."""
    return Fault(name="close", delivery="close", processed=processed)


def mint_then_drop() -> Fault:
    """The token is minted and counted, and nobody ever receives it."""
    return Fault(name="mint_then_drop", delivery="reset", processed=True)


def huge_body(*, size_bytes: int = 50 * MEBIBYTE, chunked: bool = False) -> Fault:
    """A JSON body of `size_bytes`, streamed; with a Content-Length, or `chunked`."""
    return Fault(name="huge_body", delivery="stream", size_bytes=size_bytes, chunked=chunked)


def raw(
    template: str = TOKEN_ANSWER,
    *,
    body: str = TOKEN_BODY,
    packing: Packing = "",
    pause_ms: int = 300,
    processed: bool = True,
) -> Fault:
    """Exactly these bytes in place of an answer; the connection stays open if the client asks for it.

    Args:
        template: each character is a byte (Latin-1). In it `<body>` stands for the body, `<length>` for its length in
            bytes and `<hex>` for the same in hexadecimal; in it and in the body `<token>` stands for the token that
            was issued. The bytes between two `<pause>` are sent in one write, which is one TLS record up to 16 KiB.
        body: as the template.
        packing: how the body is compressed; `zlib` is HTTP's `deflate`, `deflate` the one without zlib's header.
        pause_ms: how long a `<pause>` is.
        processed: False: nothing is issued, and `<token>` stays as it is.
    """
    if packing not in PACKINGS:
        raise ValueError(f"packing is one of {', '.join(map(repr, PACKINGS))}")
    return Fault(
        name="raw",
        delivery="raw",
        template=template,
        body=body.encode("latin-1"),
        packing=packing,
        interval_s=pause_ms / 1000,
        processed=processed,
    )


_MESSAGES = {429: "Too Many Attempts.", 503: "Service Unavailable", 404: "Not Found"}

FAULTS: dict[str, Callable[..., Fault]] = {
    make.__name__: make
    for make in (
        status,
        rate_limited,
        json_answer,
        html,
        redirect,
        wrong_content_type,
        truncated_json,
        cut_body,
        delay,
        hang,
        drip_headers,
        drip_body,
        reset,
        close,
        mint_then_drop,
        huge_body,
        raw,
    )
}


class FaultQueue:
    """Faults in the order in which they were asked for; each spoils the next `times` requests of its target."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Target, deque[tuple[Fault, int | None]]] = {target: deque() for target in TARGETS}

    def add(self, target: Target, fault: Fault, times: int | None) -> None:
        """Queue a fault for the next `times` requests; None: for all of them until `clear`."""
        if times is not None and times < 1:
            raise ValueError("times must be at least 1, or null for: until cleared")
        with self._lock:
            self._waiting[target].append((fault, times))

    def take(self, target: Target) -> Fault | None:
        with self._lock:
            waiting = self._waiting[target]
            if not waiting:
                return None
            fault, times = waiting[0]
            if times == 1:
                waiting.popleft()
            elif times is not None:
                waiting[0] = (fault, times - 1)
            return fault

    def clear(self) -> None:
        with self._lock:
            for waiting in self._waiting.values():
                waiting.clear()

    def names(self) -> dict[Target, list[str]]:
        """Return the names of the faults that still wait, by target."""
        with self._lock:
            return {target: [fault.name for fault, _ in waiting] for target, waiting in self._waiting.items()}
