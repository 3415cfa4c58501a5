"""How a command ends: its exit codes, the one error of the command line itself, and what to do about each error."""

from __future__ import annotations

import argparse
import traceback
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from token_broker import errors

if TYPE_CHECKING:
    from collections.abc import Mapping


class Exit(IntEnum):
    """Exit codes; `exec` passes on those of the command that it runs, 126 and 127 where it cannot run it."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    ACCESS_DENIED = 3
    TEMPORARY = 4
    UPSTREAM_REJECTED = 5
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandError(Exception):
    """A command cannot go on. Never contains anything secret.

    Attributes:
        fix: what the person can do, or "".
        exit_code: with which the program ends.
        code: for programs that read `--json`.
        details: further members for them.
    """

    def __init__(
        self,
        description: str,
        *,
        fix: str = "",
        exit_code: int = Exit.FAILURE,
        code: str = "failure",
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(description)
        self.fix = fix
        self.exit_code = exit_code
        self.code = code
        self.details: Mapping[str, object] = details or {}


class Options(argparse.Namespace):
    """The options of the command line; each command has those of the attributes that its parser declares."""

    command: str
    json: bool
    url: str | None
    connection: str | None
    region: str | None
    header: bool
    min_ttl: float | None
    rejected: str | None
    variable: str
    command_line: list[str]
    path: str
    base_url: str | None
    ca_file: str | None
    stack: str
    table: str | None
    prefix: str | None
    all: bool
    reason: str
    issued_at: float | None
    action: str | None
    name: str
    type: str
    token_url: str | None
    scope: str | None
    mint: bool
    shell: str


GET_IDENTITY: Final = (
    "run where a role is attached, sign in (aws sso login) and set AWS_PROFILE, or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY"
)
RENEW_IDENTITY: Final = (
    "get new ones where these came from: aws sso login for a profile that signs in, new keys in the environment or "
    "in ~/.aws/credentials; `token-broker doctor` says which"
)
_DOCTOR: Final = "run `token-broker doctor`"
_FIXES: Final[dict[type[errors.TokenBrokerError], tuple[Exit, str]]] = {
    errors.NotConfigured: (
        Exit.USAGE,
        "set TOKEN_BROKER_URL (or pass --url) to the stack's output BrokerFunctionUrl, and AWS_REGION if asked",
    ),
    errors.InvalidRequest: (Exit.USAGE, "correct the option that the message names"),
    errors.UnsupportedGrantType: (Exit.USAGE, "upgrade this command: it and the broker do not fit"),
    errors.InvalidScope: (Exit.USAGE, "leave the scope out"),
    errors.NoCredentials: (Exit.ACCESS_DENIED, GET_IDENTITY),
    errors.CredentialsExpired: (Exit.ACCESS_DENIED, RENEW_IDENTITY),
    errors.CredentialsUnavailable: (
        Exit.TEMPORARY,
        "try again; `aws sts get-caller-identity` shows whether the AWS identity works",
    ),
    errors.RefusedByAws: (Exit.ACCESS_DENIED, f"{_DOCTOR}: it finds which permission, key, clock or region"),
    errors.AccessDenied: (Exit.ACCESS_DENIED, f"{_DOCTOR}: it prints the grant to ask for"),
    errors.SlowDown: (Exit.TEMPORARY, "wait, then try again"),
    errors.TemporarilyUnavailable: (Exit.TEMPORARY, "wait, then try again; `token-broker status` says more"),
    errors.BrokerUnreachable: (Exit.TEMPORARY, f"check the network, then try again, or {_DOCTOR}"),
    errors.UpstreamRejected: (
        Exit.UPSTREAM_REJECTED,
        "an operator must store a good credential: token-broker connection put NAME",
    ),
    errors.UnusableAnswer: (Exit.FAILURE, f"check that the URL is the broker's: {_DOCTOR}"),
}


def from_broker_error(error: errors.TokenBrokerError) -> CommandError:
    """Return the error with an exit code and a fix."""
    exit_code, fix = _FIXES.get(type(error), (Exit.FAILURE, _DOCTOR))
    if error.retry_after_s:
        fix = f"try again in {error.retry_after_s} s"
    request = f" (request {error.request_id})" if error.request_id else ""
    return CommandError(error.description + request, fix=fix, exit_code=exit_code, code=error.code)


def from_exception(error: Exception) -> CommandError:
    """Return the error to show; of an unforeseen exception only its class and place, because its text may be secret."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, errors.TokenBrokerError):
        return from_broker_error(error)
    if isinstance(error, MemoryError | RecursionError):
        return CommandError("the answer is too large, or nested too deeply", code="unusable_answer")
    *_, (file, line) = (
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").startswith("token_broker.")
    )
    return CommandError(
        f"internal error: {type(error).__name__} at {Path(file).name}:{line}",
        fix="report this line to the maintainers, with the command and what `token-broker --version` prints",
        code="internal_error",
    )
