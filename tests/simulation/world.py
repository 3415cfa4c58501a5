"""Several instances of the real broker on fakes, in one thread. The hub decides the order of their steps.

Each request runs in its own greenlet. It stops before and after each call of an adapter takes effect, and in each
sleep. There the hub decides who goes on, when, and with which fault. Time is a number that the hub moves.
`promises.py` watches every effect and every answer.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING, cast

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped] # it has none

from functions.broker.decide import TokenWanted
from functions.broker.issue_token import Issued
from functions.broker.ports import Ports
from local.fakes.wire import throw
from tests.simulation import decisions as d
from tests.simulation.cloud import AWS_TIMEOUT_S, Cloud
from tests.simulation.decisions import CONNECTIONS, Fault
from tests.simulation.instance import CrashedError, Instance, Request
from tests.simulation.promises import Promises
from tests.simulation.records import CLOCK_DIFFERENCE_S, TRUST_S, WITHIN_S
from tests.simulation.watched import BrokenPromiseError
from token_broker.errors import TokenBrokerError
from token_broker.issued_token import token_id_of

if TYPE_CHECKING:
    from functions.broker.issue_token import TokenIssuer

START_EPOCH_S = 1_800_000_000.0
PACE_S = 0.01
"""How long a step takes if the instance goes first."""
_LONGEST_ANSWER_S = 35.0
_PERSONAL_LOOK_S = 3_600.0
_LOOKS_BEFORE_ITS_CLOCK = 2
"""At the second look at the wall clock a request's own clock starts."""
_MOST_LOOKS = 500
"""Far more often than a broker reads its clock between two calls: a few times."""


class World:
    """One simulation.

    Attributes:
        counts: what happened, by kind: for reports.
        current: the instance that is running now, if one is.
        log: one line per event: the trace that a broken promise shows.
        lease_s: the longest lease of instances that start now.
    """

    def __init__(self, setup: d.Setup, *, counts: Counter[str] | None = None) -> None:
        self.setup = setup
        self.now = START_EPOCH_S
        self.counts: Counter[str] = Counter() if counts is None else counts
        self.log: list[str] = []
        self.random = random.Random(setup.seed)  # noqa: S311 - repeatable on purpose
        self.lease_s = 900
        self._numbers = itertools.count(1)
        self._hub = getcurrent()
        self.current: Instance | None = None
        self._looks_at_clock = 0
        self.promises = Promises(self)
        self.cloud = Cloud(self)
        self.instances: list[Instance] = []
        for index, skew in enumerate(setup.skews_s):
            # Its ports need the instance, and the instance needs its ports.
            instance = Instance(index, skew, cast("TokenIssuer", None), self.lease_s)
            instance.issuer = self._boot(instance)
            self.instances.append(instance)
        self.promises.look_at_clocks()

    # --- what a test or a drawn trace does --------------------------------------------------------------------------

    def decide(self, decision: d.Decision) -> None:
        """Carry out one decision, if it is possible now."""
        self.counts["decisions"] += 1
        self.note("·", repr(decision))
        match decision:
            case d.Ask():
                self.ask(self._instance(decision.instance), decision)
            case d.Run():
                self.run(self._instance(decision.instance), decision.until, decision.fault)
            case d.Wait():
                self.pass_time(self.now + decision.seconds)
            case d.Freeze():
                self._freeze(self._instance(decision.instance), decision)
            case d.SetClock():
                self._set_clock(self._instance(decision.instance), decision.skew_s)
            case d.Crash():
                self._crash(self._instance(decision.instance))
            case d.Deploy():
                self.lease_s = decision.lease_s
                for instance in self.instances:
                    if not instance.request:
                        self._restart(instance)
            case _:
                self.cloud.strike(decision)
        self.promises.check_accounts()

    def end_faults(self) -> None:
        """End all faults. Then there must be a token soon, and the same one for everybody."""
        self.note("·", "all faults end")
        self.cloud.calm()
        for instance in self.instances:
            instance.freeze = None
            instance.due_epoch_s = min(instance.due_epoch_s, self.now + AWS_TIMEOUT_S)
        self.pass_time(self.now + _LONGEST_ANSWER_S)
        for instance in self.instances:
            if instance.request and not instance.request.is_clock_late:
                raise BrokenPromiseError(f"{instance.name} is still not answered", self.log)
            if instance.request:
                self._crash(instance)  # the function's time is over
            self._set_clock(instance, 0.0)
        self.promises.check_accounts()
        for connection in range(len(CONNECTIONS)):
            if CONNECTIONS[connection] in self.promises.asked:
                self._ask_until_served(connection)
                self._ask_until_same(connection)

    def _ask_until_served(self, connection: int) -> None:
        """Ask without a report. A token must come within 16 minutes, whatever failed before."""
        limit = self.now + WITHIN_S + _LONGEST_ANSWER_S
        while self.now <= limit:
            answered = self.promises.tokens_answered
            self._ask_and_run(self.instances[0], connection)
            if self.promises.tokens_answered > answered:
                return
            self.pass_time(self.now + 7.0)
        raise BrokenPromiseError("no token although all faults have ended", self.log)

    def _ask_until_same(self, connection: int) -> None:
        is_personal = CONNECTIONS[connection] == "personal"
        for _ in range(4):  # the first to look may repair or refresh something
            self.pass_time(self.now + TRUST_S + CLOCK_DIFFERENCE_S + is_personal * _PERSONAL_LOOK_S)
            for instance in self.instances:
                self._ask_and_run(instance, connection)
            self.promises.check_accounts()
            served = {instance.served.get(CONNECTIONS[connection]) for instance in self.instances}
            newest = token_id_of(self.promises.newest_token("personal")[0])
            if len(served) == 1 and (not is_personal or served == {newest}):
                return
        raise BrokenPromiseError("the instances serve different tokens", self.log)

    def _ask_and_run(self, instance: Instance, connection: int) -> None:
        self.ask(instance, d.Ask(instance.index, connection, caller=9))
        self.run(instance, "answer", Fault.NONE)

    # --- the hub ------------------------------------------------------------------------------------------------------

    def _instance(self, index: int) -> Instance:
        return self.instances[index % len(self.instances)]

    def ask(self, instance: Instance, ask: d.Ask) -> None:
        if instance.request:
            return
        connection = CONNECTIONS[ask.connection]
        rejected = instance.served.get(connection) if ask.reporting else None
        wanted = TokenWanted(connection, ask.min_ttl_s, rejected, f"caller-{ask.caller}")
        deadline = self.now + instance.skew_s + ask.time_left_s
        instance.request = Request(wanted, deadline, self.next_number(), self.now, self.now + instance.skew_s)
        self.promises.on_ask(instance)
        instance.fiber = greenlet(lambda _: self._serve(instance))
        instance.point, instance.due_epoch_s, instance.enforced = "start", self.now, False
        self._looks_at_clock = 0
        self._resume(instance, Fault.NONE)

    def _serve(self, instance: Instance) -> None:
        """Answer one request; runs in the request's greenlet."""
        request = instance.asked
        try:
            issued = instance.issuer.issue(request.wanted, request.deadline_epoch_s)
        except TokenBrokerError as error:
            self._answered(instance, error)
        except CrashedError:
            self.note(instance.name, "crashes")
            self._restart(instance)
        else:
            self._answered(instance, issued)

    def _answered(self, instance: Instance, answer: Issued | TokenBrokerError) -> None:
        connection = instance.asked.wanted.connection
        if isinstance(answer, Issued):
            token_id = answer.clear.token.token_id
            self.counts[f"answers from {answer.source}"] += 1
            self.note(instance.name, f"answers {token_id} from {answer.source}")
        else:
            self.counts[f"answers {answer.code}"] += 1
            self.note(instance.name, f"answers {answer}")
        self.promises.on_answer(instance, answer)
        if isinstance(answer, Issued):
            instance.served[connection] = answer.clear.token.token_id
        instance.request, instance.point = None, ""
        if instance.lease_s != self.lease_s:
            self._restart(instance)

    def run(self, instance: Instance, until: str, fault: Fault) -> None:
        if not instance.request:
            self.ask(instance, d.Ask(instance.index))
        while instance.request and instance.point != until:
            self.step(instance, Fault.NONE)
        if instance.request and fault is not Fault.NONE:
            self.count_fault(f"{fault} {instance.point.split()[-1]}")
            self.step(instance, fault)

    def step(self, instance: Instance, fault: Fault) -> None:
        """Resume an instance now, or when its sleep or delay is over. Others that are due sooner go first."""
        before = instance.fiber
        at = instance.due_epoch_s if instance.enforced else min(instance.due_epoch_s, self.now + PACE_S)
        self.pass_time(max(at, self.now), besides=instance)
        if instance.fiber is before and instance.request:
            self._resume(instance, fault)

    def pass_time(self, until_epoch_s: float, *, besides: Instance | None = None) -> None:
        while True:
            due = [i for i in self.instances if i.request and i is not besides]
            first = min(due, key=lambda i: i.due_epoch_s, default=None)
            timer = min(self.cloud.timers, key=lambda timer: timer[0], default=None)
            if timer and timer[0] <= min(until_epoch_s, first.due_epoch_s if first else until_epoch_s):
                self.cloud.timers.remove(timer)
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
        self.current = instance
        instance.enforced = False
        instance.fiber.switch(fault)
        self.current = None

    def stand(self, point: str, due_epoch_s: float, *, enforced: bool = False) -> Fault:
        """Stop the present greenlet; return the fault with which the hub resumes it."""
        self._looks_at_clock = 0
        instance = self.here()
        instance.point, instance.due_epoch_s, instance.enforced = point, due_epoch_s, enforced
        fault: Fault = self._hub.switch()
        return fault

    def here(self) -> Instance:
        """Return the instance that is running now."""
        assert self.current is not None
        return self.current

    # --- faults of an instance ----------------------------------------------------------------------------------------

    def _crash(self, instance: Instance) -> None:
        self.count_fault(f"crash {instance.point.split()[-1]}" if instance.point else "restart")
        if instance.request:
            self.current = instance
            instance.fiber.throw(CrashedError)
            self.current = None
        else:
            self._restart(instance)

    def _restart(self, instance: Instance) -> None:
        instance.request, instance.point, instance.lease_s = None, "", self.lease_s
        instance.issuer = self._boot(instance)
        instance.reported.clear()

    def _freeze(self, instance: Instance, freeze: d.Freeze) -> None:
        if freeze.looks:
            instance.freeze = (freeze.looks, freeze.seconds)
        elif instance.request:
            self.count_fault("frozen process")
            instance.due_epoch_s, instance.enforced = self.now + freeze.seconds, True
            instance.request.overtime_s += freeze.seconds
            instance.request.is_stale = True

    def _set_clock(self, instance: Instance, skew_s: float) -> None:
        if skew_s != instance.skew_s:
            self.count_fault("clock set")
            if instance.request:  # its deadline is counted from the request's beginning
                instance.request.overtime_s += abs(skew_s - instance.skew_s)
            instance.skew_s, instance.clock_set_epoch_s = skew_s, self.now
            self.promises.look_at_clocks()

    # --- making an instance -------------------------------------------------------------------------------------------

    def _boot(self, instance: Instance) -> TokenIssuer:
        def clock() -> float:
            self._looks_at_clock += 1
            if instance.request:
                instance.request.looks += 1
            if self._looks_at_clock > _MOST_LOOKS:
                raise BrokenPromiseError("an instance spins", self.log)
            self._freeze_at_look(instance)
            return self.now + instance.skew_s

        ports = Ports(
            clock=clock,
            monotonic=lambda: self.now,
            sleep=self._sleep,
            randomness=self.random.random,
            new_id=lambda: f"owner-{self.next_number()}",
            notice=self._notice,
            notice_bug=throw,
        )
        return self.cloud.new_issuer(ports, LEASE_SECONDS=str(instance.lease_s))

    def _freeze_at_look(self, instance: Instance) -> None:
        if instance.freeze and self.current is instance:
            looks, seconds = instance.freeze
            instance.freeze = (looks - 1, seconds) if looks > 1 else None
            if looks == 1:
                self.count_fault("frozen at a look at the clock")
                instance.asked.overtime_s += seconds
                instance.asked.is_stale = True
                self.stand("look", self.now + seconds, enforced=True)
                if instance.asked.looks <= _LOOKS_BEFORE_ITS_CLOCK:
                    instance.asked.began_epoch_s, instance.asked.is_clock_late = self.now, True
                    instance.asked.began_wall_epoch_s = self.now + instance.skew_s

    def _sleep(self, seconds: float) -> None:
        self.promises.on_sleep(self.here(), seconds)
        self.stand("sleep", self.now + max(seconds, 0.001), enforced=True)

    def _notice(self, event: str, facts: dict[str, object]) -> None:
        self.counts[f"notice {event}"] += 1
        self.note(self.here().name, f"notices {event} {facts}")

    def next_number(self) -> int:
        """Return a number that nobody else has."""
        return next(self._numbers)

    def note(self, who: str, what: str) -> None:
        self.log.append(f"{self.now - START_EPOCH_S:10.2f} {who:>4} {what}")

    def count_fault(self, kind: str) -> None:
        self.counts[f"fault: {kind}"] += 1
        self.note("!", kind)
