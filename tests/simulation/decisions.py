"""What may happen next in a simulation: plain data, so that a trace can be drawn, shrunk, printed and kept as a test."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hypothesis import strategies as st

SERVICES = ("dynamodb", "kms", "secretsmanager", "upstream")
OPERATIONS = (
    "dynamodb.get_item",
    "dynamodb.update_item",
    "dynamodb.put_item",
    "kms.encrypt",
    "kms.decrypt",
    "secretsmanager.get_secret_value",
    "upstream.exchange",
)


class Fault(StrEnum):
    """What befalls one call of an adapter."""

    NONE = "none"
    REFUSED = "refused"
    """An error at once; the call has no effect."""
    TIMED_OUT = "timed_out"
    """No answer within the time-out; the call has no effect."""
    LOST = "lost"
    """The call takes effect; the answer never comes."""
    LATE = "late"
    """No answer within the time-out; the call takes effect two seconds after that."""
    SENT_AGAIN = "sent_again"
    """The call takes effect, the answer is lost, the SDK sends it again."""
    SLOW = "slow"
    """The call takes effect at the end of its time-out."""
    CRASH_BEFORE = "crash_before"
    """The instance dies with the call not yet sent."""
    CRASH_AFTER = "crash_after"
    """The instance dies with the call in effect."""


class Weather(StrEnum):
    """How the upstream is."""

    UP = "up"
    UNREACHABLE = "unreachable"
    BUSY = "busy"
    """429 with a Retry-After of two minutes."""
    BROKEN = "broken"
    """500, and nothing issued."""
    MINTING_BROKEN = "minting_broken"
    """500, although a token was issued."""
    REPEATING = "repeating"
    """The same token again and again."""


RETRY_AFTER_S = 120.0


@dataclass(frozen=True, slots=True)
class Setup:
    """Where a simulation starts. One instance per skew: by how many seconds its clock is ahead of true time.

    Attributes:
        latency_s: how long a call takes at most where nothing is wrong; until then others may come before it.
        expires_in: what the upstream says at first.
        seed: of the broker's own randomness.
    """

    skews_s: tuple[float, ...] = (0.0, 0.0)
    latency_s: float = 0.5
    expires_in: object = 3_600
    daily_mint_ceiling: int = 1_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """A caller asks an instance, if that is idle."""

    instance: int
    time_left_s: float = 28.0
    min_ttl_s: float = 0.0
    rejecting: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """An instance goes on until it stands there, then the fault strikes; it is asked first, if it is idle.

    Stops are "before dynamodb.get_item", "after dynamodb.get_item" and so on, "sleep" and "answer".
    """

    instance: int
    until: str = "answer"
    fault: Fault = Fault.NONE


@dataclass(frozen=True, slots=True)
class Wait:
    """Time passes; every instance goes on by itself."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Freeze:
    """The process of an instance stands still, whatever its time-outs say."""

    instance: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Crash:
    """An instance loses its request and its memory."""

    instance: int


@dataclass(frozen=True, slots=True)
class Outage:
    """A service cannot be reached."""

    service: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Rotate:
    """The secret gets a new value, which the upstream accepts or not; the one before may stay valid."""

    accepted: bool = True
    old_stays: bool = True


@dataclass(frozen=True, slots=True)
class Revoke:
    """A person revokes the published token in the dashboard."""


@dataclass(frozen=True, slots=True)
class Tamper:
    """Somebody writes over the sealed token in the item."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What the upstream says about lifetimes from now on."""

    expires_in: object


@dataclass(frozen=True, slots=True)
class Turn:
    """The upstream's weather turns."""

    weather: Weather


Decision = (
    Ask | Run | Wait | Freeze | Crash | Outage | Rotate | Revoke | Tamper | Promise | Turn
)  # fmt: skip


# --- drawn by Hypothesis ------------------------------------------------------------------------------------------

_instances = st.integers(0, 2)
_faults = st.sampled_from([fault for fault in Fault if fault is not Fault.NONE])
_stops = st.sampled_from(
    ["answer", "sleep", *(f"{side} {name}" for name in OPERATIONS for side in ("before", "after"))]
)
_troubled_stops = st.sampled_from([f"before {name}" for name in OPERATIONS])
_ask = st.builds(
    Ask,
    instance=_instances,
    time_left_s=st.sampled_from([28.0, 28.0, 12.0, 3.0]),
    min_ttl_s=st.sampled_from([0.0, 0.0, 300.0, 900.0]),
    rejecting=st.sampled_from([False, False, True]),
)
_wait = st.builds(
    Wait,
    seconds=st.sampled_from([1.0, 5.0, 16.0, 30.0, 61.0, 400.0, 2_900.0, 3_500.0, 86_400.0]),
)
_outside = st.one_of(
    st.builds(Crash, instance=_instances),
    st.builds(Outage, service=st.sampled_from(SERVICES), seconds=st.sampled_from([3.0, 30.0, 300.0])),
    st.builds(Rotate, accepted=st.booleans(), old_stays=st.booleans()),
    st.builds(Revoke),
    st.builds(Tamper),
    st.builds(Promise, expires_in=st.sampled_from([90, 3_600, 31_536_000, 0, None, "900"])),
    st.builds(Turn, weather=st.sampled_from(Weather)),
)
_usual: tuple[st.SearchStrategy[Decision], ...] = (
    _ask,
    st.builds(Run, instance=_instances, until=_stops),
    st.builds(Run, instance=_instances, until=_troubled_stops, fault=_faults),
    st.builds(Run, instance=_instances, until=_troubled_stops, fault=_faults),
    _wait,
    _outside,
)
_freeze: st.SearchStrategy[Decision] = st.builds(
    Freeze, instance=_instances, seconds=st.sampled_from([6.0, 21.0, 70.0])
)

Trace = tuple[Setup, list[Decision]]


def _setups(skew_limit_s: float) -> st.SearchStrategy[Setup]:
    skew = st.sampled_from([0.0, skew_limit_s, -skew_limit_s, skew_limit_s / 2])
    return st.builds(
        Setup,
        skews_s=st.lists(skew, min_size=2, max_size=5).map(tuple),
        latency_s=st.sampled_from([0.5, 0.05, 1.0]),
        expires_in=st.sampled_from([90, 3_600, 31_536_000]),
        daily_mint_ceiling=st.sampled_from([1_000, 1_000, 1_000, 3]),
        seed=st.integers(0, 3),
    )


def _lists(decision: st.SearchStrategy[Decision], longest: int) -> st.SearchStrategy[list[Decision]]:
    # Lists by themselves would be short: every length is as likely as any other.
    return st.integers(1, longest).flatmap(lambda n: st.lists(decision, min_size=n, max_size=n))


def agreeing(longest: int = 40) -> st.SearchStrategy[Trace]:
    """Traces in which two clocks never differ by more than the margin and no process stands still: all promises hold."""
    return st.tuples(_setups(2.5), _lists(st.one_of(*_usual), longest))


def adrift(longest: int = 40) -> st.SearchStrategy[Trace]:
    """Traces with clocks minutes apart and processes that stand still in the middle: only the fence's promises hold."""
    return st.tuples(_setups(120.0), _lists(st.one_of(*_usual, _freeze), longest))
