"""Which version of the secret is next, and its one exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from functions.broker import lifetime
from functions.broker.adapters.client_secret import PersonalAccessToken
from functions.broker.token import ClearToken, Token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from functions.broker.adapters.client_secret import ConnectionSecrets, StoredCredential
    from functions.broker.adapters.oauth_exchange import OAuthExchange


@dataclass(frozen=True, slots=True)
class Candidate:
    """The credential that is next.

    Attributes:
        refused_after: VersionIds that the upstream has refused in this round once this one is refused, too.
        is_last: whether that leaves no version to try.
    """

    stored: StoredCredential
    refused_after: tuple[str, ...]
    is_last: bool

    @property
    def is_exchanged(self) -> bool:
        """Whether it brings a new token; a personal access token is taken as it is."""
        return not isinstance(self.stored.credential, PersonalAccessToken)


class Minter:
    """Gets tokens for all connections. Decides nothing about locks, states or who may ask."""

    def __init__(self, secrets: ConnectionSecrets, exchange: OAuthExchange) -> None:
        self._secrets = secrets
        self._exchange = exchange

    def versions(self, connection: str) -> tuple[str, ...]:
        """Return the VersionIds of the secret that can be read now, current first.

        Raises:
            MintFailedError, AwsError: as `prepare`.
        """
        return tuple(stored.version_id for stored in self._secrets.read(connection))

    def prepare(self, connection: str, refused: Sequence[str]) -> Candidate:
        """Return the first of the current and the previous version that is not refused; the current one if both are.

        Everything that `mint` needs besides the exchange itself is loaded.

        Raises:
            MintFailedError: there is no credential that could be used.
            AwsError: Secrets Manager did not do its part.
        """
        readable = self._secrets.read(connection)
        untried = [stored for stored in readable if stored.version_id not in refused] or list(readable)
        stored = untried[0]
        if not isinstance(stored.credential, PersonalAccessToken):
            self._exchange.prepare(stored.credential)
        before = tuple(other.version_id for other in readable if other not in untried)
        return Candidate(stored, (*before, stored.version_id), is_last=len(untried) == 1)

    def mint(self, candidate: Candidate, now: float) -> ClearToken:
        """Return the candidate's token: exchanged, within `EXCHANGE_S` seconds, or a personal one as it is.

        Args:
            candidate: from `prepare`.
            now: epoch s, the moment before the request.

        Raises:
            MintFailedError: no token.
        """
        stored, credential = candidate.stored, candidate.stored.credential
        expires_at, lifetime_s, scope = None, None, None
        if isinstance(credential, PersonalAccessToken):
            access_token = credential.access_token
        else:
            answer = self._exchange.exchange(credential, lifetime.EXCHANGE_S)
            access_token, scope = answer.access_token, answer.scope or credential.scope
            expires_at, lifetime_s = lifetime.expiry_of(access_token, answer.expires_in, now)
        # Rounded as the item keeps them, so that a token read back equals the one that was written.
        token = Token(
            token_id=lifetime.token_id_of(access_token),
            issued_at_epoch_s=round(now, 3),
            expires_at_epoch_s=None if expires_at is None else round(expires_at, 3),
            lifetime_s=None if lifetime_s is None else round(lifetime_s, 3),
            scope=scope,
            secret_version=stored.version_id,
            version_stage=stored.stage,
        )
        return ClearToken(token, access_token)
