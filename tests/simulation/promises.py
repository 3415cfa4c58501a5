"""What must hold at every moment of a simulation, whatever happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from functions.broker import lifetime
from functions.broker.issue_token import IssuedToken
from functions.broker.token_record import TOKEN_RECORD, from_attribute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fakes.wire import Operation
    from tests.simulation.instance import Instance, Request
    from tests.simulation.world import World
    from token_broker.errors import TokenBrokerError

_KEY = ("digishare", TOKEN_RECORD)
# The figures of the design once more, on purpose: a figure changed in the code alone is a promise broken.
TRUST_S = 60.0
DIRECT_MINT_INTERVAL_S = 60.0
YOUNG_TOKEN_S = 60.0
CLOCK_MARGIN_S = 5.0
ANSWER_MARGIN_S = 1.0
_ROUNDING_S = 0.002  # the item keeps milliseconds
_LINES_SHOWN = 80


class BrokenPromiseError(AssertionError):
    """A promise is broken; the text has the last events before it."""

    def __init__(self, promise: str, log: list[str]) -> None:
        super().__init__("\n".join([promise, *log[-_LINES_SHOWN:]]))
        self.promise = promise


@dataclass(slots=True)
class _Birth:
    """How a token came into being at the upstream."""

    request: Request
    fence: int | None
    issued_at_true_epoch_s: float
    expires_at_true_epoch_s: float
    believable_until_epoch_s: float


class Promises:
    """Watches one world.

    Attributes:
        clocks_agree: whether no two clocks differ by more than the margin and no process has stood still.
        tokens_answered: how many requests were answered with a token.
        late_sender: whose call takes effect now, long after it was given up, and the fence that it held then.
    """

    def __init__(self, world: World, *, clocks_agree: bool) -> None:
        self._world = world
        self.clocks_agree = clocks_agree
        self.late_sender: tuple[Request, int | None] | None = None
        self.tokens_answered = 0
        self._births: dict[str, _Birth] = {}
        self._tokens_of_fence: dict[int, str] = {}
        self._holders: dict[int, Request] = {}
        self._published_by: dict[int, str] = {}
        self._item: Mapping[str, Any] = {}
        self._issued = 0

    def ceiling_reached(self) -> bool:
        """Return whether the daily ceiling of mints is what stands in the way."""
        return bool(self._read_item().get("mints_today", 0) >= self._world.setup.daily_mint_ceiling)

    # --- while calls are made -----------------------------------------------------------------------------------------

    def on_call(self, instance: Instance, operation: Operation) -> None:
        """A call is about to be sent."""
        self._require(instance.request is not None, "a call outside of a request")
        if operation.name in {"dynamodb.get_item", "dynamodb.update_item"}:
            instance.asked_table_at = self._clock(instance)
        request = _request_of(instance)
        if operation.name.startswith("secretsmanager") and request.store_faults and not request.minting_alone:
            self._on_minting_alone(instance, request)
        if operation.name == "upstream.exchange":
            self._on_exchange_call(instance)

    def _on_exchange_call(self, instance: Instance) -> None:
        request = _request_of(instance)
        self._require(
            self._clock(instance) <= request.deadline_epoch_s, "an exchange begins after the deadline"
        )
        if request.minting_alone:
            return
        self._require(request.holds_fence is not None, "a mint without the lock while the table is up")
        clock = self._clock(instance) + _ROUNDING_S
        self._require(request.exchange_not_before <= clock, "the back-off is not kept")

    def _on_minting_alone(self, instance: Instance, request: Request) -> None:
        request.minting_alone = True
        last, now = instance.minted_alone_at, self._clock(instance)
        self._require(
            last is None or now - last >= DIRECT_MINT_INTERVAL_S - _ROUNDING_S,
            "two direct mints within a minute",
        )
        instance.minted_alone_at = now

    def on_answered(self, instance: Instance) -> None:
        """A call comes back. Once the table has failed, trust is counted from the last attempt's end."""
        if _request_of(instance).store_faults and not _request_of(instance).minting_alone:
            instance.asked_table_at = self._clock(instance)

    def before_effect(self, instance: Instance, operation: Operation) -> None:
        """A call takes effect next."""
        if operation.name == "upstream.exchange" and self.clocks_agree:
            request = _request_of(instance)
            newest = self._read_item().get("fence")
            self._require(
                request.minting_alone or request.holds_fence == newest,
                f"a mint under fence {request.holds_fence}, while {newest} holds the lock",
            )

    def on_sleep(self, instance: Instance, seconds: float) -> None:
        """An instance is about to wait."""
        request = _request_of(instance)
        self._require(
            self._clock(instance) + seconds <= request.deadline_epoch_s + 0.01, "a sleep beyond the deadline"
        )
        item = self._read_item()
        locked = item.get("lock_until_epoch_s", 0.0) > self._clock(instance)
        mine = request.holds_fence is not None and request.holds_fence == item.get("fence")
        knows = not request.store_faults
        self._require(not (locked and mine and knows), "the holder of the lock waits for itself")

    # --- when calls have taken effect ---------------------------------------------------------------------------------

    def on_effect(self, instance: Instance | None, operation: Operation) -> None:
        """A call has taken effect, or was refused."""
        if instance:
            sender = _request_of(instance)
            fence = None if sender.minting_alone else sender.holds_fence
        elif self.late_sender:
            sender, fence = self.late_sender
        else:
            return
        if operation.name == "upstream.exchange" and self._world.cloud.upstream.mints > self._issued:
            self._on_issue(sender, fence, instance)
        if operation.name == "dynamodb.update_item":
            before, self._item = self._item, self._read_item()
            if self._item != before:
                self._on_update(sender, instance, before, self._item)

    def _on_issue(self, sender: Request, fence: int | None, instance: Instance | None) -> None:
        self._issued = self._world.cloud.upstream.mints
        self._world.counts["tokens issued by the upstream"] += 1
        issued = self._world.cloud.upstream.issued[-1]
        skew_s = instance.skew_s if instance else 0.0
        now = self._world.now
        expires_at = now + lifetime.believed_lifetime_s(self._world.cloud.upstream.expires_in)
        birth = _Birth(sender, fence, now, expires_at, expires_at + skew_s)
        if before := self._births.get(issued.token_id):  # the same token once more
            birth.expires_at_true_epoch_s = max(expires_at, before.expires_at_true_epoch_s)
            birth.believable_until_epoch_s = max(expires_at + skew_s, before.believable_until_epoch_s)
        self._births[issued.token_id] = birth
        if fence is not None:
            self._require(fence not in self._tokens_of_fence, f"fence {fence} has minted twice")
            self._tokens_of_fence[fence] = issued.token_id

    def _on_update(
        self,
        sender: Request,
        instance: Instance | None,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
    ) -> None:
        old_fence, fence = before.get("fence", 0), after["fence"]
        self._require(fence >= old_fence, f"the fence falls from {old_fence} to {fence}")
        if after["lock_owner"] != before.get("lock_owner"):
            self._on_acquisition(sender, instance, before, after)
        if before.get("lock_until_epoch_s") and not after["lock_until_epoch_s"] and fence in self._holders:
            self._holders[fence].holds_fence = None
        if any(after.get(name) != before.get(name) for name in ("token_id", "token_fence")):
            self._on_publish(sender, before, after)

    def _on_acquisition(
        self,
        sender: Request,
        instance: Instance | None,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
    ) -> None:
        fence = after["fence"]
        self._require(fence not in self._holders, f"fence {fence} is given to two")
        self._holders[fence] = sender
        if instance is None:
            return  # the lock of a request that never learns of it
        sender.holds_fence, sender.store_faults = fence, 0
        clock = self._clock(instance) + _ROUNDING_S
        self._require(before.get("lock_until_epoch_s", 0.0) <= clock, "a lock is taken before its end")
        sender.exchange_not_before = before["next_attempt_at_epoch_s"] if "failure" in before else 0.0

    def _on_publish(self, sender: Request, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        fence, token_id = after["token_fence"], after["token_id"]
        self._require(
            fence > before.get("token_fence", 0),
            f"fence {fence} is published over {before.get('token_fence')}",
        )
        self._require(fence not in self._published_by, f"fence {fence} publishes twice")
        self._require(fence == after["fence"], f"fence {fence} publishes while {after['fence']} is newer")
        self._require(self._holders.get(fence) is sender, f"fence {fence} is published by somebody else")
        self._published_by[fence] = token_id
        birth = self._births.get(token_id)
        self._require(birth is not None, "a token is published that the upstream never issued")
        assert birth is not None
        too_long_s = after["expires_at_epoch_s"] - birth.believable_until_epoch_s
        self._require(too_long_s <= _ROUNDING_S, f"a token is believed to live {too_long_s:.3f} s too long")

    # --- answers ------------------------------------------------------------------------------------------------------

    def on_answer(self, instance: Instance, answer: IssuedToken | TokenBrokerError) -> None:
        """A request is answered."""
        request = _request_of(instance)
        late_s = self._clock(instance) - request.deadline_epoch_s
        # The last look before the deadline may be under way: one read, one unsealing.
        allowed_s = ANSWER_MARGIN_S + 2 * self._world.setup.latency_s + request.slow_s
        self._require(late_s <= allowed_s, f"an answer {late_s:.2f} s after the deadline")
        if isinstance(answer, IssuedToken):
            self.tokens_answered += 1
            self._on_issued(instance, request, answer)

    def _on_issued(self, instance: Instance, request: Request, issued: IssuedToken) -> None:
        clock = self._clock(instance)
        birth = self._births.get(issued.token_id)
        self._require(birth is not None, "a token is served that the upstream never issued")
        assert birth is not None
        assert issued.expires_at_epoch_s is not None
        self._require(clock < issued.expires_at_epoch_s, "an expired token is served")
        if self.clocks_agree:
            self._require(
                self._world.now < birth.expires_at_true_epoch_s + CLOCK_MARGIN_S,
                "a token is served that the upstream holds for expired",
            )
        if issued.source == "memory":
            age_s = clock - instance.asked_table_at
            self._require(age_s < TRUST_S, f"memory is trusted for {age_s:.1f} s")
        if issued.token_id == request.wanted.rejected_token_id:
            age_s = self._world.now - birth.issued_at_true_epoch_s
            young = age_s < YOUNG_TOKEN_S + 2 * CLOCK_MARGIN_S
            self._require(young or not self.clocks_agree, "a rejected token is served again")

    # --- accounts -----------------------------------------------------------------------------------------------------

    def check_accounts(self) -> None:
        """Every token of a request that is over is accounted for, and the published one is not called an orphan."""
        rows = [
            {name: from_attribute(value) for name, value in item.items()}
            for (_, record), item in self._world.cloud.dynamodb.items.items()
            if record.startswith("mint#")
        ]
        known = {row["token_id"]: row["outcome"] for row in rows}
        begun = {int(row["fence"]) for row in rows if row["outcome"] == "begun"}
        at_work = {instance.request.number for instance in self._world.instances if instance.request}
        for token_id, birth in self._births.items():
            accounted = (
                token_id in known
                or birth.fence in begun
                or (birth.request.minting_alone and "DirectMintBegun" in birth.request.notices)
                or birth.request.number in at_work
            )
            self._require(accounted, f"nothing accounts for the token {token_id} (fence {birth.fence})")
        published = self._read_item()
        holder = self._holders.get(published.get("token_fence", 0))
        if holder and holder.number not in at_work:
            outcome = known.get(published["token_id"])
            self._require(outcome != "orphan", "the ledger calls the published token an orphan")

    # --- means --------------------------------------------------------------------------------------------------------

    def _require(self, kept: bool, promise: str) -> None:  # noqa: FBT001 - reads like assert
        if not kept:
            raise BrokenPromiseError(promise, self._world.log)

    def _clock(self, instance: Instance) -> float:
        return self._world.now + instance.skew_s

    def _read_item(self) -> dict[str, Any]:
        """Return the token item as plain values."""
        item = self._world.cloud.dynamodb.items.get(_KEY, {})
        return {name: from_attribute(value) for name, value in item.items()}


def _request_of(instance: Instance) -> Request:
    assert instance.request is not None
    return instance.request
