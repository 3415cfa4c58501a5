"""The rules of a decision, in their order, and the error of a refused caller."""

from __future__ import annotations

from typing import Any

import pytest

from functions.broker.decide import Decision, Need, Refuse, Replace, Serve, TokenWanted, Wait, decide
from functions.broker.token import Failure, FailureKind, Lock, Pace, SealedToken, TokenRecord
from token_broker.issued_token import Token

NOW = 1_800_000_000.0
DAY_S = 86_400.0
ID, OTHER_ID = "0" * 16, "f" * 16
ME, OTHER = "111111111111:role/me", "111111111111:role/other"


def token_that(
    *, age_s: float = 5000.0, left_s: float | None = 5000.0, said: bool = True, token_id: str = ID
) -> SealedToken:
    """Return a token of this age with this time left: by default fresh, due below a fifth of its lifetime."""
    expires_at = None if left_s is None else NOW + left_s
    lifetime_s = age_s + left_s if said and left_s is not None else None
    return SealedToken(Token(token_id, NOW - age_s, expires_at, lifetime_s, None, "v1"), b"", 1)


FRESH, DUE, EXPIRED = token_that(), token_that(age_s=9000, left_s=1000), token_that(age_s=9999, left_s=0.9)
LOCK = Lock("theirs", NOW + 14.5)


def failed(
    not_before_s: float, kind: FailureKind = FailureKind.MAY_HAVE_ISSUED, code: str = "upstream_500"
) -> Failure:
    return Failure(code, kind, 3, NOW + not_before_s)


def look(
    token: SealedToken | None = None,
    *,
    rejected: str | None = None,
    min_ttl_s: float = 0.0,
    left_s: float = 30.4,
    versions: tuple[str, ...] = (),
    **record: Any,
) -> Decision:
    wanted = TokenWanted("digishare", min_ttl_s, rejected, ME)
    return decide(TokenRecord("digishare", token, **record), wanted, NOW, NOW + left_s, versions)


def refusal(decision: Decision) -> tuple[str, int | None]:
    assert isinstance(decision, Refuse), decision
    return decision.error.code, decision.error.retry_after_s


def test_rule_1_what_is_not_due_is_served_whatever_else_the_record_says() -> None:
    nothing_left = Pace(0.0, NOW)

    assert look(FRESH, lock=LOCK, failure=failed(60), pace=nothing_left, left_s=1) == Serve()


@pytest.mark.parametrize(
    ("token", "rejected", "need"),
    [
        (None, None, Need.NO_TOKEN), (EXPIRED, None, Need.EXPIRED), (EXPIRED, ID, Need.EXPIRED),
        (DUE, None, Need.REFRESH),
        (FRESH, ID, Need.REPORTED), (DUE, ID, Need.REPORTED), (token_that(left_s=None), None, Need.REFRESH),
        (token_that(age_s=60), ID, Need.REPORTED), (token_that(age_s=-0.1), ID, Need.REPORTED),
    ],
)  # fmt: skip
def test_rule_6_otherwise_a_token_is_replaced_and_the_reason_is_named(
    token: SealedToken | None, rejected: str | None, need: Need
) -> None:
    assert look(token, rejected=rejected) == Replace(need)


@pytest.mark.parametrize(
    ("token", "rejected"),
    [(FRESH, None), (FRESH, OTHER_ID), (token_that(age_s=59.9), ID), (token_that(age_s=0.0), ID)],
)
def test_a_report_of_another_token_or_of_a_young_one_is_answered_with_the_current_token(
    token: SealedToken, rejected: str | None
) -> None:
    assert look(token, rejected=rejected) == Serve()


@pytest.mark.parametrize(("left_s", "expected"), [(1.0, Serve()), (0.99, Wait(LOCK.until_epoch_s))])
def test_a_token_is_usable_until_its_last_second(left_s: float, expected: Decision) -> None:
    assert look(token_that(left_s=left_s), lock=LOCK) == expected


@pytest.mark.parametrize(
    ("age_s", "left_s", "min_ttl_s", "expected"),
    [
        (8000, 2000, 0, Serve()), (8001, 1999, 0, Replace(Need.REFRESH)),
        (335 * DAY_S, 30 * DAY_S, 0, Serve()), (335 * DAY_S, 30 * DAY_S - 1, 0, Replace(Need.REFRESH)),
        (7000, 3000, 3000, Serve()), (7000, 3000, 3001, Replace(Need.REFRESH)),
        (5000, 5000, 10**9, Serve()), (5001, 4999, 10**9, Replace(Need.REFRESH)),
    ],
)  # fmt: skip
def test_a_token_is_due_in_its_last_fifth_or_30_days_and_min_ttl_counts_up_to_half_of_its_life(
    age_s: float, left_s: float, min_ttl_s: float, expected: Decision
) -> None:
    assert look(token_that(age_s=age_s, left_s=left_s), min_ttl_s=min_ttl_s) == expected


@pytest.mark.parametrize(
    ("refresh_at_s", "token", "expected"),
    [
        (999, DUE, Serve()), (1000, DUE, Serve()), (1001, DUE, Replace(Need.REFRESH)),
        (0, DUE, Replace(Need.REFRESH)),
        (3600, token_that(left_s=None), Serve()), (3601, token_that(left_s=None), Replace(Need.REFRESH)),
        (500, EXPIRED, Replace(Need.EXPIRED)), (500, None, Replace(Need.NO_TOKEN)),
    ],
)  # fmt: skip
def test_a_refresh_time_counts_for_a_usable_token_and_not_beyond_its_expiry(
    refresh_at_s: float, token: SealedToken | None, expected: Decision
) -> None:
    assert look(token, refresh_at_epoch_s=NOW + refresh_at_s) == expected


def test_the_order_is_lock_back_off_pace_share() -> None:
    more: dict[str, Any] = {"failure": failed(500), "pace": Pace(0.0, NOW), "reports": {ME: [NOW - 1] * 6}}

    assert look(FRESH, rejected=ID, left_s=2.5, lock=LOCK, **more) == Wait(NOW + 14.5)
    assert refusal(look(FRESH, rejected=ID, **more)) == ("temporarily_unavailable", 500)
    del more["failure"]
    assert refusal(look(FRESH, rejected=ID, **more)) == ("temporarily_unavailable", 900)


def test_a_waiter_is_refused_when_no_further_look_fits_into_its_time() -> None:
    assert refusal(look(lock=LOCK, left_s=2.4)) == ("temporarily_unavailable", 1)


@pytest.mark.parametrize(
    ("until_s", "counts"), [(0.1, True), (60, True), (60.1, False), (0, False), (-5, False), (1e9, False)]
)
def test_a_lock_that_has_ended_or_claims_more_than_a_minute_is_none(until_s: float, *, counts: bool) -> None:
    expected = Wait(NOW + until_s) if counts else Replace(Need.NO_TOKEN)

    assert look(lock=Lock("theirs", NOW + until_s)) == expected


@pytest.mark.parametrize(
    ("not_before_s", "expected"), [(17.4, Wait(NOW + 17.4)), (0.1, Wait(NOW + 0.1)), (17.5, None)]
)
def test_rule_3_who_has_13_s_left_after_it_waits(not_before_s: float, expected: Wait | None) -> None:
    found = look(failure=failed(not_before_s))

    assert found == expected if expected else refusal(found) == ("temporarily_unavailable", 18)


@pytest.mark.parametrize(
    ("not_before_s", "counts"), [(960, True), (960.1, False), (1e9, False), (0, False), (-1, False)]
)
def test_a_not_before_more_than_16_minutes_ahead_does_not_count(not_before_s: float, *, counts: bool) -> None:
    found = look(failure=failed(not_before_s))

    assert isinstance(found, Refuse) if counts else found == Replace(Need.NO_TOKEN)


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        ("invalid_client", FailureKind.REFUSED, ("upstream_rejected", None)),
        ("secret_malformed", FailureKind.NOTHING_ISSUED, ("upstream_rejected", None)),
        ("token_url_not_allowed", FailureKind.NOTHING_ISSUED, ("upstream_rejected", None)),
        ("token_url_malformed", FailureKind.NOTHING_ISSUED, ("upstream_rejected", None)),
        ("secret_missing", FailureKind.NOTHING_ISSUED, ("access_denied", None)),
        ("upstream_unreachable", FailureKind.NOTHING_ISSUED, ("temporarily_unavailable", 500)),
        ("upstream_500", FailureKind.MAY_HAVE_ISSUED, ("temporarily_unavailable", 500)),
    ],
)
def test_a_back_off_names_its_cause(code: str, kind: FailureKind, expected: tuple[str, int | None]) -> None:
    assert refusal(look(failure=failed(500, kind, code))) == expected


@pytest.mark.parametrize(
    ("left", "ago_s", "token", "retry_after_s"),
    [
        (0, 0, None, 900), (0.5, 0, None, 450), (0, 450, None, 450), (-7, 0, None, 900), (0.999, 0.2, None, 1),
        (0, 10, token_that(age_s=299.5, left_s=0.5), 140),
        (0, 0, token_that(age_s=299.5, left_s=0.5, said=False), 900),
        (0, 0, token_that(age_s=0.5, left_s=0.5), 1),
    ],
)  # fmt: skip
def test_rule_4_an_empty_pace_is_told_when_one_exchange_is_whole(
    left: float, ago_s: float, token: SealedToken | None, retry_after_s: int
) -> None:
    found = look(token, pace=Pace(left, NOW - ago_s))

    assert refusal(found) == ("temporarily_unavailable", retry_after_s)
    assert look(DUE, pace=Pace(left, NOW - min(ago_s, 1))) == Serve()


@pytest.mark.parametrize(
    ("left", "ago_s"), [(1, 0), (0, 900), (0.5, 450), (0, -1), (0, -1e9), (-5, -1), (24, 1e9)]
)
def test_a_pace_with_one_exchange_or_a_start_in_the_future_allows_one(left: float, ago_s: float) -> None:
    assert look(pace=Pace(left, NOW - ago_s)) == Replace(Need.NO_TOKEN)


@pytest.mark.parametrize(
    ("oldest_ago_s", "expected"),
    [(1, ("slow_down", 900)), (DAY_S - 60.5, ("slow_down", 61)), (DAY_S - 0.1, ("slow_down", 1))],
)
def test_rule_4_a_caller_over_its_share_is_told_to_slow_down_for_at_most_15_minutes(
    oldest_ago_s: float, expected: tuple[str, int]
) -> None:
    reports = {ME: [NOW - oldest_ago_s, *[NOW - 1] * 5]}

    assert refusal(look(FRESH, rejected=ID, reports=reports)) == expected


@pytest.mark.parametrize(
    "at", [[NOW - 1] * 5, [NOW - DAY_S, *[NOW - 1] * 5], [NOW + 1, *[NOW - 1] * 5], [NOW - 2 * DAY_S] * 50]
)
def test_a_share_is_six_reports_within_24_hours(at: list[float]) -> None:
    assert look(FRESH, rejected=ID, reports={ME: at}) == Replace(Need.REPORTED)


@pytest.mark.parametrize(("left_s", "in_time"), [(13.0, True), (12.9, False), (0.0, False), (-3.0, False)])
def test_rule_5_no_exchange_is_begun_that_cannot_be_finished(left_s: float, *, in_time: bool) -> None:
    assert look(DUE, left_s=left_s) == (Replace(Need.REFRESH) if in_time else Serve())
    found = look(EXPIRED, left_s=left_s)
    assert found == Replace(Need.EXPIRED) if in_time else refusal(found) == ("temporarily_unavailable", 1)
