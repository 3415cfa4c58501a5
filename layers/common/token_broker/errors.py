"""Every way in which asking for a token can fail: one tree, for the broker and for its callers.

Each error has a machine-readable `code` (RFC 6749 §5.2 where that has one), a sentence for a person and the HTTP
status that it is sent with, and says whether asking again later can help. No error ever contains a token, a secret or
a response body, so that logging one is always safe.
"""

from __future__ import annotations


class TokenBrokerError(Exception):
    """Root of the tree; `str()` of it is safe to log and to show.

    Attributes:
        code: the `error` member of the broker's answer, for programs.
        status: the HTTP status of the broker's answer; 0 for errors that are never sent over HTTP.
        retryable: whether the same request can succeed later without anybody changing anything.
        description: one sentence for a person: what is wrong, and what to do.
        retry_after_s: seconds to wait before asking again; None where waiting does not help.
        request_id: the broker's id of the failed request, where there is one.
    """

    code = "error"
    status = 0
    retryable = False

    def __init__(
        self, description: str, *, retry_after_s: int | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(description)
        self.description = description
        self.retry_after_s = retry_after_s
        self.request_id = request_id

    def __str__(self) -> str:
        suffix = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code}: {self.description}{suffix}"


class InvalidRequest(TokenBrokerError):
    """The request is malformed: fix it, repeating it cannot help."""

    code = "invalid_request"
    status = 400


class UnsupportedGrantType(TokenBrokerError):
    """Only `client_credentials` is served."""

    code = "unsupported_grant_type"
    status = 400


class InvalidScope(TokenBrokerError):
    """The scope asked for is not the scope of the connection."""

    code = "invalid_scope"
    status = 400


class AccessDenied(TokenBrokerError):
    """This principal may not use this connection, or there is no such connection: the same answer for both."""

    code = "access_denied"
    status = 403


class NotFound(TokenBrokerError):
    """No such path."""

    code = "not_found"
    status = 404


class MethodNotAllowed(TokenBrokerError):
    """The path exists, the method does not."""

    code = "method_not_allowed"
    status = 405


class SlowDown(TokenBrokerError):
    """This caller reports rejected tokens too fast; wait `retry_after_s`."""

    code = "slow_down"
    status = 429
    retryable = True


class UpstreamRejected(TokenBrokerError):
    """The upstream refuses the stored credential: an operator must act."""

    code = "upstream_rejected"
    status = 502


class TemporarilyUnavailable(TokenBrokerError):
    """The upstream or a dependency is down and no valid token is left; wait `retry_after_s`."""

    code = "temporarily_unavailable"
    status = 503
    retryable = True


BY_CODE: dict[str, type[TokenBrokerError]] = {
    kind.code: kind
    for kind in (
        InvalidRequest,
        UnsupportedGrantType,
        InvalidScope,
        AccessDenied,
        NotFound,
        MethodNotAllowed,
        SlowDown,
        UpstreamRejected,
        TemporarilyUnavailable,
    )
}
"""How a client turns the broker's answer back into the same class."""


# --- errors of the client alone: these are never sent over HTTP ---------------------------------------------------


class NotConfigured(TokenBrokerError):
    """The client lacks its URL or region, or was given a malformed one; the description says what to set."""

    code = "not_configured"


class NoCredentials(TokenBrokerError):
    """botocore's usual chain found no AWS credentials to sign with, or some that cannot be used."""

    code = "no_credentials"


class CredentialsExpired(TokenBrokerError):
    """There are AWS credentials, but they have expired: sign in again."""

    code = "credentials_expired"


class CredentialsUnavailable(TokenBrokerError):
    """The source of AWS credentials did not answer, or throttled: the same call can succeed later."""

    code = "credentials_unavailable"
    retryable = True


class BrokerUnreachable(TokenBrokerError):
    """No answer of the broker's own: no connection, a time-out, or AWS answered in its place (throttled, crashed)."""

    code = "broker_unreachable"
    retryable = True


class UnusableAnswer(TokenBrokerError):
    """Something answered that is not the broker, or an incompatible one."""

    code = "unusable_answer"


class RefusedByAws(TokenBrokerError):
    """AWS itself refused the call (403) before the broker saw it: a missing permission or a refused signature.

    Attributes:
        aws_message: AWS's own sentence.
        aws_error_type: AWS's name for the reason (`x-amzn-ErrorType`), or "".
    """

    code = "refused_by_aws"
    status = 403

    def __init__(
        self,
        description: str,
        *,
        aws_message: str = "",
        aws_error_type: str = "",
        request_id: str | None = None,
    ) -> None:
        super().__init__(description, request_id=request_id)
        self.aws_message = aws_message
        self.aws_error_type = aws_error_type
