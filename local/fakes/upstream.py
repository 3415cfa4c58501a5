"""The upstream's token endpoint in memory, in the place of `OAuthExchange`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from functions.broker.ports import MintFailedError
from functions.broker.token import FailureKind
from local.fakes.wire import Wire
from token_broker.issued_token import TokenAnswer, token_id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.broker.adapters.client_secret import ClientCredentials


@dataclass(slots=True)
class IssuedUpstream:
    """A token that exists at the upstream, whether anybody has seen it or not."""

    access_token: str = field(repr=False)
    token_id: str


class FakeUpstream:
    """Issues distinct tokens for the secrets that it accepts. Faults come through the wire's hooks.

    A hook `before` "upstream.exchange" that raises MintFailedError is an upstream that has issued nothing; a hook `after`
    that raises one has issued a token that nobody ever sees.

    Attributes:
        secrets: client_id to the client secrets that are valid now.
        expires_in: what the next answers say; may be anything.
        new_token: returns the n-th token's text; a constant makes an upstream that never makes progress.
        issued: every token, in the order of issue.
    """

    def __init__(self, wire: Wire | None = None) -> None:
        self._wire = wire or Wire()
        self.secrets: dict[str, set[str]] = {}
        self.expires_in: object = 31_536_000
        self.new_token: Callable[[int], str] = _opaque_token
        self.issued: list[IssuedUpstream] = []

    @property
    def mints(self) -> int:
        """How many tokens were issued."""
        return len(self.issued)

    def prepare(self, credential: ClientCredentials) -> None:
        """Accept every token endpoint; the same interface as `OAuthExchange.prepare`."""

    def exchange(self, credential: ClientCredentials, timeout_s: float) -> TokenAnswer:
        """Return a token; the same interface as `OAuthExchange.exchange`."""

        def take_effect() -> TokenAnswer:
            if credential.client_secret not in self.secrets.get(credential.client_id, set()):
                raise MintFailedError("invalid_client", FailureKind.REFUSED)
            access_token = self.new_token(len(self.issued) + 1)
            self.issued.append(IssuedUpstream(access_token, token_id_of(access_token)))
            return TokenAnswer(access_token, self.expires_in, None)

        request = {"credential": credential, "timeout_s": timeout_s}
        return self._wire.run("upstream.exchange", request, take_effect)


def _opaque_token(number: int) -> str:
    return f"upstream-{number:05d}-{hashlib.sha256(str(number).encode()).hexdigest()}"
