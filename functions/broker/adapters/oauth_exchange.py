"""One exchange at the upstream's token endpoint (RFC 6749 §4.4), and what its answer means.

A token that the upstream issued and that is not used lives on for a year. So success is any 2xx with a usable token,
whatever its label says, and the rest is sorted by what may exist upstream afterwards (`FailureKind`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from functions.broker.ports import MintFailedError
from functions.broker.token import BEARER_TOKEN, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    from functions.broker.adapters.client_secret import ClientCredentials
    from token_broker.bounded_http import BoundedResponse, CallError

CONNECT_TIMEOUT_S = 2.0
LONGEST_ANSWER_BYTES = 64 * 1024
_BEARER_TYPES = frozenset({"", "bearer", "bearertoken"})
# RFC 6749 §3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
_LONGEST_SCOPE = 1024

REFUSALS = frozenset({"invalid_client", "invalid_scope", "unauthorized_client"})
"""RFC 6749 §5.2: these refuse the credential, in whatever status they come."""

_SUCCESSES = range(200, 300)
_UNAUTHORIZED, _SERVER_ERRORS = 401, 500


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What the upstream issued. `expires_in` is as it came: believed only after `lifetime.expiry_of`."""

    access_token: str = field(repr=False)
    expires_in: object
    scope: str | None


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
        """Do all that comes before sending: check the token URL, load the HTTP stack. Sends nothing.

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
        if parts is None:  # raised here, because the original error quotes the URL
            raise MintFailedError("token_url_malformed", FailureKind.NOTHING_ISSUED)
        host = (parts.hostname or "").lower()
        allowed = self._allowed_hosts if port is None else self._allowed_hosts | {f"{host}:443"}
        named = host if port is None else f"{host}:{port}"
        if named == f"{host}:443":
            named = host
        if parts.scheme != "https" or parts.username is not None or named not in allowed:
            raise MintFailedError("token_url_not_allowed", FailureKind.NOTHING_ISSUED)

    def _token_of(self, response: BoundedResponse) -> TokenAnswer:
        members = _members_of(response.body)
        is_success = response.status in _SUCCESSES
        if is_success and members.get("access_token"):
            return _usable_token(members)
        code = members.get("error")
        if isinstance(code, str) and code in REFUSALS:
            raise MintFailedError(code, FailureKind.REFUSED)
        if response.status == _UNAUTHORIZED:
            raise MintFailedError("invalid_client", FailureKind.REFUSED)
        # Any other text of the upstream's is not repeated: it goes into logs and answers.
        if is_success:
            raise MintFailedError("upstream_malformed", FailureKind.MAY_HAVE_ISSUED)
        # A server error can strike after the token was issued.
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
    "unusable_request": "token_url_malformed",  # nothing else in it comes from outside and is not JSON
}


def _usable_token(members: dict[str, object]) -> TokenAnswer:
    access_token, token_type, scope = (members.get(name) for name in ("access_token", "token_type", "scope"))
    if (
        not isinstance(access_token, str)
        or not BEARER_TOKEN.fullmatch(access_token)
        or not _is_bearer(token_type)
    ):
        raise MintFailedError("upstream_malformed", FailureKind.MAY_HAVE_ISSUED)
    is_scope = isinstance(scope, str) and len(scope) <= _LONGEST_SCOPE and _SCOPE.fullmatch(scope)
    return TokenAnswer(access_token, members.get("expires_in"), str(scope) if is_scope else None)


def _is_bearer(token_type: object) -> bool:
    if token_type is None:
        return True
    return isinstance(token_type, str) and "".join(token_type.split()).lower() in _BEARER_TYPES


def _members_of(body: bytes) -> dict[str, object]:
    """Return the members of a JSON object; none if it isn't one, which is then missed like any other member."""
    # Bytes that are no UTF-8 can stand in a description; a token that has some is refused for its characters.
    text = body.decode("utf-8-sig", "replace")
    try:
        value = json.loads(text, object_pairs_hook=_with_one_token)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _with_one_token(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the members; two tokens are a list, which is no token, because nobody knows which one is meant."""
    members = dict(pairs)
    tokens = [value for name, value in pairs if name == "access_token"]
    if len(tokens) > 1:
        members["access_token"] = tokens
    return members
