"""What may happen next in a simulation: plain data, so that a trace can be drawn, shortened, printed and saved."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

OPERATIONS = (
    "dynamodb.get_item",
    "dynamodb.update_item",
    "dynamodb.put_item",
    "kms.encrypt",
    "kms.decrypt",
    "secretsmanager.get_secret_value",
    "upstream.exchange",
)
CONNECTIONS = ("digishare", "partner", "personal")
"""The last one is a personal access token."""
RETRY_AFTER_S = 120.0


class Fault(StrEnum):
    """A fault of one call of an adapter."""

    NONE = "none"
    UNREACHABLE = "unreachable"
    """An error at once; the call has no effect."""
    BUSY = "busy"
    """Throttled at once; the call has no effect."""
    DENIED = "denied"
    """Refused by AWS at once; the call has no effect."""
    TIMED_OUT = "timed_out"
    """No answer within the time-out; the call has no effect."""
    LOST = "lost"
    """The call takes effect; the answer never comes."""
    LATE = "late"
    """No answer within the time-out; the call takes effect two seconds after that."""
    SLOW = "slow"
    """The call takes effect at the end of its time-out."""
    CRASH_BEFORE = "crash_before"
    """The instance dies with the call not yet sent."""
    CRASH_AFTER = "crash_after"
    """The instance dies with the call in effect."""


class Mode(StrEnum):
    """How the upstream answers."""

    UP = "up"
    UNREACHABLE = "unreachable"
    BUSY = "busy"
    """429 with a Retry-After of two minutes."""
    BROKEN = "broken"
    """500, and nothing issued."""
    ISSUING_BROKEN = "issuing_broken"
    """500, although a token was issued."""
    REPEATING = "repeating"
    """The same token until its end."""
    EXTENDING = "extending"
    """The same token, which lives longer each time."""
    REFUSING = "refusing"
    """Refuses right credentials."""


class Damage(StrEnum):
    """What a writer of the table does to an item."""

    GARBLED = "garbled"
    """The sealed token is no ciphertext."""
    EXTENDED = "extended"
    """The token has a later expiry."""
    SWAPPED = "swapped"
    """The token is another connection's."""
    LOCKED = "locked"
    """A lock that ends in a year."""
    BLOCKED = "blocked"
    """A failure whose "not before" is in a year."""


class Setup(NamedTuple):
    """Where a simulation starts. One instance per skew: by how many seconds its clock is ahead of true time.

    Attributes:
        latency_s: how long a call takes at most where nothing is wrong; until then others may come before it.
        expires_in: what the upstream says at first.
        exchange_s: how long the upstream takes at first.
        seed: of the broker's own randomness.
    """

    skews_s: tuple[float, ...] = (0.0, 0.0)
    latency_s: float = 0.3
    expires_in: object = 3_600
    exchange_s: float = 0.3
    seed: int = 0


class Ask(NamedTuple):
    """A caller asks an instance, if that is idle; `reporting`: about the token that the instance served last."""

    instance: int
    connection: int = 0
    caller: int = 0
    time_left_s: float = 30.4
    min_ttl_s: float = 0.0
    reporting: bool = False


class Run(NamedTuple):
    """An instance goes on until it stops there; then the fault happens. An idle instance is asked first.

    Stops are "before dynamodb.get_item", "after dynamodb.get_item" and so on, "sleep" and "answer".
    """

    instance: int
    until: str = "answer"
    fault: Fault = Fault.NONE


class Wait(NamedTuple):
    """Time passes; every instance goes on by itself."""

    seconds: float


class Freeze(NamedTuple):
    """The process of an instance is stopped, whatever its time-outs say: now, or when it next reads its clock."""

    instance: int
    seconds: float
    looks: int = 0


class SetClock(NamedTuple):
    """An instance's wall clock is set: by how much it is ahead of true time from now on."""

    instance: int
    skew_s: float


class Crash(NamedTuple):
    """An instance loses its request and its memory."""

    instance: int


class Deploy(NamedTuple):
    """Every instance starts again as soon as it is idle, with another longest lease."""

    lease_s: int


class Outage(NamedTuple):
    """A service, or one operation of it, fails: UNREACHABLE, BUSY or DENIED."""

    name: str
    seconds: float
    how: Fault = Fault.UNREACHABLE


class Rotate(NamedTuple):
    """The secret gets a new value, which the upstream accepts or not; the one before may stay valid."""

    connection: int = 0
    accepted: bool = True
    old_stays: bool = True


class Tamper(NamedTuple):
    """Somebody writes into the item."""

    how: Damage
    connection: int = 0


class Delete(NamedTuple):
    """Somebody deletes the item, and the connection's rows too or not."""

    connection: int = 0
    rows: bool = False


class Snapshot(NamedTuple):
    """The table is saved."""


class Restore(NamedTuple):
    """The saved items come back, and the rows as they were then or not."""

    rows: bool = False


class Say(NamedTuple):
    """What the upstream says about lifetimes from now on."""

    expires_in: object


class Slow(NamedTuple):
    """How long the upstream takes from now on."""

    seconds: float


class Turn(NamedTuple):
    """The upstream answers in this mode for a while, then as it should."""

    mode: Mode
    seconds: float = 30.0


Outside = Outage | Rotate | Tamper | Delete | Snapshot | Restore | Say | Slow | Turn
Decision = Ask | Run | Wait | Freeze | SetClock | Crash | Deploy | Outside
Trace = tuple[Setup, list[Decision]]
