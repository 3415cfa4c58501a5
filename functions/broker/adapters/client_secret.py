"""Reads a connection's credential from Secrets Manager, each time that it is needed: nothing is cached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from functions.broker.adapters.aws_calls import call_aws
from functions.broker.ports import AwsError, AwsRefusedError, MintFailedError
from functions.broker.token import FailureKind
from token_broker.stored_credential import MalformedCredentialError, credential_in, object_in

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

_NO_SUCH_SECRET = frozenset({"ResourceNotFoundException", "InvalidRequestException"})
"""InvalidRequestException is the answer for a secret that is marked for deletion; it counts as deleted."""


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
    """One version of a connection's secret; `stage` is AWSCURRENT or AWSPREVIOUS."""

    version_id: str
    stage: str
    credential: ClientCredentials | PersonalAccessToken


class ConnectionSecrets:
    """The secrets `<prefix>/<connection>`.

    Args:
        client: for Secrets Manager, with short time-outs, that repeats nothing.
        prefix: without a slash at its end.
        default_token_url: for credentials that name no `token_url`.
    """

    def __init__(self, client: SecretsManagerClient, prefix: str, default_token_url: str) -> None:
        self._client = client
        self._prefix = prefix
        self._default_token_url = default_token_url

    def read(self, connection: str) -> tuple[StoredCredential, ...]:
        """Return the current credential, and the one before it where there is one that can be read.

        Raises:
            MintFailedError: `secret_missing`, also where it is deleted; or `secret_malformed`, with the problem.
            AwsUnavailableError, AwsBusyError, AwsRefusedError: the call to Secrets Manager failed.
        """
        current = self._read(connection, "AWSCURRENT")
        try:
            previous = self._read(connection, "AWSPREVIOUS")
        except (MintFailedError, AwsError):
            return (current,)  # the previous one is a last resort, and may be missing
        return (current,) if previous.version_id == current.version_id else (current, previous)

    def _read(self, connection: str, stage: str) -> StoredCredential:
        try:
            version_id, answer = call_aws(lambda: self._get(f"{self._prefix}/{connection}", stage))
        except AwsRefusedError as error:
            if str(error) in _NO_SUCH_SECRET:
                raise MintFailedError("secret_missing", FailureKind.NOTHING_ISSUED) from None
            raise
        return StoredCredential(version_id, stage, self._credential_in(answer))

    def _get(self, name: str, stage: str) -> tuple[str, Any]:
        answer = self._client.get_secret_value(SecretId=name, VersionStage=stage)
        return answer["VersionId"], answer  # a KeyError here is an answer that was cut off

    def _credential_in(self, answer: Any) -> ClientCredentials | PersonalAccessToken:
        text = answer.get("SecretString")
        if text is None:
            raise _malformed("it is binary: store it as text (SecretString)")
        try:
            members = credential_in(object_in(text))
        except MalformedCredentialError as error:
            raise _malformed(str(error)) from None
        if members["type"] == "personal_access_token":
            return PersonalAccessToken(members["access_token"])
        token_url = members.get("token_url", self._default_token_url)
        return ClientCredentials(
            members["client_id"], members["client_secret"], token_url, members.get("scope")
        )


def _malformed(problem: str) -> MintFailedError:
    return MintFailedError("secret_malformed", FailureKind.NOTHING_ISSUED, problem=problem)
