"""Several instances of the real broker on fakes, in one thread, with the order of their steps in our hands.

Each request runs in a greenlet of its own. Every call of an adapter stands still twice, before and after it takes
effect, and every sleep once; there the hub decides who goes on, when, and with what fault. Time is a number that the
hub moves. `promises.py` watches every effect and every answer.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, assert_never

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped] # it has none

from functions.broker import lifetime
from functions.broker.client_secret import ConnectionSecrets
from functions.broker.issue_token import IssuedToken, TokenIssuer
from functions.broker.mint_ledger import MintLedger
from functions.broker.mint_token import Minter
from functions.broker.replace_token import TokenReplacer
from functions.broker.surroundings import Surroundings
from functions.broker.token_need import TokenWanted
from functions.broker.token_store import TokenStore
from tests.fakes.aws import FakeDynamoDB, FakeKMS, FakeSecretsManager
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Operation, Wire, aws_error, no_answer, no_connection
from tests.simulation import decisions as d
from tests.simulation.decisions import Fault, Weather
from tests.simulation.promises import BrokenPromiseError, Promises
from token_broker.errors import SlowDown, TemporarilyUnavailable, TokenBrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

from functions.broker.oauth_exchange import ExchangeError

CONNECTION = "digishare"
START_EPOCH_S = 1_800_000_000.0
PACE_S = 0.01
"""How long a step takes of an instance that goes first."""
AWS_TIMEOUT_S = 5.0
"""Two attempts of the SDK, connection and answer (assembly.py)."""
_LATE_S = 2.0
_KEY = (CONNECTION, "token")
_SECRET = f"connections/{CONNECTION}"


@dataclass(frozen=True, slots=True)
class Parts:
    """What an instance is made of; a mutant replaces one of them."""

    store: type[TokenStore] = TokenStore
    ledger: type[MintLedger] = MintLedger
    minter: type[Minter] = Minter
    replacer: type[TokenReplacer] = TokenReplacer
    issuer: type[TokenIssuer] = TokenIssuer


class CrashedError(BaseException):
    """Ends a request as SIGKILL does: nothing of the broker can catch it."""


@dataclass(slots=True)
class Request:
    """A request on its way, and what the watcher has seen of it."""

    wanted: TokenWanted
    deadline_epoch_s: float
    number: int
    store_faults: int = 0
    holds_fence: int | None = None
    exchange_not_before: float = 0.0
    slow_s: float = 0.0
    minting_alone: bool = False
    notices: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Instance:
    """One process. `name` is for the trace; what survives a crash is only the skew of its clock."""

    index: int
    skew_s: float
    issuer: TokenIssuer
    request: Request | None = None
    fiber: Any = None
    point: str = ""
    due_epoch_s: float = 0.0
    enforced: bool = False
    fault_after: Fault = Fault.NONE
    began_epoch_s: float = 0.0
    asked_table_at: float = 0.0
    minted_alone_at: float | None = None
    last_token_id: str | None = None

    @property
    def name(self) -> str:
        return "abcde"[self.index]


class World:
    """One simulation.

    Attributes:
        counts: what happened, by kind: for reports.
        log: one line per event: the trace that a broken promise shows.
    """

    def __init__(
        self, setup: d.Setup, parts: Parts | None = None, *, counts: Counter[str] | None = None
    ) -> None:
        self.setup = setup
        self.parts = parts or Parts()
        self.now = START_EPOCH_S
        self.counts: Counter[str] = Counter() if counts is None else counts
        self.log: list[str] = []
        self._random = random.Random(setup.seed)  # noqa: S311 - repeatable on purpose
        self._numbers = itertools.count(1)
        self._wire = Wire(self._before, self._after)
        self.dynamodb = FakeDynamoDB(self._wire)
        self._kms = FakeKMS(self._wire, key_arn="arn:key")
        self._secrets = FakeSecretsManager(self._wire)
        self.upstream = FakeUpstream(self._wire)
        self.upstream.expires_in = setup.expires_in
        self._weather = Weather.UP
        self._outages: dict[str, float] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._hub = getcurrent()
        self._current: Instance | None = None
        self.promises = Promises(self, clocks_agree=_agree(setup.skews_s))
        self._rotate(accepted=True, old_stays=True)
        self.instances = [Instance(index, skew, self._boot(skew)) for index, skew in enumerate(setup.skews_s)]

    # --- what a test or a drawn trace does --------------------------------------------------------------------------

    def decide(self, decision: d.Decision) -> None:
        """Let one thing happen; nothing, where it makes no sense now."""
        self.counts["decisions"] += 1
        self._note("·", repr(decision))
        match decision:
            case d.Ask():
                self._ask(self._instance(decision.instance), decision)
            case d.Run():
                self._run(self._instance(decision.instance), decision.until, decision.fault)
            case d.Wait():
                self._pass_time(self.now + decision.seconds)
            case d.Freeze():
                self._freeze(self._instance(decision.instance), decision.seconds)
            case d.Crash():
                self._crash(self._instance(decision.instance))
            case _:
                self._strike(decision)
        self.promises.check_accounts()

    def settle(self) -> None:
        """End all faults and hold the broker to progress: a token soon, and the same one for everybody."""
        self._note("·", "all faults end")
        self._outages.clear()
        self._weather = Weather.UP
        self.upstream.expires_in = 3_600
        self._rotate(accepted=True, old_stays=True)
        for instance in self.instances:
            instance.due_epoch_s = min(instance.due_epoch_s, self.now + AWS_TIMEOUT_S)
        self._pass_time(self.now + 60.0)
        for instance in self.instances:
            if instance.request:
                raise BrokenPromiseError(f"{instance.name} is still not answered", self.log)
        self.promises.check_accounts()
        self._ask_until_served()
        for _ in range(4):  # the first to look may be the one who mends or refreshes something
            self._pass_time(self.now + lifetime.TRUST_S + 2 * lifetime.CLOCK_MARGIN_S)
            for instance in self.instances:
                self._run(instance, "answer", Fault.NONE)
            self.promises.check_accounts()
            if self.promises.ceiling_reached():
                return
            if len({instance.last_token_id for instance in self.instances}) == 1:
                return
        raise BrokenPromiseError("the instances serve different tokens", self.log)

    def _ask_until_served(self) -> None:
        """Ask as a caller does, waiting as it is told; a token must come within the lock's length and the back-off."""
        asking = self.instances[0]
        answered = self.promises.tokens_answered
        backoff_s = max(lifetime.BACKOFF_LIMIT_S, d.RETRY_AFTER_S if self.counts_of("upstream busy") else 0)
        skew_s = max(self.setup.skews_s) - min(self.setup.skews_s)
        limit = self.now + lifetime.lock_length_s(lifetime.MINT_BUDGET_S) + backoff_s + skew_s + 15.0
        while self.now <= limit:
            self._run(asking, "answer", Fault.NONE)
            if self.promises.tokens_answered > answered:
                return
            if self.promises.ceiling_reached():
                self._pass_time(self.now + 86_400.0)
                limit = self.now + backoff_s + skew_s
            self._pass_time(self.now + 5.0)
        raise BrokenPromiseError("no token although all faults have ended", self.log)

    def counts_of(self, kind: str) -> int:
        """Return how often a fault of this kind struck in this simulation."""
        return sum(kind in line for line in self.log)

    # --- the hub ------------------------------------------------------------------------------------------------------

    def _instance(self, index: int) -> Instance:
        return self.instances[index % len(self.instances)]

    def _ask(self, instance: Instance, ask: d.Ask) -> None:
        if instance.request:
            return
        rejected = instance.last_token_id if ask.rejecting else None
        clock = self.now + instance.skew_s
        wanted = TokenWanted(CONNECTION, ask.min_ttl_s, rejected, f"caller-{instance.name}")
        instance.request = Request(wanted, clock + ask.time_left_s, next(self._numbers))
        instance.fiber = greenlet(lambda _: self._serve(instance))
        instance.point, instance.due_epoch_s, instance.enforced = "start", self.now, False
        self._resume(instance, Fault.NONE)

    def _serve(self, instance: Instance) -> None:
        """Answer one request; runs in the request's greenlet."""
        request = instance.request
        assert request is not None
        try:
            issued = instance.issuer.issue(request.wanted, request.deadline_epoch_s)
        except TokenBrokerError as error:
            self._answered(instance, error)
        except CrashedError:
            self._note(instance.name, "crashes")
            self._restart(instance)
        else:
            self._answered(instance, issued)

    def _answered(self, instance: Instance, answer: IssuedToken | TokenBrokerError) -> None:
        request = instance.request
        assert request is not None
        if isinstance(answer, IssuedToken):
            self.counts[f"answers from {answer.source}"] += 1
            self._note(instance.name, f"answers {answer.token_id} from {answer.source}")
            instance.last_token_id = answer.token_id
        else:
            self.counts[f"answers {answer.code}"] += 1
            self._note(instance.name, f"answers {answer}")
            if isinstance(answer, SlowDown | TemporarilyUnavailable) and not answer.retry_after_s:
                raise BrokenPromiseError("no Retry-After", self.log)
        self.promises.on_answer(instance, answer)
        instance.request, instance.point = None, ""

    def _run(self, instance: Instance, until: str, fault: Fault) -> None:
        if not instance.request:
            self._ask(instance, d.Ask(instance.index))
        while instance.request and instance.point != until:
            self._step(instance, Fault.NONE)
        if instance.request and fault is not Fault.NONE:
            self._count_fault(f"{fault} {instance.point.split()[-1]}")
            self._step(instance, fault)

    def _step(self, instance: Instance, fault: Fault) -> None:
        """Resume an instance at once, or when its sleep or delay is over; others whose time comes first go first."""
        before = instance.fiber
        at = instance.due_epoch_s if instance.enforced else min(instance.due_epoch_s, self.now + PACE_S)
        self._pass_time(max(at, self.now), besides=instance)
        if instance.fiber is before and instance.request:
            self._resume(instance, fault)

    def _pass_time(self, until_epoch_s: float, *, besides: Instance | None = None) -> None:
        while True:
            due = [i for i in self.instances if i.request and i is not besides]
            first = min(due, key=lambda i: i.due_epoch_s, default=None)
            timer = min(self._timers, key=lambda timer: timer[0], default=None)
            if timer and timer[0] <= min(until_epoch_s, first.due_epoch_s if first else until_epoch_s):
                self._timers.remove(timer)
                self.now = max(self.now, timer[0])
                timer[1]()
            elif first and first.due_epoch_s <= until_epoch_s:
                self.now = max(self.now, first.due_epoch_s)
                self._resume(first, Fault.NONE)
            else:
                self.now = until_epoch_s
                return

    def _resume(self, instance: Instance, fault: Fault) -> None:
        self.counts["steps"] += 1
        self._current = instance
        instance.enforced = False
        instance.fiber.switch(fault)
        self._current = None

    def _stand(self, point: str, due_epoch_s: float, *, enforced: bool = False) -> Fault:
        """Stand still in the present greenlet; returns when the hub says so, with the fault that strikes."""
        instance = self._here()
        instance.point, instance.due_epoch_s, instance.enforced = point, due_epoch_s, enforced
        fault: Fault = self._hub.switch()
        return fault

    def _here(self) -> Instance:
        assert self._current is not None
        return self._current

    # --- what strikes -------------------------------------------------------------------------------------------------

    def _strike(self, decision: d.Outage | d.Rotate | d.Revoke | d.Tamper | d.Promise | d.Turn) -> None:
        """Let something happen around the instances."""
        match decision:
            case d.Outage():
                self._count_fault(f"outage of {decision.service}")
                self._outages[decision.service] = self.now + decision.seconds
            case d.Rotate():
                self._count_fault("rotation" if decision.accepted else "rotation to a refused secret")
                self._rotate(accepted=decision.accepted, old_stays=decision.old_stays)
            case d.Revoke():
                self._revoke()
            case d.Tamper():
                if "sealed" in self.dynamodb.items.get(_KEY, {}):
                    self._count_fault("tampered item")
                    self.dynamodb.items[_KEY]["sealed"] = {"B": b"\0" * 40}
            case d.Promise():
                self.upstream.expires_in = decision.expires_in
            case d.Turn():
                self._count_fault(f"upstream {decision.weather}")
                self._weather = decision.weather
            case _:
                assert_never(decision)

    def _crash(self, instance: Instance) -> None:
        self._count_fault(f"crash {instance.point.split()[-1]}" if instance.point else "restart")
        if instance.request:
            self._current = instance
            instance.fiber.throw(CrashedError)
            self._current = None
        else:
            self._restart(instance)

    def _restart(self, instance: Instance) -> None:
        instance.request, instance.point = None, ""
        instance.issuer = self._boot(instance.skew_s)
        instance.asked_table_at, instance.minted_alone_at = 0.0, None

    def _freeze(self, instance: Instance, seconds: float) -> None:
        if instance.request:
            self._count_fault("frozen process")
            self.promises.clocks_agree = False
            instance.due_epoch_s, instance.enforced = self.now + seconds, True
            instance.request.slow_s += seconds

    def _rotate(self, *, accepted: bool, old_stays: bool) -> None:
        new = f"secret-{next(self._numbers)}"
        valid = self.upstream.secrets.get("client", set()) if old_stays else set()
        self.upstream.secrets["client"] = {*valid, new} if accepted else set(valid)
        self._secrets.put(_SECRET, {"client_id": "client", "client_secret": new})

    def _revoke(self) -> None:
        item = self.dynamodb.items.get(_KEY, {})
        if "token_id" in item:
            self._count_fault("revocation")
            self.upstream.revoke(item["token_id"]["S"])

    def _before(self, operation: Operation) -> None:
        """Stand before a call takes effect. `wire.before`."""
        if self._current is None:
            return
        instance = self._here()
        instance.began_epoch_s, instance.fault_after = self.now, Fault.NONE
        self._note(instance.name, f"calls {operation.name}")
        self.promises.on_call(instance, operation)
        fault = self._stand(f"before {operation.name}", self.now + self.setup.latency_s / 2)
        if fault is Fault.SLOW:
            fault = self._linger(operation, self._timeout_s(operation) - 0.1)
        if self._outages.get(operation.name.split(".")[0], 0.0) > self.now:
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
        self.promises.before_effect(instance, operation)

    def _after(self, operation: Operation) -> bool:
        """Stand where a call has taken effect and its answer is under way. `wire.after`."""
        self.promises.on_effect(self._current, operation)
        if self._current is None:
            return False
        instance = self._here()
        fault, instance.fault_after = instance.fault_after, Fault.NONE
        if fault is Fault.NONE:
            fault = self._stand(f"after {operation.name}", self.now + self.setup.latency_s / 2)
        if fault is Fault.SLOW:
            self._linger(operation, self._timeout_s(operation) - 0.1)
        self.promises.on_answered(instance)
        if fault in {Fault.CRASH_AFTER, Fault.CRASH_BEFORE}:
            raise CrashedError
        if fault in {Fault.LOST, Fault.LATE, Fault.TIMED_OUT}:
            self._fail(operation, reached=True)
        if operation.name == "upstream.exchange":
            if self._weather is Weather.MINTING_BROKEN:
                raise ExchangeError("upstream_error_500", may_have_minted=True)
            return False
        return fault is Fault.SENT_AGAIN

    def _linger(self, operation: Operation, seconds: float) -> Fault:
        """Let a call take this long in all."""
        instance = self._here()
        until = instance.began_epoch_s + seconds
        if instance.request and operation.name != "upstream.exchange":
            instance.request.slow_s += seconds
        return self._stand(instance.point, max(until, self.now), enforced=True)

    def _fail(self, operation: Operation, *, reached: bool) -> NoReturn:
        service = operation.name.split(".")[0]
        request = self._here().request
        self._note(self._here().name, f"{operation.name} fails")
        if service == "upstream":
            if reached:
                raise ExchangeError("upstream_no_answer", may_have_minted=True)
            raise ExchangeError("upstream_unreachable")
        if service in {"dynamodb", "kms"} and request:
            request.store_faults += 1
            self.promises.on_answered(self._here())
        if reached:
            raise no_answer()
        raise no_connection() if self._random.random() < 0.5 else aws_error("ThrottlingException")

    def _bad_weather(self) -> None:
        if self._weather is Weather.UNREACHABLE:
            raise ExchangeError("upstream_unreachable")
        if self._weather is Weather.BUSY:
            raise ExchangeError("upstream_error_429", retry_after_s=d.RETRY_AFTER_S)
        if self._weather is Weather.BROKEN:
            raise ExchangeError("upstream_error_500", may_have_minted=True)
        newest = self.upstream.issued[-1].access_token if self.upstream.issued else "token-0"
        repeating = self._weather is Weather.REPEATING
        self.upstream.new_token = lambda number: newest if repeating else f"token-{number}"

    def _take_effect_later(self, operation: Operation) -> None:
        service, name = operation.name.split(".")
        at = self._here().began_epoch_s + self._timeout_s(operation) + _LATE_S
        adapter = {
            "dynamodb": self.dynamodb,
            "kms": self._kms,
            "secretsmanager": self._secrets,
            "upstream": self.upstream,
        }[service]
        request = self._here().request
        assert request is not None
        sender = request, None if request.minting_alone else request.holds_fence

        def take_effect() -> None:
            self._note("late", operation.name)
            self.promises.late_sender = sender
            try:
                getattr(adapter, name)(**operation.request)
            except Exception as refused:  # noqa: BLE001 - nobody is left to hear of it
                self._note("late", f"refused: {type(refused).__name__}")
            self.promises.late_sender = None

        self._timers.append((at, take_effect))

    def _timeout_s(self, operation: Operation) -> float:
        if operation.name == "upstream.exchange":
            return float(operation.request["timeout_s"])
        return AWS_TIMEOUT_S

    # --- making an instance -------------------------------------------------------------------------------------------

    def _boot(self, skew_s: float) -> TokenIssuer:
        def clock() -> float:
            return self.now + skew_s

        surroundings = Surroundings(
            clock=clock,
            sleep=self._sleep,
            randomness=self._random.random,
            new_id=lambda: f"owner-{next(self._numbers)}",
            notice=self._notice,
        )
        fakes: dict[str, Any] = {
            "dynamodb": self.dynamodb,
            "kms": self._kms,
            "secrets": self._secrets,
            "upstream": self.upstream,
        }
        store = self.parts.store(fakes["dynamodb"], fakes["kms"], table="tokens", key_arn="arn:key")
        secrets = ConnectionSecrets(lambda: fakes["secrets"], "connections", "https://api.digishare.ma/")
        replacer = self.parts.replacer(
            store,
            self.parts.ledger(fakes["dynamodb"], table="tokens"),
            self.parts.minter(secrets, fakes["upstream"], clock),
            surroundings,
        )
        return self.parts.issuer(
            store,
            replacer,
            surroundings,
            longest_lease_s=900.0,
            daily_mint_ceiling=self.setup.daily_mint_ceiling,
        )

    def _sleep(self, seconds: float) -> None:
        self.promises.on_sleep(self._here(), seconds)
        self._stand("sleep", self.now + max(seconds, 0.001), enforced=True)

    def _notice(self, event: str, facts: dict[str, object]) -> None:
        self.counts[f"notice {event}"] += 1
        instance = self._here()
        self._note(instance.name, f"notices {event} {facts}")
        if instance.request:
            instance.request.notices.add(event)

    def _note(self, who: str, what: str) -> None:
        self.log.append(f"{self.now - START_EPOCH_S:10.2f} {who:>4} {what}")

    def _count_fault(self, kind: str) -> None:
        self.counts[f"fault: {kind}"] += 1
        self._note("!", kind)


def _agree(skews_s: Sequence[float]) -> bool:
    return max(skews_s) - min(skews_s) <= lifetime.CLOCK_MARGIN_S


def simulate(trace: d.Trace, parts: Parts | None = None, *, counts: Counter[str] | None = None) -> World:
    """Run one trace to its end and on until everything is settled.

    Raises:
        BrokenPromiseError: with the log of all that happened.
    """
    setup, decided = trace
    world = World(setup, parts, counts=counts)
    world.counts["runs"] += 1
    for decision in decided:
        world.decide(decision)
    world.settle()
    return world
