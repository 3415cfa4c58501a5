"""What may happen next in a simulation: plain data, so that a trace can be drawn, shrunk, printed and kept as a test."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

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
    """The upstream's weather turns, and back to good after a while."""

    weather: Weather
    seconds: float = 30.0


Decision = (
    Ask | Run | Wait | Freeze | Crash | Outage | Rotate | Revoke | Tamper | Promise | Turn
)  # fmt: skip


Trace = tuple[Setup, list[Decision]]


# --- drawn at random ----------------------------------------------------------------------------------------------

# Most of the difficulty lies in the conditional writes and in the exchange.
_TROUBLED = (*OPERATIONS, *2 * ["dynamodb.update_item"], "upstream.exchange", "kms.encrypt")
_STOPS = ("answer", "sleep", *(f"{side} {name}" for name in _TROUBLED for side in ("before", "after")))
_FAULTS = tuple(fault for fault in Fault if fault is not Fault.NONE)
# Around the margins of a token that lives for 90 s or for an hour, the lock, the trust, the back-off.
_WAITS_S = (1.0, 5.0, 16.0, 30.0, 61.0, 75.0, 75.0, 88.0, 100.0, 400.0, 2_900.0, 3_500.0, 86_400.0)
_LASTING_S = (3.0, 30.0, 100.0)


def draw_trace(random: Random, *, adrift: bool, longest: int = 40) -> Trace:
    """Return a trace.

    Args:
        random: where every choice comes from.
        adrift: whether clocks may be minutes apart and processes stand still in the middle; only the fence's promises
            hold then. Otherwise no two clocks differ by more than the margin, and all promises hold.
        longest: most decisions.
    """
    skew_limit_s = 120.0 if adrift else 2.5
    skews = [0.0, skew_limit_s, -skew_limit_s, skew_limit_s / 2]
    setup = Setup(
        skews_s=tuple(random.choice(skews) for _ in range(random.randint(2, 5))),
        latency_s=random.choice([0.05, 0.5, 1.0]),
        expires_in=random.choice([90, 90, 3_600, 31_536_000]),
        daily_mint_ceiling=random.choice([1_000, 1_000, 1_000, 3]),
        seed=random.randrange(1_000),
    )
    return setup, [_draw(random, adrift=adrift) for _ in range(random.randint(5, longest))]


def _draw(random: Random, *, adrift: bool) -> Decision:
    instance = random.randrange(3)
    match random.choices(range(6), weights=(20, 25, 20, 15, 12, 8 if adrift else 0))[0]:
        case 0:
            return Run(instance, random.choice(_STOPS))
        case 1:
            return Run(instance, f"before {random.choice(_TROUBLED)}", random.choice(_FAULTS))
        case 2:
            return Wait(random.choice(_WAITS_S))
        case 3:
            time_left_s, min_ttl_s = (
                random.choice([28.0, 28.0, 12.0, 3.0]),
                random.choice([0.0, 0.0, 300.0, 900.0]),
            )
            return Ask(instance, time_left_s, min_ttl_s, rejecting=random.random() < 0.4)
        case 4:
            return _draw_outside(random, instance)
        case _:
            return Freeze(instance, random.choice([6.0, 21.0, 70.0]))


def _draw_outside(random: Random, instance: int) -> Decision:
    choices: list[Decision] = [
        Crash(instance),
        Outage(random.choice(SERVICES), random.choice(_LASTING_S)),
        Rotate(accepted=random.random() < 0.7, old_stays=random.random() < 0.7),
        Revoke(),
        Tamper(),
        Promise(random.choice([90, 2, 3_600, 31_536_000, 0, None, "900"])),
        Turn(random.choice(list(Weather)), random.choice(_LASTING_S)),
    ]
    return random.choice(choices)
