"""The campaigns API over real sockets: what is retried, what ends a run, and what is never shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from functions.campaigns.adapters.campaigns_api import CampaignsUnreadable
from functions.campaigns.walk import OutOfTimeError
from local.digishare import faults
from local.digishare.api import TOKEN_PATH
from local.digishare.model import Request
from local.digishare.tokens import token_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.digishare.faults import Fault

from tests.campaigns.conftest import LIMIT, LONGEST_PAUSE_S, TOKEN, Reader, private

# --- faults that may pass --------------------------------------------------------------------------------------

NO_ANSWER = "upstream_unavailable: 127.0.0.1: failed while waiting for the answer,"
NO_JSON = "unexpected_answer: status 200: the body is not valid JSON,"
ANOTHER_TYPE = "unexpected_answer: status 200: the content type is not JSON,"
NO_LIST = "unexpected_answer: there is no list"
MAY_PASS = {
    "401": (private(401), "unauthorized: HTTP 401,"),
    "429": (faults.rate_limited(), "rate_limited: HTTP 429,"),
    **{
        str(status): (private(status), f"upstream_unavailable: HTTP {status},")
        for status in (408, 425, 500, 502, 503, 504, 507, 520, 599)
    },
    "HTML 503": (faults.html(status=503), "upstream_unavailable: HTTP 503,"),
    "reset": (faults.reset(), NO_ANSWER),
    "closed": (faults.close(), NO_ANSWER),
    "cut": (faults.cut_body(), NO_ANSWER),
    "no HTTP": (faults.raw("canary-title", processed=False), NO_ANSWER),
    "truncated": (faults.truncated_json(), NO_JSON),
    **{
        f"JSON {said[:9]!r}": (faults.json_answer(said), NO_JSON)
        for said in ("canary", "", "[" * 30_000, "[NaN]")
    },
    "HTML 200": (faults.html(), ANOTHER_TYPE),
    "text": (faults.wrong_content_type(content_type="text/plain"), ANOTHER_TYPE),
    "an object": (faults.json_answer({"data": {"id": "canary-title"}}), NO_LIST),
    "a text": (faults.json_answer('"canary-title"'), NO_LIST),
    "null": (faults.json_answer(None), NO_LIST),
    "no data": (faults.json_answer({"campaigns": [{"id": "canary-title"}]}), NO_LIST),
}


@pytest.mark.parametrize("name", MAY_PASS)
def test_a_fault_that_passes_is_retried_until_then(name: str, reader: Reader) -> None:
    reader.spoil(MAY_PASS[name][0], times=3)

    reader.assert_reads()
    assert [event for event in reader.events if event != "report"] == ["ask", "wait"] * 3 + ["ask"]
    assert ("report" in reader.events) == (name == "401")
    reader.assert_pauses_have_grown()


@pytest.mark.parametrize("name", MAY_PASS)
def test_a_lasting_fault_ends_the_run_when_its_time_is_used_up(name: str, reader: Reader) -> None:
    fault, text = MAY_PASS[name]
    reader.spoil(fault, times=None)
    reader.start(TOKEN, time_left_s=20 if name == "401" else 200)

    assert reader.failure(OutOfTimeError).startswith(text)
    reader.assert_pauses_have_grown()
    assert 0 < reader.time_left_s() <= min(1.25 * 2 ** len(reader.pauses_s), LONGEST_PAUSE_S)
    assert len(reader.digishare.calls) == len(reader.pauses_s) + 1


@pytest.mark.parametrize("status", [408, 429, 503])
@pytest.mark.parametrize(
    ("said", "shortest_s", "longest_s"),
    [
        ("7", 7, 7),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.75, 1.25),
        *((nothing, 0.75, 1.25) for nothing in ("0", "0.1", "", "soon", "-5", "1e2", "7 s", "\xb2")),
    ],
)
def test_the_wait_is_what_the_api_says_and_never_shorter_than_the_pause(
    status: int, said: str, shortest_s: float, longest_s: float, reader: Reader
) -> None:
    reader.spoil(private(status, **{"Retry-After": said}))

    reader.assert_reads()
    [pause_s] = reader.pauses_s
    assert shortest_s <= pause_s <= longest_s


def test_the_wait_may_be_a_date(reader: Reader) -> None:
    reader.spoil(faults.rate_limited(retry_after_s=400, as_date=True))

    reader.assert_reads()
    assert 300 <= reader.pauses_s[0] <= 400


@pytest.mark.parametrize("said", ["60", "61", "9" * 300, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_that_outlasts_the_run_is_not_begun(said: str, reader: Reader) -> None:
    reader.spoil(private(429, **{"Retry-After": said}))
    reader.start(TOKEN, time_left_s=60)

    text = reader.failure(OutOfTimeError)

    assert text.startswith("rate_limited: HTTP 429, and ")
    assert len(text) < 100
    assert reader.events == ["ask"]


def test_nothing_is_asked_when_no_time_is_left(reader: Reader) -> None:
    reader.start(TOKEN, time_left_s=0)

    assert reader.failure(OutOfTimeError).startswith("out_of_time: ")
    assert not reader.digishare.calls


@pytest.mark.parametrize("make", [faults.hang, faults.drip_headers, faults.drip_body])
def test_a_call_ends_with_the_time_of_the_run(make: Callable[..., Fault], reader: Reader) -> None:
    reader.spoil(make(cap_s=5))
    reader.start(TOKEN, time_left_s=0.5)

    assert reader.failure(OutOfTimeError).startswith("upstream_unavailable: 127.0.0.1: timed out while")


# --- a connection for each call -------------------------------------------------------------------------------


def answered(head: str, body: str) -> str:
    typed = "Content-Type: application/json\r\n"
    return f"HTTP/1.1 {head}\r\n{typed}Content-Length: {len(body)}\r\n\r\n{body}"


OWN, ANOTHER = (answered("200 OK", f'{{"data":[{{"id":"{name}"}}]}}') for name in ("own", "left-over"))
EARLY_HINTS = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
BEHIND_A_PAGE = {
    "103 first": f"{EARLY_HINTS}<pause>{OWN}",
    "102 first": f"HTTP/1.1 102 Processing\r\n\r\n<pause>{OWN}",
    "103 behind": f"{OWN}<pause>{EARLY_HINTS}",
    "a late duplicate": f"{OWN}<pause>{ANOTHER}",
    "junk behind": f"{OWN}<pause>junk\x00\r\n\r\n",
}
BEHIND_A_FAILURE = {
    "101 with an answer behind": f"HTTP/1.1 101 Switching Protocols\r\n\r\n<pause>{ANOTHER}",
    "103 with a body": answered("103 Early Hints", "canary-title") + ANOTHER,
    "503 with an answer behind": answered("503 Service Unavailable", "") + f"<pause>{ANOTHER}",
    "an answer behind an empty one": answered("200 OK", "") + f"<pause>{ANOTHER}",
}


@pytest.mark.parametrize("name", [*BEHIND_A_PAGE, *BEHIND_A_FAILURE])
def test_what_follows_an_answer_is_not_read_as_another_calls_page(name: str, reader: Reader) -> None:
    reader.spoil(faults.raw({**BEHIND_A_PAGE, **BEHIND_A_FAILURE}[name], processed=False, pause_ms=100))

    if name in BEHIND_A_PAGE:
        assert reader.read().statuses == {"own": None}
    else:
        reader.assert_reads()
    reader.assert_reads(2)
    assert reader.events.count("wait") == (name in BEHIND_A_FAILURE)


# --- what ends a run at once ----------------------------------------------------------------------------------

OTHER_SUCCESSES = (201, 202, 204, 206)
REDIRECTS = (301, 302, 304, 307, 308)
REFUSALS = (400, 402, 403, 404, 405, 406, 409, 410, 418, 422, 431, 451, 499)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("status", [*OTHER_SUCCESSES, *REDIRECTS, *REFUSALS])
def test_any_other_status_ends_the_run_at_once(status: int, number: int, reader: Reader) -> None:
    reader.spoil(private(status, Location="/canary", **{"Retry-After": "1"}), times=None)

    if number > 1 and status in (404, 422):
        assert reader.api.read_page(number, LIMIT, None) is None
    else:
        code = "forbidden" if status == 403 else "unexpected_answer"
        text = f"{code}: campaigns page {number}: HTTP {status}"
        assert reader.failure(CampaignsUnreadable, number) == text
    assert reader.events == ["ask"]
    assert len(reader.digishare.calls) == 1


def test_a_token_that_fits_no_header_ends_the_run_at_once(reader: Reader) -> None:
    reader.start(f"{TOKEN}\r\nX-Evil: 1")

    assert reader.failure(CampaignsUnreadable).startswith("unexpected_answer: campaigns page 1: the URL")
    assert reader.events == ["ask"]
    assert not reader.digishare.calls


# --- refused tokens -------------------------------------------------------------------------------------------


def test_one_refusal_is_retried_with_the_same_token_and_not_reported(reader: Reader) -> None:
    for number in (1, 2):
        reader.spoil(private(401))
        reader.assert_reads(number)

    assert reader.events == ["ask", "wait", "ask"] * 2


def test_a_revoked_token_is_reported_at_its_second_refusal(reader: Reader) -> None:
    reader.digishare.revoke(token_id(TOKEN))

    reader.assert_reads()
    assert reader.events == ["ask", "wait", "ask", "wait", "report", "ask"]


def test_eight_refusals_in_a_row_end_the_run(reader: Reader) -> None:
    reader.digishare.revoke_all()

    assert reader.failure(CampaignsUnreadable) == "unauthorized: campaigns page 1: HTTP 401"
    assert reader.events == ["ask", "wait"] + ["ask", "wait", "report"] * 6 + ["ask"]


def test_another_answer_begins_the_count_of_refusals_again(reader: Reader) -> None:
    for fault in (private(503), faults.reset()):
        reader.spoil(private(401), times=7)
        reader.spoil(fault)
    reader.assert_reads()

    reader.spoil(private(401), times=7)
    reader.assert_reads(2)
    assert reader.events.count("report") == 3 * 6


def test_a_node_whose_clock_is_behind_costs_nothing_but_time(reader: Reader) -> None:
    reader.digishare.configure(refuse_younger_than_s=60)
    credential = {"grant_type": "client_credentials", "client_id": "client-1", "client_secret": "secret"}
    headers = {"content-type": "application/json"}
    answer = reader.digishare.answer(Request("POST", TOKEN_PATH, headers, json.dumps(credential).encode()))
    reader.start(json.loads(answer.body)["access_token"], time_left_s=100)

    reader.assert_reads()
    assert sum(reader.pauses_s) >= 60
