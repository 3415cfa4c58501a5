"""How a command ends: its exit codes, the one error of the command line itself, and what to do about each error."""

from __future__ import annotations

import argparse
from enum import IntEnum
from typing import Final

from token_broker import errors


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
    """A command cannot go on. Never holds anything secret.

    Attributes:
        fix: what the person can do, or "".
        exit_code: with which the program ends.
        code: for programs that read `--json`.
    """

    def __init__(
        self, description: str, *, fix: str = "", exit_code: int = Exit.FAILURE, code: str = "failure"
    ) -> None:
        super().__init__(description)
        self.fix = fix
        self.exit_code = exit_code
        self.code = code


class Options(argparse.Namespace):
    """What was asked for on the command line; each command has those of the attributes that its parser declares."""

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
    action: str
    name: str
    type: str
    token_url: str | None
    scope: str | None
    mint: bool
    shell: str


_DOCTOR: Final = "run `token-broker doctor`"
_FIXES: Final[dict[type[errors.TokenBrokerError], tuple[Exit, str]]] = {
    errors.NotConfigured: (
        Exit.USAGE,
        "set TOKEN_BROKER_URL (or pass --url) to the stack's output BrokerFunctionUrl, and AWS_REGION if asked",
    ),
    errors.InvalidRequest: (Exit.USAGE, "correct the option that the message names"),
    errors.UnsupportedGrantType: (Exit.USAGE, "upgrade this command: it and the broker do not fit"),
    errors.InvalidScope: (Exit.USAGE, "leave the scope out"),
    errors.NoCredentials: (Exit.ACCESS_DENIED, "sign in (aws sso login), or set AWS_PROFILE"),
    errors.CredentialsExpired: (Exit.ACCESS_DENIED, "sign in again: aws sso login"),
    errors.CredentialsUnavailable: (
        Exit.TEMPORARY,
        "try again; `aws sts get-caller-identity` shows whether the AWS identity works",
    ),
    errors.RefusedByAws: (Exit.ACCESS_DENIED, f"{_DOCTOR}: it finds which permission, key, clock or region"),
    errors.AccessDenied: (Exit.ACCESS_DENIED, f"{_DOCTOR}: it prints the grant to ask for"),
    errors.SlowDown: (Exit.TEMPORARY, "wait, then try again"),
    errors.TemporarilyUnavailable: (Exit.TEMPORARY, "wait, then try again; `token-broker status` tells more"),
    errors.BrokerUnreachable: (Exit.TEMPORARY, f"check the network, then try again, or {_DOCTOR}"),
    errors.UpstreamRejected: (
        Exit.UPSTREAM_REJECTED,
        "an operator must store a good credential: token-broker connection put NAME",
    ),
    errors.UnusableAnswer: (Exit.FAILURE, f"check that the URL is the broker's: {_DOCTOR}"),
}


def from_broker_error(error: errors.TokenBrokerError) -> CommandError:
    """Return the same with an exit code and a fix."""
    exit_code, fix = _FIXES.get(type(error), (Exit.FAILURE, _DOCTOR))
    if error.retry_after_s:
        fix = f"try again in {error.retry_after_s} s"
    request = f" (request {error.request_id})" if error.request_id else ""
    return CommandError(error.description + request, fix=fix, exit_code=exit_code, code=error.code)
