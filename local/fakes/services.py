"""The policy as it is deployed over services in memory: for the simulation, the scenarios, the time table, the benchmark."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Any, Final

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped] # it has none

from functions.broker.assembly import Clients, assemble_policy
from functions.broker.settings import Settings
from local.fakes.aws import FakeKMS, FakeSecretsManager
from local.fakes.dynamodb import FakeDynamoDB
from local.fakes.upstream import FakeUpstream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functions.broker.issue_token import TokenIssuer
    from functions.broker.ports import Ports
    from local.fakes.wire import Wire

ENVIRONMENT: Final[Mapping[str, str]] = {
    "TOKEN_TABLE": "tokens",
    "TOKEN_KEY_ARN": "arn:aws:kms:x:000000000000:key/a",
    "SECRET_PREFIX": "connections",
    "UPSTREAM_HOSTS": "api.digishare.ma",
    "DEFAULT_TOKEN_URL": "https://api.digishare.ma/v1/oauth/token",
    "LEASE_SECONDS": "900",
    "CAMPAIGNS_ROLE": "campaigns-role",
}
"""The variables of every instance."""


class Services:
    """DynamoDB, KMS, Secrets Manager and the upstream on one wire; any number of instances share them."""

    def __init__(self, wire: Wire) -> None:
        self.dynamodb = FakeDynamoDB(wire)
        self.kms = FakeKMS(wire, key_arn=ENVIRONMENT["TOKEN_KEY_ARN"])
        self.secrets = FakeSecretsManager(wire)
        self.upstream = FakeUpstream(wire)

    def put_secret(self, connection: str, value: object) -> str:
        """Create or rotate a connection's secret; return its VersionId."""
        return self.secrets.put(secret_name(connection), value)

    def new_issuer(
        self,
        ports: Ports,
        *,
        new_exchange: Callable[[Settings], Any] | None = None,
        **environment: str,
    ) -> TokenIssuer:
        """Return the policy of one more instance, cold.

        Args:
            ports: its clock, randomness and events.
            new_exchange: makes what exchanges credentials; default: `upstream` exchanges them.
            environment: variables that differ from ENVIRONMENT.
        """
        settings = Settings.from_environment({**ENVIRONMENT, **environment})
        dynamodb: Any = self.dynamodb
        kms: Any = self.kms
        secrets: Any = self.secrets
        upstream: Any = self.upstream
        clients = Clients(
            dynamodb, kms, lambda: secrets, lambda: new_exchange(settings) if new_exchange else upstream
        )
        return assemble_policy(settings, clients, ports)


def secret_name(connection: str) -> str:
    return f"{ENVIRONMENT['SECRET_PREFIX']}/{connection}"


class VirtualTime:
    """Lets functions run side by side, in one thread, on a clock that moves on when all of them wait.

    Attributes:
        now: epoch seconds.
    """

    def __init__(self, start_epoch_s: float = 1_800_000_000.0) -> None:
        self.now = start_epoch_s
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, Any]] = []
        self._hub = getcurrent()

    def at(self, epoch_s: float, work: Callable[[], object]) -> None:
        """Start `work` at this time."""
        heapq.heappush(self._waiting, (epoch_s, next(self._order), greenlet(work)))

    def sleep(self, seconds: float) -> None:
        """Make the function that is running wait."""
        heapq.heappush(self._waiting, (self.now + seconds, next(self._order), getcurrent()))
        self._hub.switch()

    def run(self) -> None:
        """Go on until nothing is left to do."""
        while self._waiting:
            at, _, waiting = heapq.heappop(self._waiting)
            self.now = max(self.now, at)
            waiting.switch()
