"""What must hold of a decision, and of what an attempt writes, for every record. No fakes: all is pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from functions.broker.adapters.dynamodb import plain_record, token_record
from functions.broker.attempt import failure_after, given_back, locked, published, unlocked, why_not_better
from functions.broker.decide import (
    Need,
    Refuse,
    Replace,
    Serve,
    TokenWanted,
    Wait,
    decide,
    reports_within_a_day,
)
from functions.broker.ports import MintFailedError
from functions.broker.token import Failure, FailureKind, Lock, Pace, SealedToken, TokenRecord
from token_broker.dynamodb_attributes import to_attribute
from token_broker.issued_token import Token

if TYPE_CHECKING:
    from functions.broker.decide import Decision

NOW = 1_800_000_000.0
DEADLINE = NOW + 30.4
DAY_S = 86_400.0
ID, OTHER_ID = "0" * 16, "f" * 16
ME, OTHER = "111111111111:role/me", "111111111111:role/other"
BOUNDED = settings(max_examples=300, deadline=None, database=None)

# --- random records ------------------------------------------------------------------------------------------------
# Seconds from now. DynamoDB's numbers reach 1e125. Values close to the limit of a rule are drawn often.
EDGES_S = (0.0, 0.4, 1.0, 2.5, 12.9, 13.0, 14.5, 30.0, 59.9, 60.0, 61.0, 720.0, 900.0, 959.9, 960.0, 961.0,
    3600.0)  # fmt: skip
OFFSETS_S = (
    st.sampled_from([*EDGES_S, *(-edge for edge in EDGES_S)])
    | st.floats(-1e4, 1e4)
    | st.floats(-5e7, 5e7)
    | st.sampled_from([-1e125, -1e15, 1e15, 1e125])
)
MOMENTS = OFFSETS_S.map(lambda offset_s: NOW + offset_s)
COUNTS = st.integers(-3, 20) | st.sampled_from([-(10**15), 10**15])
VERSIONS = st.lists(st.sampled_from(["v1", "v2", "v3"]), max_size=3, unique=True).map(tuple)
CODES = st.sampled_from(["upstream_500", "invalid_client", "secret_missing", "secret_malformed", ""])
TOKENS = st.builds(
    Token,
    st.sampled_from([ID, OTHER_ID]),
    MOMENTS,
    st.none() | MOMENTS,
    st.none() | st.floats(-10, 5e7) | st.sampled_from([0.0, 1e125]),
    st.none(),
    st.just("v1"),
    st.sampled_from(["AWSCURRENT", "AWSPREVIOUS"]),
)
RECORDS = st.builds(
    TokenRecord,
    st.just("digishare"),
    token=st.none() | st.builds(SealedToken, TOKENS, st.just(b""), COUNTS),
    generation=COUNTS,
    fence=COUNTS,
    lock=st.none() | st.builds(Lock, st.just("theirs"), MOMENTS),
    pace=st.builds(Pace, st.floats(-5, 30) | st.sampled_from([0.0, 0.99, 1.0, -1e125, 1e125]), MOMENTS),
    failure=st.none() | st.builds(Failure, CODES, st.sampled_from(FailureKind), COUNTS, MOMENTS),
    refresh_at_epoch_s=st.just(0.0) | MOMENTS,
    refused_versions=VERSIONS,
    reports=st.dictionaries(st.sampled_from([ME, OTHER]), st.lists(MOMENTS, max_size=9), max_size=2),
)
REQUESTS = st.builds(
    TokenWanted,
    st.just("digishare"),
    st.sampled_from([0.0, 900.0, 1e9]) | st.floats(0, 1e9),
    st.none() | st.sampled_from([ID, OTHER_ID]),
    st.sampled_from([ME, OTHER]),
)
LEFT_S = st.sampled_from([-1.0, 0.0, 2.4, 2.5, 12.9, 13.0, 30.4]) | st.floats(-10, 40)


class Look(NamedTuple):
    """One look at a record. `left_s`: until the deadline; `versions`: what the instance saw of the secret."""

    record: TokenRecord
    wanted: TokenWanted
    left_s: float
    versions: tuple[str, ...]

    @property
    def decision(self) -> Decision:
        return decide(self.record, self.wanted, NOW, NOW + self.left_s, self.versions)


LOOKS = st.builds(Look, RECORDS, REQUESTS, LEFT_S, VERSIONS)


def may_be_served(record: TokenRecord, wanted: TokenWanted, now: float) -> bool:
    """Return whether a token is usable, computed in another way than in the code."""
    if record.token is None:
        return False
    token = record.token.token
    if token.expires_at_epoch_s is not None and token.expires_at_epoch_s - now < 1:
        return False
    age_s = now - token.issued_at_epoch_s
    return token.token_id != wanted.rejected_token_id or 0 <= age_s < 60


def ahead_s(moment: float | None, now: float) -> float:
    return 0.0 if moment is None else moment - now


@BOUNDED
@given(LOOKS)
def test_only_a_usable_token_is_served(look: Look) -> None:
    event(type(look.decision).__name__)
    if isinstance(look.decision, Serve):
        assert may_be_served(look.record, look.wanted, NOW)


@BOUNDED
@given(LOOKS)
def test_an_error_or_a_wait_is_only_for_those_who_have_no_usable_token(look: Look) -> None:
    if isinstance(look.decision, Refuse | Wait):
        assert not may_be_served(look.record, look.wanted, NOW)
    if isinstance(look.decision, Wait):
        assert NOW < look.decision.until_epoch_s <= NOW + 960


@BOUNDED
@given(LOOKS)
def test_a_token_is_replaced_only_with_lock_time_and_limits_free(look: Look) -> None:
    record, decision = look.record, look.decision
    if not isinstance(decision, Replace):
        return
    assert NOW + look.left_s - NOW >= 13
    lock, failure, pace = record.lock, record.failure, record.pace
    if lock is not None:
        assert not 0 < lock.until_epoch_s - NOW <= 60
    if failure is not None and 0 < failure.not_before_epoch_s - NOW <= 960:
        assert failure.kind is FailureKind.REFUSED
        assert set(look.versions) - set(record.refused_versions)
    said_s = record.token.token.lifetime_s if record.token else None
    interval_s = min(900.0, 900.0 if said_s is None else max(1.0, said_s / 2))
    since_s = NOW - pace.since_epoch_s
    assert max(0.0, pace.left) + (1.0 if since_s < 0 else since_s / interval_s) >= 1
    if decision.need is Need.REPORTED:
        counted = [at for at in record.reports.get(look.wanted.caller, ()) if 0 <= NOW - at < DAY_S]
        assert len(counted) < 6


@BOUNDED
@given(LOOKS)
def test_retry_after_is_at_most_sixteen_minutes(look: Look) -> None:
    if isinstance(look.decision, Refuse):
        retry_after_s = look.decision.error.retry_after_s
        assert retry_after_s is None or 1 <= retry_after_s <= 960
        assert (retry_after_s is None) == (look.decision.error.status in {403, 502})


def seconds_to_a_token(record: TokenRecord, wanted: TokenWanted) -> float:
    """Ask again whenever Retry-After says; return after how many seconds a token is served or replaced."""
    now = NOW
    while now < NOW + 2 * DAY_S:
        deadline = now + 30.4
        for _ in range(9):
            decision = decide(record, wanted, now, deadline, record.refused_versions)
            if not isinstance(decision, Wait):
                break
            # As the loop does: it looks again at the end of what it waits for, at the latest when 2.5 s are left.
            now = decision.until_epoch_s if decision.until_epoch_s < deadline - 2.5 else deadline - 2.4
        if isinstance(decision, Serve | Replace):
            return now - NOW
        assert isinstance(decision, Refuse), "waits beyond its time"
        now += decision.error.retry_after_s or 5  # an operator must act: somebody asks every 5 s
    return math.inf


def is_over_its_share(record: TokenRecord, wanted: TokenWanted) -> bool:
    """Whether six reports count, or will count once their moment has come."""
    return wanted.rejected_token_id is not None and len(record.reports.get(wanted.caller, ())) >= 6


LOCKED_AND_FAILED = TokenRecord(
    "digishare",
    lock=Lock("theirs", NOW + 60),
    pace=Pace(0.0, NOW),
    failure=Failure("upstream_500", FailureKind.MAY_HAVE_ISSUED, 11, NOW + 960),
)


@BOUNDED
@example(LOCKED_AND_FAILED, TokenWanted("digishare"))
@example(TokenRecord("digishare", pace=Pace(-1e125, NOW + 1e125)), TokenWanted("digishare"))
@given(RECORDS, REQUESTS)
def test_with_nothing_usable_a_caller_that_obeys_retry_after_gets_an_exchange_within_16_minutes(
    record: TokenRecord, wanted: TokenWanted
) -> None:
    if may_be_served(record, wanted, NOW) or is_over_its_share(record, wanted):
        return
    # A moment that is too far ahead to count now can begin to count while another rule makes the caller wait. No
    # instance whose clock agrees with the others writes such a moment, and even then the sum is half an hour.
    lock_s = ahead_s(record.lock.until_epoch_s if record.lock else None, NOW)
    not_before_s = ahead_s(record.failure.not_before_epoch_s if record.failure else None, NOW)
    is_of_our_time = lock_s <= 60 and not_before_s <= 960 and record.pace.since_epoch_s <= NOW
    limit_s = 960.0 if is_of_our_time else 60 + 900 + 960.0

    # A second more for each Retry-After, which is whole seconds; five where there is none.
    assert seconds_to_a_token(record, wanted) <= limit_s + 8


@BOUNDED
@given(LOOKS, st.sampled_from([NOW, 0.0, -1e12, 1e15]), OFFSETS_S)
def test_every_record_can_be_decided_on(look: Look, now: float, left_s: float) -> None:
    decide(look.record, look.wanted, now, now + left_s, look.versions)


# --- what an attempt writes ----------------------------------------------------------------------------------------
LOCK = Lock("mine", NOW + 14.5)
NEEDS = st.sampled_from(Need)
FAILURES = st.builds(
    MintFailedError, CODES, st.sampled_from(FailureKind), retry_after_s=st.none() | st.floats(0, 1e9)
)
CHANCE = st.floats(0, 1)
FRESH = Token("a" * 16, NOW, NOW + 31_536_000, 31_536_000.0, None, "v1")


@BOUNDED
@given(RECORDS, REQUESTS, NEEDS, CHANCE)
def test_who_has_no_usable_token_waits_for_a_lock_that_was_taken(
    record: TokenRecord, wanted: TokenWanted, need: Need, chance: float
) -> None:
    mine = locked(record, need, LOCK, NOW, chance)

    assert (mine.fence, mine.lock) == (record.fence + 1, LOCK)
    assert mine.exchanges_left(NOW) <= max(0.0, record.exchanges_left(NOW) - 1)
    unchanged = {"token", "generation", "refused_versions", "reports", "connection"}
    assert all(getattr(mine, name) == getattr(record, name) for name in unchanged)
    decision = decide(mine, wanted, NOW, DEADLINE)
    assert isinstance(decision, Serve) or decision == Wait(LOCK.until_epoch_s)


@BOUNDED
@given(RECORDS, REQUESTS, NEEDS, CHANCE)
def test_a_holder_that_dies_is_a_failure_that_ends(
    record: TokenRecord, wanted: TokenWanted, need: Need, chance: float
) -> None:
    record = record._replace(reports={}, pace=Pace(24, NOW))
    mine = locked(record, need, LOCK, NOW, chance)

    assert mine.failure
    assert (mine.failure.code, mine.failure.kind) == ("holder_lost", FailureKind.MAY_HAVE_ISSUED)
    later = LOCK.until_epoch_s + 900
    is_alive = mine.token is not None and mine.token.token.left_s(later) >= 1
    assert is_alive or isinstance(decide(mine, wanted, later, later + 30.4), Serve | Replace)


@BOUNDED
@given(RECORDS, REQUESTS, NEEDS, CHANCE, st.none() | st.just(ME))
def test_a_published_token_is_served_to_all_at_once(
    record: TokenRecord, wanted: TokenWanted, need: Need, chance: float, reporter: str | None
) -> None:
    mine = locked(record, need, LOCK, NOW, chance)
    after = published(mine, SealedToken(FRESH, b"sealed", mine.fence), mine.pace, reporter, NOW)

    assert (after.fence, after.generation) == (mine.fence, record.generation + 1)
    assert (after.lock, after.failure, after.refused_versions) == (None, None, ())
    assert isinstance(decide(after, wanted, NOW, DEADLINE), Serve)
    counted = len(reports_within_a_day(after, ME, NOW)) - len(reports_within_a_day(record, ME, NOW))
    assert counted == (reporter is not None)
    assert all(after.reports.values())  # callers without a report within a day are forgotten


@BOUNDED
@given(RECORDS, NEEDS, FAILURES, CHANCE)
def test_a_lock_given_back_leaves_the_token_and_asks_again_within_a_quarter_of_an_hour(
    record: TokenRecord, need: Need, failed: MintFailedError, chance: float
) -> None:
    mine = locked(record, need, LOCK, NOW, chance)
    after = given_back(mine, record, need, failed, None, now=NOW, randomness=chance)

    assert (after.fence, after.lock) == (mine.fence, None)
    assert (after.token, after.generation, after.reports) == (record.token, record.generation, record.reports)
    assert after.failure
    assert after.failure.count >= 1
    assert 0 <= after.failure.not_before_epoch_s - NOW <= 900
    may_have_issued = failed.kind is FailureKind.MAY_HAVE_ISSUED
    assert after.pace == (mine.pace if may_have_issued else record.pace)


def test_refusals_are_counted_on_while_a_token_is_usable_and_other_failures_of_a_refresh_are_not() -> None:
    waits_s: dict[FailureKind, list[float]] = {}
    for kind in (FailureKind.REFUSED, FailureKind.MAY_HAVE_ISSUED):
        record = TokenRecord("digishare", SealedToken(FRESH, b"", 1), fence=1)
        for _ in range(3):
            failed = MintFailedError("invalid_client", kind)
            after = failure_after(record, Need.REFRESH, failed, NOW, 1.0)
            waits_s.setdefault(kind, []).append(after.not_before_epoch_s - NOW)
            record = record._replace(failure=after)
    assert waits_s == {FailureKind.REFUSED: [60, 120, 240], FailureKind.MAY_HAVE_ISSUED: [1, 1, 1]}


@pytest.mark.parametrize(
    ("expires_in_s", "need", "code"),
    [
        (3_600.0, Need.REFRESH, "no_later_expiry"),  # the old one lives as long
        (3_600.001, Need.REFRESH, None),
        (3_599.0, Need.REPORTED, None),  # the old one is of no use
        (0.9, Need.NO_TOKEN, "already_expired"),
    ],
)
def test_another_token_is_progress_if_it_lives_longer_than_the_one_that_is_refreshed(
    expires_in_s: float, need: Need, code: str | None
) -> None:
    old = SealedToken(FRESH._replace(expires_at_epoch_s=NOW + 3_600), b"", 1)
    new = FRESH._replace(token_id="b" * 16, expires_at_epoch_s=NOW + expires_in_s)

    problem = why_not_better(new, TokenRecord("digishare", old), TokenWanted("digishare"), need, NOW)
    assert (problem.code if problem else None) == code


@BOUNDED
@given(RECORDS, NEEDS, FAILURES, CHANCE)
def test_what_an_operator_removes_from_the_item_is_not_written_again(
    record: TokenRecord, need: Need, failed: MintFailedError, chance: float
) -> None:
    mine = locked(record, need, LOCK, NOW, chance)._replace(token=None, refused_versions=(), reports={})

    back = given_back(mine, record, need, failed, None, now=NOW, randomness=chance)
    for after in (unlocked(mine, record), back):
        assert (after.token, after.refused_versions, after.reports) == (None, (), {})
    assert published(mine, SealedToken(FRESH, b"", 1), mine.pace, None, NOW).reports == {}


@BOUNDED
@given(RECORDS)
def test_a_record_that_is_written_is_read_unchanged(record: TokenRecord) -> None:
    record = record._replace(fence=max(1, record.fence))
    item = {name: to_attribute(value) for name, value in plain_record(record).items()}

    there = token_record("digishare", item)
    assert plain_record(there).keys() == plain_record(record).keys()
    assert {name: to_attribute(value) for name, value in plain_record(there).items()} == item
