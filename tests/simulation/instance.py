"""What an instance of the broker is in a simulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from functions.broker.issue_token import TokenIssuer
from functions.broker.mint_ledger import MintLedger
from functions.broker.mint_token import Minter
from functions.broker.replace_token import TokenReplacer
from functions.broker.token_store import TokenStore
from tests.simulation.decisions import Fault

if TYPE_CHECKING:
    from functions.broker.token_need import TokenWanted


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
