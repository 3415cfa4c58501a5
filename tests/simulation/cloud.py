"""The services around the instances in a simulation: the fakes, and whatever befalls them and the calls to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, assert_never

from botocore.exceptions import ClientError

from functions.broker.adapters.oauth_exchange import ExchangeError
from functions.broker.token import FailureKind
from tests.fakes.aws import FakeDynamoDB, FakeKMS, FakeSecretsManager
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Operation, Wire, aws_error, no_answer, no_connection
from tests.simulation import decisions as d
from tests.simulation.decisions import Fault, Weather
from tests.simulation.instance import CrashedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.world import World

AWS_TIMEOUT_S = 5.0
"""Two attempts of the SDK, connection and answer (assembly.py)."""
_LATE_S = 2.0
_KEY = ("digishare", "token")
_SECRET = "connections/digishare"


class Cloud:
    """The fakes of one world, and the hooks on the wire to them.

    Attributes:
        timers: what happens by itself, and when (true time).
    """

    def __init__(self, world: World) -> None:
        self._world = world
        wire = Wire(self._before, self._after)
        self.dynamodb = FakeDynamoDB(wire)
        self.kms = FakeKMS(wire, key_arn="arn:key")
        self.secrets = FakeSecretsManager(wire)
        self.upstream = FakeUpstream(wire)
        self.upstream.expires_in = world.setup.expires_in
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self._weather, self._weather_until = Weather.UP, world.now
        self._outages: dict[str, float] = {}
        self._rotate(accepted=True, old_stays=True)

    def calm(self) -> None:
        """End every fault; a good secret is in place."""
        self._outages.clear()
        self._weather = Weather.UP
        self.upstream.expires_in = 3_600
        self._rotate(accepted=True, old_stays=True)

    def strike(self, decision: d.Outage | d.Rotate | d.Revoke | d.Tamper | d.Promise | d.Turn) -> None:
        """Let something happen around the instances."""
        match decision:
            case d.Outage():
                self._world.count_fault(f"outage of {decision.service}")
                self._outages[decision.service] = self._world.now + decision.seconds
            case d.Rotate():
                self._world.count_fault("rotation" if decision.accepted else "rotation to a refused secret")
                self._rotate(accepted=decision.accepted, old_stays=decision.old_stays)
            case d.Revoke():
                self._revoke()
            case d.Tamper():
                if "sealed" in self.dynamodb.items.get(_KEY, {}):
                    self._world.count_fault("tampered item")
                    self.dynamodb.items[_KEY]["sealed"] = {"B": b"\0" * 40}
            case d.Promise():
                self.upstream.expires_in = decision.expires_in
            case d.Turn():
                self._world.count_fault(f"upstream {decision.weather}")
                self._weather = decision.weather
                self._weather_until = self._world.now + decision.seconds
            case _:
                assert_never(decision)

    def _rotate(self, *, accepted: bool, old_stays: bool) -> None:
        new = f"secret-{self._world.next_number()}"
        valid = self.upstream.secrets.get("client", set()) if old_stays else set()
        self.upstream.secrets["client"] = {*valid, new} if accepted else set(valid)
        self.secrets.put(_SECRET, {"client_id": "client", "client_secret": new})

    def _revoke(self) -> None:
        item = self.dynamodb.items.get(_KEY, {})
        if "token_id" in item:
            self._world.count_fault("revocation")
            self.upstream.revoke(item["token_id"]["S"])

    def _before(self, operation: Operation) -> None:
        """Stand before a call takes effect. `wire.before`."""
        if self._world.current is None:
            return
        instance = self._world.here()
        instance.began_epoch_s, instance.fault_after = self._world.now, Fault.NONE
        self._world.note(instance.name, f"calls {operation.name}")
        self._world.promises.on_call(instance, operation)
        fault = self._world.stand(
            f"before {operation.name}", self._world.now + self._world.setup.latency_s / 2
        )
        if fault is Fault.SLOW:
            fault = self._linger(operation, self._timeout_s(operation) - 0.1)
        if self._outages.get(operation.name.split(".")[0], 0.0) > self._world.now:
            self._fail(operation, reached=False)
        match fault:
            case Fault.CRASH_BEFORE:
                raise CrashedError
            case Fault.REFUSED:
                self._fail(operation, reached=False)
            case Fault.TIMED_OUT | Fault.LATE:
                if fault is Fault.LATE:
                    self._take_effect_later(operation)
                self._linger(operation, self._timeout_s(operation))
                self._fail(operation, reached=True)
            case Fault.LOST | Fault.SENT_AGAIN | Fault.CRASH_AFTER:
                instance.fault_after = fault
        if operation.name == "upstream.exchange":
            self._bad_weather()
        self._world.promises.before_effect(instance, operation)

    def _after(self, operation: Operation) -> bool:
        """Stand where a call has taken effect and its answer is under way. `wire.after`."""
        self._world.promises.on_effect(self._world.current, operation)
        if self._world.current is None:
            return False
        instance = self._world.here()
        fault, instance.fault_after = instance.fault_after, Fault.NONE
        if fault is Fault.NONE:
            fault = self._world.stand(
                f"after {operation.name}", self._world.now + self._world.setup.latency_s / 2
            )
        if fault is Fault.SLOW:
            self._linger(operation, self._timeout_s(operation) - 0.1)
        self._world.promises.on_answered(instance)
        if fault in {Fault.CRASH_AFTER, Fault.CRASH_BEFORE}:
            raise CrashedError
        if fault in {Fault.LOST, Fault.LATE, Fault.TIMED_OUT}:
            self._fail(operation, reached=True)
        if operation.name == "upstream.exchange":
            if self._weather is Weather.MINTING_BROKEN:
                raise ExchangeError("upstream_error_500", FailureKind.MAY_HAVE_ISSUED)
            return False
        return fault is Fault.SENT_AGAIN

    def _linger(self, operation: Operation, seconds: float) -> Fault:
        """Let a call take this long in all."""
        instance = self._world.here()
        until = instance.began_epoch_s + seconds
        if instance.request and operation.name != "upstream.exchange":
            instance.request.slow_s += seconds
        return self._world.stand(instance.point, max(until, self._world.now), enforced=True)

    def _fail(self, operation: Operation, *, reached: bool) -> NoReturn:
        service = operation.name.split(".")[0]
        request = self._world.here().request
        self._world.note(self._world.here().name, f"{operation.name} fails")
        if service == "upstream":
            if reached:
                raise ExchangeError("upstream_no_answer", FailureKind.MAY_HAVE_ISSUED)
            raise ExchangeError("upstream_unreachable", FailureKind.NOTHING_ISSUED)
        if service in {"dynamodb", "kms"} and request:
            request.store_faults += 1
            self._world.promises.on_answered(self._world.here())
        if reached:
            raise no_answer()
        raise no_connection() if self._world.random.random() < 0.5 else aws_error("InternalServerError")

    def _bad_weather(self) -> None:
        if self._world.now >= self._weather_until:
            self._weather = Weather.UP
        if self._weather is Weather.UNREACHABLE:
            raise ExchangeError("upstream_unreachable", FailureKind.NOTHING_ISSUED)
        if self._weather is Weather.BUSY:
            raise ExchangeError("upstream_error_429", FailureKind.NOTHING_ISSUED, d.RETRY_AFTER_S)
        if self._weather is Weather.BROKEN:
            raise ExchangeError("upstream_error_500", FailureKind.MAY_HAVE_ISSUED)
        newest = self.upstream.issued[-1].access_token if self.upstream.issued else "token-0"
        repeating = self._weather is Weather.REPEATING
        self.upstream.new_token = lambda number: newest if repeating else f"token-{number}"

    def _take_effect_later(self, operation: Operation) -> None:
        service, name = operation.name.split(".")
        at = self._world.here().began_epoch_s + self._timeout_s(operation) + _LATE_S
        adapter = {
            "dynamodb": self.dynamodb,
            "kms": self.kms,
            "secretsmanager": self.secrets,
            "upstream": self.upstream,
        }[service]
        request = self._world.here().request
        assert request is not None
        sender = request, None if request.minting_alone else request.holds_fence

        def take_effect() -> None:
            self._world.note("late", operation.name)
            self._world.promises.late_sender = sender
            try:
                getattr(adapter, name)(**operation.request)
            except (ClientError, ExchangeError) as refused:
                self._world.note("late", f"refused: {type(refused).__name__}")
            self._world.promises.late_sender = None

        self.timers.append((at, take_effect))

    def _timeout_s(self, operation: Operation) -> float:
        if operation.name == "upstream.exchange":
            return float(operation.request["timeout_s"])
        return AWS_TIMEOUT_S
