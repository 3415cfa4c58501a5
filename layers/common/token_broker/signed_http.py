"""Signed calls to the broker's Function URL: SigV4 by botocore, sockets by urllib3, answers turned into errors.

Knows HTTP, AWS signatures and the form of the broker's answers; knows nothing of leases.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

import botocore.session
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ProfileNotFound, SSOError
from botocore.httpsession import get_cert_path

from token_broker import errors
from token_broker.token_hosts import is_private_channel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import boto3.session
    from botocore.credentials import ReadOnlyCredentials

    AwsSession = botocore.session.Session | boto3.session.Session

MAX_ANSWER_BYTES: Final = 64 * 1024
URL_FORM: Final = "https://ID.lambda-url.REGION.on.aws/"

_FUNCTION_URL_HOST: Final = re.compile(r"[a-z0-9]+\.lambda-url\.(?P<region>[a-z0-9-]+)\.on\.aws")
# botocore has it from 1.41 on.
_LoginError: Final[type[BotoCoreError]] = getattr(botocore.exceptions, "LoginError", SSOError)
_CHECK_IDENTITY: Final = "`aws sts get-caller-identity` shows whether the AWS identity works"


class SignedHttp:
    """Signed requests to one broker.

    Thread-safe; `forget_process_state` makes it usable in a forked child. Credentials are asked for at every call,
    so those that botocore rotates (roles, containers, SSO) are always the current ones.

    Args:
        url: the broker's Function URL; HTTPS, or HTTP on a loopback host.
        session: a botocore or boto3 session; None makes one with botocore's usual chain at the first call.
        region: for hosts that do not name their region; None takes the session's.
        connect_timeout_s: longest wait for a connection.
        read_timeout_s: longest silence while an answer is awaited.

    Raises:
        NotConfigured: `url` is malformed or would send the token in clear.
    """

    def __init__(
        self,
        url: str,
        *,
        session: AwsSession | None,
        region: str | None,
        connect_timeout_s: float,
        read_timeout_s: float,
    ) -> None:
        self.url = _checked_url(url)
        self._given_session = session
        self._given_region = region
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self.forget_process_state()

    def __repr__(self) -> str:
        return f"SignedHttp({self.url!r})"

    def forget_process_state(self) -> None:
        """Drop what a forked child must not share: the AWS session has locks, which a thread of the parent may hold."""
        # Two threads may both make these at the first call; the loser's are unused, which is cheaper than a lock.
        self._session: botocore.session.Session | None = None
        self._tls: ssl.SSLContext | None = None

    def call(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> dict[str, object]:
        """Send one signed request and return the JSON object of its 200 answer. Blocks, up to about `timeout_s`.

        Args:
            method: HTTP method.
            path: from the broker's root, such as "/token".
            timeout_s: for the whole call; only a slow source of credentials can make it longer.
            query: parameters of the URL.
            body: sent as JSON.

        Raises:
            TokenBrokerError: the broker's own error by its code, or one of the client's (see `errors`).
        """
        deadline_s = time.monotonic() + timeout_s
        content = b"" if body is None else json.dumps(body).encode()
        status, headers, answer = self._send(
            method, self.url + path + _query_string(query or {}), content, deadline_s
        )
        fields = _json_object(answer)
        if status == 200 and fields is not None:  # noqa: PLR2004 - HTTP's own number
            return fields
        raise _error_of_answer(status, headers, fields or {})

    def _signed_headers(self, method: str, url: str, content: bytes) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if content:
            headers["Content-Type"] = "application/json"
        request = AWSRequest(method=method, url=url, data=content, headers=headers)
        SigV4Auth(self._credentials(), "lambda", self._region()).add_auth(request)
        return {**dict(request.headers.items()), "Connection": "close"}

    def _send(
        self, method: str, url: str, content: bytes, deadline_s: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = self._signed_headers(method, url, content)
        left_s = max(deadline_s - time.monotonic(), 0.001)
        timeout = urllib3.Timeout(
            connect=min(self._connect_timeout_s, left_s), read=min(self._read_timeout_s, left_s)
        )
        failure = "answered too slowly"
        try:
            # A connection of its own: one kept open would only age, as the next call comes minutes later, perhaps in
            # a thawed Lambda or a forked child.
            with (
                urllib3.PoolManager(ssl_context=self._tls_context()) as pool,
                closing(
                    pool.request(
                        method,
                        url,
                        body=content or None,
                        headers=headers,
                        timeout=timeout,
                        redirect=False,
                        retries=False,
                        preload_content=False,
                        decode_content=False,
                    )
                ) as response,
            ):
                answer = _read_bounded(response, deadline_s)
        except urllib3.exceptions.HTTPError as error:
            answer, failure = None, f"did not answer ({type(error).__name__})"
        if answer is None:
            raise errors.BrokerUnreachable(f"{self.url} {failure}; is the URL right and the network up?")
        return response.status, response.headers, answer

    def _tls_context(self) -> ssl.SSLContext | None:
        if self._tls is None and self.url.startswith("https:"):
            # As the AWS SDK finds its root certificates, so that set-ups with an own CA (AWS_CA_BUNDLE) just work.
            ca_file = self._aws_session().get_config_variable("ca_bundle") or get_cert_path(verify=True)
            # Kept, because loading the certificates is most of a handshake's cost. Not ssl.create_default_context: it
            # writes session keys to where SSLKEYLOGFILE says.
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.minimum_version = ssl.TLSVersion.TLSv1_2
            try:
                tls.load_verify_locations(ca_file)
            except OSError:
                raise errors.NotConfigured(
                    f"no certificates can be read from {ca_file}; fix AWS_CA_BUNDLE"
                ) from None
            self._tls = tls
        return self._tls

    def _aws_session(self) -> botocore.session.Session:
        if self._session is None:
            given = self._given_session
            if given is None:
                self._session = botocore.session.get_session()
            elif isinstance(given, botocore.session.Session):
                self._session = given
            else:
                self._session = given._session  # noqa: SLF001 - boto3 has no public name for the session it wraps
        return self._session

    def _credentials(self) -> ReadOnlyCredentials:
        kind: type[errors.TokenBrokerError] = errors.NoCredentials
        try:
            credentials = self._aws_session().get_credentials()
            # Frozen: key, secret and session token of one moment, even when another thread rotates them.
            frozen = None if credentials is None else credentials.get_frozen_credentials()
        except ProfileNotFound as error:
            reason = str(error)
        except (SSOError, _LoginError) as error:
            reason, kind = f"{error}; sign in again (aws sso login or aws login)", errors.CredentialsExpired
        except BotoCoreError as error:
            # The class only: the text can carry what a credential process printed.
            reason = f"AWS credentials could not be loaded ({type(error).__name__}); {_CHECK_IDENTITY}"
        except RuntimeError:  # botocore's way to say that a refresh brought expired credentials
            reason = f"the AWS credentials have expired; sign in again; {_CHECK_IDENTITY}"
            kind = errors.CredentialsExpired
        else:
            if frozen is not None and frozen.access_key and frozen.secret_key:
                return frozen
            reason = (
                "no AWS credentials found to sign with; attach a role, sign in (aws sso login), set AWS_PROFILE, or "
                f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; {_CHECK_IDENTITY}"
            )
        raise kind(reason)

    def _region(self) -> str:
        match = _FUNCTION_URL_HOST.fullmatch(urlsplit(self.url).hostname or "")
        if match is not None:
            return match["region"]
        # botocore reads only AWS_DEFAULT_REGION, while containers and Lambda promise AWS_REGION.
        region = (
            self._given_region
            or self._aws_session().get_config_variable("region")
            or os.environ.get("AWS_REGION")
        )
        if not region:
            raise errors.NotConfigured(
                f"the region of {self.url} cannot be told from its host; pass region=… or set AWS_DEFAULT_REGION"
            )
        return str(region)


def _checked_url(url: str) -> str:
    """Return `url` without a trailing slash."""
    try:
        parts = urlsplit(url)
        well_formed = bool(parts.hostname) and parts.port != 0
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
            "the broker's URL must be https: over http the token would travel in clear"
        )
    return url.rstrip("/")


def _query_string(query: Mapping[str, str]) -> str:
    # Encoded exactly as the signature wants it, because botocore signs the text of the URL.
    pairs = [f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query.items()]
    return "?" + "&".join(pairs) if pairs else ""


def _read_bounded(response: urllib3.BaseHTTPResponse, deadline_s: float) -> bytes | None:
    """Return the body, empty if above `MAX_ANSWER_BYTES`; None if it is not complete by `deadline_s` (monotonic)."""
    chunks: list[bytes] = []
    size = 0
    while size <= MAX_ANSWER_BYTES:
        chunk = response.read1(MAX_ANSWER_BYTES)
        if not chunk:
            return b"".join(chunks)
        if time.monotonic() > deadline_s:
            return None
        chunks.append(chunk)
        size += len(chunk)
    return b""


def _json_object(answer: bytes) -> dict[str, object] | None:
    # The decoder's own error holds the whole text, and with it perhaps a token: it must not become a context.
    try:
        fields = json.loads(answer)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _error_of_answer(
    status: int, headers: Mapping[str, str], fields: Mapping[str, object]
) -> errors.TokenBrokerError:
    code = fields.get("error")
    request_id = _text(fields.get("request_id")) or headers.get("x-amzn-RequestId")
    retry_after = headers.get("Retry-After", "")
    retry_after_s = int(retry_after) if re.fullmatch(r"[0-9]{1,6}", retry_after) else None
    if isinstance(code, str) and code in errors.BY_CODE:
        description = _text(fields.get("error_description")) or f"the broker answered HTTP {status}"
        return errors.BY_CODE[code](description, retry_after_s=retry_after_s, request_id=request_id)
    if status == 403:  # noqa: PLR2004 - HTTP's own number
        return _refused_by_aws(headers, fields, request_id)
    if status == 429 or status >= 500:  # noqa: PLR2004 - HTTP's own numbers
        return errors.BrokerUnreachable(
            f"AWS answered in the broker's place: HTTP {status} (throttled, crashed or timed out)",
            retry_after_s=retry_after_s,
            request_id=request_id,
        )
    return errors.UnusableAnswer(
        f"HTTP {status} is not an answer of the broker's; is the URL the broker's ({URL_FORM})?",
        request_id=request_id,
    )


def _refused_by_aws(
    headers: Mapping[str, str], fields: Mapping[str, object], request_id: str | None
) -> errors.TokenBrokerError:
    message = _text(fields.get("Message")) or _text(fields.get("message"))
    error_type = headers.get("x-amzn-ErrorType", "").partition(":")[0]
    if (
        error_type.startswith("ExpiredToken")
        or "security token included in the request is expired" in message
    ):
        return errors.CredentialsExpired(
            f"AWS says that the credentials have expired; sign in again; {_CHECK_IDENTITY}",
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
