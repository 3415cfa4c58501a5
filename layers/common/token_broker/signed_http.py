"""Signed calls to the broker's Function URL: SigV4 by botocore, answers turned into errors.

Knows AWS signatures and the form of the broker's answers; knows nothing of leases.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from token_broker import bounded_http, errors
from token_broker.credentials import CHECK_IDENTITY, CredentialSource
from token_broker.sdk_settings import proxy_for, region_for, tls_context_for
from token_broker.token_hosts import is_private_channel

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from botocore.credentials import ReadOnlyCredentials

    from token_broker.bounded_http import BoundedResponse
    from token_broker.credentials import AwsSession

MAX_ANSWER_BYTES: Final = 64 * 1024
URL_FORM: Final = "https://ID.lambda-url.REGION.on.aws/"

_logger = logging.getLogger(__name__)

_PRINTABLE: Final = re.compile(r"[!-~]+")
_LONGEST_RETRY_AFTER_S: Final = 86_400


class SignedHttp:
    """Signed requests to one broker.

    Thread-safe; `renew_after_fork` makes it usable in a forked child.

    Args:
        url: the broker's Function URL; HTTPS, or HTTP on a loopback host.
        session: a botocore or boto3 session; None makes one with botocore's usual chain at the first call.
        region: to sign for; see `sdk_settings.region_for`.
        connect_timeout_s: longest wait for a connection.

    Raises:
        NotConfigured: `url` is malformed or would send the token in clear.
    """

    def __init__(
        self, url: str, *, session: AwsSession | None, region: str | None, connect_timeout_s: float
    ) -> None:
        self.url = _checked_url(url)
        self._credentials = CredentialSource(session)
        self._given_region = region
        self._connect_timeout_s = connect_timeout_s
        self._tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"SignedHttp({self.url!r})"

    def renew_after_fork(self) -> None:
        """Drop what a forked child must not share with its parent."""
        self._credentials.renew_after_fork()
        self._tls = None

    def call(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> dict[str, object]:
        """Send a signed request and return the JSON object of its 200 answer. Blocks for `timeout_s` at most.

        A request that AWS refuses is sent once more if files or environment have other keys by now.

        Args:
            method: HTTP method.
            path: from the broker's root, such as "/token".
            timeout_s: for the whole call, the search for credentials included.
            query: parameters of the URL.
            body: sent as JSON.

        Raises:
            TokenBrokerError: the broker's own error by its code, or one of the client's (see `errors`).
        """
        deadline_s = time.monotonic() + timeout_s
        url = self.url + path + _query_string(query or {})
        request = (method, url, b"" if body is None else json.dumps(body).encode())
        credentials = self._credentials.get(deadline_s)
        try:
            return self._send(request, credentials, deadline_s)
        except (errors.RefusedByAws, errors.CredentialsExpired) as error:
            others = self._credentials.get_others_than(credentials, deadline_s)
            if others is None:
                raise
            refusal = type(error).__name__
        _logger.info("AWS refused the keys (%s), and there are others by now: trying again", refusal)
        return self._send(request, others, deadline_s)

    def _send(
        self, request: tuple[str, str, bytes], credentials: ReadOnlyCredentials, deadline_s: float
    ) -> dict[str, object]:
        method, url, content = request
        headers = self._signed_headers(method, url, content, credentials)
        tls, proxy = self._tls_context(), proxy_for(url)
        try:
            # Each call opens its own connection, because the next call comes minutes later, perhaps in a Lambda instance
            # that was frozen meanwhile, or in a forked child.
            response = bounded_http.call(
                method,
                url,
                headers=headers,
                body=content or None,
                tls=tls,
                proxy=proxy,
                total_timeout_s=max(deadline_s - time.monotonic(), 0.001),
                connect_timeout_s=self._connect_timeout_s,
                max_body_bytes=MAX_ANSWER_BYTES,
            )
        except bounded_http.CallError as error:
            failure = error
        else:
            fields = _json_object(response.body)
            if response.status == HTTPStatus.OK and fields is not None:
                return fields
            raise _error_of_answer(response, fields)
        raise _error_of_call(failure, self.url)

    def _signed_headers(
        self, method: str, url: str, content: bytes, credentials: ReadOnlyCredentials
    ) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if content:
            headers["Content-Type"] = "application/json"
        request = AWSRequest(method=method, url=url, data=content, headers=headers)
        SigV4Auth(credentials, "lambda", self._region()).add_auth(request)
        return dict(request.headers.items())

    def _region(self) -> str:
        region = region_for(self.url, self._given_region, self._credentials.session)
        if region is None:
            raise errors.NotConfigured(
                f"the region of {self.url} cannot be read from its host; pass region=… or set AWS_REGION"
            )
        return region

    def _tls_context(self) -> ssl.SSLContext | None:
        if self._tls is None and self.url.startswith("https:"):
            # Stored, because loading the certificates is most of a handshake's cost.
            self._tls = tls_context_for(self._credentials.session)
        return self._tls


def _checked_url(url: str) -> str:
    """Return `url` without a trailing slash."""
    try:
        parts = urlsplit(url)
        well_formed = bool(parts.hostname) and parts.port != 0 and bool(_PRINTABLE.fullmatch(url))
    except ValueError:
        well_formed = False
    if not well_formed or parts.scheme not in {"http", "https"}:
        raise errors.NotConfigured(f"the broker's URL is malformed; it should be like {URL_FORM}")
    if parts.username is not None or parts.query or parts.fragment:
        raise errors.NotConfigured(
            f"the broker's URL has a user, query or fragment; it should be like {URL_FORM}"
        )
    if not is_private_channel(url):
        raise errors.NotConfigured(
            "the broker's URL must be https: over http the token would be sent in clear"
        )
    return url.rstrip("/")


def _query_string(query: Mapping[str, str]) -> str:
    # Encoded exactly as the signature wants it, because botocore signs the text of the URL.
    pairs = [f"{name}={quote(value, safe='-_.~', errors='replace')}" for name, value in query.items()]
    return "?" + "&".join(pairs) if pairs else ""


def _json_object(answer: bytes) -> dict[str, object] | None:
    # The decoder's own error contains the whole text, perhaps with a token: it must not become a context.
    try:
        fields = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _error_of_call(error: bounded_http.CallError, url: str) -> errors.TokenBrokerError:
    if isinstance(error, bounded_http.AnswerTooLarge):
        return _not_the_brokers(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    if isinstance(error, bounded_http.UnusableRequest):
        return errors.NotConfigured(f"{url} cannot be called: {error}")
    advice = "is the URL right and the network up?"
    if isinstance(error, bounded_http.CertificateRefused):
        advice = "does the network need a CA of its own (AWS_CA_BUNDLE)?"
    return errors.BrokerUnreachable(f"no answer from {url}; {error}; {advice}")


def _error_of_answer(
    response: BoundedResponse, fields: Mapping[str, object] | None
) -> errors.TokenBrokerError:
    if fields is None and _looks_cut(response):
        return errors.BrokerUnreachable(f"HTTP {response.status}: the answer was cut off on its way")
    status, headers, fields = response.status, response.headers, fields or {}
    code = fields.get("error")
    request_id = _text(fields.get("request_id")) or headers.get("x-amzn-RequestId")
    asked_s = response.retry_after_s(time.time())
    retry_after_s = None if asked_s is None else math.ceil(min(asked_s, _LONGEST_RETRY_AFTER_S))
    if isinstance(code, str) and code in errors.BY_CODE:
        description = _text(fields.get("error_description")) or f"the broker answered HTTP {status}"
        return errors.BY_CODE[code](description, retry_after_s=retry_after_s, request_id=request_id)
    if status == HTTPStatus.FORBIDDEN:
        return _refused_by_aws(headers, fields, request_id)
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return errors.BrokerUnreachable(
            f"AWS answered in the broker's place: HTTP {status} (throttled, crashed or timed out)",
            retry_after_s=retry_after_s,
            request_id=request_id,
        )
    return _not_the_brokers(f"HTTP {status}", request_id)


def _looks_cut(response: BoundedResponse) -> bool:
    """Return whether a body that is no JSON object may be the beginning of one: nothing says that it is whole."""
    says_its_length = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    is_packed = "Content-Encoding" in response.headers
    begins_like_json = response.content_type.endswith("json") or response.body[:1] in (b"{", b"")
    return begins_like_json and (is_packed or not says_its_length)


def _not_the_brokers(what: str, request_id: str | None = None) -> errors.UnusableAnswer:
    return errors.UnusableAnswer(
        f"{what} is not an answer of the broker's; is the URL the broker's ({URL_FORM})?",
        request_id=request_id,
    )


def _refused_by_aws(
    headers: Mapping[str, str], fields: Mapping[str, object], request_id: str | None
) -> errors.TokenBrokerError:
    message = _text(fields.get("Message")) or _text(fields.get("message"))
    error_type = headers.get("x-amzn-ErrorType", "").partition(":")[0]
    if error_type.startswith("ExpiredToken") or "token included in the request is expired" in message:
        return errors.CredentialsExpired(
            f"AWS says that the credentials have expired; sign in again; {CHECK_IDENTITY}",
            request_id=request_id,
        )
    said = f" AWS says: {message}" if message else ""
    return errors.RefusedByAws(
        "AWS refused the call before the broker saw it: the identity lacks lambda:InvokeFunctionUrl or "
        "lambda:InvokeFunction on the broker's alias, or the signature was refused (wrong key, clock or region)."
        + said,
        aws_message=message,
        aws_error_type=error_type,
        request_id=request_id,
    )


def _text(value: object) -> str:
    return value[:500] if isinstance(value, str) else ""
