"""One mint: from the connection's secret to a token, through whatever a secret that is being rotated may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from functions.broker.adapters.oauth_exchange import ExchangeError
from functions.broker.client_secret import (
    PersonalAccessToken,
    SecretMalformedError,
    SecretMissingError,
    SecretUnavailableError,
)
from functions.broker.lifetime import EXCHANGE_TIMEOUT_S, expiry_epoch_s, token_id_of
from functions.broker.token import FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.broker.adapters.oauth_exchange import OAuthExchange
    from functions.broker.client_secret import ConnectionSecrets, StoredCredential

_SHORTEST_EXCHANGE_S = 0.2


@dataclass(frozen=True, slots=True)
class MintedToken:
    """A token straight from its source. Times are epoch seconds.

    Attributes:
        issued_at_epoch_s: the moment before the request.
        expires_at_epoch_s: None for a personal access token.
        exchanged: whether the upstream made a new token (a personal access token is only read).
    """

    access_token: str = field(repr=False)
    token_id: str
    issued_at_epoch_s: float
    expires_at_epoch_s: float | None
    scope: str | None
    secret_version: str
    exchanged: bool

    @property
    def lifetime_s(self) -> float:
        """Seconds from issue to expiry; 0 where no expiry is known."""
        return max(0.0, (self.expires_at_epoch_s or self.issued_at_epoch_s) - self.issued_at_epoch_s)


class MintFailedError(Exception):
    """No token. `code` is safe to log.

    Attributes:
        terminal: whether only a changed credential can help.
        may_have_minted: whether a token may exist upstream that we never saw.
        retry_after_s: as in ExchangeError.
        secret_version: VersionId of the credential that failed, "" if none could be read.
    """

    def __init__(
        self,
        code: str,
        *,
        terminal: bool = False,
        secret_version: str = "",
        may_have_minted: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.terminal = terminal
        self.secret_version = secret_version
        self.may_have_minted = may_have_minted
        self.retry_after_s = retry_after_s


class Minter:
    """Mints for all connections. Decides nothing about locks, states or who may ask."""

    def __init__(
        self, secrets: ConnectionSecrets, exchange: OAuthExchange, clock: Callable[[], float]
    ) -> None:
        self._secrets = secrets
        self._exchange = exchange
        self._clock = clock

    def mint(
        self,
        connection: str,
        *,
        refused_version: str | None,
        before_exchange: Callable[[str], None],
        deadline_epoch_s: float,
    ) -> MintedToken:
        """Return a token; blocks until the deadline at most (plus one Secrets Manager call).

        Args:
            connection: whose credential.
            refused_version: VersionId that the upstream has refused for good: not tried again.
            before_exchange: called with the VersionId before every exchange; what it raises ends the mint.
            deadline_epoch_s: no exchange goes on beyond this.

        Raises:
            MintFailedError: no token.
        """

        def use(stored: StoredCredential) -> MintedToken:
            if isinstance(stored.credential, PersonalAccessToken):
                return self._as_minted(stored, stored.credential.access_token)
            before_exchange(stored.version_id)
            return self._exchange_for_token(stored, deadline_epoch_s)

        current = self._read(connection)
        if current.version_id == refused_version:
            raise MintFailedError("credential_refused", terminal=True, secret_version=current.version_id)
        try:
            return use(current)
        except MintFailedError as refused:
            if refused.code != "invalid_client":
                raise
        # Perhaps the secret was rotated just now; perhaps its new value is not yet valid upstream.
        again = self._read(connection)
        if again.version_id != current.version_id:
            return use(again)
        previous = self._read_previous(connection)
        if previous and previous.version_id != current.version_id:
            try:
                return use(previous)
            except MintFailedError as failed:
                if not failed.terminal:
                    raise
        # Closed until the *current* version changes, whatever else was tried.
        raise MintFailedError("invalid_client", terminal=True, secret_version=current.version_id)

    def _exchange_for_token(self, stored: StoredCredential, deadline_epoch_s: float) -> MintedToken:
        assert not isinstance(stored.credential, PersonalAccessToken)  # noqa: S101 - narrows the type
        requested_at_epoch_s = self._clock()
        timeout_s = min(EXCHANGE_TIMEOUT_S, deadline_epoch_s - requested_at_epoch_s)
        if timeout_s < _SHORTEST_EXCHANGE_S:
            raise MintFailedError("out_of_time", secret_version=stored.version_id)
        try:
            answer = self._exchange.exchange(stored.credential, timeout_s)
        except ExchangeError as error:
            raise MintFailedError(
                error.code,
                terminal=error.kind is FailureKind.REFUSED or error.code.startswith("token_url_"),
                secret_version=stored.version_id,
                may_have_minted=error.kind is FailureKind.MAY_HAVE_ISSUED,
                retry_after_s=error.retry_after_s,
            ) from None
        return MintedToken(
            access_token=answer.access_token,
            token_id=token_id_of(answer.access_token),
            issued_at_epoch_s=requested_at_epoch_s,
            expires_at_epoch_s=expiry_epoch_s(answer.access_token, answer.expires_in, requested_at_epoch_s),
            scope=answer.scope or stored.credential.scope,
            secret_version=stored.version_id,
            exchanged=True,
        )

    def _as_minted(self, stored: StoredCredential, access_token: str) -> MintedToken:
        return MintedToken(
            access_token=access_token,
            token_id=token_id_of(access_token),
            issued_at_epoch_s=self._clock(),
            expires_at_epoch_s=None,
            scope=None,
            secret_version=stored.version_id,
            exchanged=False,
        )

    def _read(self, connection: str) -> StoredCredential:
        try:
            return self._secrets.read(connection)
        except SecretMissingError:
            raise MintFailedError("secret_missing", terminal=True) from None
        except SecretMalformedError as error:
            raise MintFailedError(
                "secret_malformed", terminal=True, secret_version=error.version_id
            ) from None
        except SecretUnavailableError:
            raise MintFailedError("secret_store_unavailable") from None

    def _read_previous(self, connection: str) -> StoredCredential | None:
        """Return the credential before the current one; none where it cannot be read: this is a last resort."""
        try:
            return self._secrets.read(connection, previous=True)
        except (SecretMissingError, SecretMalformedError, SecretUnavailableError):
            return None
