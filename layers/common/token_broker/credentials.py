"""The caller's AWS credentials, from botocore's usual chain: bounded in time, and every failure is a TokenBrokerError.

The chain can do anything: ask the network, run a program, prompt for an MFA code. It runs in a thread, which is left
running if it takes longer than its caller may wait. What it raises never leaves this module: it can contain secrets.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import botocore.exceptions
import botocore.session
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from token_broker.background import in_background
from token_broker.errors import CredentialsExpired, CredentialsUnavailable, NoCredentials, TokenBrokerError

if TYPE_CHECKING:
    from concurrent.futures import Future

    import boto3.session
    from botocore.credentials import Credentials, ReadOnlyCredentials

    AwsSession = botocore.session.Session | boto3.session.Session

CHECK_IDENTITY: Final = "`aws sts get-caller-identity` shows whether the AWS identity works"

_NO_CREDENTIALS: Final = (
    "no AWS credentials found to sign with; attach a role, sign in (aws sso login), set AWS_PROFILE, or set "
    f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; {CHECK_IDENTITY}"
)
_NO_ANSWER: Final = "the source of AWS credentials does not answer"
_SIGN_IN: Final = "sign in again (aws sso login or aws login)"
_KEY: Final = re.compile(r"[!-~]+")
_AWS_CODE: Final = re.compile(r"[A-Za-z0-9._]{1,80}")
_VARIABLES: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_NUMBERS: Final = ("AWS_METADATA_SERVICE_TIMEOUT", "AWS_METADATA_SERVICE_NUM_ATTEMPTS")
_STATIC_SOURCES: Final = frozenset({"env", "shared-credentials-file", "config-file"})
"""botocore's names for sources that return the same keys for ever, even if the environment or a file has others now."""
_SIGNED_OUT: Final = (
    SSOError,
    TokenRetrievalError,
    getattr(botocore.exceptions, "LoginError", SSOError),  # from botocore 1.41 on
)
_MAY_PASS: Final = (
    HTTPClientError,
    botocore.exceptions.ConnectionError,
    MetadataRetrievalError,
    CredentialRetrievalError,
    ConnectionError,
    TimeoutError,
)
_EXPIRED_CODES: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_SERVER_ERRORS: Final = 500


class CredentialSource:
    """Where the credentials of one caller come from. Thread-safe.

    They are asked for at every call, so those that botocore rotates (roles, containers, SSO) are the current ones.

    Args:
        session: a botocore or boto3 session; None makes one with botocore's usual chain at the first call.
    """

    def __init__(self, session: AwsSession | None) -> None:
        # boto3 has no public name for the session that it wraps.
        given: Any = session
        self._given: botocore.session.Session | None = getattr(given, "_session", given)
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """Make this usable in a forked child, where a thread of the parent may hold any lock for ever."""
        self._lock = threading.Lock()
        self._search: Future[ReadOnlyCredentials | TokenBrokerError] | None = None
        self._made: botocore.session.Session | None = None
        self._read_again: Credentials | None = None
        self._is_outdated = False
        if self._given is not None:
            _renew_locks(vars(self._given).get("_credentials"))

    @property
    def session(self) -> botocore.session.Session:
        if self._given is not None:
            return self._given
        if self._made is None:
            self._made = botocore.session.get_session()
        return self._made

    def get(self, deadline_s: float) -> ReadOnlyCredentials:
        """Return key, secret and session token of one moment. Blocks until `deadline_s` (monotonic) at most.

        Raises:
            NoCredentials, CredentialsExpired: there are none, or none that can be used.
            CredentialsUnavailable: their source does not answer.
        """
        with self._lock:
            if self._search is None or self._search.done():
                self._search = in_background("credentials", self._find)
            search = self._search
        try:
            found = search.result(max(deadline_s - time.monotonic(), 0))
        except TimeoutError:
            found = CredentialsUnavailable(f"{_NO_ANSWER} in time; {CHECK_IDENTITY}")
        except RuntimeError:
            found = CredentialsUnavailable("no thread can be started to look for AWS credentials")
        if isinstance(found, TokenBrokerError):
            raise copy.copy(found)  # a copy, because `raise` writes a traceback into the error
        return found

    def get_others_than(self, refused: ReadOnlyCredentials, deadline_s: float) -> ReadOnlyCredentials | None:
        """Return the keys that the environment or the files have now, if they are others. Blocks as `get`."""
        if not self._can_be_read_again():
            return None
        self._made, self._is_outdated = None, self._given is not None
        try:
            found = self.get(deadline_s)
        except TokenBrokerError:
            return None
        return None if found == refused else found

    def _can_be_read_again(self) -> bool:
        # Keys that a caller has put into its session cannot be read again: a search would find another identity.
        return self._given is None or getattr(self._credentials(), "method", None) in _STATIC_SOURCES

    def _credentials(self) -> Credentials | None:
        return self._read_again or self.session.get_credentials()

    def _find(self) -> ReadOnlyCredentials | TokenBrokerError:
        _searching.is_under_way = True
        try:
            if self._is_outdated:
                self._read_again = self.session.get_component("credential_provider").load_credentials()
                self._is_outdated = False
            credentials = self._credentials()
            # Frozen: key, secret and token of one moment, even if another thread rotates them.
            frozen = None if credentials is None else credentials.get_frozen_credentials()
            method = str(getattr(credentials, "method", ""))
            found = _checked(frozen, method)
            if isinstance(found, NoCredentials):
                self._made = None
                self._is_outdated = self._given is not None and method in _STATIC_SOURCES
            return found
        except Exception as error:  # noqa: BLE001 - the chain raises whatever its parts raise
            self._made = None  # so that the next search reads the files again
            return _error_of(error)


class _WithoutTraceback(logging.Filter):
    """Removes tracebacks from what botocore logs about our searches: they quote what programs and servers wrote."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(_searching, "is_under_way", False):
            record.exc_info = record.exc_text = None
        return True


_searching: Final = threading.local()
logging.getLogger("botocore.credentials").addFilter(_WithoutTraceback())


def _renew_locks(credentials: Any) -> None:
    """Give new locks to credentials that refresh themselves, and to the credentials that they are made from."""
    while hasattr(credentials, "_refresh_lock"):
        credentials._refresh_lock = threading.Lock()  # noqa: SLF001 - botocore does not know of forks
        fetcher = getattr(getattr(credentials, "_refresh_using", None), "__self__", None)
        credentials = getattr(fetcher, "_source_credentials", None)


def _checked(frozen: ReadOnlyCredentials | None, method: str) -> ReadOnlyCredentials | TokenBrokerError:
    if frozen is None or not frozen.access_key or not frozen.secret_key:
        return NoCredentials(_NO_CREDENTIALS)
    values: tuple[object, ...] = (frozen.access_key, frozen.secret_key, frozen.token or "-")
    for variable, value in zip(_VARIABLES, values, strict=True):
        if not isinstance(value, str) or not _KEY.fullmatch(value):
            # It would end up in a header, and the header in the text of an error.
            name = variable if method == "env" else variable.lower()
            return NoCredentials(
                f"{name} has a space, a line break or a character outside of ASCII, as no AWS key has: copy it again"
            )
    return frozen


def _error_of(error: Exception) -> TokenBrokerError:
    """Return what an error of the chain means, with those parts of its text alone that cannot be secret."""
    if isinstance(error, ClientError):
        return _error_of_aws(error)
    name = type(error).__name__
    if isinstance(error, _SIGNED_OUT):
        return CredentialsExpired(f"the AWS sign-in has ended or was never made ({name}); {_SIGN_IN}")
    if isinstance(error, RuntimeError) and "still expired" in str(error):
        return CredentialsExpired(f"the AWS credentials have expired; {_SIGN_IN}; {CHECK_IDENTITY}")
    if isinstance(error, _MAY_PASS) and not _is_of_a_process(error):
        return CredentialsUnavailable(f"{_NO_ANSWER} ({name}); {CHECK_IDENTITY}")
    return NoCredentials(f"AWS credentials could not be loaded ({name}): {_hint(error)}; {CHECK_IDENTITY}")


def _error_of_aws(error: ClientError) -> TokenBrokerError:
    """Return what an answer of STS or the like means."""
    said = str(error.response.get("Error", {}).get("Code", ""))
    code = said if _AWS_CODE.fullmatch(said) else "an unknown error"
    text = f"AWS credentials could not be loaded: {error.operation_name} failed, AWS says {code}"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code.startswith(("Throttl", "TooManyRequests")) or status >= _SERVER_ERRORS:
        return CredentialsUnavailable(text)
    if code in _EXPIRED_CODES:
        return CredentialsExpired(f"{text}; {_SIGN_IN}")
    return NoCredentials(f"{text}; check the profile's role, its trust policy and the keys behind it")


def _is_of_a_process(error: Exception) -> bool:
    return isinstance(error, CredentialRetrievalError) and error.kwargs.get("provider") == "custom-process"


def _hint(error: Exception) -> str:
    """Return what is safe to say of an error's cause: never a text that a program or a server wrote."""
    if isinstance(error, ProfileNotFound | PartialCredentialsError):
        hint = str(error)
    elif _is_of_a_process(error):
        hint = "the profile's credential_process failed; run it by hand to see why"
    elif isinstance(error, json.JSONDecodeError):
        hint = "a credential_process, or the like, printed no JSON"
    elif isinstance(error, EOFError):
        hint = "the role needs an MFA code, and there is no terminal to ask for it"
    elif isinstance(error, NoRegionError):
        hint = "set AWS_DEFAULT_REGION, so that STS can be asked for the role"
    elif isinstance(error, OSError):
        hint = f"{error.filename}: {error.strerror}"
    elif not all(os.environ.get(name, "1").isdecimal() for name in _NUMBERS):
        hint = f"{' and '.join(_NUMBERS)} must be whole numbers"
    else:
        hint = "check the AWS_ variables and the files in ~/.aws"
    return hint
