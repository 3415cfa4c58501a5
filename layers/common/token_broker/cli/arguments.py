"""The commands and options of `token-broker`, with examples for each."""

from __future__ import annotations

import argparse
import os
import re
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, NoReturn

from token_broker.cli.outcome import Options
from token_broker.cli.terminal import safe
from token_broker.stored_credential import MEMBERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DESCRIPTION: Final = """\
Short leases on Digishare's API token, for every AWS identity that the broker grants one.

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

_LONGEST_MIN_TTL_S: Final = 10**9
"""The broker accepts no larger number."""
_LONGEST_TEXT: Final = 2048


def _form(pattern: str, meaning: str) -> Callable[[str], str]:
    """Return the type of an argument that must be `meaning`; its error quotes nothing, because it may be a secret."""
    form = re.compile(pattern)

    def check(text: str) -> str:
        if not form.fullmatch(text):
            raise argparse.ArgumentTypeError(f"must be {meaning}")
        return text

    return check


def _text(text: str) -> str:
    if not 0 < len(text) <= _LONGEST_TEXT or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f"must be 1 to {_LONGEST_TEXT:,} printable characters (as UTF-8, without control characters)"
        )
    return text


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) <= _LONGEST_MIN_TTL_S:
            return seconds
    raise argparse.ArgumentTypeError(f"must be seconds from 0 to {_LONGEST_MIN_TTL_S:,}, such as 600")


def _moment(text: str) -> float:
    with suppress(ValueError):
        if (moment := datetime.fromisoformat(text)).tzinfo is not None:
            return moment.timestamp()
    raise argparse.ArgumentTypeError(
        "must be a time with its zone, such as 2026-11-27T14:30:00+01:00 or 2026-11-27T13:30:00Z"
    )


_connection = _form(
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}",
    "a connection's name: 1 to 64 letters, digits, `_`, `.` or `-`, the first a letter or digit",
)
_file = _form(r"[^\0]{1,4096}", "the path of a file")
_prefix = _form(
    r"[A-Za-z0-9_+=.@-][A-Za-z0-9/_+=.@-]{0,399}",
    "the beginning of secrets' names, such as token-broker/connections",
)
_reason = _form(r"[ -~]{1,200}", "1 to 200 printable ASCII characters, such as 'the key is disabled'")
_region = _form(r"[A-Za-z0-9-]{1,63}", "the name of an AWS region, such as eu-west-3")
_token_id = _form(r"[0-9a-f]{16}", "a token's id: the 16 hex digits that `token_id` shows, never the token")
_variable = _form(r"[A-Za-z_][A-Za-z0-9_]{0,254}", "the name of a variable: letters, digits and `_`")
_SETTINGS: Final = {
    "TOKEN_BROKER_URL": _text,
    "TOKEN_BROKER_CONNECTION": _connection,
    "TOKEN_BROKER_STACK": _text,
    "TOKEN_BROKER_TABLE": _text,
    "DIGISHARE_BASE_URL": _text,
}
"""Variables that replace an option, and the check that their values must pass, too."""

_Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for what add_subparsers returns


def parse(arguments: Sequence[str]) -> Options:
    """Return the options of the command line.

    Raises:
        SystemExit: 0 after `--help` and `--version`, 2 for wrong usage.
    """
    # Done here, because argparse treats `--` differently from one version of Python to the next.
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    own, rest = arguments[:at], arguments[at:]
    parser = new_parser()
    options = parser.parse_args(own, namespace=Options())
    if options.command == "exec":
        # As `env` and `sudo` do: everything after the command belongs to it, a `--` included.
        options.command_line = [*options.command_line, *rest] if options.command_line else list(rest[1:])
        if not options.command_line:
            parser.error("exec needs a command: token-broker exec -- CMD [ARGUMENT...]")
    elif rest:
        parser.error("only exec takes arguments after --")
    for name, check in _SETTINGS.items():
        try:
            check(os.environ.get(name) or "unset")
        except argparse.ArgumentTypeError as error:
            parser.error(f"the variable {name} {error}")
    options.stack = getattr(options, "stack", None) or os.environ.get("TOKEN_BROKER_STACK") or "token-broker"
    return options


def installed_version() -> str:
    try:
        return version("token-broker")
    except PackageNotFoundError:  # run from a copy of the sources
        return "(not installed)"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(safe(message))


def new_parser() -> argparse.ArgumentParser:
    """Return the parser of everything before `--`."""
    parser: argparse.ArgumentParser = _Parser(
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
    ).add_argument("--stack", type=_text, metavar="NAME", help=_STACK_HELP)
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
    token.add_argument("--rejected", type=_token_id, metavar="TOKEN_ID", help="the API refused it with 401")
    execute = _add(
        commands,
        "exec",
        "run a command with a token in its environment",
        [
            "token-broker exec -- ./import-campaigns.sh",
            "token-broker exec --variable API_TOKEN -- sh -c 'use \"$API_TOKEN\"'",
        ],
    )
    name = "DIGISHARE_ACCESS_TOKEN"
    execute.add_argument("--variable", type=_variable, default=name, metavar="NAME", help=f"default: {name}")
    for parser in (token, execute):
        parser.add_argument("--min-ttl", type=_seconds, metavar="SECONDS", help="validity that you need")
    command_help = "with its arguments; best with -- before it"
    execute.add_argument("command_line", nargs=argparse.REMAINDER, metavar="CMD", help=command_help)
    get = _add(
        commands,
        "get",
        "call the API; a token refused with 401 is reported, and the call repeated once",
        ["token-broker get /campaigns", "token-broker get '/campaigns?page=2&limit=100' | jq .data"],
    )
    get.add_argument("path", type=_text, metavar="PATH", help="below the base URL, query included")
    base_url_help = "default: DIGISHARE_BASE_URL, else https://api.digishare.ma/v1"
    get.add_argument("--base-url", type=_text, metavar="URL", help=base_url_help)
    ca_help = "CA certificates of the API; default: DIGISHARE_CA_FILE"
    get.add_argument("--ca-file", type=_file, metavar="FILE", help=ca_help)
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
        "list the tokens that may be valid at Digishare, and which of them to revoke (reads the token table)",
        [
            "token-broker mints",
            "token-broker mints --connection marketing --all",
            "token-broker mints --table token-broker-TokenTable-1ABC --json",
            "token-broker mints record --help",
        ],
    )
    record = _add(
        mints.add_subparsers(dest="action", metavar="[ACTION]"),
        "record",
        "write the row of a token that a person got by hand: the token endpoint's answer from standard input, or from a "
        "hidden prompt (needs dynamodb:PutItem)",
        [
            "token-broker mints record digishare --reason 'the key is disabled' < answer.json",
            "token-broker mints record digishare --reason 'no table' --issued-at 2026-11-27T14:30:00+01:00 < answer.json",
        ],
    )
    record.add_argument("name", type=_connection, metavar="CONNECTION")
    record.add_argument("--reason", type=_reason, required=True, metavar="TEXT", help="why by hand")
    record.add_argument("--issued-at", type=_moment, metavar="TIME", help="with a zone; default: now")
    table_help = "default: TOKEN_BROKER_TABLE, else the stack's output"
    for parser, default in ((mints, None), (record, argparse.SUPPRESS)):
        parser.add_argument("--table", type=_text, default=default, metavar="NAME", help=table_help)
        parser.add_argument("--stack", type=_text, default=default, metavar="NAME", help=_STACK_HELP)
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
    put.add_argument("name", type=_connection, metavar="NAME")
    put.add_argument("--type", choices=[*MEMBERS], default="client_credentials", help="for the prompt")
    put.add_argument("--token-url", type=_text, metavar="URL", help="for the prompt; default: the stack's")
    put.add_argument("--scope", type=_text, metavar="SCOPE", help="for the prompt; default: none")
    listing = _add(actions, "list", "list the stored credentials", ["token-broker connection list"])
    check = _add(
        actions,
        "check",
        "check a credential's shape and what the broker says of it; exchanges nothing, unless --mint",
        ["token-broker connection check digishare", "token-broker connection check digishare --mint"],
    )
    check.add_argument("name", type=_connection, metavar="NAME")
    check.add_argument(
        "--mint", action="store_true", help="ask for a token, which the broker mints if it has none"
    )
    prefix_help = "of the secrets; default: the stack's output"
    for action in (put, listing, check):
        action.add_argument("--prefix", type=_prefix, metavar="PREFIX", help=prefix_help)
        action.add_argument("--stack", type=_text, metavar="NAME", help=_STACK_HELP)


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
    """Return the options that are allowed before the command and after it."""
    # The inner parser's default must not overwrite an option that was given before the command.
    default = None if is_outer else argparse.SUPPRESS
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("shared options")
    helps: dict[str, tuple[Callable[[str], str], str]] = {
        "--url": (_text, "the broker's Function URL; default: TOKEN_BROKER_URL"),
        "--connection": (_connection, "whose token; default: TOKEN_BROKER_CONNECTION, else digishare"),
        "--region": (_region, "of AWS; default: the URL's, else AWS_REGION"),
    }
    for name, (check, meaning) in helps.items():
        group.add_argument(name, type=check, default=default, metavar=name[2:].upper(), help=meaning)
    default_json = False if is_outer else argparse.SUPPRESS
    group.add_argument(
        "--json", action="store_true", default=default_json, help="one line of JSON on standard output"
    )
    return parser
