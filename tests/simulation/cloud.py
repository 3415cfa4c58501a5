"""The services around the instances in a simulation: the fakes, and the faults of them and of calls to them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NoReturn, assert_never

from botocore.exceptions import ClientError

from functions.broker.ports import MintFailedError
from functions.broker.token import FailureKind
from local.fakes.services import Services
from local.fakes.wire import Operation, Wire, aws_error, no_answer, no_connection
from tests.simulation import decisions as d
from tests.simulation.decisions import CONNECTIONS, Fault, Mode
from tests.simulation.instance import CrashedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.simulation.world import World

AWS_TIMEOUT_S = 2.5
"""Connection and answer; nothing is repeated by the SDK."""
_LATE_S = 2.0
_SHORTEST_SAID_S = 1.0
_YEAR_S = 365 * 86_400.0
_ERRORS = {Fault.BUSY: "ThrottlingException", Fault.DENIED: "AccessDeniedException"}


class Cloud(Services):
    """The fakes of one world, and the hooks on the wire to them.

    Attributes:
        timers: what happens by itself, and when (true time).
        sdk_retries: whether a lost answer makes the SDK send the call again; a mutant says so.
    """

    sdk_retries = False

    def __init__(self, world: World) -> None:
        self._world = world
        super().__init__(Wire(self._before, self._after))
        self.upstream.expires_in = world.setup.expires_in
        self.exchange_s = world.setup.exchange_s
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self._mode, self._mode_until = Mode.UP, world.now
        self._outages: dict[str, tuple[float, Fault]] = {}
        self._saved: dict[tuple[str, ...], Any] | None = None
        self._saved_broken: set[str] = set()
        for connection in CONNECTIONS:
            self._rotate(connection, accepted=True, old_stays=True)

    def calm(self) -> None:
        """End every fault; good secrets are in place, tokens live for an hour."""
        self._outages.clear()
        self._mode = Mode.UP
        self.exchange_s = 0.3
        self._say(3_600)
        for connection in CONNECTIONS:
            self._rotate(connection, accepted=True, old_stays=True)

    def strike(self, decision: d.Outside) -> None:
        """Change something around the instances."""
        match decision:
            case d.Outage():
                self._world.count_fault(f"outage of {decision.name}: {decision.how}")
                self._outages[decision.name] = self._world.now + decision.seconds, decision.how
            case d.Rotate():
                self._world.count_fault("rotation" if decision.accepted else "rotation to a refused secret")
                self._rotate(
                    CONNECTIONS[decision.connection], accepted=decision.accepted, old_stays=decision.old_stays
                )
            case d.Tamper():
                self._tamper(decision.how, decision.connection)
            case d.Delete() | d.Snapshot() | d.Restore():
                self._operate(decision)
            case d.Say():
                self._say(decision.expires_in)
            case d.Slow():
                self.exchange_s = decision.seconds
            case d.Turn():
                self._world.count_fault(f"upstream {decision.mode}")
                self._mode = decision.mode
                self._mode_until = self._world.now + decision.seconds
            case _:
                assert_never(decision)

    # --- what happens to the services ---------------------------------------------------------------------------------

    def _say(self, expires_in: object) -> None:
        self.upstream.expires_in = expires_in
        self._world.promises.on_lifetime(expires_in)

    def _rotate(self, connection: str, *, accepted: bool, old_stays: bool) -> None:
        new = f"secret-{self._world.next_number()}"
        if connection == "personal":
            self._world.promises.on_personal_token(new)
            value = {"type": "personal_access_token", "access_token": new}
        else:
            value = {"client_id": connection, "client_secret": new}
            valid = self.upstream.secrets.get(connection, set()) if old_stays else set()
            self.upstream.secrets[connection] = {*valid, new} if accepted else set(valid)
        self._world.promises.on_version(new, self.put_secret(connection, value))

    def _item(self, connection: int) -> dict[str, Any]:
        return self.dynamodb.items.get((CONNECTIONS[connection], "token"), {})

    def _tamper(self, how: d.Damage, connection: int) -> None:
        item, year = copy.deepcopy(self._item(connection)), {"N": str(int(self._world.now + _YEAR_S))}
        other = self._item((connection + 1) % len(CONNECTIONS))
        token = item.get("token", {}).get("M")
        match how:
            case d.Damage.GARBLED if token:
                token["sealed"] = {"B": b"\0" * 40}
            case d.Damage.EXTENDED if token and "expires_at_epoch_s" in token:
                token["expires_at_epoch_s"] = year
            case d.Damage.SWAPPED if token and "token" in other:
                item["token"] = copy.deepcopy(other["token"])
            case d.Damage.LOCKED if item:
                item |= {"lock_owner": {"S": "writer"}, "lock_until_epoch_s": year}
            case d.Damage.BLOCKED if "failure" in item:
                item["failure"]["M"]["not_before_epoch_s"] = year
            case _:
                return
        self._world.count_fault(f"item {how}")
        self.dynamodb.items[CONNECTIONS[connection], "token"] = item
        watched = self._world.promises.watched[CONNECTIONS[connection]]
        is_broken = how in {d.Damage.GARBLED, d.Damage.EXTENDED, d.Damage.SWAPPED} or watched.token_is_broken
        self._world.promises.on_operator(CONNECTIONS[connection], token_is_broken=is_broken)

    def _operate(self, decision: d.Delete | d.Snapshot | d.Restore) -> None:
        items = self.dynamodb.items
        if isinstance(decision, d.Snapshot):
            self._saved = copy.deepcopy(items)
            self._saved_broken = {c for c in CONNECTIONS if self._world.promises.watched[c].token_is_broken}
            return
        if isinstance(decision, d.Delete):
            connection = CONNECTIONS[decision.connection]
            doomed = [key for key in items if key[0] == connection and (decision.rows or key[1] == "token")]
            for key in doomed:
                del items[key]
            self._world.count_fault("deleted item")
            self._world.promises.on_operator(connection, rows=decision.rows)
            return
        if self._saved is None:
            return
        self._world.count_fault("restored items")
        gone = [key for key in items if decision.rows or key[1] == "token"]
        for key in gone:
            del items[key]
        back = {key: item for key, item in self._saved.items() if decision.rows or key[1] == "token"}
        items.update(copy.deepcopy(back))
        for connection in CONNECTIONS:
            is_broken = connection in self._saved_broken
            self._world.promises.on_operator(connection, token_is_broken=is_broken, rows=decision.rows)

    # --- the wire -----------------------------------------------------------------------------------------------------

    def _before(self, operation: Operation) -> None:
        """Stop before a call takes effect. `wire.before`."""
        if self._world.current is None:
            return
        world, instance = self._world, self._world.here()
        instance.began_epoch_s, instance.fault_after = world.now, Fault.NONE
        world.note(instance.name, f"calls {operation.name}")
        world.promises.on_call(instance, operation)
        fault = world.stand(f"before {operation.name}", world.now + world.setup.latency_s / 2)
        world.promises.on_send(instance, operation)
        if operation.name == "upstream.exchange" and fault in {Fault.NONE, Fault.LOST, Fault.CRASH_AFTER}:
            self._take_upstreams_time(operation)
        if fault is Fault.SLOW:
            self._linger(operation, self._timeout_s(operation) - 0.1)
        self._meet(operation, fault)
        if operation.name == "upstream.exchange":
            self._answer_by_mode(operation)

    def _meet(self, operation: Operation, fault: Fault) -> None:
        """Apply outages and the call's own fault before it takes effect."""
        world, instance = self._world, self._world.here()
        for name in (operation.name, operation.name.split(".")[0]):
            until, how = self._outages.get(name, (0.0, Fault.NONE))
            if until > world.now:
                self._fail(operation, how)
        match fault:
            case Fault.CRASH_BEFORE:
                raise CrashedError
            case Fault.UNREACHABLE | Fault.BUSY | Fault.DENIED:
                self._fail(operation, fault)
            case Fault.TIMED_OUT | Fault.LATE:
                if fault is Fault.LATE:
                    self._take_effect_later(operation, self._timeout_s(operation) + _LATE_S)
                self._linger(operation, self._timeout_s(operation))
                self._fail(operation, Fault.LOST)
            case Fault.LOST | Fault.CRASH_AFTER:
                instance.fault_after = fault

    def _after(self, operation: Operation) -> bool:
        """Stop when a call has taken effect and its answer is on the way. `wire.after`."""
        world = self._world
        world.promises.on_effect(world.current, operation)
        if world.current is None:
            return False
        instance = world.here()
        fault, instance.fault_after = instance.fault_after, Fault.NONE
        if fault is Fault.NONE:
            half_s = 0.0 if operation.name == "upstream.exchange" else world.setup.latency_s / 2
            fault = world.stand(f"after {operation.name}", world.now + half_s)
        if fault is Fault.SLOW:
            self._linger(operation, self._timeout_s(operation) - 0.1)
        if fault in {Fault.CRASH_AFTER, Fault.CRASH_BEFORE}:
            raise CrashedError
        if fault in {Fault.LOST, Fault.LATE, Fault.TIMED_OUT}:
            self._linger(operation, self._timeout_s(operation))
            if self.sdk_retries:
                return True
            self._fail(operation, Fault.LOST)
        if operation.name == "upstream.exchange" and self._mode is Mode.ISSUING_BROKEN:
            world.promises.on_failed(instance, operation, "upstream_error_500")
            raise MintFailedError("upstream_error_500", FailureKind.MAY_HAVE_ISSUED)
        world.promises.on_answered(instance, operation)
        return False

    def _take_upstreams_time(self, operation: Operation) -> None:
        """Let the upstream's time pass. If the request allows less, the call takes effect when nobody waits for it."""
        timeout_s = self._timeout_s(operation)
        if self.exchange_s < timeout_s:
            self._linger(operation, self.exchange_s)
            return
        self._take_effect_later(operation, self.exchange_s)
        self._linger(operation, timeout_s)
        self._fail(operation, Fault.LOST)

    def _linger(self, operation: Operation, seconds: float) -> None:
        """Let a call take this long in all."""
        instance = self._world.here()
        if operation.name != "upstream.exchange":
            instance.asked.overtime_s += seconds
        until = max(instance.began_epoch_s + seconds, self._world.now)
        self._world.stand(f"during {operation.name}", until, enforced=True)

    def _fail(self, operation: Operation, how: Fault) -> NoReturn:
        instance = self._world.here()
        self._world.note(instance.name, f"{operation.name} fails: {how}")
        self._world.promises.on_failed(instance, operation, how)
        if operation.name == "upstream.exchange":
            if how is Fault.LOST:
                raise MintFailedError("upstream_no_answer", FailureKind.MAY_HAVE_ISSUED)
            raise MintFailedError("upstream_unreachable", FailureKind.NOTHING_ISSUED)
        if how is Fault.LOST:
            raise no_answer()
        if how in _ERRORS:
            raise aws_error(_ERRORS[how])
        raise no_connection() if self._world.random.random() < 0.5 else aws_error("InternalServerError")

    def _answer_by_mode(self, operation: Operation) -> None:
        if self._world.now >= self._mode_until:
            self._mode = Mode.UP
        errors = {
            Mode.UNREACHABLE: MintFailedError("upstream_unreachable", FailureKind.NOTHING_ISSUED),
            Mode.BUSY: MintFailedError(
                "upstream_error_429", FailureKind.NOTHING_ISSUED, retry_after_s=d.RETRY_AFTER_S
            ),
            Mode.BROKEN: MintFailedError("upstream_error_500", FailureKind.MAY_HAVE_ISSUED),
            Mode.REFUSING: MintFailedError("invalid_client", FailureKind.REFUSED),
        }
        if error := errors.get(self._mode):
            self._world.promises.on_failed(self._world.here(), operation, error.code)
            raise error
        promises, connection = self._world.promises, operation.request["credential"].client_id
        newest, left_s = promises.newest_token(connection)
        said = promises.said
        repeats = self._mode in {Mode.REPEATING, Mode.EXTENDING} and newest and left_s >= _SHORTEST_SAID_S
        self.upstream.new_token = lambda number: newest if repeats else f"token-{number}"
        self.upstream.expires_in = int(left_s) if repeats and said and self._mode is Mode.REPEATING else said

    def _take_effect_later(self, operation: Operation, seconds: float) -> None:
        """Let a call take effect so long after its beginning, with nobody waiting for its answer."""
        service, name = operation.name.split(".")
        fakes: dict[str, Any] = {
            "dynamodb": self.dynamodb,
            "kms": self.kms,
            "secretsmanager": self.secrets,
            "upstream": self.upstream,
        }
        # As it is now: it may make another exchange before this one takes effect.
        sender = copy.copy(self._world.here().asked)
        sender.owners = self._world.here().asked.owners

        def take_effect() -> None:
            self._world.note("late", operation.name)
            self._world.promises.late_sender = sender
            try:
                getattr(fakes[service], name)(**operation.request)
            except (ClientError, MintFailedError) as refused:
                self._world.note("late", f"refused: {type(refused).__name__}")
            self._world.promises.late_sender = None

        self.timers.append((self._world.here().began_epoch_s + seconds, take_effect))

    def _timeout_s(self, operation: Operation) -> float:
        return float(operation.request.get("timeout_s", AWS_TIMEOUT_S))
