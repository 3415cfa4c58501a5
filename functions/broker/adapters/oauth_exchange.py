"""One exchange at the upstream's token endpoint (RFC 6749 §4.4), and what its answer means.

A token that is issued and not used stays valid for a year. So every 2xx with a usable token is a success, with any
content type, and all other answers are classified by what may exist upstream afterwards (`FailureKind`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from functions.broker.ports import MintFailedError
from functions.broker.token import FailureKind
from token_broker.issued_token import members_of, token_in

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    from functions.broker.adapters.client_secret import ClientCredentials
    from token_broker.bounded_http import BoundedResponse, CallError
    from token_broker.issued_token import TokenAnswer

CONNECT_TIMEOUT_S = 2.0
LONGEST_ANSWER_BYTES = 64 * 1024

REFUSALS = frozenset({"invalid_client", "invalid_scope", "unauthorized_client"})
"""RFC 6749 §5.2: these refuse the credential, with any HTTP status."""

_SUCCESSES = range(200, 300)
_UNAUTHORIZED, _SERVER_ERRORS = 401, 500


class OAuthExchange:
    """The upstream's token endpoints.

    Args:
        allowed_hosts: lower-case `host` or `host:port` values that may be called, over HTTPS only.
        ca_file: CA bundle for the upstream, or None for the public roots.
        clock: epoch seconds; only for a `Retry-After` that is a date.
    """

    def __init__(
        self, allowed_hosts: frozenset[str], ca_file: str | None, clock: Callable[[], float]
    ) -> None:
        self._allowed_hosts = allowed_hosts
        self._ca_file = ca_file
        self._clock = clock
        self._session: requests.Session | None = None

    def prepare(self, credential: ClientCredentials) -> None:
        """Check the token URL and load the HTTP stack, so that `exchange` only has to send. Sends nothing.

        Raises:
            MintFailedError: the URL is malformed, its host may not be called, or no CA certificates can be loaded.
        """
        self._refuse_foreign_host(credential.token_url)
        self._open_session()

    def exchange(self, credential: ClientCredentials, timeout_s: float) -> TokenAnswer:
        """Exchange the credential for a token; blocks for at most `timeout_s`.

        The first exchange of an instance takes longer unless `prepare` came before.

        Raises:
            MintFailedError: anything but a usable token.
        """
        self._refuse_foreign_host(credential.token_url)
        session = self._open_session()
        from lambda_support import upstream_http  # noqa: PLC0415 - loaded already
        from token_broker.bounded_http import CallError  # noqa: PLC0415 - loaded already

        body = {
            "grant_type": "client_credentials",
            "client_id": credential.client_id,
            "client_secret": credential.client_secret,
        }
        if credential.scope:
            body["scope"] = credential.scope
        try:
            response = upstream_http.exchange_json(
                session,
                "POST",
                credential.token_url,
                headers={"Accept": "application/json"},
                json_body=body,
                total_timeout_s=timeout_s,
                connect_timeout_s=min(CONNECT_TIMEOUT_S, timeout_s),
                max_body_bytes=LONGEST_ANSWER_BYTES,
            )
        except CallError as error:
            raise _unanswered(error) from None
        return self._token_of(response)

    def _open_session(self) -> requests.Session:
        # Only a mint needs the HTTP stack, and nearly every start of an instance ends without one.
        from lambda_support import upstream_http  # noqa: PLC0415 - see above

        if self._session is None:
            try:
                self._session = upstream_http.new_session(self._ca_file)
            except OSError as error:  # ssl.SSLError is one
                problem = f"the CA certificates for the upstream cannot be loaded ({type(error).__name__})"
                raise MintFailedError(
                    "ca_file_unusable", FailureKind.NOTHING_ISSUED, problem=problem
                ) from None
        return self._session

    def _refuse_foreign_host(self, token_url: str) -> None:
        try:
            parts = urlsplit(token_url)
            port = parts.port
        except ValueError:
            parts = None
        if parts is None:  # raised here, without the original error, which quotes the URL
            raise MintFailedError("token_url_malformed", FailureKind.NOTHING_ISSUED)
        host = (parts.hostname or "").lower()
        allowed = self._allowed_hosts if port is None else self._allowed_hosts | {f"{host}:443"}
        named = host if port is None else f"{host}:{port}"
        if named == f"{host}:443":
            named = host
        if parts.scheme != "https" or parts.username is not None or named not in allowed:
            raise MintFailedError("token_url_not_allowed", FailureKind.NOTHING_ISSUED)

    def _token_of(self, response: BoundedResponse) -> TokenAnswer:
        members = members_of(response.body)
        is_success = response.status in _SUCCESSES
        if is_success and members.get("access_token"):
            if (answer := token_in(members)) is None:
                raise MintFailedError("upstream_malformed", FailureKind.MAY_HAVE_ISSUED)
            return answer
        code = members.get("error")
        if isinstance(code, str) and code in REFUSALS:
            raise MintFailedError(code, FailureKind.REFUSED)
        if response.status == _UNAUTHORIZED:
            raise MintFailedError("invalid_client", FailureKind.REFUSED)
        # No other text of the upstream's becomes a code, because codes go into logs and answers.
        if is_success:
            raise MintFailedError("upstream_malformed", FailureKind.MAY_HAVE_ISSUED)
        # A server error can occur after the token was issued.
        unsure = response.status >= _SERVER_ERRORS
        raise MintFailedError(
            f"upstream_{response.status}",
            FailureKind.MAY_HAVE_ISSUED if unsure else FailureKind.NOTHING_ISSUED,
            retry_after_s=response.retry_after_s(self._clock()),
        )


def _unanswered(error: CallError) -> MintFailedError:
    if error.may_have_been_processed:
        return MintFailedError("upstream_no_answer", FailureKind.MAY_HAVE_ISSUED, problem=str(error))
    code = _CODES_OF_UNSENT.get(error.code, "upstream_unreachable")
    return MintFailedError(code, FailureKind.NOTHING_ISSUED, problem=str(error))


_CODES_OF_UNSENT = {
    "certificate_refused": "upstream_certificate_refused",
    "unusable_request": "token_url_malformed",  # only the URL can be unusable: the rest is JSON or constant
}
