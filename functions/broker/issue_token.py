"""The policy's loop: memory, then the item, until `decide` says what the caller gets.

The rules are in `decide.py`, the figures in `lifetime.py`, lock and exchange in `replace_token.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from functions.broker import lifetime
from functions.broker.adapters.token_store import SealBrokenError
from functions.broker.decide import Need, Refuse, Serve, Wait, decide, is_usable
from functions.broker.ports import (
    AwsError,
    AwsRefusedError,
    MintFailedError,
    PersonalTokenUnchangedError,
    RequestClock,
)
from functions.broker.token import FailureKind
from token_broker.errors import TemporarilyUnavailable, UpstreamRejected
from token_broker.issued_token import ClearToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.broker.adapters.token_store import TokenStore
    from functions.broker.decide import Decision, TokenWanted
    from functions.broker.ports import Ports
    from functions.broker.replace_token import TokenReplacer
    from functions.broker.token import SealedToken, TokenRecord

Source = Literal["memory", "table", "mint"]
_FIRST_PAUSE_S, _TROUBLE_PAUSE_S = 0.05, 1.0


class Issued(NamedTuple):
    """What a caller gets, and where it came from."""

    clear: ClearToken
    generation: int
    source: Source


class _Copy(NamedTuple):
    """A token in this instance's memory, and the record that it came with."""

    record: TokenRecord
    clear: ClearToken
    checked_at_epoch_s: float

    def issued(self, source: Source) -> Issued:
        return Issued(self.clear, self.record.generation, source)


class _Known:
    """What an instance knows of one connection besides the item.

    Attributes:
        copy: the token that it serves.
        left_alone: id of a usable token that it does not refresh, and until when (epoch s), because a check or a refresh
            has failed or a personal access token is unchanged.
        reported_token_id: the last token that a caller reported to it.
        looked_at_epoch_s: when it last read the secret without an exchange after it.
        versions: the item's fence at that moment and the secret's VersionIds, if the upstream refuses the secret. They
            count for one attempt, because an attempt raises the fence.
        unchanged_token_id: id of the personal access token in the secret at that moment, if it is the item's.
    """

    copy: _Copy | None = None
    left_alone: tuple[str, float] = ("", 0.0)
    reported_token_id: str | None = None
    looked_at_epoch_s = 0.0
    versions: tuple[int, tuple[str, ...]] = (0, ())
    unchanged_token_id: str | None = None

    def has_looked(self, now: float) -> bool:
        """Return whether the secret was read within the last minute."""
        return 0 <= now - self.looked_at_epoch_s < lifetime.TRUST_S

    def decide(self, record: TokenRecord, wanted: TokenWanted, now: float, deadline: float) -> Decision:
        """Decide, with what only this instance knows: a later refresh time and the secret's versions."""
        token_id, until = self.left_alone
        if record.token and record.token.token.token_id == token_id:
            until = min(until, record.token.token.expires_at_epoch_s or until)
            record = record._replace(refresh_at_epoch_s=max(record.refresh_at_epoch_s, until))
        fence, versions = self.versions
        return decide(record, wanted, now, deadline, versions if fence == record.fence else ())


class TokenIssuer:
    """Issues tokens of all connections, for one instance of the function. Serves one request at a time.

    Args:
        store: the shared copy, and the lock.
        replacer: how a token is replaced; put together at the first call.
        longest_lease_s: a larger `min_ttl_s` is reduced to this.

    Attributes:
        known: what this instance knows, by connection.
    """

    def __init__(
        self, store: TokenStore, replacer: Callable[[], TokenReplacer], ports: Ports, longest_lease_s: float
    ) -> None:
        self.store, self.replacer, self.ports = store, replacer, ports
        self.longest_lease_s = longest_lease_s
        self.known: dict[str, _Known] = {}

    def issue(self, wanted: TokenWanted, deadline_epoch_s: float) -> Issued:
        """Return a token that is valid now; blocks until the deadline at most.

        Raises:
            AccessDenied: there is no such connection.
            SlowDown: this caller has had too many tokens replaced.
            UpstreamRejected: the upstream refuses our credential.
            TemporarilyUnavailable: no valid token is left, and no new one is available now.
        """
        if wanted.min_ttl_s > self.longest_lease_s:
            wanted = wanted._replace(min_ttl_s=self.longest_lease_s)
        known = self.known.get(wanted.connection) or _Known()
        now = self.ports.clock()
        if wanted.rejected_token_id is not None:
            known.reported_token_id = wanted.rejected_token_id  # memory cannot answer: the item is read
        elif (
            known.copy
            and 0 <= now - known.copy.checked_at_epoch_s < lifetime.TRUST_S
            and isinstance(known.decide(known.copy.record, wanted, now, deadline_epoch_s), Serve)
        ):
            return known.copy.issued("memory")
        return _Request(self, known, wanted, RequestClock(self.ports, deadline_epoch_s)).run()


class _Request:
    """One request that memory does not answer.

    Attributes:
        looked_at_epoch_s: when the item was last read, by the wall clock, which later requests compare with.
        broken: a sealed token that does not open.
        pause_s: the next pause while it waits.
        trouble_since_epoch_s: when AWS began to fail in a row.
    """

    looked_at_epoch_s = 0.0
    broken: SealedToken | None = None
    pause_s = _FIRST_PAUSE_S
    trouble_since_epoch_s: float | None = None

    def __init__(self, issuer: TokenIssuer, known: _Known, wanted: TokenWanted, clock: RequestClock) -> None:
        self.issuer, self.known, self.wanted, self.clock = issuer, known, wanted, clock

    def run(self) -> Issued:
        issued = None
        while issued is None:
            try:
                issued = self._look()
                self.trouble_since_epoch_s = None
            except AwsError as error:
                issued = self._serve_memory(error)
        return issued

    # --- one read of the item -----------------------------------------------------------------------------------

    def _look(self) -> Issued | None:
        """Read the item and carry out what it calls for; None if it has to be read again."""
        self.looked_at_epoch_s = self.issuer.ports.clock()
        record = self._read()
        decision = self._decide(record)
        match decision:
            case Serve():
                return self._serve(record)
            case Wait(until_epoch_s):
                self._pause(until_epoch_s)
                return None
            case Refuse(error):
                raise error
        return self._replace(record, decision.need)

    def _read(self) -> TokenRecord:
        known, record = self.known, self.issuer.store.read(self.wanted.connection)
        if record.fence:
            self.issuer.known[record.connection] = known  # a name without an item must not fill memory
        if record.token is None or record.token == self.broken:
            return record._replace(token=None)
        copied = known.copy.clear.token.token_id if known.copy else None
        if copied == known.reported_token_id != record.token.token.token_id:
            # Reported and replaced: memory never serves it again, even if the next step fails.
            known.copy = None
        return record

    def _decide(self, record: TokenRecord) -> Decision:
        """Decide. If the answer may be due to a refused secret, read whether it has a new version, and decide again."""
        known, now = self.known, self.clock.now()
        decision = known.decide(record, self.wanted, now, self.clock.deadline)
        is_refused = record.failure is not None and record.failure.kind is FailureKind.REFUSED
        if is_refused and isinstance(decision, Refuse | Wait) and not known.has_looked(now):
            known.looked_at_epoch_s, known.unchanged_token_id = now, None
            try:
                readable = self.issuer.replacer().secrets.read(record.connection)
                known.versions = record.fence, tuple(stored.version_id for stored in readable)
            except (AwsError, MintFailedError) as error:
                self._notice("SecretUnreadable", error)
            decision = known.decide(record, self.wanted, self.clock.now(), self.clock.deadline)
        return decision

    def _serve(self, record: TokenRecord) -> Issued | None:
        """Return the record's token; decrypts only what this instance does not have yet."""
        assert record.token is not None  # noqa: S101 - the caller has seen it
        copy = self.known.copy
        if copy and copy.record.token == record.token:
            return self._remember(record, copy.clear, "table")
        try:
            access_token = self.issuer.store.open(record.connection, record.token)
        except SealBrokenError as error:
            # Somebody else has written into the item: it counts as without a token.
            self.broken = record.token
            self._notice("SealBroken", error)
            return None
        return self._remember(record, ClearToken(record.token.token, access_token), "table")

    def _replace(self, record: TokenRecord, need: Need) -> Issued | None:
        """Make one attempt; if it fails and the old token is usable, serve that and do not refresh it for a while."""
        known, token_id = self.known, record.token.token.token_id if record.token else ""
        is_report = need is Need.REPORTED
        if is_report and known.unchanged_token_id == token_id and known.has_looked(self.clock.now()):
            raise _personal_token_refused()
        try:
            replaced = self.issuer.replacer().replace(record, self.wanted, need, self.clock)
        except PersonalTokenUnchangedError:
            now = known.looked_at_epoch_s = self.clock.now()
            known.unchanged_token_id = token_id
            known.left_alone = token_id, now + lifetime.PERSONAL_TOKEN_LOOK_S
            if is_report:
                raise _personal_token_refused() from None
            return self._serve(record)
        except Exception as error:
            # A valid token is served, whatever has failed.
            now = self.clock.now()
            if not is_usable(record, self.wanted, now):
                raise
            if isinstance(error, AwsError):
                self._notice(error.event, error)
            else:
                self.issuer.ports.notice_bug(error)
            known.left_alone = token_id, now + lifetime.TRUST_S
            return self._serve(record)
        if replaced is None:
            return None
        clear, published = replaced
        if published:
            return self._remember(published, clear, "mint")
        is_alive = clear.token.left_s(self.clock.now()) >= lifetime.SHORTEST_USABLE_S
        return Issued(clear, 0, "mint") if is_alive else None

    # --- helpers --------------------------------------------------------------------------------------------------

    def _remember(self, record: TokenRecord, clear: ClearToken, source: Source) -> Issued | None:
        """Store a token in memory and return it; None if opening or publishing it took so long that it is not usable."""
        self.known.copy = _Copy(record, clear, self.looked_at_epoch_s)
        self.issuer.known[record.connection] = self.known
        return self.known.copy.issued(source) if is_usable(record, self.wanted, self.clock.now()) else None

    def _pause(self, until_epoch_s: float) -> None:
        ports = self.issuer.ports
        ports.sleep(max(0.0, min(self.pause_s, until_epoch_s - self.clock.now())))
        self.pause_s = min(2 * self.pause_s, lifetime.LONGEST_POLL_S * (0.75 + 0.25 * ports.randomness()))

    def _serve_memory(self, error: AwsError) -> Issued | None:
        """Serve memory after an AWS call that failed; without a usable token there, pause, so that `run` tries again."""
        known, ports, now = self.known, self.issuer.ports, self.clock.now()
        self._notice(error.event, error)
        if known.copy and is_usable(known.copy.record, self.wanted, now):
            known.copy = known.copy._replace(checked_at_epoch_s=ports.clock())
            known.left_alone = known.copy.clear.token.token_id, now + lifetime.TRUST_S
            return known.copy.issued("memory")
        if isinstance(error, AwsRefusedError):
            problem = f"AWS refuses the broker a call ({error}): an operator must act"
            raise TemporarilyUnavailable(problem, retry_after_s=error.retry_after_s) from None
        self.trouble_since_epoch_s = self.trouble_since_epoch_s or now
        again_at = now + _TROUBLE_PAUSE_S * (0.5 + ports.randomness())
        latest = min(
            self.clock.deadline - lifetime.AWS_CALL_S, self.trouble_since_epoch_s + lifetime.AWS_TROUBLE_S
        )
        if again_at > latest:
            problem = "AWS does not answer the broker: ask again"
            raise TemporarilyUnavailable(problem, retry_after_s=1) from None
        ports.sleep(again_at - now)
        return None

    def _notice(self, event: str, error: Exception) -> None:
        facts: dict[str, object] = {"connection": self.wanted.connection, "error": str(error)}
        self.issuer.ports.notice(event, facts)


def _personal_token_refused() -> UpstreamRejected:
    return UpstreamRejected(
        "the upstream refuses the personal access token of this connection, which is still the one in its secret: "
        "an operator must act"
    )
