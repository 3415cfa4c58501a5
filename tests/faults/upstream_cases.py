"""What the upstream can do wrong, and what each of it is worth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from functions.broker.mint_ledger import Outcome
from local.digishare import faults

if TYPE_CHECKING:
    from local.digishare.faults import Fault

A_TOKEN = "t" * 40


@dataclass(frozen=True)
class Case:
    """A fault and what it is worth.

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


NO_ANSWER = {
    "hang": Case(faults.hang(cap_s=3), "upstream_no_answer", Outcome.BEGUN),
    "hang after minting": Case(
        faults.hang(cap_s=3, processed=True), "upstream_no_answer", Outcome.BEGUN, mints=1
    ),
    "header drip": Case(faults.drip_headers(cap_s=3), "upstream_no_answer", Outcome.BEGUN),
    "body drip": Case(faults.drip_body(cap_s=3), "upstream_no_answer", Outcome.BEGUN, mints=1),
    "late answer": Case(faults.delay(delay_ms=1500), "upstream_no_answer", Outcome.BEGUN, mints=1),
    "reset": Case(faults.reset(), "upstream_no_answer", Outcome.BEGUN),
    "reset after minting": Case(faults.mint_then_drop(), "upstream_no_answer", Outcome.BEGUN, mints=1),
    "close": Case(faults.close(), "upstream_no_answer", Outcome.BEGUN),
    "cut body": Case(faults.cut_body(), "upstream_no_answer", Outcome.BEGUN, mints=1),
    "50 MB": Case(faults.huge_body(), "upstream_no_answer", Outcome.BEGUN),
    "50 MB in chunks": Case(faults.huge_body(chunked=True), "upstream_no_answer", Outcome.BEGUN),
}
STATUSES = {
    "500": Case(faults.status(500), "upstream_500", Outcome.BEGUN),
    "502 of a proxy in HTML": Case(faults.html(status=502), "upstream_502", Outcome.BEGUN),
    "503 with Retry-After": Case(
        faults.status(503, headers={"Retry-After": "30"}), "upstream_503", Outcome.BEGUN, 30
    ),
    "429": Case(faults.rate_limited(), "upstream_429", Outcome.FAILED),
    "429 with seconds": Case(faults.rate_limited(retry_after_s=120), "upstream_429", Outcome.FAILED, 120),
    "429 with a date": Case(
        faults.rate_limited(retry_after="Fri, 31 Dec 2060 23:59:59 GMT"), "upstream_429", Outcome.FAILED, 3600
    ),
    "429 with a date gone by": Case(
        faults.rate_limited(retry_after="Fri, 31 Dec 1999 23:59:59 GMT"), "upstream_429", Outcome.FAILED
    ),
    "429 with words": Case(faults.rate_limited(retry_after="soon"), "upstream_429", Outcome.FAILED),
    "429 for years": Case(faults.rate_limited(retry_after="9" * 30), "upstream_429", Outcome.FAILED, 3600),
    "400": Case(_answered(400, "invalid_request"), "upstream_400", Outcome.FAILED),
    "404": Case(faults.status(404), "upstream_404", Outcome.FAILED),
    "422": Case(faults.status(422), "upstream_422", Outcome.FAILED),
    "204": Case(faults.status(204, body=""), "upstream_204", Outcome.FAILED),
    "invalid_client": Case(_answered(401, "invalid_client"), "invalid_client", Outcome.FAILED, status=502),
    "invalid_scope": Case(_answered(400, "invalid_scope"), "invalid_scope", Outcome.FAILED, status=502),
    "unauthorized_client": Case(
        _answered(400, "unauthorized_client"), "unauthorized_client", Outcome.FAILED, status=502
    ),
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
    "NaN": '{"access_token": "' + A_TOKEN + '", "expires_in": NaN}',
    "depth": "[" * 30_000,
}
MALFORMED = {
    "truncated JSON": Case(faults.truncated_json(), "upstream_malformed", Outcome.BEGUN, mints=1),
    "HTML 200": Case(faults.html(), "upstream_malformed", Outcome.BEGUN),
    "wrong content type": Case(faults.wrong_content_type(), "upstream_malformed", Outcome.BEGUN, mints=1),
    **{
        name: Case(faults.json_answer(body), "upstream_malformed", Outcome.BEGUN)
        for name, body in _MALFORMED_BODIES.items()
    },
}
CASES = {**NO_ANSWER, **STATUSES, **MALFORMED}
_ODD_S, _LONGEST_S = 300, 400 * 86_400
ODD_LIFETIMES: dict[str, tuple[str, int]] = {
    "missing": ("", _ODD_S),
    **{
        name: (f', "expires_in": {text}', _ODD_S)
        for name, text in {
            "zero": "0",
            "negative": "-1",
            "text": '"soon"',
            "null": "null",
            "true": "true",
            "an object": "{}",
            "infinite": "1e400",
        }.items()
    },
    "a thousand years": (', "expires_in": 31536000000', _LONGEST_S),
    "beyond floating point": (f', "expires_in": {10**400}', _LONGEST_S),
}
"""The member as it is sent, and the lifetime in seconds that it is worth."""
