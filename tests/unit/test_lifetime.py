"""Margins, jitter, expiry and back-off: pure rules, so most of this is what must hold for every input."""

from __future__ import annotations

import base64
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.broker import lifetime
from functions.broker.lifetime import TokenState

# Bounded, and no deadline: the machine that runs this may be busy.
BOUNDED = settings(max_examples=60, deadline=None, database=None)
YEAR_S = 31_536_000.0
DAY_S = 86_400.0
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)


def jwt(payload: object) -> str:
    encoded = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    return f"e30.{encoded}.c2ln"


# --- what an `expires_in` is worth --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires_in", "believed_s"),
    [
        (3600, 3600), (0.5, 0.5), (31_622_400, 31_622_400), ("3600", 3600), ("007", 7),
        (None, 300), (0, 300), (0.0, 300), (-0.0, 300), (-1, 300), (-math.inf, 300), (math.inf, 300), (math.nan, 300),
        (True, 300), (False, 300), ("", 300), ("soon", 300), ("3600.0", 300), ("-5", 300), (" 60", 300), ("1e3", 300),
        ("٣٦٠٠", 300), ("²", 300), ("0", 300), ([3600], 300), ({"s": 3600}, 300),
        (401 * DAY_S, 400 * DAY_S), (10**15, 400 * DAY_S), (10**400, 400 * DAY_S), (-(10**400), 300), ("9" * 5000, 400 * DAY_S),
    ],
)  # fmt: skip
def test_believed_lifetime(expires_in: object, believed_s: float) -> None:
    assert lifetime.believed_lifetime_s(expires_in) == believed_s


@BOUNDED
@given(JSON_VALUES)
def test_believed_lifetime_is_always_positive_and_finite(expires_in: object) -> None:
    believed_s = lifetime.believed_lifetime_s(expires_in)

    assert type(believed_s) is float
    assert 0 < believed_s <= lifetime.LONGEST_LIFETIME_S


# --- expiry -------------------------------------------------------------------------------------------------------


def test_expiry_of_an_opaque_token_counts_from_the_request() -> None:
    assert lifetime.expiry_epoch_s("opaque", 3600, 1000.0) == 4600.0


@pytest.mark.parametrize(
    ("exp", "expires_at"),
    [
        (2000, 2000), (2000.5, 2000.5), (9000, 4600), (10**400, 4600), (-5, 0), (-(10**400), 0), (0, 0),
        (True, 4600), ("2000", 4600), (None, 4600), ([2000], 4600), (math.inf, 4600), (math.nan, 4600), (-math.inf, 4600),
    ],
)  # fmt: skip
def test_jwt_exp_shortens_and_never_lengthens(exp: object, expires_at: float) -> None:
    assert lifetime.expiry_epoch_s(jwt({"exp": exp}), 3600, 1000.0) == expires_at


@pytest.mark.parametrize("token", ["a.b.c", "..", "a.!!!.c", "a.eyJ.c", jwt([1]), jwt({}), jwt("exp"), "a.b.c.d", "a." + "W" * 4000 + ".c", "a.W1tb.c"])  # fmt: skip
def test_what_only_looks_like_a_jwt_is_opaque(token: str) -> None:
    assert lifetime.expiry_epoch_s(token, 3600, 1000.0) == 4600.0


@BOUNDED
@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=200) | st.builds(jwt, JSON_VALUES),
    JSON_VALUES,
)
def test_expiry_is_never_later_than_believed(token: str, expires_in: object) -> None:
    expires_at = lifetime.expiry_epoch_s(token, expires_in, 1000.0)

    assert 0 <= expires_at <= 1000.0 + lifetime.believed_lifetime_s(expires_in)


# --- margins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lifetime_s", "soft_s", "hard_s"),
    [(300, 60, 15), (3600, 720, 180), (6000, 1200, 300), (10_000, 2000, 300), (150 * DAY_S, 30 * DAY_S, 300), (YEAR_S, 30 * DAY_S, 300)],
)  # fmt: skip
def test_margins(lifetime_s: float, soft_s: float, hard_s: float) -> None:
    margins_s = [lifetime.soft_margin_s(lifetime_s, "digishare", generation) for generation in range(200)]

    assert lifetime.hard_margin_s(lifetime_s) == hard_s
    assert 0.9 * soft_s <= min(margins_s) < 0.93 * soft_s
    assert 1.07 * soft_s < max(margins_s) <= 1.1 * soft_s


@BOUNDED
@given(st.floats(1, lifetime.LONGEST_LIFETIME_S), st.text(max_size=64), st.integers(0, 10**6))
def test_jitter_stays_within_its_bounds_and_every_instance_agrees(
    lifetime_s: float, connection: str, generation: int
) -> None:
    margin_s = lifetime.soft_margin_s(lifetime_s, connection, generation)
    nominal_s = min(0.2 * lifetime_s, 30 * DAY_S)

    assert 0.9 * nominal_s - 1e-6 <= margin_s <= 1.1 * nominal_s + 1e-6
    assert margin_s == lifetime.soft_margin_s(lifetime_s, connection, generation)
    assert margin_s > lifetime.hard_margin_s(lifetime_s)


def test_jitter_is_the_same_in_every_process_and_release() -> None:
    # Literal: were it to depend on a process's hash seed, instances would disagree on who refreshes when.
    assert lifetime.soft_margin_s(10_000, "digishare", 1) == pytest.approx(1905.456, abs=0.001)


def test_jitter_differs_between_connections_and_generations() -> None:
    of_connections = {lifetime.soft_margin_s(10_000, name, 1) for name in "abcdefghij"}
    of_generations = {lifetime.soft_margin_s(10_000, "a", generation) for generation in range(10)}

    assert len(of_connections) == len(of_generations) == 10


@pytest.mark.parametrize(
    ("remaining_s", "state"),
    [
        (10_000, TokenState.FRESH), (2_200.1, TokenState.FRESH), (1_799, TokenState.SOFT), (300, TokenState.SOFT),
        (299.9, TokenState.HARD), (0.001, TokenState.HARD), (0, TokenState.EXPIRED), (-1, TokenState.EXPIRED),
    ],
)  # fmt: skip
def test_state(remaining_s: float, state: TokenState) -> None:
    found = lifetime.state_of(remaining_s=remaining_s, lifetime_s=10_000, connection="c", generation=1)

    assert found is state


@BOUNDED
@given(
    st.floats(1, lifetime.LONGEST_LIFETIME_S),
    st.integers(0, 50),
    st.lists(st.floats(-10, 4e7), min_size=2, max_size=20),
)
def test_states_follow_each_other_and_never_go_back(
    lifetime_s: float, generation: int, remaining: list[float]
) -> None:
    order = list(TokenState)
    states = [
        order.index(
            lifetime.state_of(
                remaining_s=left_s, lifetime_s=lifetime_s, connection="c", generation=generation
            )
        )
        for left_s in sorted(remaining, reverse=True)
    ]

    assert states == sorted(states)


# --- time budgets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget_s", [lifetime.MINT_BUDGET_S, lifetime.SOFT_MINT_BUDGET_S])
def test_lock_outlasts_the_worst_mint_and_ends_within_the_run_time(budget_s: float) -> None:
    length_s = lifetime.lock_length_s(budget_s)

    assert length_s >= budget_s + lifetime.STORE_BUDGET_S + lifetime.CLOCK_MARGIN_S
    assert length_s < 30 - lifetime.ANSWER_MARGIN_S


# --- back-off -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "ceiling_s"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (10**9, 60)]
)
def test_back_off_doubles_up_to_a_minute(failures: int, ceiling_s: float) -> None:
    assert lifetime.backoff_s(failures, 1.0) == ceiling_s
    assert lifetime.backoff_s(failures, 0.0) == ceiling_s / 2


@BOUNDED
@given(st.integers(1, 10**6), st.floats(0, 1))
def test_back_off_is_at_least_half_a_second_and_at_most_a_minute(failures: int, randomness: float) -> None:
    assert 0.5 <= lifetime.backoff_s(failures, randomness) <= 60


# --- names of tokens ----------------------------------------------------------------------------------------------


def test_token_id_is_the_start_of_the_sha256() -> None:
    assert lifetime.token_id_of("abc") == "ba7816bf8f01cfea"
