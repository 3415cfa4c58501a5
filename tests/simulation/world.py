"""Several instances of the real broker on fakes, in one thread, with the order of their steps in our hands.

Each request runs in a greenlet of its own. Every call of an adapter stands still twice, before and after it takes
effect, and every sleep once; there the hub decides who goes on, when, and with what fault. Time is a number that the
hub moves. `promises.py` watches every effect and every answer.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped] # it has none

from functions.broker.client_secret import ConnectionSecrets
from functions.broker.issue_token import IssuedToken, TokenIssuer
from functions.broker.surroundings import Surroundings
from functions.broker.token_need import TokenWanted
from tests.simulation import decisions as d
from tests.simulation.cloud import AWS_TIMEOUT_S, Cloud
from tests.simulation.decisions import Fault
from tests.simulation.instance import CrashedError, Instance, Parts, Request
from tests.simulation.promises import CLOCK_MARGIN_S, TRUST_S, BrokenPromiseError, Promises
from token_broker.errors import SlowDown, TemporarilyUnavailable, TokenBrokerError

if TYPE_CHECKING:
    from collections.abc import Sequence

CONNECTION = "digishare"
START_EPOCH_S = 1_800_000_000.0
PACE_S = 0.01
"""How long a step takes of an instance that goes first."""
LONGEST_LOCK_S, BACKOFF_LIMIT_S = 20.0, 60.0
_MOST_LOOKS = 500
"""How often a sane broker looks at its clock between two calls: a few times."""


class World:
    """One simulation.

    Attributes:
        counts: what happened, by kind: for reports.
        current: the instance that is running now, if one is.
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
        self.random = random.Random(setup.seed)  # noqa: S311 - repeatable on purpose
        self._numbers = itertools.count(1)
        self._hub = getcurrent()
        self.current: Instance | None = None
        self._looks_at_clock = 0
        self.promises = Promises(self, clocks_agree=_agree(setup.skews_s))
        self.cloud = Cloud(self)
        self.instances = [Instance(index, skew, self._boot(skew)) for index, skew in enumerate(setup.skews_s)]

    # --- what a test or a drawn trace does --------------------------------------------------------------------------

    def decide(self, decision: d.Decision) -> None:
        """Let one thing happen; nothing, where it makes no sense now."""
        self.counts["decisions"] += 1
        self.note("·", repr(decision))
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
                self.cloud.strike(decision)
        self.promises.check_accounts()

    def settle(self) -> None:
        """End all faults and hold the broker to progress: a token soon, and the same one for everybody."""
        self.note("·", "all faults end")
        self.cloud.calm()
        for instance in self.instances:
            instance.due_epoch_s = min(instance.due_epoch_s, self.now + AWS_TIMEOUT_S)
        self._pass_time(self.now + 60.0)
        for instance in self.instances:
            if instance.request:
                raise BrokenPromiseError(f"{instance.name} is still not answered", self.log)
        self.promises.check_accounts()
        self._ask_until_served()
        for _ in range(4):  # the first to look may be the one who mends or refreshes something
            self._pass_time(self.now + TRUST_S + 2 * CLOCK_MARGIN_S)
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
        backoff_s = d.RETRY_AFTER_S if self.counts_of("upstream busy") else BACKOFF_LIMIT_S
        skew_s = max(self.setup.skews_s) - min(self.setup.skews_s)
        limit = self.now + LONGEST_LOCK_S + backoff_s + skew_s + 15.0
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
        instance.request = Request(wanted, clock + ask.time_left_s, self.next_number())
        instance.fiber = greenlet(lambda _: self._serve(instance))
        instance.point, instance.due_epoch_s, instance.enforced = "start", self.now, False
        self._looks_at_clock = 0
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
            self.note(instance.name, "crashes")
            self._restart(instance)
        else:
            self._answered(instance, issued)

    def _answered(self, instance: Instance, answer: IssuedToken | TokenBrokerError) -> None:
        request = instance.request
        assert request is not None
        if isinstance(answer, IssuedToken):
            self.counts[f"answers from {answer.source}"] += 1
            self.note(instance.name, f"answers {answer.token_id} from {answer.source}")
            instance.last_token_id = answer.token_id
        else:
            self.counts[f"answers {answer.code}"] += 1
            self.note(instance.name, f"answers {answer}")
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
            self.count_fault(f"{fault} {instance.point.split()[-1]}")
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
        """Stand still in the present greenlet; returns when the hub says so, with the fault that strikes."""
        self._looks_at_clock = 0
        instance = self.here()
        instance.point, instance.due_epoch_s, instance.enforced = point, due_epoch_s, enforced
        fault: Fault = self._hub.switch()
        return fault

    def here(self) -> Instance:
        """Return the instance that is running now."""
        assert self.current is not None
        return self.current

    # --- what strikes an instance -------------------------------------------------------------------------------------

    def _crash(self, instance: Instance) -> None:
        self.count_fault(f"crash {instance.point.split()[-1]}" if instance.point else "restart")
        if instance.request:
            self.current = instance
            instance.fiber.throw(CrashedError)
            self.current = None
        else:
            self._restart(instance)

    def _restart(self, instance: Instance) -> None:
        instance.request, instance.point = None, ""
        instance.issuer = self._boot(instance.skew_s)
        instance.asked_table_at, instance.minted_alone_at = 0.0, None

    def _freeze(self, instance: Instance, seconds: float) -> None:
        if instance.request:
            self.count_fault("frozen process")
            self.promises.clocks_agree = False
            instance.due_epoch_s, instance.enforced = self.now + seconds, True
            instance.request.slow_s += seconds

    # --- making an instance -------------------------------------------------------------------------------------------

    def _boot(self, skew_s: float) -> TokenIssuer:
        def clock() -> float:
            self._looks_at_clock += 1
            if self._looks_at_clock > _MOST_LOOKS:
                raise BrokenPromiseError("an instance spins", self.log)
            return self.now + skew_s

        surroundings = Surroundings(
            clock=clock,
            sleep=self._sleep,
            randomness=self.random.random,
            new_id=lambda: f"owner-{self.next_number()}",
            notice=self._notice,
        )
        fakes: dict[str, Any] = {
            "dynamodb": self.cloud.dynamodb,
            "kms": self.cloud.kms,
            "secrets": self.cloud.secrets,
            "upstream": self.cloud.upstream,
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
        self.promises.on_sleep(self.here(), seconds)
        self.stand("sleep", self.now + max(seconds, 0.001), enforced=True)

    def _notice(self, event: str, facts: dict[str, object]) -> None:
        self.counts[f"notice {event}"] += 1
        instance = self.here()
        self.note(instance.name, f"notices {event} {facts}")
        if instance.request:
            instance.request.notices.add(event)

    def next_number(self) -> int:
        """Return a number that nobody else has."""
        return next(self._numbers)

    def note(self, who: str, what: str) -> None:
        self.log.append(f"{self.now - START_EPOCH_S:10.2f} {who:>4} {what}")

    def count_fault(self, kind: str) -> None:
        self.counts[f"fault: {kind}"] += 1
        self.note("!", kind)


def _agree(skews_s: Sequence[float]) -> bool:
    return max(skews_s) - min(skews_s) <= CLOCK_MARGIN_S
