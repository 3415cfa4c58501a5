"""What the policy needs besides its adapters: time, randomness, ids, and the errors of AWS and the upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.broker.token import FailureKind


class Ports(NamedTuple):
    """Everything that a test controls.

    Attributes:
        clock: epoch seconds; may step in both directions.
        monotonic: seconds from any start; never goes back.
        sleep: blocks for seconds.
        randomness: from 0 to 1, drawn at each call.
        new_id: a text that nobody else has, drawn at each call.
        notice: called for every event that is counted, with facts that are safe to log: "Mint", "MintFailed",
            "PublishLost", "PreviousSecretUsed", "SealBroken", "SecretUnreadable", "AwsUnavailable", "AwsBusy",
            "AwsRefused".
        notice_bug: called with an unforeseen error, while it is handled.
    """

    clock: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    randomness: Callable[[], float]
    new_id: Callable[[], str]
    notice: Callable[[str, dict[str, object]], None]
    notice_bug: Callable[[Exception], None]


class RequestClock:
    """Epoch seconds within one request, in which time passes as fast as the faster of both clocks says.

    A lock and an exchange are bounded by elapsed time: a wall clock that is set back must not stretch them.

    Attributes:
        deadline: epoch s; the request's answer has to be there by then.
    """

    def __init__(self, ports: Ports, deadline: float) -> None:
        self.deadline = deadline
        self._ports = ports
        self._started_epoch_s = self._locked_epoch_s = ports.clock()
        self._started_monotonic_s = ports.monotonic()

    def now(self) -> float:
        """Return epoch seconds."""
        wall_epoch_s = self._ports.clock()
        elapsed_s = self._ports.monotonic() - self._started_monotonic_s
        return max(wall_epoch_s, self._started_epoch_s + elapsed_s)

    def left_s(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline - self.now()

    def start_lock(self) -> float:
        """Return epoch seconds, and remember what the wall clock says while the lock is taken."""
        self._locked_epoch_s = self._ports.clock()
        return self.now()

    def was_set_back(self) -> bool:
        """Return whether the wall clock is behind what it said at the lock."""
        return self._ports.clock() < self._locked_epoch_s


class AwsError(Exception):
    """An AWS call failed; the text is AWS's error code or the SDK's error class, safe to log.

    Attributes:
        event: the name of the event that is counted.
        retry_after_s: after how many seconds a caller should ask again.
    """

    event = "AwsUnavailable"
    retry_after_s = 1


class AwsUnavailableError(AwsError):
    """No answer, or a server error: the call may nevertheless have taken effect."""


class AwsBusyError(AwsError):
    """Throttled: the service is available, and will answer in a moment."""

    event = "AwsBusy"


class AwsRefusedError(AwsError):
    """AWS refuses the call (a missing permission, a disabled key, a missing table): the deployment is broken."""

    event = "AwsRefused"
    retry_after_s = 60


class MintFailedError(Exception):
    """No usable token: the secret has no credential, or the upstream issued nothing, or nothing usable.

    Attributes:
        code: an RFC 6749 error code, or one of ours; safe to log and to show.
        kind: what the attempt leaves behind upstream.
        problem: what is wrong, in a sentence for the log that quotes nothing secret.
        retry_after_s: what the upstream asked for, in seconds, if it did.
    """

    def __init__(
        self, code: str, kind: FailureKind, *, problem: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.kind = kind
        self.problem = problem
        self.retry_after_s = retry_after_s


class PersonalTokenUnchangedError(Exception):
    """The personal access token in the secret is still the item's: there is nothing to replace it with."""
