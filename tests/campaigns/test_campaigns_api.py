"""Every shape that a page of campaigns may have, and what happens when the API refuses, fails or stalls."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import pytest

from functions.campaigns import campaigns_api
from functions.campaigns.campaigns_api import CampaignsApi, CampaignsUnreadable
from lambda_support.upstream_http import new_session
from local.digishare import faults
from local.digishare.model import PersonalAccessToken
from local.digishare.tokens import token_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.digishare.campaigns import PageShape
    from local.digishare.faults import Fault
    from local.fake_digishare import FakeDigishare

TOKEN = "canary-token-1"
NEXT_TOKEN = "canary-token-2"


class Bearer:
    """Hands out TOKEN, and after a refusal NEXT_TOKEN."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.next_token = NEXT_TOKEN

    def __call__(self, refused: str | None) -> str:
        if refused is None:
            return self.next_token if self.refused else TOKEN
        self.refused.append(refused)
        return self.next_token


@pytest.fixture
def bearer(digishare: FakeDigishare) -> Bearer:
    digishare.set_personal_access_tokens([PersonalAccessToken(TOKEN), PersonalAccessToken(NEXT_TOKEN)])
    return Bearer()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def new_api(
    digishare: FakeDigishare, bearer: Bearer, pauses: list[float]
) -> Iterator[Callable[..., CampaignsApi]]:
    with new_session(str(digishare.ca_file)) as session:

        def make(time_left_s: float = 60.0) -> CampaignsApi:
            return CampaignsApi(session, f"{digishare.url}/v1", bearer, lambda: time_left_s, pauses.append)

        yield make


def pages_read(digishare: FakeDigishare) -> int:
    return digishare.requests_by_path["GET /v1/campaigns"]


@pytest.mark.parametrize(
    ("shape", "calls"),
    [
        ("documented", 3),
        ("bare_array", 3),
        ("bare_array_unpaged", 2),
        ("laravel", 3),
        ("overlapping_pages", 3),
        ("growing_total", 3),
        ("shrinking_total", 3),
        ("unknown_status", 3),
        ("missing_fields", 3),
    ],
)
def test_every_campaign_counts_once_in_every_shape(
    shape: PageShape, calls: int, digishare: FakeDigishare, new_api: Callable[..., CampaignsApi]
) -> None:
    digishare.configure(campaign_shape=shape)

    summary = new_api().summarize()

    assert (summary.campaigns, summary.is_complete) == (250, True)
    assert sum(summary.by_status.values()) == sum(summary.by_channel.values()) == 250
    assert pages_read(digishare) == calls


def test_page_that_repeats_ends_the_walk(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi]
) -> None:
    digishare.configure(campaign_shape="repeating_page")

    summary = new_api().summarize()

    assert (summary.campaigns, summary.pages) == (100, 2)


def test_campaigns_are_counted_by_what_the_api_says(new_api: Callable[..., CampaignsApi]) -> None:
    summary = new_api().summarize()

    assert summary.by_channel == {"mail": 25, "sms": 75, "telegram": 75, "whatsapp": 75}
    assert summary.by_status == {"planned": 100, "running": 50, "done": 50, "cancelled": 50}


def test_unknown_status_counts_under_its_own_name_and_a_missing_one_as_missing(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi]
) -> None:
    digishare.configure(campaign_shape="unknown_status")
    assert new_api().summarize().by_status["quarantined_by_carrier"] == 25

    digishare.configure(campaign_shape="missing_fields")
    summary = new_api().summarize()
    assert (summary.by_status["(missing)"], summary.by_channel["(missing)"]) == (25, 25)


def test_rows_without_id_or_of_another_kind_count_too_and_names_stay_few_and_short(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi]
) -> None:
    rows: list[object] = [{"status": "s" * 9000}, {"status": 5}, "text", None]
    rows += [{"status": f"status-{number}"} for number in range(60)]
    digishare.fail("campaigns", faults.json_answer({"data": rows}))

    summary = new_api().summarize()

    assert summary.campaigns == 64
    assert summary.by_status["(missing)"] == 3
    assert len(summary.by_status) == 41
    assert summary.by_status["(other)"] == 22
    assert max(map(len, summary.by_status)) == 40


def test_pages_without_ids_that_repeat_end_the_walk(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi]
) -> None:
    page = {"data": [{"status": "planned"}] * 100, "links": {"next": "more"}}
    digishare.fail("campaigns", faults.json_answer(page), times=None)

    assert new_api().summarize().campaigns == 100
    assert pages_read(digishare) == 2


def test_last_page_that_is_full_is_followed_by_a_look_at_the_next(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi]
) -> None:
    full = {"data": [{"id": number} for number in range(100)], "meta": {"pagination": {"total_pages": 1}}}
    digishare.fail("campaigns", faults.json_answer(full))
    digishare.fail("campaigns", faults.json_answer({"data": [{"id": 100}]}))

    assert new_api().summarize().campaigns == 101


def test_empty_list_has_no_campaigns(digishare: FakeDigishare, new_api: Callable[..., CampaignsApi]) -> None:
    digishare.fail("campaigns", faults.json_answer([]))

    summary = new_api().summarize()
    assert (summary.campaigns, summary.pages, summary.is_complete) == (0, 1, True)


def test_walk_is_bounded_in_pages_and_says_so(
    new_api: Callable[..., CampaignsApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaigns_api, "MAX_PAGES", 2)

    summary = new_api().summarize()
    assert (summary.campaigns, summary.pages, summary.is_complete) == (200, 2, False)


@pytest.mark.parametrize(
    ("fault", "shortest_s", "longest_s"),
    [
        (faults.rate_limited(retry_after_s=7), 7, 7),
        (faults.rate_limited(), 0.75, 1.25),
        (faults.rate_limited(retry_after="soon"), 0.75, 1.25),
        (faults.rate_limited(retry_after="0"), 0, 0),
        (faults.status(503, headers={"Retry-After": "3"}), 3, 3),
        (faults.status(500), 0.75, 1.25),
        (faults.reset(), 0.75, 1.25),
        (faults.cut_body(), 0.75, 1.25),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else None,
)
def test_passing_failure_is_waited_for_as_the_api_says(
    fault: Fault,
    shortest_s: float,
    longest_s: float,
    digishare: FakeDigishare,
    new_api: Callable[..., CampaignsApi],
    pauses: list[float],
) -> None:
    digishare.fail("campaigns", fault)

    assert new_api().summarize().campaigns == 250
    assert len(pauses) == 1
    assert shortest_s <= pauses[0] <= longest_s


def test_retry_after_may_be_a_date(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi], pauses: list[float]
) -> None:
    digishare.fail("campaigns", faults.rate_limited(retry_after_s=40, as_date=True))

    assert new_api().summarize().campaigns == 250
    assert 30 <= pauses[0] <= 40


def test_wait_that_outlasts_the_run_is_not_begun(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi], pauses: list[float]
) -> None:
    digishare.fail("campaigns", faults.rate_limited(retry_after_s=61))

    with pytest.raises(CampaignsUnreadable, match=r"page 1: HTTP 429; 61 s to wait") as raised:
        new_api(time_left_s=60).summarize()
    assert raised.value.code == "rate_limited"
    assert not pauses


def test_failure_that_does_not_pass_is_given_up(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi]
) -> None:
    digishare.fail("campaigns", faults.status(500), times=None)

    with pytest.raises(CampaignsUnreadable) as raised:
        new_api().summarize()
    assert raised.value.code == "upstream_unavailable"
    assert pages_read(digishare) == 5


def test_nothing_is_asked_when_no_time_is_left(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi]
) -> None:
    with pytest.raises(CampaignsUnreadable, match="out_of_time"):
        new_api(time_left_s=0).summarize()
    assert not digishare.calls


def test_refused_token_is_replaced_once_and_the_page_read_again(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi], bearer: Bearer
) -> None:
    digishare.revoke(token_id(TOKEN))

    assert new_api().summarize().campaigns == 250
    assert bearer.refused == [TOKEN]
    assert pages_read(digishare) == 4


def test_second_refusal_is_final(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi], bearer: Bearer
) -> None:
    digishare.revoke_all()

    with pytest.raises(CampaignsUnreadable, match="page 1: HTTP 401") as raised:
        new_api().summarize()
    assert raised.value.code == "unauthorized"
    assert (bearer.refused, pages_read(digishare)) == ([TOKEN], 2)


def test_refused_token_that_stays_the_same_is_not_sent_again(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi], bearer: Bearer
) -> None:
    digishare.revoke_all()
    bearer.next_token = TOKEN

    with pytest.raises(CampaignsUnreadable, match="unauthorized"):
        new_api().summarize()
    assert pages_read(digishare) == 1


def test_missing_scope_is_not_reported_as_a_bad_token(
    digishare: FakeDigishare, new_api: Callable[..., CampaignsApi], bearer: Bearer
) -> None:
    digishare.set_personal_access_tokens([PersonalAccessToken(TOKEN, scopes=())])

    with pytest.raises(CampaignsUnreadable, match="HTTP 403") as raised:
        new_api().summarize()
    assert raised.value.code == "forbidden"
    assert not bearer.refused


@pytest.mark.parametrize(
    "fault",
    [
        faults.html(),
        faults.redirect(),
        faults.truncated_json(),
        faults.json_answer({"data": {"id": "canary-title"}}),
        faults.json_answer("canary-title", status=200),
        faults.json_answer({"message": "canary-title"}, status=422),
    ],
    ids=lambda fault: fault.name,
)
def test_answer_that_is_no_list_is_an_error_without_its_content(
    fault: Fault, digishare: FakeDigishare, new_api: Callable[..., CampaignsApi]
) -> None:
    digishare.fail("campaigns", fault)

    with pytest.raises(CampaignsUnreadable) as raised:
        new_api().summarize()
    assert raised.value.code == "unexpected_answer"
    seen = "".join(traceback.format_exception(raised.value))
    assert "canary-token" not in seen
    assert '{"' not in str(raised.value)
