"""Faults of the upstream, and the effect that each must have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local.digishare import faults
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from local.digishare.faults import Fault, Packing

A_TOKEN = "t" * 40


@dataclass(frozen=True)
class Case:
    """A fault and its effect.

    Attributes:
        code: remembered in the item, and in the ledger's row where no token came into being.
        row: what the ledger says: `failed`, or `begun` where a token may exist.
        retry_after_s: at least this is what a caller without a token is told to wait, and hardly more.
        status: of that caller's answer.
        mints: how many tokens the upstream really issued.
    """

    fault: Fault
    code: str
    row: Outcome
    retry_after_s: int = 1
    status: int = 503
    mints: int = 0


def _answered(status: int, error: str) -> Fault:
    return faults.status(status, body=json.dumps({"error": error, "error_description": "no"}))


def wrapped(
    *,
    status: str = "200 OK",
    headers: str = "Content-Type: application/json\r\n",
    before: str = "",
    after: str = "",
    body: str = faults.TOKEN_BODY,
    packing: Packing = "",
) -> Fault:
    """Return a right answer whose HTTP is odd: the token is issued, and nothing else is wrong."""
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: <length>\r\n\r\n"
    return faults.raw(f"{before}{head}<body>{after}", body=body, packing=packing)


def _typed(token_type: str) -> Fault:
    return wrapped(body=f'{{"token_type":{token_type},"expires_in":3600,"access_token":"<token>"}}')


_NO_LENGTH = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_CHUNKED = f"{_NO_LENGTH}Transfer-Encoding: chunked\r\n\r\n"
_GZIP, _DEFLATE = (f"Content-Encoding: {encoding}\r\n" for encoding in ("gzip", "deflate"))
_103 = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
_ANOTHER = faults.TOKEN_ANSWER

ODD_WRAPPINGS = {
    "102 first": wrapped(before="HTTP/1.1 102 Processing\r\n\r\n"),
    "103 first": wrapped(before=_103),
    "sixteen interim answers": wrapped(before=_103 * 15 + "HTTP/1.1 100 Continue\r\n\r\n"),
    "199 first": wrapped(before="HTTP/1.1 199 Whatever\r\nContent-Length: 5\r\n\r\n"),
    "103 behind": wrapped(after=_103),
    "a duplicate behind": wrapped(after=_ANOTHER),
    "junk behind": wrapped(after="junk\x00\r\n\r\n"),
    "201": wrapped(status="201 Created"),
    "202": wrapped(status="202 Accepted"),
    "203": wrapped(status="203 Non-Authoritative Information"),
    "206": wrapped(status="206 Partial Content"),
    "no reason": wrapped(status="200"),
    "a byte order mark": wrapped(body="\xef\xbb\xbf" + faults.TOKEN_BODY),
    "gzip": wrapped(headers=_GZIP, packing="gzip"),
    "x-gzip in capitals": wrapped(headers="CONTENT-ENCODING: X-GZIP\r\n", packing="gzip"),
    "deflate": wrapped(headers=_DEFLATE, packing="zlib"),
    "deflate without a frame": wrapped(headers=_DEFLATE, packing="deflate"),
    "gzip beside identity": wrapped(headers="Content-Encoding: identity, gzip\r\n", packing="gzip"),
    "an encoding that it does not have": wrapped(headers="Content-Encoding: utf-8\r\n"),
    "gzip that it does not have": wrapped(headers=_GZIP),
    "a header line without a colon": wrapped(headers="Strict-Transport-Security max-age=1\r\n"),
    "a header name with a space": wrapped(headers="X Frame: deny\r\n"),
    "a header without a name": wrapped(headers=": deny\r\n"),
    "a header name in Latin-1": wrapped(headers="Pr\xe9f\xe9rence: oui\r\n"),
    "a space before the colon": wrapped(headers="Content-Type : application/json\r\n"),
    "a folded header first": wrapped(headers=" folded\r\n"),
    "a folded header": wrapped(headers="Content-Type: application/json;\r\n\tcharset=utf-8\r\n"),
    "120 headers": wrapped(headers="".join(f"X-{number}: y\r\n" for number in range(120))),
    "a cookie of 70 KB": wrapped(headers=f"Set-Cookie: a={'c' * 70_000}\r\n"),
    "bare line feeds": faults.raw(faults.TOKEN_ANSWER.replace("\r\n", "\n")),
    "HTTP/1.0": faults.raw(faults.TOKEN_ANSWER.replace("HTTP/1.1", "HTTP/1.0")),
    "HTML for a content type": wrapped(headers="Content-Type: text/html; charset=UTF-8\r\n"),
    "no content type": wrapped(headers=""),
    "two content types": wrapped(headers="Content-Type: text/html\r\nContent-Type: application/json\r\n"),
    "token type BearerToken": _typed('"BearerToken"'),
    "token type with white space": _typed('" bearer "'),
    "token type in capitals": _typed('"BEARER"'),
    "no token type": wrapped(body='{"expires_in":3600,"access_token":"<token>"}'),
    "an empty token type": _typed('""'),
    "token type null": _typed("null"),
    "Latin-1 in a text": wrapped(body=faults.TOKEN_BODY.replace("{", '{"note":"d\xe9livr\xe9",', 1)),
    "no length": faults.raw(f"{_NO_LENGTH}\r\n<body>"),
    "a length that is no number": faults.raw(f"{_NO_LENGTH}Content-Length: many\r\n\r\n<body>"),
    "a length said twice": wrapped(headers="Content-Length: <length>\r\n"),
    "chunks": faults.raw(f"{_CHUNKED}<hex>\r\n<body>\r\n0\r\n\r\n"),
    "chunks, said twice": faults.raw(
        f"{_NO_LENGTH}Transfer-Encoding: Chunked\r\nTransfer-Encoding: chunked\r\n\r\n<hex>\r\n<body>\r\n0\r\n\r\n"
    ),
    "chunks with extensions, trailers and junk": faults.raw(
        f"{_CHUNKED}<hex> ; a=b\r\n<body>\r\n0\r\nX: y\r\nno colon\r\n\r\njunk"
    ),
    "chunks and a length": faults.raw(
        f"{_NO_LENGTH}Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n<hex>\r\n<body>\r\n0\r\n\r\n"
    ),
    "pieces": faults.raw(
        f"{_103}{faults.TOKEN_ANSWER}".replace("\r\n", "\r<pause>\n").replace("/", "<pause>/"),
        body=faults.TOKEN_BODY.replace("token>", "token><pause>").replace("es", "e<pause>s"),
        pause_ms=3,
    ),
}
"""A good token that must be used, however it comes."""

LEFTOVERS = {
    "103 with a whole answer": wrapped(status="103 Early Hints", after=f"<pause>{_ANOTHER}"),
    "103 first": wrapped(before=f"{_103}<pause>"),
    "102 first": wrapped(before="HTTP/1.1 102 Processing\r\n\r\n<pause>"),
    "204 with an answer behind": faults.raw(f"HTTP/1.1 204 No Content\r\n\r\n<pause>{_ANOTHER}"),
    "304 with an answer behind": faults.raw(f"HTTP/1.1 304 Not Modified\r\n\r\n<pause>{_ANOTHER}"),
    "a late duplicate": wrapped(after=f"<pause>{_ANOTHER}"),
    "a late duplicate behind chunks": faults.raw(f"{_CHUNKED}<hex>\r\n<body>\r\n0\r\n\r\n<pause>{_ANOTHER}"),
    "an answer behind an empty one": faults.raw(f"{_NO_LENGTH}Content-Length: 0\r\n\r\n<pause>{_ANOTHER}"),
    "101 with an answer behind": faults.raw(f"HTTP/1.1 101 Switching Protocols\r\n\r\n<pause>{_ANOTHER}"),
    "many answers in the same TLS record": wrapped(after=_ANOTHER * 10),
}
"""Answers that leave a token unread in the connection. No other exchange must read it."""


_LOST = {
    "hang": faults.hang(cap_s=3),
    "header drip": faults.drip_headers(cap_s=3),
    "reset": faults.reset(),
    "close": faults.close(),
    "50 MB": faults.huge_body(),
    "50 MB in chunks": faults.huge_body(chunked=True),
}
_LOST_WITH_A_TOKEN = {
    "hang after minting": faults.hang(cap_s=3, processed=True),
    "body drip": faults.drip_body(cap_s=3),
    "late answer": faults.delay(delay_ms=1500),
    "reset after minting": faults.mint_then_drop(),
    "cut body": faults.cut_body(),
    "seventeen interim answers": wrapped(before=_103 * 17),
    "103 with a body": wrapped(before=_103 + faults.TOKEN_BODY + "\r\n"),
    "101": faults.raw(f"HTTP/1.1 101 Switching Protocols\r\n\r\n{_ANOTHER}"),
    "201 header lines": wrapped(headers="X: y\r\n" * 201),
    "a header of 140 KB": wrapped(headers=f"X: {'y' * 140_000}\r\n"),
    "a head that never ends": faults.raw("HTTP/1.1 200 OK\r\nX: y\r\n"),
    "no HTTP": faults.raw("<body>"),
    "HTTP/2": faults.raw(faults.TOKEN_ANSWER.replace("HTTP/1.1", "HTTP/2")),
    "a chunk too many": faults.raw(f"{_CHUNKED}<hex>\r\n<body>\r\n-1\r\n{'x' * 9999}"),
    "a transfer encoding that nobody asked for": faults.raw(
        f"{_NO_LENGTH}Transfer-Encoding: gzip, chunked\r\n\r\n<body>"
    ),
    "a bomb": wrapped(headers=_GZIP, body=" " * 9_999_999, packing="gzip"),
    "a bomb without a frame": wrapped(headers=_DEFLATE, body=" " * 9_999_999, packing="deflate"),
}


def _begun(code: str, named: dict[str, Fault], mints: int = 0) -> dict[str, Case]:
    """Return the cases of faults after which a token may exist. `mints` really do."""
    return {name: Case(fault, code, Outcome.BEGUN, mints=mints) for name, fault in named.items()}


def _429(retry_after: str, seconds: int = 1) -> Case:
    return Case(faults.rate_limited(retry_after=retry_after), "upstream_429", Outcome.FAILED, seconds)


def _failed(code: str, fault: Fault, retry_after_s: int = 1) -> Case:
    return Case(fault, code, Outcome.FAILED, retry_after_s)


def _rejected(code: str, fault: Fault) -> Case:
    return Case(fault, code, Outcome.FAILED, status=502)


_IN_LATIN_1 = faults.raw(
    "HTTP/1.1 400 Bad Request\r\nContent-Length: <length>\r\n\r\n<body>",
    body='{"error":"invalid_client","error_description":"identit\xe9 refus\xe9e"}',
    processed=False,
)
_503 = faults.status(503, headers={"Retry-After": "30"})
_404 = faults.status(404, body="<p>", headers={"Retry-After": "7.5"})
_STATUSES = {
    "500": Case(faults.status(500), "upstream_500", Outcome.BEGUN),
    "502 of a proxy in HTML": Case(faults.html(status=502), "upstream_502", Outcome.BEGUN),
    "503 with Retry-After": Case(_503, "upstream_503", Outcome.BEGUN, 30),
    "429": _failed("upstream_429", faults.rate_limited()),
    "429 with seconds": _429("120", 120),
    "429 with a date": _429("Fri, 31 Dec 2060 23:59:59 GMT", 900),
    "429 with a date gone by": _429("Fri, 31 Dec 1999 23:59:59 GMT"),
    "429 with words": _429("soon"),
    "429 for years": _429("9" * 30, 900),
    "400": _failed("upstream_400", _answered(400, "invalid_request")),
    "404": _failed("upstream_404", faults.status(404)),
    "422": _failed("upstream_422", faults.status(422)),
    "404 in HTML with Retry-After": _failed("upstream_404", _404, 8),
    "304": _failed("upstream_304", faults.status(304, body="")),
    "401 with another code": _rejected("invalid_client", _answered(401, "invalid_request")),
    "401 without a code": _rejected("invalid_client", faults.status(401)),
    "401 in HTML": _rejected("invalid_client", faults.html(status=401)),
    "401 with invalid_scope": _rejected("invalid_scope", _answered(401, "invalid_scope")),
    "200 with invalid_client": _rejected("invalid_client", _answered(200, "invalid_client")),
    "500 with unauthorized_client": _rejected("unauthorized_client", _answered(500, "unauthorized_client")),
    "429 with invalid_scope": _rejected("invalid_scope", _answered(429, "invalid_scope")),
    "a refusal in Latin-1 without a content type": _rejected("invalid_client", _IN_LATIN_1),
    "invalid_client": _rejected("invalid_client", _answered(401, "invalid_client")),
    "invalid_scope": _rejected("invalid_scope", _answered(400, "invalid_scope")),
    "unauthorized_client": _rejected("unauthorized_client", _answered(400, "unauthorized_client")),
}
_MALFORMED_BODIES: dict[str, object] = {
    "no JSON": "nonsense",
    "empty": "",
    "an array": [],
    "null": None,
    "no fields": {},
    "no token": {"token_type": "Bearer", "expires_in": 3600},
    "an empty token": {"access_token": "", "expires_in": 3600},
    "a number for a token": {"access_token": 17, "expires_in": 3600},
    "a token with a line break": {"access_token": "abc\r\nX-Evil: 1", "expires_in": 3600},
    "a token that no header carries": {"access_token": "jeton-\u00e9", "expires_in": 3600},
    "a token of 5,000 characters": {"access_token": "t" * 5000, "expires_in": 3600},
    "another token type": {"access_token": A_TOKEN, "token_type": "mac", "expires_in": 3600},
    **{
        f"token type {kind!r}": {"access_token": A_TOKEN, "token_type": kind, "expires_in": 3600}
        for kind in ("DPoP", "N_A", "Bearer, mac", 7, ["Bearer"], False)
    },
    "the token twice": f'{{"access_token": "{A_TOKEN}", "access_token": "{A_TOKEN}"}}',
    "a token and a refusal that cannot both be true": {"access_token": "a b", "error": "invalid_client"},
    "a token in Latin-1": {"access_token": A_TOKEN + "\u00e9"},
    "depth": "[" * 30_000,
}
_MALFORMED_WITH_A_TOKEN = {
    "truncated JSON": faults.truncated_json(),
    "text before the JSON": wrapped(body="for (;;);" + faults.TOKEN_BODY),
    "text behind the JSON": wrapped(body=faults.TOKEN_BODY + "<!-- 12 ms -->"),
    "a token one level deeper": wrapped(body=f'{{"data":{faults.TOKEN_BODY}}}'),
    "a token in an array": wrapped(body=f"[{faults.TOKEN_BODY}]"),
    "a body that is cut": faults.raw(f"{_NO_LENGTH}Content-Length: 300\r\n\r\n<body>"),
    "204 with a body": wrapped(status="204 No Content"),
    "gzip twice": wrapped(headers="Content-Encoding: gzip, gzip\r\n", packing="gzip"),
    "gzip called br": wrapped(headers="Content-Encoding: br\r\n", packing="gzip"),
    "gzip that nobody mentions": wrapped(packing="gzip"),
    "gzip that is none": wrapped(headers=_GZIP, body="\x1f\x8b\x08nonsense"),
}
_MALFORMED = {
    "HTML 200": faults.html(),
    "204": faults.status(204, body=""),
    **{name: faults.json_answer(body) for name, body in _MALFORMED_BODIES.items()},
}
CASES = {
    **_begun("upstream_no_answer", _LOST),
    **_begun("upstream_no_answer", _LOST_WITH_A_TOKEN, mints=1),
    **_STATUSES,
    **_begun("upstream_malformed", _MALFORMED),
    **_begun("upstream_malformed", _MALFORMED_WITH_A_TOKEN, mints=1),
}
_DAY_S, _YEAR_S, _LONGEST_S = 86_400, 31_536_000, 400 * 86_400
ODD_LIFETIMES: dict[str, tuple[str, int]] = {
    "missing": ("", _DAY_S),
    **{
        text[:16]: (f', "expires_in": {text}', lifetime_s)
        for lifetime_s, texts in {
            _DAY_S: ("0", "-1", '"soon"', '""', "null", "true", "{}", "[31536000]", "NaN"),
            _YEAR_S: ('"31536000"', '"31536000.0"', '" 31536000 "', "31536000.0", "3.1536e7"),
            _LONGEST_S: ("31536000000", "1e400", "Infinity", str(10**400)),
        }.items()
        for text in texts
    },
}
"""The member as it is sent, and the lifetime in seconds that it means."""
