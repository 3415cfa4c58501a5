"""The commands and options of `token-broker`, with examples for each."""

from __future__ import annotations

import argparse
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from token_broker.cli.outcome import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION: Final = """\
Short leases on Digishare's API token, for everybody whose AWS identity the broker knows.

First steps:
  export TOKEN_BROKER_URL=https://ID.lambda-url.REGION.on.aws/
  token-broker doctor
  token-broker get /campaigns?limit=5"""
_EXIT_CODES: Final = """\
exit codes:
  0  done
  1  failed, see the message
  2  wrong usage, or something is not configured
  3  access denied: no AWS credentials, a missing permission, no grant
  4  temporarily unavailable: the same can succeed later
  5  the upstream rejects the stored credential: an operator must act
  130 interrupted; `exec` ends with the code of its command (126, 127 if that cannot be run)"""

SHELLS: Final = ("bash", "zsh", "fish")
CREDENTIAL_TYPES: Final = ("client_credentials", "personal_access_token")

_Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for what add_subparsers returns


def parse(arguments: Sequence[str]) -> Options:
    """Return what was asked for.

    Raises:
        SystemExit: 0 after `--help` and `--version`, 2 for wrong usage.
    """
    own, _, command_line = _split(list(arguments))
    parser = new_parser()
    options = parser.parse_args(own, namespace=Options())
    if options.command == "exec":
        options.command_line = [*options.command_line, *command_line]
        if not options.command_line:
            parser.error("exec needs a command: token-broker exec -- CMD [ARGUMENT...]")
    elif command_line:
        parser.error("only exec takes arguments after --")
    return options


def installed_version() -> str:
    try:
        return version("token-broker")
    except PackageNotFoundError:  # run from a copy of the sources
        return "(not installed)"


def new_parser() -> argparse.ArgumentParser:
    """Return the parser of everything but what stands behind `--`."""
    parser = argparse.ArgumentParser(
        prog="token-broker",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_shared_options(is_outer=True)],
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {installed_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_caller_commands(commands)
    _add_operator_commands(commands)
    _add(
        commands,
        "doctor",
        "find out why this identity gets no token, and what to do about it",
        ["token-broker doctor", "token-broker doctor --connection marketing --json"],
    ).add_argument("--stack", default=_stack(), metavar="NAME", help=_STACK_HELP)
    completion = _add(
        commands,
        "completion",
        "print the completion script of a shell",
        [
            'eval "$(token-broker completion bash)"      # in ~/.bashrc',
            "token-broker completion zsh > ~/.zfunc/_token-broker",
            "token-broker completion fish > ~/.config/fish/completions/token-broker.fish",
        ],
    )
    completion.add_argument("shell", choices=SHELLS)
    return parser


def _add_caller_commands(commands: _Commands[argparse.ArgumentParser]) -> None:
    token = _add(
        commands,
        "token",
        "print a token",
        [
            "token-broker token --header | curl -H @- https://api.digishare.ma/v1/campaigns",
            "token-broker token --json",
            "token-broker token --rejected 3f9a0c417be2d815   # the API answered 401: get another one",
        ],
    )
    token.add_argument("--header", action="store_true", help="as a header line, for curl -H @-")
    token.add_argument("--min-ttl", type=float, metavar="SECONDS", help="validity that you need; capped")
    token.add_argument(
        "--rejected", metavar="TOKEN_ID", help="report that the API refused this token with 401"
    )
    execute = _add(
        commands,
        "exec",
        "run a command with a token in its environment",
        [
            "token-broker exec -- ./import-campaigns.sh",
            "token-broker exec --variable API_TOKEN -- sh -c 'use \"$API_TOKEN\"'",
        ],
    )
    execute.add_argument(
        "--variable", default="DIGISHARE_ACCESS_TOKEN", metavar="NAME", help="default: %(default)s"
    )
    execute.add_argument("--min-ttl", type=float, metavar="SECONDS", help="validity that you need; capped")
    execute.add_argument("command_line", nargs="*", metavar="CMD", help="put -- before it")
    get = _add(
        commands,
        "get",
        "call the API; a token refused with 401 is reported, and the call repeated once",
        ["token-broker get /campaigns", "token-broker get '/campaigns?page=2&limit=100' | jq .data"],
    )
    get.add_argument("path", metavar="PATH", help="below the base URL, query included")
    get.add_argument(
        "--base-url", metavar="URL", help="default: DIGISHARE_BASE_URL, else https://api.digishare.ma/v1"
    )
    get.add_argument(
        "--ca-file", metavar="FILE", help="CA certificates of the API; default: DIGISHARE_CA_FILE"
    )
    _add(
        commands,
        "status",
        "show state, expiry and failures of the connections that you are granted",
        ["token-broker status", "token-broker status --connection marketing --json"],
    )


def _add_operator_commands(commands: _Commands[argparse.ArgumentParser]) -> None:
    mints = _add(
        commands,
        "mints",
        "list the tokens that may be alive at Digishare, and which of them to revoke (reads the token table)",
        [
            "token-broker mints",
            "token-broker mints --connection marketing --all",
            "token-broker mints --table token-broker-TokenTable-1ABC --json",
        ],
    )
    mints.add_argument("--table", metavar="NAME", help="default: TOKEN_BROKER_TABLE, else the stack's output")
    mints.add_argument("--stack", default=_stack(), metavar="NAME", help=_STACK_HELP)
    mints.add_argument("--all", action="store_true", help="also failed exchanges and expired tokens")
    connection = _add(
        commands,
        "connection",
        "store, list or check the upstream credentials (needs secretsmanager actions)",
        ["token-broker connection --help", "token-broker connection put --help"],
    )
    actions = connection.add_subparsers(dest="action", metavar="ACTION", required=True)
    put = _add(
        actions,
        "put",
        "store a credential, or rotate it: from a hidden prompt, or as JSON from standard input",
        [
            "token-broker connection put digishare",
            "token-broker connection put dashboard --type personal_access_token",
            "token-broker connection put digishare < credential.json",
            '  {"type": "client_credentials", "client_id": "...", "client_secret": "..."}',
        ],
    )
    put.add_argument("name", metavar="NAME")
    put.add_argument("--type", choices=CREDENTIAL_TYPES, default=CREDENTIAL_TYPES[0], help="for the prompt")
    put.add_argument("--token-url", metavar="URL", help="for the prompt; default: the stack's")
    put.add_argument("--scope", metavar="SCOPE", help="for the prompt; default: none")
    listing = _add(actions, "list", "list the stored credentials", ["token-broker connection list"])
    check = _add(
        actions,
        "check",
        "check a credential's shape and what the broker says of it; exchanges nothing, unless --mint",
        ["token-broker connection check digishare", "token-broker connection check digishare --mint"],
    )
    check.add_argument("name", metavar="NAME")
    check.add_argument(
        "--mint", action="store_true", help="ask for a token, which the broker mints if it holds none"
    )
    for action in (put, listing, check):
        action.add_argument("--prefix", metavar="PREFIX", help="of the secrets; default: the stack's output")
        action.add_argument("--stack", default=_stack(), metavar="NAME", help=_STACK_HELP)


_STACK_HELP: Final = "CloudFormation stack of the broker; default: TOKEN_BROKER_STACK, else token-broker"


def _add(
    commands: _Commands[argparse.ArgumentParser], name: str, purpose: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_shared_options(is_outer=False)],
    )
    return parser


def _shared_options(*, is_outer: bool) -> argparse.ArgumentParser:
    """Return the options that may stand before the command as well as behind it."""
    # The inner parser must not overwrite with its default what stood before the command.
    default = None if is_outer else argparse.SUPPRESS
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("shared options")
    group.add_argument("--url", default=default, help="the broker's Function URL; default: TOKEN_BROKER_URL")
    group.add_argument(
        "--connection",
        default=default,
        metavar="NAME",
        help="which upstream credential; default: TOKEN_BROKER_CONNECTION, else digishare",
    )
    group.add_argument("--region", default=default, help="AWS region; default: the URL's, else AWS_REGION")
    group.add_argument(
        "--json",
        action="store_true",
        default=False if is_outer else argparse.SUPPRESS,
        help="results as JSON on standard output",
    )
    return parser


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    if "--" not in arguments:
        return arguments, "", []
    at = arguments.index("--")
    return arguments[:at], "--", arguments[at + 1 :]


def _stack() -> str:
    return os.environ.get("TOKEN_BROKER_STACK") or "token-broker"
