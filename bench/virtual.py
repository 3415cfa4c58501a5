"""Many instances of the real policy on a virtual clock: every call to AWS takes time, and quotas refuse calls.

The policy is the deployed one, assembled in the same way (`assemble_policy`); only the services are in memory. To
simulate a second of ten thousand instances takes about a second.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from functions.broker import lifetime
from functions.broker.decide import TokenWanted
from functions.broker.ports import Ports
from local.fakes.services import Services, VirtualTime
from local.fakes.wire import Operation, Wire, aws_error, throw
from token_broker.errors import TokenBrokerError

if TYPE_CHECKING:
    from functions.broker.issue_token import TokenIssuer

CONNECTION: Final = "digishare"
START_EPOCH_S: Final = 1_800_000_000.0
LATENCIES_S: Final = {
    "dynamodb.get_item": 0.004,
    "dynamodb.update_item": 0.006,
    "dynamodb.put_item": 0.006,
    "kms.encrypt": 0.008,
    "kms.decrypt": 0.008,
    "secretsmanager.get_secret_value": 0.015,
    "upstream.exchange": 0.4,
}
"""Typical within a region, in seconds; the stampede on the local cloud uses the same."""
QUOTAS_PER_S: Final = {
    "dynamodb.get_item": 3_000,
    "dynamodb.update_item": 1_000,
    "kms.decrypt": 10_000,
    "kms.encrypt": 10_000,
    "secretsmanager.get_secret_value": 10_000,
}
"""DynamoDB: one partition (one item is in one), without burst capacity; KMS: where its quota is smallest."""
_RUN_TIME_S: Final = lifetime.FUNCTION_TIMEOUT_S - lifetime.ANSWER_S


@dataclass(slots=True)
class Tally:
    """What happened: calls by operation, refusals by quota, the busiest second of each, and the answers.

    Attributes:
        waits_s: how long each answer took, in seconds.
    """

    calls: Counter[str] = field(default_factory=Counter)
    throttled: Counter[str] = field(default_factory=Counter)
    by_second: Counter[tuple[str, int]] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)

    def busiest_second(self, operation: str) -> int:
        return max((count for (name, _), count in self.by_second.items() if name == operation), default=0)


class VirtualFleet(VirtualTime):
    """Instances that share one connection's token.

    Args:
        seed: of all random numbers.
        expires_in_s: as the upstream says.

    Attributes:
        tally: what has happened since it was last replaced.
        upstream: the token endpoint, which counts the mints.
    """

    def __init__(self, *, seed: int = 1, expires_in_s: float = 31_536_000) -> None:
        super().__init__(START_EPOCH_S)
        self.tally = Tally()
        self._chance = random.Random(seed)  # noqa: S311 - a simulation
        owners = itertools.count()
        self._services = Services(Wire(before=self._pass_time))
        self._services.put_secret(CONNECTION, {"client_id": "client", "client_secret": "secret"})
        self.upstream = self._services.upstream
        self.upstream.expires_in = expires_in_s
        self.upstream.secrets["client"] = {"secret"}
        self._ports = Ports(
            clock=lambda: self.now,
            monotonic=lambda: self.now,
            sleep=self.sleep,
            randomness=self._chance.random,
            new_id=lambda: f"owner-{next(owners)}",
            notice=lambda name, _facts: self.tally.calls.update([f"notice.{name}"]),
            notice_bug=throw,
        )

    def new_instance(self) -> TokenIssuer:
        """Return the policy of one more instance, cold."""
        return self._services.new_issuer(self._ports)

    def ask(self, issuer: TokenIssuer) -> None:
        """Ask an instance for a token, and count the outcome."""
        started = self.now
        try:
            issued = issuer.issue(TokenWanted(CONNECTION, caller="caller"), started + _RUN_TIME_S)
            outcome = issued.source
        except TokenBrokerError as error:
            outcome = error.code  # type: ignore[assignment] # counted among the sources
        self.tally.answers[outcome] += 1
        self.tally.waits_s.append(self.now - started)

    def mint_first_token(self) -> None:
        """Mint and publish a token before the measurement."""
        issuer = self.new_instance()
        self.at(self.now, lambda: self.ask(issuer))
        self.run()
        self.tally = Tally()

    def call_on(
        self, issuer: TokenIssuer, *, begin_epoch_s: float, end_epoch_s: float, pause_s: float
    ) -> None:
        """Ask an instance repeatedly, each time after a pause."""

        def work() -> None:
            while self.now < end_epoch_s:
                self.ask(issuer)
                self.sleep(pause_s)

        self.at(begin_epoch_s, work)

    def _pass_time(self, operation: Operation) -> None:
        """Let one call take its latency; refuse it where a quota is used up."""
        name = operation.name
        self.sleep(LATENCIES_S[name] * (0.75 + 0.5 * self._chance.random()))
        second = int(self.now)
        self.tally.calls[name] += 1
        if self.tally.by_second[name, second] >= QUOTAS_PER_S.get(name, 10**9):
            self.tally.throttled[name] += 1
            raise aws_error("ThrottlingException")
        self.tally.by_second[name, second] += 1
