"""What must hold of all that is written in a simulation: locks, publishes, rows; and the history of every token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.simulation.decisions import CONNECTIONS
from tests.simulation.instance import TakenLock
from tests.simulation.watched import Birth, BrokenPromiseError, Watched
from token_broker.dynamodb_attributes import from_attribute
from token_broker.issued_token import token_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local.fakes.wire import Operation
    from tests.simulation.instance import Instance, Request
    from tests.simulation.world import World

    Plain = Mapping[str, Any]

# The figures of the design, repeated on purpose: a change in the code alone breaks a promise.
LOCK_S, SLOW_AWS_S, LONGEST_LOCK_S = 14.5, 1.0, 60.0
TRUST_S = 60.0
WITHIN_S = 960.0
YOUNG_TOKEN_S = 60.0
CLOCK_DIFFERENCE_S = 1.5
REPORTS_PER_DAY = 6
UNSAID_LIFETIME_S, LONGEST_LIFETIME_S = 86_400.0, 400 * 86_400.0
_DAY_S, _YEAR_S = 86_400.0, 365 * 86_400.0
ROUNDING_S = 0.01  # the item keeps milliseconds
_READS = {"dynamodb.get_item", "secretsmanager.get_secret_value"}


class Records:
    """Watches what is written.

    Attributes:
        clocks_agree: whether no two clocks have ever differed by more than the policy allows for.
        said: what the upstream says about lifetimes; `shortest_said_s`: the shortest that it has said.
        late_sender: whose call takes effect now, long after it was given up.
        versions: VersionId of a secret by its text; `refused`: those that the upstream has refused.
        late_owners: whose locks came after they had been given up.
        asked: connections that somebody has asked for.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.clocks_agree = True
        self.late_sender: Request | None = None
        self.said: object = None
        self.shortest_said_s = float("inf")
        self.on_lifetime(world.setup.expires_in)
        self.watched = {connection: Watched() for connection in CONNECTIONS}
        self.births: dict[str, Birth] = {}
        self.versions: dict[str, str] = {}
        self.refused: set[str] = set()
        self.late_owners: set[str] = set()
        self.asked: set[str] = set()
        self.secret_trouble_epoch_s = self.rotated_epoch_s = 0.0
        self._rows: dict[tuple[str, str], Plain] = {}
        self._rows_of_token: dict[str, list[tuple[str, str]]] = {}
        self._published: set[tuple[str, int, str]] = set()
        self._begun_epoch_s: dict[tuple[str, str], float] = {}
        self._before_lock: dict[str, tuple[Plain, float]] = {}
        self._issued = 0

    # --- what happens around the instances ----------------------------------------------------------------------------

    def on_lifetime(self, expires_in: object) -> None:
        self.said = expires_in
        if seconds := _said_s(expires_in):
            self.shortest_said_s = min(self.shortest_said_s, seconds)

    def on_version(self, text: str, version: str) -> None:
        """Somebody has changed a secret."""
        self.rotated_epoch_s = self._world.now
        self.versions[text] = version

    def on_personal_token(self, access_token: str) -> None:
        never = float("inf")
        birth = Birth("personal", access_token, None, self._world.now, never, never)
        self.births[token_id_of(access_token)] = birth

    def on_operator(self, connection: str, *, token_is_broken: bool = False, rows: bool = False) -> None:
        """Somebody has written over the item, and over the rows or not."""
        watched = self.watched[connection]
        watched.operator_epoch_s = self._world.now
        watched.token_is_broken = token_is_broken
        watched.exchanges.clear()
        watched.reports.clear()
        if rows:
            watched.rows_gone_epoch_s = self._world.now
        self._look_at_item(connection, watched)

    def look_at_clocks(self) -> None:
        skews = [instance.skew_s for instance in self._world.instances]
        self.clocks_agree = self.clocks_agree and max(skews) - min(skews) <= CLOCK_DIFFERENCE_S

    def newest_token(self, connection: str) -> tuple[str, float]:
        """Return the text of the connection's newest token and its seconds left; empty if there is none."""
        births = [birth for birth in self.births.values() if birth.connection == connection]
        newest = max(reversed(births), key=lambda birth: birth.issued_epoch_s, default=None)
        return (newest.access_token, newest.expires_epoch_s - self._world.now) if newest else ("", 0.0)

    # --- when calls have taken effect ---------------------------------------------------------------------------------

    def on_effect(self, instance: Instance | None, operation: Operation) -> None:
        """A call has taken effect, or was refused."""
        sender = instance.asked if instance else self.late_sender
        if sender is None or (instance is None and operation.name in _READS):
            return
        connection = sender.wanted.connection
        watched = self.watched[connection]
        match operation.name:
            case "dynamodb.get_item":
                sender.item, sender.read_epoch_s = watched.item, self._world.now
                sender.is_item_broken = watched.token_is_broken
            case "dynamodb.update_item":
                before = watched.item
                self._look_at_item(connection, watched)
                if watched.item != before:
                    self._on_update(sender, instance, before, watched)
            case "dynamodb.put_item":
                self._on_row(sender, operation)
            case "secretsmanager.get_secret_value":
                self._on_secret(sender, instance, operation)
            case "upstream.exchange":
                self._on_upstream(sender, instance, operation)

    def _on_secret(self, sender: Request, instance: Instance | None, operation: Operation) -> None:
        secret = self._world.cloud.secrets._secrets[operation.request["SecretId"]]
        stage = operation.request["VersionStage"]
        sender.versions.pop(stage, None)
        if stage in secret.stages:
            sender.versions[stage] = secret.stages[stage]
            if instance:
                instance.versions[sender.wanted.connection].add(secret.stages[stage])

    def _on_upstream(self, sender: Request, instance: Instance | None, operation: Operation) -> None:
        upstream = self._world.cloud.upstream
        if upstream.mints == self._issued:
            self.refused.add(self.versions[operation.request["credential"].client_secret])
            self.nothing_issued(sender)
            return
        self._issued = upstream.mints
        issued, now = upstream.issued[-1], self._world.now
        said_s = _said_s(upstream.expires_in)
        believable = sender.call_clock_epoch_s if instance else now
        believable += min(said_s or UNSAID_LIFETIME_S, LONGEST_LIFETIME_S)
        if before := self.births.get(issued.token_id):  # the same token once more
            before.believable_until_epoch_s = max(believable, before.believable_until_epoch_s)
            before.expires_epoch_s = max(now + (said_s or _YEAR_S), before.expires_epoch_s)
            if sender.sent_row:
                self._rows_of_token.setdefault(issued.token_id, []).append(sender.sent_row)
            self.nothing_issued(sender)
            return
        self._world.counts["tokens issued by the upstream"] += 1
        expires = now + (said_s or _YEAR_S)
        assert sender.sent_row is not None
        self.births[issued.token_id] = Birth(
            sender.wanted.connection, issued.access_token, sender.sent_row, now, expires, believable
        )

    def nothing_issued(self, sender: Request) -> None:
        """An exchange has certainly made no new token."""
        sender.may_have_issued = False
        exchanges = self.watched[sender.wanted.connection].exchanges
        if exchanges:
            exchanges.pop()

    # --- the item -----------------------------------------------------------------------------------------------------

    def _look_at_item(self, connection: str, watched: Watched) -> None:
        item = self._world.cloud.dynamodb.items.get((connection, "token"), {})
        old = watched.item.get("token", {}).get("token_id")
        watched.item = {name: from_attribute(value) for name, value in item.items()}
        new = watched.item.get("token", {}).get("token_id")
        watched.replaced.pop(new, None)
        if old and old != new:
            watched.replaced[old] = self._world.now

    def _on_update(self, sender: Request, instance: Instance | None, before: Plain, watched: Watched) -> None:
        after = watched.item
        fence, old_fence, owner = after["fence"], before.get("fence", 0), before.get("lock_owner")
        self.require(fence >= old_fence, f"the fence falls from {old_fence} to {fence}")
        refused = set(after.get("refused_versions", ())) - set(before.get("refused_versions", ()))
        self.require(refused <= self.refused, "a version is on the list that was never refused")
        if "lock_owner" in after and (fence, after["lock_owner"]) != (old_fence, owner):
            self._on_lock(sender, instance, before, after, watched)
            return
        if owner and "lock_owner" not in after:
            self.require(owner in sender.owners, "somebody else's lock is removed")
            rises = after["pace"]["left"] > before["pace"]["left"] + ROUNDING_S
            is_mine = sender.lock is not None and sender.lock.owner == owner
            is_wrong = is_mine and sender.may_have_issued and rises
            self.require(not is_wrong, "an exchange is given back that may have issued")
            if is_mine:
                sender.lock = None
                self._check_wish(sender, before, after)
        if after["generation"] != before.get("generation", 0):
            self._on_publish(sender, before, watched)

    def _check_wish(self, sender: Request, before: Plain, after: Plain) -> None:
        if after["generation"] == before["generation"] and "failure" in after:
            waits = after["failure"]["not_before_epoch_s"] >= sender.wait_until_epoch_s - ROUNDING_S
            self.require(waits, "the upstream's Retry-After is not honoured")
        sender.wait_until_epoch_s = 0.0

    def _on_lock(
        self, sender: Request, instance: Instance | None, before: Plain, after: Plain, watched: Watched
    ) -> None:
        owner, until = after["lock_owner"], after["lock_until_epoch_s"]
        sender.owners.add(owner)
        sender.row, sender.may_have_issued, sender.wait_until_epoch_s = None, False, 0.0
        self.require(after["fence"] == before.get("fence", 0) + 1, "a lock without the next fence")
        clock = sender.call_clock_epoch_s
        effective, deadline_left_s = before, sender.deadline_epoch_s - clock
        is_again = before.get("lock_owner") == owner
        if is_again:  # the answer to its first lock was lost
            effective, deadline_left_s = self._before_lock[owner]
        self._before_lock[owner] = effective, deadline_left_s
        sender.lock = TakenLock(
            int(after["fence"]),
            owner,
            until,
            sender.call_wall_epoch_s,
            float("inf") if sender.is_stale else deadline_left_s,
            effective,
            self._world.now,
        )
        token = effective.get("token", {})
        sender.had_token = bool(token) and token.get("expires_at_epoch_s", clock) >= sender.read_clock_epoch_s
        not_before = after["failure"]["not_before_epoch_s"]
        self.require(not_before >= until - ROUNDING_S, "a holder that dies would leave no failure behind")
        if instance is None:
            self.late_owners.add(owner)
            return  # the lock of a request that never learns of it
        seen = sender.item or {}
        for name in ("fence", "lock_owner", "lock_until_epoch_s"):
            self.require(before.get(name) == seen.get(name), "a lock is taken on an item that is not as seen")
        latest = self.clock(instance) + ROUNDING_S
        ends = before.get("lock_until_epoch_s", 0.0)
        free = ends <= latest or is_again or ends - clock > LONGEST_LOCK_S
        self.require(free, "a lock is taken before its end")
        if self.is_steady(instance) and not sender.is_stale:
            length_s = until - clock
            is_right = LOCK_S - ROUNDING_S <= length_s <= LOCK_S + SLOW_AWS_S + ROUNDING_S
            self.require(is_right, f"a lock of {length_s:.2f} s")
        if watched.operator_epoch_s < sender.read_epoch_s:
            self._check_not_before(sender, instance, effective, latest)
            self._check_pace(effective, after)

    def _check_not_before(self, sender: Request, instance: Instance, before: Plain, latest: float) -> None:
        failure = before.get("failure")
        if not failure or not latest < failure["not_before_epoch_s"] <= sender.call_clock_epoch_s + WITHIN_S:
            return
        # A version that cannot be read just now, or has been changed, may have been seen at the look before.
        is_sure = not sender.secret_trouble and self.rotated_epoch_s < sender.began_epoch_s
        seen = sender.versions.values() if is_sure else instance.versions[sender.wanted.connection]
        new = set(seen) - set(before.get("refused_versions", ()))
        changed = failure["kind"] == "refused" and new
        self.require(bool(changed), "the upstream is asked sooner than a failure allows")

    def _check_pace(self, before: Plain, after: Plain) -> None:
        pace = before.get("pace", {"left": 24.0, "since_epoch_s": 0.0})
        said_s = before.get("token", {}).get("lifetime_s")
        interval_s = 900.0 if said_s is None else min(900.0, max(1.0, said_s / 2))
        elapsed_s = after["pace"]["since_epoch_s"] - pace["since_epoch_s"]
        come_in = elapsed_s / interval_s if elapsed_s > ROUNDING_S else 1.0
        left = min(24.0, max(0.0, pace["left"]) + come_in)
        self.require(after["pace"]["left"] <= left - 1 + ROUNDING_S, "an exchange is not taken from the pace")
        self.require(after["pace"]["left"] >= -ROUNDING_S, "an exchange although the pace is used up")

    def _on_publish(self, sender: Request, before: Plain, watched: Watched) -> None:
        after, connection = watched.item, sender.wanted.connection
        token, owner = after["token"], before.get("lock_owner", "")
        self.require(owner in sender.owners, "a token is published by somebody else than the lock's owner")
        key = (connection, token["fence"], owner)
        self.require(key not in self._published, f"fence {token['fence']} publishes twice")
        self._published.add(key)
        self.require("lock_owner" not in after, "a publish leaves its lock")
        self.require(token["fence"] == after["fence"], "a token is published under another fence")
        self.require(after["generation"] == before.get("generation", 0) + 1, "the generation is not one more")
        self.check_row_of(token["token_id"], "a token is published without its row")
        birth = self.births[token["token_id"]]
        self.require(birth.connection == connection, "another connection's token is published")
        was_broken = watched.token_is_broken
        birth.was_published, watched.token_is_broken = True, False
        too_long_s = token.get("expires_at_epoch_s", 0.0) - birth.believable_until_epoch_s
        self.require(too_long_s <= ROUNDING_S, f"a token is believed to live {too_long_s:.3f} s too long")
        old = before.get("token", {})
        if token["token_id"] == old.get("token_id") == sender.wanted.rejected_token_id:
            age_s = sender.call_clock_epoch_s - old["issued_at_epoch_s"]
            young = 0 <= age_s < YOUNG_TOKEN_S + LOCK_S + SLOW_AWS_S
            gone = watched.operator_epoch_s >= sender.read_epoch_s
            self.require(young or gone, "the token that was reported is published again")
        left = {"failure", "refresh_at_epoch_s", "refused_versions"} & set(after)
        self.require(not left, "a publish leaves a failure behind")
        row = self._rows[connection, f"mint#{int(after['fence']):010d}#{owner}"]
        is_refresh = row["reason"] == "refresh" and not was_broken
        if is_refresh and old.get("expires_at_epoch_s", 0.0) > sender.call_clock_epoch_s:
            is_later = token["expires_at_epoch_s"] > old["expires_at_epoch_s"]
            self.require(is_later, "a refresh replaces a token by one that lives no longer")
        if row["reason"] == "reported":
            self._count_report(sender, watched)

    def _count_report(self, sender: Request, watched: Watched) -> None:
        reports = watched.reports.setdefault(sender.wanted.caller, [])
        reports.append(self._world.now)
        within = [at for at in reports if self._world.now - at < _DAY_S - CLOCK_DIFFERENCE_S]
        too_many = len(within) > REPORTS_PER_DAY and self.clocks_agree
        self.require(not too_many, "a caller has more tokens replaced than it may")

    # --- the rows -----------------------------------------------------------------------------------------------------

    def _on_row(self, sender: Request, operation: Operation) -> None:
        item = operation.request["Item"]
        key = (item["connection"]["S"], item["record"]["S"])
        stored = self._world.cloud.dynamodb.items.get(key)
        after: Plain = {name: from_attribute(value) for name, value in (stored or {}).items()}
        before = self._rows.get(key, {})
        if not after or after == before:
            return
        self._rows[key] = after
        gone = self.watched[key[0]].rows_gone_epoch_s > 0
        if "token_id" in before and not gone:
            self.require(after.get("token_id") == before["token_id"], "a row becomes another token's")
        if "token_id" in after:
            self._rows_of_token.setdefault(after["token_id"], []).append(key)
        if after["outcome"] == "begun":
            self.require(not before or gone, "a row begins twice")
            sender.row, self._begun_epoch_s[key] = key, self._world.now
            self._check_reason(sender, after)

    def _check_reason(self, sender: Request, row: Plain) -> None:
        lock, token = sender.lock, (sender.item or {}).get("token")
        if lock is None or not token or row["owner"] != lock.owner:
            return
        if row["reason"] == "reported" and not sender.lock_trouble:
            age_s = sender.read_clock_epoch_s - token["issued_at_epoch_s"]
            too_young = age_s >= 0 and sender.call_clock_epoch_s - token["issued_at_epoch_s"] < YOUNG_TOKEN_S
            self.require(not too_young, "a report about a young token is followed")
        if row["reason"] == "refresh" and not sender.is_item_broken:
            refresh_at = lock.before.get("refresh_at_epoch_s", 0.0)
            counts = refresh_at <= token.get("expires_at_epoch_s", float("inf"))
            too_soon = counts and refresh_at > sender.call_clock_epoch_s + ROUNDING_S
            self.require(not too_soon, "a refresh is tried again too soon")
            # Never past the token's end, which may come before the lock that was decided on.
            began = lock.until_epoch_s - LOCK_S - SLOW_AWS_S
            began = min(began, token.get("expires_at_epoch_s", began) - ROUNDING_S)
            waits = self.watched[row["connection"]].item.get("refresh_at_epoch_s", 0.0) > began
            gone = self.watched[row["connection"]].item.get("lock_owner") != lock.owner
            self.require(waits or gone, "a holder that dies while it refreshes would be followed at once")

    def check_row_of(self, token_id: str, promise: str) -> None:
        """Require a row `issued` with this token, unless an operator has removed it."""
        birth = self.births.get(token_id)
        items = self._world.cloud.dynamodb.items
        rows = [items[key] for key in self._rows_of_token.get(token_id, ()) if key in items]
        issued = [row for row in rows if row["outcome"]["S"] == "issued"]
        found = any(row["token_id"]["S"] == token_id for row in issued)
        self.require(found or (birth is not None and self._is_row_gone(birth)), promise)

    def _is_row_gone(self, birth: Birth) -> bool:
        """Return whether somebody has written over the table since a token's row was written."""
        began = self._begun_epoch_s[birth.row] if birth.row else birth.issued_epoch_s
        return began <= self.watched[birth.connection].rows_gone_epoch_s

    def check_accounts(self) -> None:
        """Every token is accounted for until it has expired, and what is in service has its row."""
        items = self._world.cloud.dynamodb.items
        for token_id, birth in self.births.items():
            if birth.row is None or self._is_row_gone(birth):
                continue
            row = items.get(birth.row)
            self.require(row is not None, f"nothing accounts for the token {token_id}")
            assert row is not None
            outcome, named = row["outcome"]["S"], row.get("token_id", {}).get("S", token_id)
            is_right = outcome != "failed" and named == token_id
            self.require(is_right, f"the row of {token_id} says something else")
            # A token that the upstream gave out again has several rows.
            rows = [row, *(items[key] for key in self._rows_of_token.get(token_id, ()) if key in items)]
            until = max(float(one["delete_after_epoch_s"]["N"]) for one in rows)
            self.require(until >= birth.expires_epoch_s, f"the row of {token_id} does not outlive it")
        for watched in self.watched.values():
            if "token" in watched.item and not watched.token_is_broken:
                self.check_row_of(watched.item["token"]["token_id"], "a token is in service without its row")

    def orphans(self) -> list[str]:
        """Return the tokens that have not expired and never were in service."""
        return [
            token_id
            for token_id, birth in self.births.items()
            if birth.row and not birth.was_published and birth.expires_epoch_s > self._world.now
        ]

    # --- means --------------------------------------------------------------------------------------------------------

    def require(self, holds: bool, promise: str) -> None:  # noqa: FBT001 - reads like assert
        if not holds:
            raise BrokenPromiseError(promise, self._world.log)

    def wall(self, instance: Instance) -> float:
        """Return what the instance's clock says."""
        return self._world.now + instance.skew_s

    def clock(self, instance: Instance) -> float:
        """Return what time it is within its request: elapsed time is the larger of wall clock and monotonic clock."""
        request = instance.asked
        elapsed_s = self._world.now - request.began_epoch_s
        return max(self.wall(instance), request.began_wall_epoch_s + elapsed_s)

    def is_steady(self, instance: Instance) -> bool:
        """Return whether its clock was not set during its request."""
        return instance.clock_set_epoch_s < instance.asked.began_epoch_s


def _said_s(expires_in: object) -> float | None:
    seconds = float(expires_in) if isinstance(expires_in, int | float | str) else 0.0
    return seconds if seconds > 0 else None
