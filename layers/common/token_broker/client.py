"""The client of the token broker: one line for a token, one call to the broker per lease.

How a lease is used, in the time that it lives::

    fetched                                  80 %                     expires
    |---- served from memory, no lock held ----|---- due ----------------|---- nothing to serve ----
                                               one thread asks ahead,    all wait for the one that asks,
                                               3 s at most; all others   each within its time budget
                                               are served at once

If asking fails, a lease that is still valid is served, and the broker is not asked again for a while.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import random
import threading
import time
import weakref
from typing import TYPE_CHECKING, Final, TypeVar

from token_broker import errors
from token_broker.lease import Fetched, Lease, Need, read_lease
from token_broker.signed_http import URL_FORM, SignedHttp

if TYPE_CHECKING:
    from collections.abc import Callable

    from token_broker.credentials import AwsSession

DEFAULT_CONNECTION: Final = "digishare"

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

_ASK_AHEAD_TIMEOUT_S: Final = 3.0
_ASK_AHEAD_PAUSE_S: Final = 10.0
_LONGEST_ASK_AHEAD_PAUSE_S: Final = 60.0
_MAX_ATTEMPTS: Final = 4
_FIRST_RETRY_PAUSE_S: Final = 0.2


class _Question:
    """What one thread asks the broker, and its outcome."""

    def __init__(self, need: Need) -> None:
        self.need = need
        self.is_over = threading.Event()
        self.lease: Lease | None = None
        self.error: Exception | None = None

    def covers(self, need: Need) -> bool:
        return self.need.rejected_token_id == need.rejected_token_id and self.need.min_ttl_s >= need.min_ttl_s


class BrokerClient:
    """Leases from the broker, for the AWS identity that botocore's usual chain finds.

    Make one per process and connection and share it: it is safe in threads and after a fork (a child keeps the
    lease and gets new locks and sockets). Making one costs nothing; the first call loads AWS credentials.

    Args:
        url: the broker's Function URL; default: TOKEN_BROKER_URL.
        connection: which upstream credential; default: TOKEN_BROKER_CONNECTION, else "digishare".
        session: botocore or boto3 session to take credentials from; default: one of botocore's own.
        region: AWS region, needed only where neither the URL nor the session has it.
        time_budget_s: the longest that a call may block when there is no valid lease: the search for credentials
            and repeats included. The default outlasts the broker's own worst case (31 s).
        connect_timeout_s: longest wait for a connection.
        clock: current epoch seconds.
        sleep: waits for a number of seconds.

    Raises:
        NotConfigured: no URL, or one that is malformed or not https (http is allowed on loopback hosts).
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        connection: str | None = None,
        session: AwsSession | None = None,
        region: str | None = None,
        time_budget_s: float = 35.0,
        connect_timeout_s: float = 3.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        url = url or os.environ.get("TOKEN_BROKER_URL")
        if not url:
            raise errors.NotConfigured(f"the broker's URL is not known: set TOKEN_BROKER_URL to {URL_FORM}")
        self.connection = connection or os.environ.get("TOKEN_BROKER_CONNECTION") or DEFAULT_CONNECTION
        self._time_budget_s = time_budget_s
        self._clock = clock
        self._sleep = sleep
        self._http = SignedHttp(url, session=session, region=region, connect_timeout_s=connect_timeout_s)
        self._fetched: Fetched | None = None
        self._next_attempt_at = 0.0
        self._lock = threading.Lock()
        self._question: _Question | None = None
        _clients.add(self)

    def __repr__(self) -> str:
        return f"BrokerClient({self._http.url!r}, connection={self.connection!r})"

    def token(self, min_ttl_s: float | None = None) -> Lease:
        """Return a valid lease; from memory where possible, else blocks for at most the time budget.

        Args:
            min_ttl_s: seconds of validity that the caller needs. Check the lease: the broker caps this, and a shorter
                lease is served where the broker gives no other.

        Raises:
            InvalidRequest: `min_ttl_s` is no number of seconds.
            TokenBrokerError: no valid lease is left and the broker gives none; see `token_broker.errors`.
        """
        if not 0 <= (min_ttl_s or 0.0) < math.inf:
            raise errors.InvalidRequest("min_ttl_s must be a number of seconds, 0 or more")
        return self._obtain(Need(min_ttl_s=min_ttl_s or 0.0))

    def report_rejected(self, token_id: str) -> Lease:
        """Report that the upstream refused this token with 401, and return the lease to go on with. Blocks.

        If the lease in memory is another one by now, it is returned and the broker is not asked. The lease has the
        *same* token id while the token is too young for the broker to replace it: then do not repeat the upstream
        request.

        Raises:
            TokenBrokerError: as for `token`; `SlowDown` after too many reports.
        """
        return self._obtain(Need(rejected_token_id=token_id))

    def fresh_lease(self) -> Lease | None:
        """Return the lease in memory if `token` would return it at once; never blocks, for event loops."""
        fetched, now, need = self._fetched, self._clock(), Need()
        if fetched and fetched.is_usable(need, now) and self._is_served_at_once(fetched, need, now):
            return fetched.lease
        return None

    def status(self, connection: str | None = None) -> dict[str, object]:
        """Return the answer of `GET /status`: state, expiry and so on of the connections; never a token. Blocks.

        Args:
            connection: ask about this one only; default: all that this identity is granted.

        Raises:
            TokenBrokerError: see `token_broker.errors`.
        """
        query = {} if connection is None else {"connection": connection}
        deadline_s = time.monotonic() + self._time_budget_s
        return self._repeat(
            lambda timeout_s: self._http.call("GET", "/status", query=query, timeout_s=timeout_s), deadline_s
        )

    def _obtain(self, need: Need) -> Lease:
        deadline_s = time.monotonic() + self._time_budget_s
        while True:
            with self._lock:
                fetched, now = self._fetched, self._clock()
                usable = fetched if fetched and fetched.is_usable(need, now) else None
                if usable and self._is_served_at_once(usable, need, now):
                    return usable.lease
                question, asks = self._question, self._question is None
                if question is None:
                    question = self._question = _Question(need)
            if asks:
                return self._ask(question, usable, deadline_s)
            if not question.is_over.wait(max(deadline_s - time.monotonic(), 0)):
                raise errors.BrokerUnreachable("no token within the time budget: another thread still waits")
            if question.covers(need):
                if question.lease:
                    return question.lease
                if question.error:
                    raise _own_copy(question.error)

    def _is_served_at_once(self, usable: Fetched, need: Need, now: float) -> bool:
        # A pause longer than the longest was set by a clock that was ahead.
        if 0 < self._next_attempt_at - now <= _LONGEST_ASK_AHEAD_PAUSE_S:
            return True
        return usable.lasts(need, now) and (not usable.is_due(now) or self._question is not None)

    def _ask(self, question: _Question, usable: Fetched | None, deadline_s: float) -> Lease:
        """Ask the broker on behalf of all that wait for `question`; `usable` is the answer if that fails."""
        try:
            self._fetched = fetched = self._fetch_next(question.need, usable, deadline_s)
            question.lease = fetched.lease
        except Exception as error:
            if usable is None or not usable.is_usable(question.need, self._clock()):
                question.error = error
                raise
            self._leave_in_service(usable.lease, error)
            question.lease = usable.lease
        finally:
            with self._lock:
                if self._question is question:  # not so in a forked child
                    self._question = None
            question.is_over.set()
        return question.lease

    def _fetch_next(self, need: Need, usable: Fetched | None, deadline_s: float) -> Fetched:
        if usable and usable.lasts(need, self._clock()):
            try:
                return self._fetch(need, min(_ASK_AHEAD_TIMEOUT_S, self._time_budget_s))
            except errors.TokenBrokerError as error:
                if not error.retryable or usable.is_usable(need, self._clock()):
                    raise
        return self._repeat(lambda timeout_s: self._fetch(need, timeout_s), deadline_s)

    def _leave_in_service(self, lease: Lease, error: Exception) -> None:
        is_ours = isinstance(error, errors.TokenBrokerError)
        asked_s = error.retry_after_s if isinstance(error, errors.TokenBrokerError) else None
        pause_s = min(max(asked_s or 0, _ASK_AHEAD_PAUSE_S), _LONGEST_ASK_AHEAD_PAUSE_S)
        self._next_attempt_at = self._clock() + pause_s
        _logger.warning(
            "the lease on token %s stays in use, because asking for the next one failed: %s",
            lease.token_id,
            error if is_ours else type(error).__name__,
        )

    def _fetch(self, need: Need, timeout_s: float) -> Fetched:
        body: dict[str, object] = {"connection": self.connection}
        if need.min_ttl_s:
            body["min_ttl"] = math.ceil(need.min_ttl_s)
        if need.rejected_token_id:
            body["rejected_token_id"] = need.rejected_token_id
        asked_at = self._clock()
        answer = self._http.call("POST", "/token", body=body, timeout_s=timeout_s)
        return Fetched(read_lease(answer, asked_at), asked_at, need)

    def _repeat(self, ask: Callable[[float], _T], deadline_s: float) -> _T:
        """Return `ask(timeout_s)`, repeated while that can help and fits before `deadline_s` (monotonic)."""
        for attempt in range(_MAX_ATTEMPTS - 1):
            try:
                return ask(deadline_s - time.monotonic())
            except errors.TokenBrokerError as error:
                # Spread, so that many processes that failed together do not ask again together.
                pause_s = _FIRST_RETRY_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - not a secret
                pause_s = max(pause_s, error.retry_after_s or 0)
                if not error.retryable or time.monotonic() + pause_s >= deadline_s:
                    raise
            self._sleep(pause_s)
        return ask(deadline_s - time.monotonic())

    def _renew_after_fork(self) -> None:
        # The parent's other threads do not exist here: a lock of theirs would never be released, a question never end.
        self._lock = threading.Lock()
        self._question = None
        self._http.renew_after_fork()


def _own_copy(error: Exception) -> Exception:
    """Return a copy for this thread to raise, because `raise` writes a traceback into the error."""
    return copy.copy(error) if isinstance(error, errors.TokenBrokerError) else error


_clients: weakref.WeakSet[BrokerClient] = weakref.WeakSet()


def _renew_clients_after_fork() -> None:
    for client in _clients:
        client._renew_after_fork()  # noqa: SLF001 - the module's own class


getattr(os, "register_at_fork", dict)(after_in_child=_renew_clients_after_fork)  # Windows has no forks
