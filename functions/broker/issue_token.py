"""The policy's loop: memory, then the item, until `decide` says what the caller gets.

What a look calls for is in `decide.py`, the figures in `lifetime.py`, lock and exchange in `replace_token.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from functions.broker import lifetime
from functions.broker.adapters.token_store import SealBrokenError
from functions.broker.decide import Need, Refuse, Replace, Serve, Wait, decide, is_usable
from functions.broker.ports import AwsError, AwsRefusedError, MintFailedError, RequestClock
from functions.broker.replace_token import PersonalTokenUnchangedError
from functions.broker.token import ClearToken, FailureKind
from token_broker.errors import TemporarilyUnavailable, UpstreamRejected

if TYPE_CHECKING:
    from functions.broker.adapters.token_store import TokenStore
    from functions.broker.decide import Decision, TokenWanted
    from functions.broker.mint_token import Minter
    from functions.broker.ports import Ports
    from functions.broker.replace_token import TokenReplacer
    from functions.broker.token import SealedToken, TokenRecord

Source = Literal["memory", "table", "mint"]
_FIRST_PAUSE_S, _TROUBLE_PAUSE_S = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Issued:
    """What a caller gets, and where it came from."""

    clear: ClearToken
    generation: int
    source: Source


@dataclass(frozen=True, slots=True)
class _Copy:
    """A token in this instance's memory, and the record that it came with."""

    record: TokenRecord
    clear: ClearToken
    checked_at_epoch_s: float

    def issued(self, source: Source) -> Issued:
        return Issued(self.clear, self.record.generation, source)


@dataclass(slots=True)
class _Known:
    """What an instance knows of one connection besides the item.

    Attributes:
        copy: the token that it serves.
        left_alone: id of a usable token that it does not refresh, and until when (epoch s): a check or a refresh has
            failed, or a personal access token is unchanged.
        reported_token_id: the last one that a caller reported to it.
        looked_at_epoch_s: when it last looked at the secret without an exchange to follow.
        versions: what it saw then of a secret that the upstream refuses, and the item's fence: they are good for one
            attempt, which raises the fence.
        unchanged_token_id: the personal access token that it saw then, if the item has the same.
    """

    copy: _Copy | None = None
    left_alone: tuple[str, float] = ("", 0.0)
    reported_token_id: str | None = None
    looked_at_epoch_s: float = 0.0
    versions: tuple[int, tuple[str, ...]] = (0, ())
    unchanged_token_id: str | None = None

    def has_looked(self, now: float) -> bool:
        """Return whether the last look at the secret is recent enough."""
        return 0 <= now - self.looked_at_epoch_s < lifetime.TRUST_S

    def untried_versions(self, record: TokenRecord) -> tuple[str, ...]:
        """Return what it saw of the secret, unless an attempt has followed since."""
        fence, versions = self.versions
        return versions if fence == record.fence else ()

    def with_own_refresh_time(self, record: TokenRecord) -> TokenRecord:
        """Return the record with this instance's refresh time, if that is later; never past the token's expiry."""
        token_id, until = self.left_alone
        if record.token is None or record.token.token.token_id != token_id:
            return record
        until = min(until, record.token.token.expires_at_epoch_s or until)
        return replace(record, refresh_at_epoch_s=max(record.refresh_at_epoch_s, until))


@dataclass(slots=True)
class _Request:
    """One request on its way.

    Attributes:
        broken: a sealed token that does not open.
        pause_s: the next pause while it waits.
        trouble_since_epoch_s: when AWS began to fail in a row.
    """

    wanted: TokenWanted
    clock: RequestClock
    deadline: float
    broken: SealedToken | None = None
    pause_s: float = _FIRST_PAUSE_S
    trouble_since_epoch_s: float | None = None


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """Issues tokens of all connections, for one instance of the function. Serves one request at a time.

    Attributes:
        store: the shared copy, and the lock.
        replacer: how a token is replaced.
        minter: for looking at the versions of a secret.
        longest_lease_s: more than this `min_ttl_s` does not count.
        known: what this instance knows, by connection.
    """

    store: TokenStore
    replacer: TokenReplacer
    minter: Minter
    ports: Ports
    longest_lease_s: float
    known: dict[str, _Known] = field(default_factory=dict)

    def issue(self, wanted: TokenWanted, deadline_epoch_s: float) -> Issued:
        """Return a token that is valid now; blocks until the deadline at most.

        Raises:
            AccessDenied: there is no such connection.
            SlowDown: this caller has had too many tokens replaced.
            UpstreamRejected: the upstream refuses our credential.
            TemporarilyUnavailable: no valid token is left, and none can be had now.
        """
        if wanted.min_ttl_s > self.longest_lease_s:
            wanted = replace(wanted, min_ttl_s=self.longest_lease_s)
        known = self.known.get(wanted.connection) or _Known()
        now = self.ports.clock()
        if wanted.rejected_token_id is not None:
            known.reported_token_id = wanted.rejected_token_id  # and the item is looked at
        elif known.copy and 0 <= now - known.copy.checked_at_epoch_s < lifetime.TRUST_S:
            record = known.with_own_refresh_time(known.copy.record)
            if isinstance(decide(record, wanted, now, deadline_epoch_s), Serve):
                return known.copy.issued("memory")
        request = _Request(wanted, RequestClock(self.ports), deadline_epoch_s)
        issued = None
        while issued is None:
            try:
                issued = self._look(request, known)
                request.trouble_since_epoch_s = None
            except AwsError as error:
                issued = self._serve_memory(request, known, error)
        return issued

    # --- one look -----------------------------------------------------------------------------------------------

    def _look(self, request: _Request, known: _Known) -> Issued | None:
        """Read the item and carry out what it calls for; None if it has to be read again."""
        checked_at = self.ports.clock()  # compared with the wall clock by requests to come
        record = self._read(request, known)
        match self._decide(record, request, known):
            case Serve():
                return self._serve(record, request, known, checked_at)
            case Wait(until_epoch_s):
                self._pause(request, until_epoch_s)
                return None
            case Refuse(error):
                raise error
            case Replace(need):
                return self._replace(record, need, request, known, checked_at)

    def _read(self, request: _Request, known: _Known) -> TokenRecord:
        record = self.store.read(request.wanted.connection)
        if record.fence:
            self.known[record.connection] = known  # an invented name leaves nothing behind
        if record.token is None or record.token == request.broken:
            return replace(record, token=None)
        copied = known.copy.clear.token.token_id if known.copy else None
        if copied == known.reported_token_id != record.token.token.token_id:
            known.copy = None  # reported and replaced: nobody gets it from here, whatever fails next
        return record

    def _decide(self, record: TokenRecord, request: _Request, known: _Known) -> Decision:
        """Decide; where only a refused secret stands in the way, look first whether it has been changed."""
        wanted, now = request.wanted, request.clock.now()
        record = known.with_own_refresh_time(record)
        decision = decide(record, wanted, now, request.deadline, known.untried_versions(record))
        is_refused = record.failure is not None and record.failure.kind is FailureKind.REFUSED
        if is_refused and isinstance(decision, Refuse | Wait) and not known.has_looked(now):
            known.looked_at_epoch_s, known.unchanged_token_id = now, None
            try:
                known.versions = record.fence, self.minter.versions(wanted.connection)
            except (AwsError, MintFailedError) as error:
                self._notice("SecretUnreadable", record.connection, error)
            versions = known.untried_versions(record)
            decision = decide(record, wanted, request.clock.now(), request.deadline, versions)
        return decision

    def _serve(
        self, record: TokenRecord, request: _Request, known: _Known, checked_at: float
    ) -> Issued | None:
        """Return the record's token; decrypts only what this instance does not have yet."""
        assert record.token is not None  # noqa: S101 - the caller has seen it
        if known.copy and known.copy.record.token == record.token:
            clear = known.copy.clear
        else:
            try:
                clear = ClearToken(record.token.token, self.store.open(record.connection, record.token))
            except SealBrokenError as error:
                request.broken = record.token  # somebody has written into the item: it holds no token
                self._notice("SealBroken", record.connection, error)
                return None
        known.copy = _Copy(record, clear, checked_at)
        # Opening takes its time: the token may have expired meanwhile.
        return known.copy.issued("table") if is_usable(record, request.wanted, request.clock.now()) else None

    def _replace(
        self, record: TokenRecord, need: Need, request: _Request, known: _Known, checked_at: float
    ) -> Issued | None:
        """Make one attempt; where it comes to nothing for a token that is only due, serve that and leave it alone."""
        token_id = record.token.token.token_id if record.token else ""
        if need is Need.REPORTED and known.unchanged_token_id == token_id and known.has_looked(checked_at):
            raise _personal_token_refused()
        try:
            replaced = self.replacer.replace(record, request.wanted, need, request.clock, request.deadline)
        except PersonalTokenUnchangedError:
            now = request.clock.now()
            known.looked_at_epoch_s, known.unchanged_token_id = now, token_id
            known.left_alone = (token_id, now + lifetime.PERSONAL_TOKEN_LOOK_S)
            if need is Need.REPORTED:
                raise _personal_token_refused() from None
            return self._serve(record, request, known, checked_at)
        except AwsError as error:
            now = request.clock.now()
            if not is_usable(record, request.wanted, now):
                raise
            self._notice(error.event, record.connection, error)
            known.left_alone = (token_id, now + lifetime.TRUST_S)
            return self._serve(record, request, known, checked_at)
        if replaced is None:
            return None
        if replaced.record is None:
            has_expired = replaced.clear.token.left_s(request.clock.now()) < lifetime.SHORTEST_USABLE_S
            return None if has_expired else Issued(replaced.clear, 0, "mint")
        known.copy = _Copy(replaced.record, replaced.clear, checked_at)
        self.known[record.connection] = known
        # Publishing takes its time, too.
        is_still_usable = is_usable(replaced.record, request.wanted, request.clock.now())
        return known.copy.issued("mint") if is_still_usable else None

    def _pause(self, request: _Request, until_epoch_s: float) -> None:
        left_s = until_epoch_s - request.clock.now()
        self.ports.sleep(max(0.0, min(request.pause_s, left_s)))
        longest_s = lifetime.LONGEST_POLL_S * (0.75 + 0.25 * self.ports.randomness())
        request.pause_s = min(2 * request.pause_s, longest_s)

    def _serve_memory(self, request: _Request, known: _Known, error: AwsError) -> Issued | None:
        """Bear an AWS call that failed: serve memory; without a usable token there, pause, and look again in time."""
        now = request.clock.now()
        self._notice(error.event, request.wanted.connection, error)
        if known.copy and is_usable(known.copy.record, request.wanted, now):
            known.copy = replace(known.copy, checked_at_epoch_s=self.ports.clock())
            known.left_alone = (known.copy.clear.token.token_id, now + lifetime.TRUST_S)
            return known.copy.issued("memory")
        if isinstance(error, AwsRefusedError):
            problem = f"AWS refuses the broker a call ({error}): an operator must act"
            raise TemporarilyUnavailable(problem, retry_after_s=error.retry_after_s) from None
        request.trouble_since_epoch_s = request.trouble_since_epoch_s or now
        again_at = now + _TROUBLE_PAUSE_S * (0.5 + self.ports.randomness())
        if again_at > min(
            request.deadline - lifetime.AWS_CALL_S, request.trouble_since_epoch_s + lifetime.AWS_TROUBLE_S
        ):
            raise TemporarilyUnavailable(
                "AWS does not answer the broker: ask again", retry_after_s=1
            ) from None
        self.ports.sleep(again_at - now)
        return None

    def _notice(self, event: str, connection: str, error: Exception) -> None:
        self.ports.notice(event, {"connection": connection, "error": str(error)})


def _personal_token_refused() -> UpstreamRejected:
    return UpstreamRejected(
        "the upstream refuses the personal access token of this connection, which is still the one in its secret: "
        "an operator must act"
    )
