"""Reads a connection's credential from Secrets Manager. Nothing is cached here: it is read for a mint, and only then."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_secretsmanager import SecretsManagerClient


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """What is exchanged for a token (RFC 6749 §4.4)."""

    client_id: str
    client_secret: str = field(repr=False)
    token_url: str
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class PersonalAccessToken:
    """A token that a person made in the dashboard: nothing to exchange, no known expiry."""

    access_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """One version of a connection's secret."""

    version_id: str
    credential: ClientCredentials | PersonalAccessToken


class SecretMissingError(Exception):
    """There is no such secret, or it has no version at that stage."""


class SecretMalformedError(Exception):
    """The secret's value is not a credential; the text says what is wrong without quoting the value."""

    def __init__(self, problem: str, version_id: str) -> None:
        super().__init__(problem)
        self.version_id = version_id


class SecretUnavailableError(Exception):
    """Secrets Manager did not answer; the text is the AWS error code."""


class ConnectionSecrets:
    """The secrets `<prefix>/<connection>`.

    Args:
        make_client: returns a Secrets Manager client with short time-outs; called at the first read.
        prefix: without a slash at its end.
        default_token_url: for credentials that name no `token_url`.
    """

    def __init__(
        self, make_client: Callable[[], SecretsManagerClient], prefix: str, default_token_url: str
    ) -> None:
        self._client = functools.cache(make_client)
        self._prefix = prefix
        self._default_token_url = default_token_url

    def read(self, connection: str, *, previous: bool = False) -> StoredCredential:
        """Return the current credential, or the one before it.

        Raises:
            SecretMissingError: no such secret, deleted, or without that stage.
            SecretMalformedError: not a credential.
            SecretUnavailableError: throttled, denied, unreachable.
        """
        try:
            answer = self._client().get_secret_value(
                SecretId=f"{self._prefix}/{connection}",
                VersionStage="AWSPREVIOUS" if previous else "AWSCURRENT",
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            # A secret marked for deletion answers InvalidRequestException: it is as good as gone.
            if code in {"ResourceNotFoundException", "InvalidRequestException"}:
                raise SecretMissingError(connection) from None
            raise SecretUnavailableError(code) from None
        except (BotoCoreError, ResponseParserError) as error:
            raise SecretUnavailableError(type(error).__name__) from None
        version_id = answer.get("VersionId")
        if version_id is None:
            # To the SDK an answer that was cut off is one without members.
            raise SecretUnavailableError("MalformedAnswer")
        return StoredCredential(version_id, self._parse(answer.get("SecretString"), version_id))

    def _parse(self, text: str | None, version_id: str) -> ClientCredentials | PersonalAccessToken:
        try:
            value = json.loads(text or "")
        except (ValueError, RecursionError):
            # The parser's error holds the whole text.
            raise SecretMalformedError("the secret is not JSON text", version_id) from None
        if not isinstance(value, dict):
            raise SecretMalformedError("the secret is not a JSON object", version_id)

        def member(name: str, default: str | None = None) -> str:
            found = value.get(name, default)
            if not isinstance(found, str) or not found or not (found.isascii() and found.isprintable()):
                raise SecretMalformedError(f"`{name}` must be printable ASCII text", version_id)
            return found

        kind = value.get("type", "client_credentials")
        if kind == "personal_access_token":
            return PersonalAccessToken(access_token=member("access_token"))
        if kind == "client_credentials":
            return ClientCredentials(
                client_id=member("client_id"),
                client_secret=member("client_secret"),
                token_url=member("token_url", self._default_token_url),
                scope=member("scope") if value.get("scope") else None,
            )
        raise SecretMalformedError("`type` must be client_credentials or personal_access_token", version_id)
