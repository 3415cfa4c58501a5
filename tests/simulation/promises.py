"""What must hold of calls and answers at every moment of a simulation. `records.py` checks what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.broker.issue_token import Issued
from tests.simulation.decisions import RETRY_AFTER_S
from tests.simulation.records import CLOCK_DIFFERENCE_S, ROUNDING_S, TRUST_S, WITHIN_S, YOUNG_TOKEN_S, Records
from token_broker.errors import AccessDenied, SlowDown, TemporarilyUnavailable, UpstreamRejected

if TYPE_CHECKING:
    from local.fakes.wire import Operation
    from tests.simulation.instance import Instance, Plain, Request
    from tests.simulation.watched import Watched
    from token_broker.errors import TokenBrokerError

# The figures of the design, repeated on purpose: a change in the code alone breaks a promise.
TO_LOCK_S, TO_SEND_S, EXCHANGE_S = 13.0, 12.0, 10.0
LONGEST_REQUEST_S = 31.0
ANSWER_S, AWS_CALL_S = 0.6, 2.5
SHORTEST_USABLE_S = 1.0
EXCHANGES_AT_ONCE, INTERVAL_S, DAY_S = 24.0, 900.0, 86_400.0
_COUNTED_TWICE = 2.0
"""Exchanges that the pace may lose to clocks that are 1.5 s apart, and to counting both ends of a window."""


class Promises(Records):
    """Watches one world.

    Attributes:
        tokens_answered: how many requests were answered with a token.
    """

    tokens_answered = 0

    # --- calls --------------------------------------------------------------------------------------------------------

    def on_ask(self, instance: Instance) -> None:
        """A caller asks."""
        request, wanted = instance.asked, instance.asked.wanted
        watched = self.watched[wanted.connection]
        self.asked.add(wanted.connection)
        watched.largest_min_ttl_s = max(watched.largest_min_ttl_s, min(wanted.min_ttl_s, instance.lease_s))
        if wanted.rejected_token_id:
            watched.reported.add(wanted.rejected_token_id)
            instance.reported[wanted.connection, wanted.rejected_token_id] = request.began_epoch_s

    def on_call(self, instance: Instance, operation: Operation) -> None:
        """A call is made."""
        request = instance.asked
        request.call_clock_epoch_s, request.call_wall_epoch_s = self.clock(instance), self.wall(instance)
        if operation.name == "dynamodb.update_item":
            owner = operation.request["ExpressionAttributeValues"].get(":lock_owner")
            request.tried_owner = owner["S"] if owner else ""
        ends = request.deadline_epoch_s + request.overtime_s + LONGEST_REQUEST_S
        self.require(request.call_clock_epoch_s <= ends, "a request goes on long after its deadline")
        if operation.name == "dynamodb.get_item":
            instance.looks[request.wanted.connection] = self._world.now
            instance.calls[request.wanted.connection] = self._world.now
        if operation.name == "upstream.exchange":
            self._on_exchange(instance, operation)

    def _on_exchange(self, instance: Instance, operation: Operation) -> None:
        request, clock = instance.asked, self.clock(instance)
        lock, watched = request.lock, self.watched[request.wanted.connection]
        assert operation.request["credential"].client_id == request.wanted.connection
        self.require(lock is not None, "an exchange without a lock")
        assert lock is not None
        self.require(request.has_sealed, "an exchange although the key has not answered")
        self.require(request.row is not None, "an exchange without a row of its own")
        row = request.row
        request.sent_row, request.row = row, None
        there = row in self._world.cloud.dynamodb.items or watched.operator_epoch_s >= lock.true_epoch_s
        self.require(there, "an exchange whose row is not there")
        self.require(operation.request["timeout_s"] <= EXCHANGE_S, "an exchange that may take too long")
        if request.is_stale:
            return
        self.require(
            self.wall(instance) >= lock.taken_wall_epoch_s, "an exchange although a clock was set back"
        )
        if self.is_steady(instance):
            left_s = request.deadline_epoch_s - clock
            self.require(left_s >= TO_SEND_S - ROUNDING_S, "an exchange that may end after the deadline")
            left_s = lock.until_epoch_s - CLOCK_DIFFERENCE_S - clock
            self.require(left_s >= TO_SEND_S - ROUNDING_S, "an exchange that may end after its lock")
            self.require(lock.deadline_left_s >= TO_LOCK_S - ROUNDING_S, "a lock taken too late to finish")
        version = self.versions[operation.request["credential"].client_secret]
        self._check_version(request, lock.before, version)

    def _check_version(self, request: Request, before: Plain, version: str) -> None:
        refused = before.get("refused_versions", ())
        known = [request.versions[name] for name in ("AWSCURRENT", "AWSPREVIOUS") if name in request.versions]
        next_one = next((one for one in known if one not in refused), known[0])
        self.require(version == next_one, "an exchange with a version that is not next")

    def on_send(self, instance: Instance, operation: Operation) -> None:
        """A call leaves the instance."""
        if operation.name != "upstream.exchange":
            return
        request = instance.asked
        lock, watched = request.lock, self.watched[request.wanted.connection]
        assert lock is not None
        request.may_have_issued = True
        self._count_exchange(watched)
        if request.is_stale or not self.clocks_agree or watched.operator_epoch_s >= request.read_epoch_s:
            return
        item = watched.item
        is_mine = (item.get("fence"), item.get("lock_owner")) == (lock.fence, lock.owner)
        self.require(is_mine, "an exchange under a lock that is not mine")
        token = item.get("token")
        if not token or watched.token_is_broken or "expires_at_epoch_s" not in token:
            return
        span_s = token["expires_at_epoch_s"] - token["issued_at_epoch_s"]
        needed_s = max(min(0.2 * span_s, 30 * DAY_S), min(watched.largest_min_ttl_s, span_s / 2))
        left_s = token["expires_at_epoch_s"] - self.clock(instance)
        is_fresh = left_s > needed_s + CLOCK_DIFFERENCE_S and token["token_id"] not in watched.reported
        self.require(not is_fresh, "an exchange although a fresh token is published")

    def _count_exchange(self, watched: Watched) -> None:
        """At most 24 at once and one more each interval, whatever window one looks at."""
        watched.exchanges.append(self._world.now)
        interval_s = min(INTERVAL_S, max(1.0, self.shortest_said_s / 2))
        for number, at in enumerate(reversed(watched.exchanges), start=1):
            allowed = EXCHANGES_AT_ONCE + (self._world.now - at) / interval_s + _COUNTED_TWICE
            self.require(number <= allowed or not self.clocks_agree, "more exchanges than the pace allows")

    def on_failed(self, instance: Instance, operation: Operation, how: str) -> None:
        """A call fails."""
        request, connection = instance.asked, instance.asked.wanted.connection
        request.is_stale = False
        request.answered = ""
        if operation.name == "upstream.exchange":
            if how not in {"lost", "upstream_error_500"}:
                self.nothing_issued(request)
            if how == "upstream_error_429":
                request.wait_until_epoch_s = self.clock(instance) + RETRY_AFTER_S
            if how == "invalid_client":
                self.refused.add(self.versions[operation.request["credential"].client_secret])
            return
        instance.looks[connection] = instance.failed_looks[connection] = self._world.now
        request.trouble += 1
        request.read_trouble += operation.name in {"dynamodb.get_item", "kms.decrypt"}
        request.lock_trouble += operation.name == "dynamodb.update_item"
        request.secret_trouble += operation.name.startswith("secretsmanager")
        if operation.name.startswith("secretsmanager"):
            self.secret_trouble_epoch_s = self._world.now
            if operation.request["VersionStage"] == "AWSPREVIOUS":
                request.versions.pop("AWSPREVIOUS", None)

    def on_answered(self, instance: Instance, operation: Operation) -> None:
        """A call comes back."""
        request = instance.asked
        request.is_stale = False
        request.answered = operation.name
        request.has_sealed = request.has_sealed or operation.name == "kms.encrypt"
        if operation.name == "dynamodb.get_item":
            request.read_clock_epoch_s = self.clock(instance)

    def on_sleep(self, instance: Instance, seconds: float) -> None:
        """An instance is about to wait."""
        request = instance.asked
        if self.is_steady(instance) and not request.is_stale:
            ends = self.clock(instance) + seconds
            self.require(ends <= request.deadline_epoch_s + ROUNDING_S, "a sleep beyond the deadline")
        owner = (request.item or {}).get("lock_owner")
        is_mine = owner == request.tried_owner and owner not in self.late_owners
        waits = request.answered == "dynamodb.get_item" and is_mine and request.sent_row is None
        waits = waits and not (request.read_trouble or request.lock_trouble > 1 or request.had_token)
        self.require(not waits, "the holder of the lock waits for itself")

    # --- answers ------------------------------------------------------------------------------------------------------

    def on_answer(self, instance: Instance, answer: Issued | TokenBrokerError) -> None:
        """A request is answered."""
        request = instance.asked
        late_s = self.clock(instance) - request.deadline_epoch_s
        # At the deadline the last look may still run: one read, one decryption.
        allowed_s = ANSWER_S + 2 * self._world.setup.latency_s + request.overtime_s
        self.require(late_s <= allowed_s, f"an answer {late_s:.2f} s after the deadline")
        if request.trouble:
            connection = request.wanted.connection
            instance.looks[connection] = instance.failed_looks[connection] = self._world.now
        if isinstance(answer, Issued):
            self.tokens_answered += 1
            self._on_issued(instance, request, answer)
        else:
            self._on_error(instance, request, answer)

    def _on_error(self, instance: Instance, request: Request, error: TokenBrokerError) -> None:
        if isinstance(error, SlowDown | TemporarilyUnavailable):
            self.require((error.retry_after_s or 0) >= 1, "no Retry-After")
        self.require(not isinstance(error, AccessDenied), "a connection that exists is denied")
        watched, item = self.watched[request.wanted.connection], request.item or {}
        if isinstance(error, UpstreamRejected) and request.wanted.connection != "personal":
            trouble = self._world.now - self.secret_trouble_epoch_s < WITHIN_S or request.trouble > 0
            trouble = trouble or self._world.now - self.rotated_epoch_s < TRUST_S + LONGEST_REQUEST_S
            trouble = trouble or request.deadline_epoch_s - self.clock(instance) < TO_LOCK_S
            untried = set(request.versions.values()) - self.refused
            self.require(trouble or not untried, "rejected although a version was never refused")
        token = item.get("token")
        if not token or request.read_trouble or request.is_stale or request.is_item_broken:
            return
        is_late = self.clock(instance) > request.deadline_epoch_s - AWS_CALL_S
        gives_up = request.lock_trouble > 0 and (request.trouble > request.lock_trouble or is_late)
        if gives_up or watched.operator_epoch_s >= request.read_epoch_s:
            return
        left_s = token.get("expires_at_epoch_s", float("inf")) - self.clock(instance)
        usable = left_s > SHORTEST_USABLE_S and token["token_id"] != request.wanted.rejected_token_id
        self.require(not usable or not self.is_steady(instance), "an error although a token is published")

    def _on_issued(self, instance: Instance, request: Request, issued: Issued) -> None:
        token, clock, now = issued.clear.token, self.clock(instance), self._world.now
        connection = request.wanted.connection
        watched, birth = self.watched[connection], self.births.get(token.token_id)
        self.require(birth is not None, "a token is served that the upstream never issued")
        assert birth is not None
        self.require(birth.connection == connection, "another connection's token is served")
        self.require(birth.access_token == issued.clear.access_token, "a token is served under another's id")
        if token.expires_at_epoch_s is not None and not request.is_stale:
            self.require(clock < token.expires_at_epoch_s, "an expired token is served")
            is_right = token.expires_at_epoch_s <= birth.believable_until_epoch_s + ROUNDING_S
            self.require(is_right, "a token is served as if it lived longer")
        if self.clocks_agree:
            allowed_s = CLOCK_DIFFERENCE_S + request.overtime_s
            self.require(now < birth.expires_epoch_s + allowed_s, "a token that expired upstream is served")
        self.check_row_of(token.token_id, "a token is served without its row")
        if issued.source == "memory" and not request.is_stale:
            age_s = now - instance.looks[connection]
            was_set = instance.clock_set_epoch_s >= instance.copied[connection]
            self.require(age_s < TRUST_S + ROUNDING_S or was_set, f"memory is trusted for {age_s:.1f} s")
        if token.token_id == request.wanted.rejected_token_id and self.is_steady(instance):
            was_old = request.began_wall_epoch_s - token.issued_at_epoch_s >= YOUNG_TOKEN_S
            is_unborn = clock < token.issued_at_epoch_s
            self.require(not (was_old or is_unborn), "a rejected token is served again")
        self._check_replaced(instance, watched, connection, token.token_id)
        if issued.source != "memory" or request.trouble:
            # If a lock's answer was lost, the item is read again. Memory does not count from that read.
            look = request.began_epoch_s if request.lock_trouble else instance.calls[connection]
            instance.copied[connection] = look

    def _check_replaced(self, instance: Instance, watched: Watched, connection: str, token_id: str) -> None:
        reported = instance.reported.get((connection, token_id))
        replaced = watched.replaced.get(token_id)
        if reported is None or replaced is None or instance.asked.is_stale:
            return
        age_s = self._world.now - max(reported, replaced)
        was_blind = self._world.now - instance.failed_looks[connection] <= TRUST_S
        was_set = instance.clock_set_epoch_s >= min(self._world.now - age_s, instance.copied[connection])
        is_right = age_s <= TRUST_S + ROUNDING_S + instance.asked.overtime_s or was_blind or was_set
        self.require(is_right, "a token is served long after it was reported and replaced")
