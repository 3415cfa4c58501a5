"""Reads one HTTP/1.1 answer (RFC 9112) from a connection that is used for nothing else.

What follows the answer is not read, because the caller closes the connection. So this reader can be lenient: it skips a
header line that is broken (the standard library takes the rest of the header for the body there), and it reads a body
without a valid length until the connection ends. The JSON parser finds out whether the body is whole. Every length is
bounded here; the caller bounds the time.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, BinaryIO

from urllib3 import HTTPHeaderDict

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_INTERIM_ANSWERS = 16
MAX_HEAD_LINES = 200
MAX_HEAD_BYTES = 128 * 1024
"""Of each head, from its status line to its empty line, which do not count as lines."""

_MAX_CHUNK_LINE_BYTES = 1024
_MAX_GZIP_MEMBERS = 16
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: .*)?\r?\n")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?\r?\n")
_LENGTH = re.compile(r"[0-9]{1,18}")
_SWITCHING_PROTOCOLS, _FIRST_FINAL, _NO_CONTENT, _NOT_MODIFIED = 101, 200, 204, 304
_GZIP_OR_ZLIB, _DEFLATE = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS


class UnreadableError(Exception):
    """It is no HTTP/1.1 answer, was cut off, or has more lines or interim answers than allowed. Has no text."""


class TooLongError(Exception):
    """The body is longer than allowed, packed or unpacked; the rest of it was not read. Has no text."""


def read_answer(stream: BinaryIO, max_body_bytes: int) -> tuple[int, Mapping[str, str], bytes]:
    """Return status, headers (names match in any case, repeated ones are joined by ", ") and the unpacked body.

    Interim answers are skipped. A body that cannot be unpacked as the header says is returned as it came.

    Args:
        stream: where the answer to any request but HEAD begins.
        max_body_bytes: how long the body may be, both packed and unpacked.

    Raises:
        UnreadableError, TooLongError: there is no whole answer.
        OSError: from the stream.
    """
    for _ in range(MAX_INTERIM_ANSWERS + 1):
        status, headers = _read_head(stream)
        if status == _SWITCHING_PROTOCOLS:
            raise UnreadableError
        if status >= _FIRST_FINAL:
            body = _read_body(stream, status, headers, max_body_bytes)
            return status, headers, _unpacked(body, headers, max_body_bytes)
    raise UnreadableError


def _read_head(stream: BinaryIO) -> tuple[int, HTTPHeaderDict]:
    lines = _read_lines(stream)
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise UnreadableError
    fields: list[tuple[str, bytes]] = []
    was_read = False
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t"):  # a folded line goes on with the one before (RFC 9112 §5.2)
            if was_read:
                name, value = fields[-1]
                fields[-1] = (name, value + b" " + line.strip())
            continue
        raw_name, colon, value = line.partition(b":")
        raw_name = raw_name.rstrip(b" \t")
        was_read = bool(colon and _NAME.fullmatch(raw_name))
        if was_read:
            fields.append((raw_name.decode("ascii"), value.strip()))
    headers = HTTPHeaderDict()
    for name, value in fields:
        headers.add(name, value.decode("latin-1"))
    return int(status_line[1]), headers


def _read_lines(stream: BinaryIO) -> list[bytes]:
    """Return a head's lines, the status line first, without the empty one at its end."""
    lines: list[bytes] = []
    left_bytes = MAX_HEAD_BYTES
    for _ in range(MAX_HEAD_LINES + 2):  # and the two around them
        line = stream.readline(left_bytes)
        left_bytes -= len(line)
        if not line.endswith(b"\n"):  # the end of the connection, or of what is allowed
            raise UnreadableError
        if lines and line in (b"\r\n", b"\n"):
            return lines
        lines.append(line)
    raise UnreadableError


def _read_body(stream: BinaryIO, status: int, headers: Mapping[str, str], max_body_bytes: int) -> bytes:
    """Return the body as it came (RFC 9112 §6.3)."""
    if status in (_NO_CONTENT, _NOT_MODIFIED):
        return b""
    transfer_codings = _codings(headers, "Transfer-Encoding")
    if set(transfer_codings) == {"chunked"}:
        return _read_chunks(stream, max_body_bytes)
    if transfer_codings:
        raise UnreadableError
    lengths = {length.strip() for length in headers.get("Content-Length", "").split(",")}
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        body = stream.read(max_body_bytes + 1)
        if len(body) > max_body_bytes:
            raise TooLongError
        return body
    if int(length) > max_body_bytes:
        raise TooLongError
    return _read_exactly(stream, int(length))


def _read_chunks(stream: BinaryIO, max_body_bytes: int) -> bytes:
    body = bytearray()
    while True:
        line = _CHUNK_LINE.fullmatch(stream.readline(_MAX_CHUNK_LINE_BYTES))
        if line is None:
            raise UnreadableError
        size = int(line[1], 16)
        if size == 0:
            return bytes(body)  # trailers are not read: they say nothing about the token
        if len(body) + size > max_body_bytes:
            raise TooLongError
        body += _read_exactly(stream, size)
        if stream.readline(2) not in (b"\r\n", b"\n"):
            raise UnreadableError


def _read_exactly(stream: BinaryIO, length: int) -> bytes:
    body = stream.read(length)
    if len(body) < length:
        raise UnreadableError
    return body


def _unpacked(body: bytes, headers: Mapping[str, str], max_body_bytes: int) -> bytes:
    codings = _codings(headers, "Content-Encoding")
    if len(codings) != 1 or codings[0] not in ("gzip", "x-gzip", "deflate"):
        return body
    # `deflate` means zlib's format, and some servers send it without zlib's header.
    for wbits in (_GZIP_OR_ZLIB, _DEFLATE):
        try:
            return _inflated(body, wbits, max_body_bytes)
        except zlib.error:
            continue
    return body


def _inflated(packed: bytes, wbits: int, max_body_bytes: int) -> bytes:
    """Return what is packed, all of it. Raises zlib.error, TooLongError."""
    unpacked = b""
    for _ in range(_MAX_GZIP_MEMBERS):  # a gzip body may have several (RFC 1952 §2.2)
        unpacker = zlib.decompressobj(wbits)
        unpacked += unpacker.decompress(packed, max_body_bytes + 1 - len(unpacked))
        if len(unpacked) > max_body_bytes:
            raise TooLongError
        packed = unpacker.unused_data
        if unpacker.eof and not packed:
            return unpacked
    raise zlib.error


def _codings(headers: Mapping[str, str], name: str) -> list[str]:
    """Return the codings that a header lists, in lower case; `identity` is none."""
    listed = [coding.strip().lower() for coding in headers.get(name, "").split(",")]
    return [coding for coding in listed if coding not in ("", "identity")]
