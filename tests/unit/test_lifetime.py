"""How long a token lives, when it is due, and what follows a failure. The rules are pure."""

from __future__ import annotations

import base64
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.broker import lifetime
from functions.broker.token import FailureKind
from token_broker import issued_token

# A bounded number of examples and no deadline: the machine may be busy.
BOUNDED = settings(max_examples=60, deadline=None, database=None)
NOW = 1000.0
YEAR_S = 31_536_000.0
DAY_S = 86_400.0
UNSAID = (NOW + DAY_S, None)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def jwt(payload: object) -> str:
    encoded = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    return f"e30.{encoded}.c2ln"


# --- expiry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires_in", "lifetime_s"),
    [
        (3600, 3600), (0.5, 0.5), (31_622_400, 31_622_400), ("3600", 3600), ("007", 7), ("31536000.0", YEAR_S),
        (" 60 ", 60),
        ("1e3", 1000), ("+5", 5), ("5.", 5), (401 * DAY_S, 400 * DAY_S), (10**15, 400 * DAY_S),
        (10**400, 400 * DAY_S),
        ("9" * 30, 400 * DAY_S), (math.inf, 400 * DAY_S), ("1e400", 400 * DAY_S),
    ],
)  # fmt: skip
def test_a_positive_number_counts_also_as_text_up_to_400_days(expires_in: object, lifetime_s: float) -> None:
    assert issued_token.expiry_of("opaque", expires_in, NOW) == (NOW + lifetime_s, lifetime_s)


@pytest.mark.parametrize(
    "expires_in",
    [
        None, 0, 0.0, -0.0, -1, -math.inf, math.nan, True, False, "", "soon", "-5", "0", "0.0", "٣٦٠٠", "²",
        "1 000", "0x10",
        "1_000", "inf", "nan", [3600], {"s": 3600}, -(10**400), "9" * 5000,
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_anything_else_is_ignored_and_a_day_is_assumed(expires_in: object) -> None:
    assert issued_token.expiry_of("opaque", expires_in, NOW) == UNSAID


@pytest.mark.parametrize(
    ("claims", "expires_in", "lifetime_s"),
    [
        # exp - iat counts, whatever clock has written them: 70 minutes off costs nothing.
        ({"exp": 7800, "iat": 4200}, None, 3600), ({"exp": -600, "iat": -4200}, None, 3600),
        ({"exp": 7800, "iat": 4200}, 0, 3600),
        ({"exp": 7800, "iat": 4200}, 7200, 3600), ({"exp": 7800, "iat": 4200}, 1800, 1800),
        ({"exp": "7800", "iat": "4200"}, None, 3600),
        ({"exp": 10**400, "iat": 0}, None, 400 * DAY_S),
        # These tell no lifetime.
        ({"exp": 4200, "iat": 4200}, 60, 60), ({"exp": 4200, "iat": 7800}, 60, 60),
        ({"exp": True, "iat": 0}, 60, 60), ({"iat": 5}, 60, 60),
    ],
)  # fmt: skip
def test_a_jwts_own_lifetime_shortens_expires_in_and_replaces_a_missing_one(
    claims: object, expires_in: object, lifetime_s: float
) -> None:
    assert issued_token.expiry_of(jwt(claims), expires_in, NOW) == (NOW + lifetime_s, lifetime_s)


@pytest.mark.parametrize(
    ("exp", "expires_at"),
    [
        (2000, 2000), (2000.5, 2000.5), ("2000", 2000), (9000, 4600), (10**400, 4600), (-5, 0), (-(10**400), 0),
        (0, 0),
        (True, 4600), (None, 4600), ([2000], 4600), (math.inf, 4600), (math.nan, 4600), (-math.inf, 0),
    ],
)  # fmt: skip
def test_an_exp_alone_shortens_by_the_clock_and_never_lengthens(exp: object, expires_at: float) -> None:
    assert issued_token.expiry_of(jwt({"exp": exp}), 3600, NOW) == (expires_at, 3600)
    assert issued_token.expiry_of(jwt({"exp": exp}), None, NOW)[1] is None


@pytest.mark.parametrize("token",
    ["a.b.c", "..", "a.!!!.c", "a.eyJ.c", jwt([1]), jwt({}), jwt("exp"), "a.b.c.d", "a." + "W" * 4000 + ".c",
        "a.W1tb.c", "a." + base64.urlsafe_b64encode(b"[" * 3000).decode() + ".c"])  # fmt: skip
def test_what_only_looks_like_a_jwt_is_opaque(token: str) -> None:
    assert issued_token.expiry_of(token, 3600, NOW) == (4600.0, 3600.0)
    assert issued_token.expiry_of(token, None, NOW) == UNSAID


@BOUNDED
@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=200)
    | st.builds(jwt, JSON_VALUES)
    | st.builds(lambda exp, iat: jwt({"exp": exp, "iat": iat}), JSON_VALUES, JSON_VALUES),
    JSON_VALUES,
)
def test_no_answer_is_an_error_and_no_expiry_is_later_than_was_said(token: str, expires_in: object) -> None:
    expires_at, lifetime_s = issued_token.expiry_of(token, expires_in, NOW)

    assert type(expires_at) is float
    assert 0 <= expires_at <= NOW + (DAY_S if lifetime_s is None else lifetime_s)
    assert lifetime_s is None or 0 < lifetime_s <= issued_token.LONGEST_LIFETIME_S


# --- margin -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span_s", "margin_s"),
    [(300, 60), (3600, 720), (150 * DAY_S, 30 * DAY_S), (YEAR_S, 30 * DAY_S), (math.inf, 30 * DAY_S)],
)
def test_a_token_is_due_in_its_last_fifth_and_30_days_at_most(span_s: float, margin_s: float) -> None:
    assert lifetime.refresh_margin_s(span_s) == margin_s


# --- after a failure ----------------------------------------------------------------------------------------------

REFUSED, NOTHING, MAYBE = FailureKind.REFUSED, FailureKind.NOTHING_ISSUED, FailureKind.MAY_HAVE_ISSUED


@pytest.mark.parametrize(
    ("kind", "waits_s"),
    [
        (REFUSED, [60, 120, 240, 480, 900, 900]),
        (NOTHING, [1, 2, 4, 8, 16, 32, 60, 60]),
        (MAYBE, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]),
    ],
)
def test_a_back_off_doubles_up_to_the_limit_of_its_kind(kind: FailureKind, waits_s: list[float]) -> None:
    assert [lifetime.backoff_s(kind, count, 1.0) for count in range(1, len(waits_s) + 1)] == waits_s
    assert lifetime.backoff_s(kind, 10**9, 1.0) == waits_s[-1]


@BOUNDED
@given(st.integers(1, 10**6), st.floats(0, 1))
def test_chance_takes_off_up_to_half_only_where_nothing_was_issued(count: int, randomness: float) -> None:
    longest_s = lifetime.backoff_s(NOTHING, count, 1.0)

    assert longest_s / 2 <= lifetime.backoff_s(NOTHING, count, randomness) <= longest_s
    assert lifetime.backoff_s(NOTHING, count, 0.0) == longest_s / 2
    for kind in (REFUSED, MAYBE):
        assert lifetime.backoff_s(kind, count, randomness) == lifetime.backoff_s(kind, count, 1.0)


@pytest.mark.parametrize(
    ("left_s", "retry_s"), [(1000, 500), (60, 30), (50, 30), (30, 30), (10, 10), (0, 0), (math.inf, 3600)]
)
def test_a_failed_refresh_is_repeated_after_half_of_the_time_left(left_s: float, retry_s: float) -> None:
    assert lifetime.refresh_retry_s(left_s) == retry_s


# --- names of tokens ----------------------------------------------------------------------------------------------


def test_a_token_id_is_the_start_of_the_sha256() -> None:
    assert issued_token.token_id_of("abc") == "ba7816bf8f01cfea"


@pytest.mark.parametrize(
    ("token", "jti"),
    [
        (jwt({"jti": "5f2b"}), "5f2b"), (jwt({"jti": "x" * 200}), "x" * 200), (jwt({"jti": "x" * 201}), ""),
        (jwt({"jti": "a\nb"}), ""), (jwt({"jti": 5}), ""), (jwt({}), ""), ("opaque", ""),
    ],
)  # fmt: skip
def test_a_jwts_jti_is_recorded_if_it_is_short_printable_text(token: str, jti: str) -> None:
    assert issued_token.jti_of(token) == jti
