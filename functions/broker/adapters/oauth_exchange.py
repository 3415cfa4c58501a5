"""One exchange at the upstream's token endpoint (RFC 6749 §4.4), and what its answer means."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    from functions.broker.client_secret import ClientCredentials
    from token_broker.bounded_http import BoundedResponse

CONNECT_TIMEOUT_S = 2.0
LONGEST_ANSWER_BYTES = 64 * 1024
# What may stand in a Bearer header (RFC 6750 §2.1), as far as KMS seals it in one call (4,096 bytes).
_BEARER = re.compile(r"[\x21-\x7e]{1,4096}")

# Repeating these cannot help until somebody changes the credential.
TERMINAL_CODES = frozenset({"invalid_client", "invalid_scope", "unauthorized_client"})
_SUCCESS, _TOO_MANY_REQUESTS, _SERVER_ERRORS = 200, 429, 500


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What the upstream issued. `expires_in` is as it came: believed only after `lifetime.expiry_epoch_s`."""

    access_token: str = field(repr=False)
    expires_in: object
    scope: str | None


class ExchangeError(Exception):
    """The upstream issued nothing that we can use.

    Attributes:
        code: an RFC 6749 error code from the upstream's answer, or one of ours (`upstream_...`).
        terminal: whether only a changed credential can help.
        may_have_minted: whether a token may exist upstream that we never saw.
        retry_after_s: what the upstream asked for, in seconds, if it did.
    """

    def __init__(
        self,
        code: str,
        *,
        terminal: bool = False,
        may_have_minted: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.terminal = terminal
        self.may_have_minted = may_have_minted
        self.retry_after_s = retry_after_s


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

    def exchange(self, credential: ClientCredentials, timeout_s: float) -> TokenAnswer:
        """Exchange the credential for a token; blocks for at most `timeout_s` (name resolution apart).

        Raises:
            ExchangeError: anything but a usable token.
        """
        # Only a mint needs the HTTP stack, and nearly every start of an instance ends without one.
        from token_broker import bounded_http  # noqa: PLC0415 - see above

        self._refuse_foreign_host(credential.token_url)
        body = {
            "grant_type": "client_credentials",
            "client_id": credential.client_id,
            "client_secret": credential.client_secret,
        }
        if credential.scope:
            body["scope"] = credential.scope
        if self._session is None:
            self._session = bounded_http.new_session(self._ca_file)
        try:
            response = bounded_http.exchange_json(
                self._session,
                "POST",
                credential.token_url,
                headers={"Accept": "application/json"},
                json_body=body,
                total_timeout_s=timeout_s,
                connect_timeout_s=min(CONNECT_TIMEOUT_S, timeout_s),
                max_body_bytes=LONGEST_ANSWER_BYTES,
            )
        except bounded_http.ExchangeError as error:
            code = "upstream_no_answer" if error.may_have_been_processed else "upstream_unreachable"
            raise ExchangeError(code, may_have_minted=error.may_have_been_processed) from None
        if response.status == _SUCCESS:
            return _read_token(response)
        raise self._read_error(response)

    def _refuse_foreign_host(self, token_url: str) -> None:
        try:
            parts = urlsplit(token_url)
            port = parts.port
        except ValueError:
            raise ExchangeError("token_url_malformed", terminal=True) from None
        host = (parts.hostname or "").lower()
        allowed = self._allowed_hosts if port is None else self._allowed_hosts | {f"{host}:443"}
        named = host if port is None else f"{host}:{port}"
        if named == f"{host}:443":
            named = host
        if parts.scheme != "https" or parts.username is not None or named not in allowed:
            raise ExchangeError("token_url_not_allowed", terminal=True)

    def _read_error(self, response: BoundedResponse) -> ExchangeError:
        retry_after_s = _parse_retry_after(response.headers.get("Retry-After"), self._clock())
        code = _object_of(response).get("error")
        if isinstance(code, str) and code in TERMINAL_CODES:
            return ExchangeError(code, terminal=True)
        # Any other text of the upstream's is not repeated: it goes into logs and answers.
        return ExchangeError(
            f"upstream_{response.status}",
            # A server error can strike after the token was issued.
            may_have_minted=response.status >= _SERVER_ERRORS,
            retry_after_s=retry_after_s,
        )


def _read_token(response: BoundedResponse) -> TokenAnswer:
    value = _object_of(response)
    access_token, token_type, scope = value.get("access_token"), value.get("token_type"), value.get("scope")
    if not isinstance(access_token, str) or not _BEARER.fullmatch(access_token):
        raise ExchangeError("upstream_malformed", may_have_minted=True)
    if token_type is not None and str(token_type).lower() != "bearer":
        raise ExchangeError("upstream_malformed", may_have_minted=True)
    return TokenAnswer(access_token, value.get("expires_in"), scope if isinstance(scope, str) else None)


def _object_of(response: BoundedResponse) -> dict[str, object]:
    """Return the answer's members; none if it isn't a JSON object, which is then missed like any other member."""
    from token_broker.bounded_http import AnswerNotJson  # noqa: PLC0415 - loaded already

    try:
        return response.json_object()
    except AnswerNotJson:
        return {}


def _parse_retry_after(value: str | None, now_epoch_s: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for (RFC 9110 §10.2.3: seconds or a date)."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_epoch_s)
    except (ValueError, TypeError, OverflowError):
        return None
