"""One answer, read leniently and within bounds, from bytes in memory that are cut and garbled in every way."""

from __future__ import annotations

import gzip
import io
import random
import time
import zlib
from contextlib import suppress

import pytest

from token_broker.bounded_http import AnswerNotJson, BoundedResponse
from token_broker.http_answer import (
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    MAX_INTERIM_ANSWERS,
    TooLongError,
    UnreadableError,
    read_answer,
)

CANARY = "canary-5b1f0c"
CAP_BYTES = 1000
BODY = b'{"access_token":"' + b"t" * 40 + b'"}'


def read(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    status, headers, body = read_answer(io.BytesIO(answer), CAP_BYTES)
    return status, dict(headers), body


def answer_of(*lines: bytes, body: bytes = BODY, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([status, *lines, b"", body])


def chunked(*chunks: bytes) -> bytes:
    return answer_of(b"Transfer-Encoding: chunked", body=b"".join(chunks))


@pytest.mark.parametrize(
    ("lines", "headers"),
    [
        ([b"A: b", b"a:c ", b"A:"], {"A": "b, c, "}),
        ([b"no colon", b"B: 1"], {"B": "1"}),
        ([b"two words: x", b": x", b"\xe9: x", b"B\t : 1"], {"B": "1"}),
        ([b"A: b", b"  c", b"\td", b"E: f"], {"A": "b c d", "E": "f"}),
        ([b"broken", b" folded: 7", b"E: f"], {"E": "f"}),
        ([b" folded first", b"E: f"], {"E": "f"}),
        ([b"A: \xe9\x00\rB: c"], {"A": "\xe9\x00\rB: c"}),
        ([b"A: b:c"], {"A": "b:c"}),
    ],
)
def test_broken_header_lines_are_skipped(lines: list[bytes], headers: dict[str, str]) -> None:
    assert read(answer_of(*lines)) == (200, headers, BODY)


def test_a_head_is_bounded_in_lines_and_bytes() -> None:
    assert read(answer_of(*[b"X: y"] * MAX_HEAD_LINES))[2] == BODY
    with pytest.raises(UnreadableError):
        read(answer_of(*[b"X: y"] * (MAX_HEAD_LINES + 1)))
    empty_bytes = len(answer_of(b"X: ", body=b""))
    assert read(answer_of(b"X: " + b"y" * (MAX_HEAD_BYTES - empty_bytes)))[2] == BODY
    with pytest.raises(UnreadableError):
        read(answer_of(b"X: " + b"y" * (MAX_HEAD_BYTES - empty_bytes + 1)))


def test_interim_answers_are_bounded_and_101_is_none() -> None:
    interim = answer_of(b"Link: x", body=b"", status=b"HTTP/1.1 103")
    assert read(interim * MAX_INTERIM_ANSWERS + answer_of())[2] == BODY
    for answer in (
        interim * (MAX_INTERIM_ANSWERS + 1) + answer_of(),
        interim,
        answer_of(status=b"HTTP/1.1 101 X"),
    ):
        with pytest.raises(UnreadableError):
            read(answer)


@pytest.mark.parametrize(
    "status",
    [
        b"HTTP/1.1",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000",
        b"HTTP/1.1 099 X",
        b"HTTP/2 200",
        b"ICY 200 OK",
        b"",
        b" ",
    ],
)
def test_what_has_no_status_line_is_no_answer(status: bytes) -> None:
    with pytest.raises(UnreadableError):
        read(answer_of(status=status))


@pytest.mark.parametrize("status", [b"HTTP/1.1 204 No Content", b"HTTP/1.0 304 X"])
def test_some_statuses_have_no_body_whatever_they_say(status: bytes) -> None:
    assert read(answer_of(b"Content-Length: 3", status=status))[2] == b""


@pytest.mark.parametrize(
    "lines",
    [
        [], [b"Content-Length: %d" % len(BODY)], [b"Content-Length: %d, %d" % (len(BODY), len(BODY))],
        [b"Content-Length: 3", b"Content-Length: 4"], [b"Content-Length: -1"], [b"Content-Length: 1_0"],
        [b"Content-Length: " + b"9" * 5000], [b"Transfer-Encoding: identity"],
    ],
)  # fmt: skip
def test_a_length_without_a_meaning_is_ignored(lines: list[bytes]) -> None:
    assert read(answer_of(*lines))[2] == BODY


def test_what_follows_the_length_is_not_read() -> None:
    stream = io.BytesIO(answer_of(b"Content-Length: %d" % len(BODY)) + b"left over")
    assert read_answer(stream, CAP_BYTES)[2] == BODY
    assert stream.read() == b"left over"


def test_chunks_are_put_together() -> None:
    whole = [b"3 ; a=b\r\nabc\r\n", b"00A\r\n0123456789\r\n", b"1\nx\n"]
    for end in (b"0\r\n\r\n", b"0\r\n", b"000\r\nX: trailer\r\n\r\njunk"):
        assert read(chunked(*whole, end))[2] == b"abc0123456789x"
    both = answer_of(b"Content-Length: 2", b"Transfer-Encoding: Chunked, chunked", body=b"1\r\nx\r\n0\r\n")
    assert read(both)[2] == b"x"


@pytest.mark.parametrize(
    "chunks",
    [
        b"", b"3\r\nabc\r\n", b"3\r\nab", b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\nabc\r\n0\r\n\r\n", b"\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n", b"3;" + b"x" * 2000 + b"\r\nabc\r\n0\r\n\r\n", b"1" * 2000,
    ],
)  # fmt: skip
def test_broken_chunks_are_no_answer(chunks: bytes) -> None:
    with pytest.raises(UnreadableError):
        read(chunked(chunks))


@pytest.mark.parametrize(
    "answer",
    [
        answer_of(b"Content-Length: 1000", body=b"x" * 1000),
        answer_of(body=b"x" * 1000),
        chunked(b"1f4\r\n" + b"x" * 500 + b"\r\n1f4\r\n" + b"x" * 500 + b"\r\n0\r\n\r\n"),
        answer_of(b"Content-Encoding: gzip", body=gzip.compress(b"x" * 1000, mtime=0)),
    ],
)
def test_a_body_of_exactly_the_cap_is_returned(answer: bytes) -> None:
    assert len(read(answer)[2]) == CAP_BYTES


@pytest.mark.parametrize(
    "answer",
    [
        answer_of(b"Content-Length: 1001", body=b"x"),
        answer_of(body=b"x" * 1001),
        chunked(b"FFFFFFFF\r\nx"),
        chunked(b"1f4\r\n" + b"x" * 500 + b"\r\n1f5\r\n" + b"x" * 501),
        answer_of(b"Content-Encoding: gzip", body=gzip.compress(b"x" * 1001, mtime=0)),
        answer_of(b"Content-Encoding: gzip", body=gzip.compress(b"x" * 600, mtime=0) * 2),
        answer_of(b"Content-Encoding: deflate", body=zlib.compress(b"x" * 500_000)),
    ],
)
def test_a_body_beyond_the_cap_is_too_long(answer: bytes) -> None:
    with pytest.raises(TooLongError):
        read(answer)


def _deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        (b"gzip", gzip.compress(BODY, mtime=0)),
        (b" X-GZip ", gzip.compress(BODY, mtime=0)),
        (b"deflate", zlib.compress(BODY)),
        (b"deflate", _deflated(BODY)),
        (b"gzip", gzip.compress(BODY[:7], mtime=0) + gzip.compress(BODY[7:], mtime=0)),
        (b"gzip", gzip.compress(b"", mtime=0) * 15 + gzip.compress(BODY, mtime=0)),
        (b"identity", BODY),
        (b"", BODY),
        (b"gzip", BODY),
        (b"aes128gcm", BODY),
    ],
)
def test_a_packed_body_is_unpacked(coding: bytes, packed: bytes) -> None:
    assert read(answer_of(b"Content-Encoding: " + coding, body=packed))[2] == BODY


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        (b"gzip, gzip", gzip.compress(BODY, mtime=0)),
        (b"br", gzip.compress(BODY, mtime=0)),
        (b"gzip", gzip.compress(BODY, mtime=0)[:-1]),
        (b"gzip", gzip.compress(BODY, mtime=0)[:-8] + b"12345678"),
        (b"gzip", gzip.compress(BODY, mtime=0) + b"junk"),
        (b"gzip", gzip.compress(b"", mtime=0) * 16 + gzip.compress(BODY, mtime=0)),
        (b"deflate", zlib.compress(BODY)[:-2]),
        (b"gzip", b""),
    ],
)
def test_what_cannot_be_unpacked_stays_as_it_is(coding: bytes, packed: bytes) -> None:
    assert read(answer_of(b"Content-Encoding: " + coding, body=packed))[2] == packed


WHOLE = [
    answer_of(b"Content-Length: %d" % len(BODY)),
    answer_of(b"Content-Type: a", status=b"HTTP/1.1 102 X", body=b"") + chunked(b"3\r\nabc\r\n", b"0\r\n"),
]


@pytest.mark.parametrize("answer", WHOLE)
def test_an_answer_that_is_cut_anywhere_is_no_answer(answer: bytes) -> None:
    read(answer)
    for length in range(len(answer)):
        with pytest.raises(UnreadableError):
            read(answer[:length])


def test_garbled_answers_raise_nothing_else() -> None:
    randomness = random.Random(7)  # noqa: S311 - not a secret
    packed = [b"Content-Encoding: gzip\r\n", gzip.compress(BODY, mtime=0)]
    pieces = [*WHOLE, b"\r\n", b"\n", b": ", b"0", b"Content-Length: ", *packed]
    for _ in range(5000):
        garbled = bytearray(b"".join(randomness.choices(pieces, k=4)))
        for _ in range(randomness.randrange(4)):
            garbled[randomness.randrange(len(garbled))] = randomness.randrange(256)
        with suppress(UnreadableError, TooLongError):
            assert len(read(bytes(garbled))[2]) <= CAP_BYTES


# --- what an answer says ------------------------------------------------------------------------------------------


def test_repr_of_an_answer_shows_neither_body_nor_headers() -> None:
    assert CANARY not in repr(BoundedResponse(200, {"X": CANARY}, CANARY.encode()))


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html; charset=UTF-8", b"{}"),
        ("", b"{}"),
        ("application/json", b""),
        ("application/json", b'{"access_token":"' + CANARY.encode()),
        ("application/json", b'{"access_token":NaN,"x":"' + CANARY.encode() + b'"}'),
        ("application/json", b"\xff\xfe{}" + CANARY.encode()),
        ("application/json", b"[" * 200_000),
        ("application/json", b'["' + CANARY.encode() + b'"]'),
        ("application/json", b'{"n":' + b"9" * 10_000 + b"}"),
    ],
)
def test_an_answer_that_is_no_json_object_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(AnswerNotJson) as raised:
        BoundedResponse(200, {"Content-Type": content_type}, body).json_object()
    assert CANARY not in f"{raised.value!r}{vars(raised.value)}"
    assert raised.value.__context__ is None


def test_a_bare_array_is_json() -> None:
    assert BoundedResponse(200, {"Content-Type": "Application/Problem+JSON; x=y"}, b"[1]").json() == [1]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), (" 120 ", 120), ("1.5", 1.5), ("9" * 300, 1e300),
        ("Sat, 01 Jan 2000 00:01:40 GMT", 100), ("Saturday, 01-Jan-00 00:01:40 GMT", 100),
        ("Sat Jan  1 00:01:40 2000", 100),
        ("Sat, 01 Jan 2000 00:01:40 -0000", 100), ("Fri, 31 Dec 1999 00:00:00 GMT", 0),
        ("Mon, 01 Jan 0150 00:00:00 +2359", 0),
        *((text, None) for text in ("", "-1", "1e3", "nan", "inf", "9" * 400, "\u0663", "5, 7", "soon", ", ",
                ":" * 50)),
        ("Sat, 01 Jan 99999 00:00:00 GMT", None), ("Sat, 99 Jan 2000 25:61:61 GMT", None),
        ("Sat, 01 Jan 2000 00:00:00 +999999999999", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date_or_nonsense(
    text: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("TZ", "XYZ-5")  # a date without a zone is no local time
    time.tzset()
    request.addfinalizer(time.tzset)
    request.addfinalizer(monkeypatch.undo)
    response = BoundedResponse(429, {"Retry-After": text}, b"")
    assert response.retry_after_s(now_epoch_s=946_684_800.0) == seconds
