"""What an instance of the broker is in a simulation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.decisions import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.broker.decide import TokenWanted
    from functions.broker.issue_token import TokenIssuer

    Plain = Mapping[str, Any]


class CrashedError(BaseException):
    """Ends a request as SIGKILL does: nothing of the broker can catch it."""


@dataclass(frozen=True, slots=True)
class TakenLock:
    """A lock that a request has taken, and what was known then. `taken_wall_epoch_s` is what the wall clock said."""

    fence: int
    owner: str
    until_epoch_s: float
    taken_wall_epoch_s: float
    deadline_left_s: float
    before: Plain
    true_epoch_s: float


@dataclass(slots=True)
class Request:
    """A request that is being answered, and what was seen of it.

    Attributes:
        item: the token item at its last read that was answered, as plain values; `read_clock_epoch_s`: its clock then;
            `is_item_broken`: whether somebody had written over its token.
        versions: the secret's versions by stage, as it read them last.
        owners: under which its locks were taken, whether it knows of it or not.
        row: key of the last row `begun` that it has written, until an exchange uses it: `sent_row`.
        may_have_issued: whether an exchange under its present lock may have made a token.
        looks: how often it has looked at its wall clock.
        is_clock_late: the process stood still before its own clock started, after its deadline had been set.
        wait_until_epoch_s: what the upstream has asked for under its present lock, by its clock.
        is_stale: the process stood still since its last call came back.
        had_token: whether there was a token that had not expired when it took its lock.
        call_clock_epoch_s: its clock when its last call was made; `call_wall_epoch_s`: its wall clock.
        tried_owner: under which it tried to take a lock last.
        answered: its last call that was answered.
        has_sealed: whether the key has answered.
        trouble: how many calls of AWS have failed.
        read_trouble, secret_trouble, lock_trouble: how many reads of the item and decryptions, reads of the secret, and
            writes of the item have failed.
        overtime_s: by how much longer than usual its calls took, and how long it was stopped.
    """

    wanted: TokenWanted
    deadline_epoch_s: float
    number: int
    began_epoch_s: float
    began_wall_epoch_s: float
    item: Plain | None = None
    is_item_broken: bool = False
    read_epoch_s: float = 0.0
    read_clock_epoch_s: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    owners: set[str] = field(default_factory=set)
    lock: TakenLock | None = None
    row: tuple[str, str] | None = None
    sent_row: tuple[str, str] | None = None
    may_have_issued: bool = False
    looks: int = 0
    is_clock_late: bool = False
    wait_until_epoch_s: float = 0.0
    is_stale: bool = False
    had_token: bool = False
    call_clock_epoch_s: float = 0.0
    call_wall_epoch_s: float = 0.0
    tried_owner: str = ""
    answered: str = ""
    has_sealed: bool = False
    trouble: int = 0
    read_trouble: int = 0
    secret_trouble: int = 0
    lock_trouble: int = 0
    overtime_s: float = 0.0


@dataclass(slots=True)
class Instance:
    """One process. After a crash only the skew of its clock is as before.

    Attributes:
        freeze: after how many more reads of the clock it is stopped, and for how long.
        looks: by connection, true time of its last attempt to look at the item, or of the failure that ended it.
        calls: by connection, true time of its last call for the item.
        copied: by connection, true time of the look that its memory rests on.
        failed_looks: by connection, true time of the last failure.
        reported: (connection, token id) to the true time of its callers' last report.
        versions: by connection, all versions of the secret that it has seen.
        served: by connection, the token id that it served last.
    """

    index: int
    skew_s: float
    issuer: TokenIssuer
    lease_s: int
    request: Request | None = None
    fiber: Any = None
    point: str = ""
    due_epoch_s: float = 0.0
    enforced: bool = False
    fault_after: Fault = Fault.NONE
    began_epoch_s: float = 0.0
    freeze: tuple[int, float] | None = None
    clock_set_epoch_s: float = 0.0
    looks: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    copied: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    failed_looks: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    reported: dict[tuple[str, str], float] = field(default_factory=dict)
    versions: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    served: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "abcde"[self.index]

    @property
    def asked(self) -> Request:
        assert self.request is not None
        return self.request
