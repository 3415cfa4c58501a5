"""Pages of campaigns over real sockets: what is read, what is waited for, what ends a run, and what is never told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

import pytest

from functions.campaigns.adapters.campaigns_api import CampaignsApi, CampaignsUnreadable
from functions.campaigns.walk import OutOfTimeError, Page, PageTooLargeError, Walk
from lambda_support.upstream_http import new_session
from local.digishare import faults
from local.digishare.api import TOKEN_PATH
from local.digishare.contacts import CANARY_NAME, CANARY_PHONE_PREFIX
from local.digishare.model import Client, PageShape, PersonalAccessToken, Request
from local.digishare.tokens import token_id
from local.fake_digishare import FakeDigishare
from tests.client.conftest import Clock, everything_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests

    from local.digishare.faults import Fault

TOKEN, NEXT_TOKEN = "canary-token-1", "canary-token-2"
CANARIES = ("canary", CANARY_NAME, CANARY_PHONE_PREFIX)
PRIVATE = json.dumps({"title": "canary-title", "mobile": f"{CANARY_PHONE_PREFIX}0001", "name": CANARY_NAME})
LIMIT = 40
LONGEST_PAUSE_S = 30 * 1.25


@dataclass
class Reader:
    """A run that reads the fake; only waiting moves its time, and `events` says what happened to its token.

    It is a `Tokens`, too: it goes on to the next token where one is reported.
    """

    digishare: FakeDigishare
    session: requests.Session
    clock: Clock
    end_s: float = 0.0
    tokens: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)

    def start(self, *tokens: str, time_left_s: float = 600.0) -> None:
        self.tokens, self.end_s = list(tokens), self.clock.now + time_left_s

    @property
    def api(self) -> CampaignsApi:
        return CampaignsApi(self.session, f"{self.digishare.url}/v1", self, self.time_left_s, self._wait)

    def time_left_s(self) -> float:
        return self.end_s - self.clock.now

    def _wait(self, seconds: float) -> None:
        self.events.append("wait")
        self.pauses_s.append(seconds)
        self.clock.now += seconds

    def token(self) -> str:
        self.events.append("ask")
        return self.tokens[0]

    def refused(self) -> None:
        self.events.append("report")
        self.tokens = self.tokens[1:] or self.tokens

    def spoil(self, fault: Fault, *, times: int | None = 1) -> None:
        self.digishare.fail("campaigns", fault, times=times)

    def read(self, number: int = 1, limit: int = LIMIT) -> Page:
        page = self.api.read_page(number, limit, None)
        assert page is not None
        return page

    def assert_reads(self, number: int = 1) -> None:
        """The page holds the campaigns that belong there, those first that were made first."""
        campaigns = list(self.digishare.campaign_statuses.items())
        assert self.read(number).statuses == dict(campaigns[(number - 1) * LIMIT : number * LIMIT])

    def failure(self, kind: type[Exception], number: int = 1, limit: int = LIMIT) -> str:
        """Return the error's text; neither it nor anything behind it tells what nobody may know."""
        with pytest.raises(kind) as raised:
            self.read(number, limit)
        assert_tells_nothing(everything_of(raised.value))
        return str(raised.value)

    def assert_pauses_have_grown(self) -> None:
        for index, pause_s in enumerate(self.pauses_s):
            assert 0.75 <= pause_s / min(2.0**index, 30) <= 1.25


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def running(clock: Clock) -> Iterator[tuple[FakeDigishare, requests.Session]]:
    with FakeDigishare(clients=[Client("client-1", ("secret",))], clock=clock) as digishare:
        yield digishare, new_session(str(digishare.ca_file))


@pytest.fixture
def reader(running: tuple[FakeDigishare, requests.Session], clock: Clock) -> Reader:
    reader = Reader(*running, clock)
    reader.digishare.reset()
    reader.digishare.configure(contacts_per_campaign=1)
    reader.digishare.set_personal_access_tokens([PersonalAccessToken(TOKEN), PersonalAccessToken(NEXT_TOKEN)])
    reader.start(TOKEN, NEXT_TOKEN)
    return reader


def assert_tells_nothing(text: str) -> None:
    assert not [canary for canary in CANARIES if canary in text]


def private(status: int, **headers: str) -> Fault:
    return faults.status(status, body=PRIVATE, headers={"X-Request": "canary-header", **headers})


# --- what is read ---------------------------------------------------------------------------------------------

WITHOUT_TOTAL = ("simple", "simple_resource", "cursor", "cursor_resource", "bare_array", "bare_array_unpaged")


@pytest.mark.parametrize("shape", sorted({*get_args(PageShape)} - {"repeating_page"}))
def test_every_shape_is_read_to_its_end(shape: str, reader: Reader) -> None:
    reader.digishare.configure(campaign_shape=shape)

    walked = Walk(reader.api).read()

    assert walked.statuses == reader.digishare.campaign_statuses
    assert (walked.is_complete, walked.total) == ((False, None) if shape in WITHOUT_TOTAL else (True, 250))
    assert_tells_nothing(repr(walked))


def test_the_first_page_again_and_again_is_no_complete_list(reader: Reader) -> None:
    reader.digishare.configure(campaign_shape="repeating_page")

    walked = Walk(reader.api).read()

    assert (len(walked.statuses), walked.is_complete, walked.total) == (100, False, 250)


@pytest.mark.parametrize("answer", ["empty", "404", "422"])
def test_what_is_behind_the_last_page_ends_the_list(answer: str, reader: Reader) -> None:
    reader.digishare.replace_campaigns(200)  # the last page is full, so that there might be another one
    reader.digishare.configure(behind_last_page=answer)

    walked = Walk(reader.api).read()

    assert (walked.statuses, walked.is_complete) == (reader.digishare.campaign_statuses, True)
    assert (reader.api.read_page(3, 100, None) is None) == (answer != "empty")


def test_pages_come_in_the_order_in_which_campaigns_were_made(reader: Reader) -> None:
    for number in (1, 2, 7):
        reader.assert_reads(number)


def test_the_request_is_as_documented(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Request] = []
    monkeypatch.setattr(reader.digishare, "receive", seen.append)

    reader.api.read_page(2, 90, "c 2")

    [request] = seen
    order = {"sort_by": "created_at", "sort_direction": "asc"}
    assert (request.method, request.path) == ("GET", "/v1/campaigns")
    assert request.query == {"page": "2", "limit": "90", "cursor": "c 2", **order}
    expected = {
        "authorization": f"Bearer {TOKEN}",
        **dict.fromkeys(("accept", "content-type"), "application/json"),
    }
    assert request.headers.items() >= expected.items()
    assert request.body == b""


ODD_IDS: tuple[object, ...] = (None, "", True, 1.5, [], {}, "i" * 65, "a b", " a", "a\n", "\u00e9", "\u0663")
NO_ROWS: tuple[object, ...] = ({}, "text", None, 7, ["cmp_1"])
NO_STATUSES: tuple[object, ...] = (None, "", 5, True, [], ["draft"])
NO_COUNTS: tuple[object, ...] = (None, True, -1, "-1", 1.5, "", "many", "\u0661", "12 ", 10**15, [], {})
LINK = "/v1/campaigns?page=3"


@pytest.mark.parametrize(
    ("row", "statuses"),
    [
        ({"id": "cmp_1", "status": "draft"}, {"cmp_1": "draft"}),
        ({"id": 17}, {"17": None}),
        ({"id": "i" * 64}, {"i" * 64: None}),
        ({"id": "last", "status": "draft"}, {"last": "paused"}),
        *(({"id": odd, "status": "draft"}, {}) for odd in ODD_IDS),
        *((odd, {}) for odd in NO_ROWS),
        *(({"id": "a", "status": odd}, {"a": None}) for odd in NO_STATUSES),
        ({"id": "a", "status": "\u0661" * 65}, {"a": "\u0661" * 64}),
        ({"id": "a", "status": "half \ud83d"}, {"a": "half ?"}),
    ],
)
def test_a_row_brings_id_and_status_or_is_counted(
    row: object, statuses: dict[str, str], reader: Reader
) -> None:
    reader.spoil(faults.json_answer({"data": [row, {"id": "last", "status": "paused"}]}))

    page = reader.read()

    assert page.statuses == {**statuses, "last": "paused"}
    assert (page.rows, page.rows_without_id) == (2, 0 if statuses else 1)


@pytest.mark.parametrize(
    ("said", "count"), [(12, 12), ("12", 12), (0, 0), *((nonsense, None) for nonsense in NO_COUNTS)]
)
def test_numbers_are_found_wherever_they_stand_and_as_text(
    said: object, count: int | None, reader: Reader
) -> None:
    numbers = {"total": said, "per_page": said}
    for around in (numbers, {"meta": numbers}, {"meta": {"pagination": numbers}}):
        reader.spoil(faults.json_answer({"data": [], **around}))

        page = reader.read()

        assert (page.total, page.per_page) == (count, count)


@pytest.mark.parametrize(
    ("said", "last_and_cursor"),
    [
        ({"meta": None, "links": None}, (None, None)),
        ({"meta": [7], "links": [7]}, (None, None)),
        ({"meta": {"pagination": 7, "links": {}}}, (None, None)),
        *(({"meta": {name: 2}}, (True, None)) for name in ("total_pages", "last_page")),
        *(({name: "3", "next_page_url": None}, (False, None)) for name in ("total_pages", "last_page")),
        ({"total_pages": 1}, (True, None)),
        ({"next_page_url": None}, (True, None)),
        ({"next_page_url": LINK}, (False, None)),
        ({"links": {"next": None}, "meta": {"links": {"previous": LINK}}}, (True, None)),
        ({"meta": {"links": {"next": LINK}}}, (False, None)),
        ({"meta": {"pagination": {"links": {"next": LINK}}}}, (False, None)),
        ({"meta": {"next_cursor": None}}, (True, None)),
        ({"next_cursor": "c3", "next_page_url": None}, (False, "c3")),
        ({"next_cursor": 3}, (False, None)),
    ],
)
def test_a_page_says_whether_it_is_the_last_one(
    said: dict[str, object], last_and_cursor: tuple[bool | None, str | None], reader: Reader
) -> None:
    reader.spoil(faults.json_answer({"data": [], **said}))

    page = reader.read(2)

    assert (page.is_last, page.next_cursor) == last_and_cursor


def test_a_list_with_too_many_contacts_for_one_answer_is_read_in_smaller_pages(reader: Reader) -> None:
    reader.digishare.replace_campaigns(150)
    reader.digishare.configure(contacts_per_campaign=1000)
    reader.failure(PageTooLargeError, limit=100)

    walked = Walk(reader.api).read()

    assert (walked.statuses, walked.is_complete) == (reader.digishare.campaign_statuses, True)
    assert_tells_nothing(repr(walked))


def test_eight_mebibytes_are_read_and_no_more(reader: Reader) -> None:
    reader.spoil(faults.json_answer("[]".ljust(8 * faults.MEBIBYTE)))
    assert reader.read().rows == 0

    for fault in (faults.json_answer("[]".ljust(8 * faults.MEBIBYTE + 1)), faults.huge_body(chunked=True)):
        reader.spoil(fault)
        reader.failure(PageTooLargeError)
    assert reader.events == ["ask"] * 3


# --- what may pass by itself ----------------------------------------------------------------------------------

NO_ANSWER = "upstream_unavailable: 127.0.0.1: failed while waiting for the answer,"
NO_JSON = "unexpected_answer: status 200: the body is not valid JSON,"
ANOTHER_TYPE = "unexpected_answer: status 200: the content type is not JSON,"
NO_LIST = {
    "an object": {"data": {"id": "canary-title"}},
    "a text": '"canary-title"',
    "null": None,
    "no data": {"campaigns": [{"id": "canary-title"}]},
}
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
        f"JSON {text[:9]!r}": (faults.json_answer(text), NO_JSON)
        for text in ("canary", "", "[" * 30_000, "[NaN]")
    },
    "HTML 200": (faults.html(), ANOTHER_TYPE),
    "text": (faults.wrong_content_type(content_type="text/plain"), ANOTHER_TYPE),
    **{
        name: (faults.json_answer(body), "unexpected_answer: there is no list")
        for name, body in NO_LIST.items()
    },
}


@pytest.mark.parametrize("name", MAY_PASS)
def test_what_may_pass_is_repeated_until_it_has(name: str, reader: Reader) -> None:
    reader.spoil(MAY_PASS[name][0], times=3)

    reader.assert_reads()
    assert [event for event in reader.events if event != "report"] == ["ask", "wait"] * 3 + ["ask"]
    assert ("report" in reader.events) == (name == "401")
    reader.assert_pauses_have_grown()


@pytest.mark.parametrize("name", MAY_PASS)
def test_what_does_not_pass_ends_the_run_when_its_time_is_used_up(name: str, reader: Reader) -> None:
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
def test_what_an_answer_leaves_behind_is_no_other_call_s_page(name: str, reader: Reader) -> None:
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
        assert (
            reader.failure(CampaignsUnreadable, number) == f"{code}: campaigns page {number}: HTTP {status}"
        )
    assert reader.events == ["ask"]
    assert len(reader.digishare.calls) == 1


def test_a_token_that_no_header_carries_ends_the_run_at_once(reader: Reader) -> None:
    reader.start(f"{TOKEN}\r\nX-Evil: 1")

    assert reader.failure(CampaignsUnreadable).startswith("unexpected_answer: campaigns page 1: the URL")
    assert reader.events == ["ask"]
    assert not reader.digishare.calls


# --- refused tokens -------------------------------------------------------------------------------------------


def test_one_refusal_is_waited_for_with_the_same_token_and_not_reported(reader: Reader) -> None:
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
