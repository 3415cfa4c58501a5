"""The commands that need nothing but the broker: `token`, `exec`, `status`."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from token_broker.cli.outcome import CommandError, Exit
from token_broker.client import BrokerClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from token_broker.cli.outcome import Options
    from token_broker.cli.terminal import Terminal

THE_BROKER = "the broker"
STATUS_COLUMNS = {
    "connection": "CONNECTION",
    "state": "STATE",
    "token_id": "TOKEN ID",
    "generation": "GENERATION",
    "expires_at": "EXPIRES",
    "next_attempt_at": "NEXT ATTEMPT",
    "last_error": "LAST ERROR",
    "exchanges_left": "EXCHANGES LEFT",
}


def new_client(options: Options) -> BrokerClient:
    """Return a client for these options. Raises NotConfigured."""
    return BrokerClient(options.url, connection=options.connection, region=options.region)


def print_token(options: Options, terminal: Terminal, clock: Callable[[], float]) -> int:
    """Print a token, or the header with it, or with --json all that is known of it."""
    client = new_client(options)
    with terminal.waiting(THE_BROKER):
        lease = (
            client.report_rejected(options.rejected)
            if options.rejected
            else client.token(min_ttl_s=options.min_ttl)
        )
    if terminal.as_json:
        terminal.show_json(
            {
                "access_token": lease.access_token,
                "token_type": "Bearer",
                "expires_in": int(lease.expires_in_s(clock())),
                "expires_at": datetime.fromtimestamp(lease.expires_at, UTC).isoformat(timespec="seconds"),
                "token_id": lease.token_id,
                "connection": lease.connection,
            }
        )
    else:
        terminal.show(f"Authorization: Bearer {lease.access_token}" if options.header else lease.access_token)
    if options.rejected == lease.token_id:
        terminal.note(
            f"note: {lease.token_id} is too young to be replaced; a clock at the API may be late: try again in a minute"
        )
    return Exit.OK


def execute(options: Options, terminal: Terminal, _clock: Callable[[], float]) -> int:
    """Replace this process by the command, with a token in its environment."""
    with terminal.waiting(THE_BROKER):
        lease = new_client(options).token(min_ttl_s=options.min_ttl)
    command = options.command_line
    environment = {**os.environ, options.variable: lease.access_token}
    # Python ignores these signals, and the command would inherit that: `CMD | head` would not end.
    ignored = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - it is what this command is for
    except FileNotFoundError:
        reason, exit_code = "no such command", Exit.NOT_FOUND
    except (OSError, ValueError) as error:  # ValueError: NUL in an argument
        reason, exit_code = getattr(error, "strerror", None) or "cannot be run", Exit.NOT_EXECUTABLE
    for number in ignored:  # else writing the error to a closed pipe would end this program by a signal
        signal.signal(number, signal.SIG_IGN)
    raise CommandError(f"{command[0] or repr('')}: {reason}", exit_code=exit_code, code="not_executable")


def show_status(options: Options, terminal: Terminal, _clock: Callable[[], float]) -> int:
    """Show what `GET /status` says of the connections that this identity is granted."""
    with terminal.waiting(THE_BROKER):
        answer = new_client(options).status(options.connection)
    if terminal.as_json:
        terminal.show_json(answer)
        return Exit.OK
    rows = connections_in(answer)
    if not rows:
        terminal.note("no connection is granted to you by its name; name one: --connection NAME")
        return Exit.OK
    terminal.show_table(STATUS_COLUMNS, rows)
    return Exit.OK


def connections_in(answer: dict[str, object]) -> list[dict[str, Any]]:
    """Return the connections of a `GET /status` answer."""
    rows = answer.get("connections")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def trouble_in(row: Mapping[str, Any]) -> list[str]:
    """Return a clause for each thing that a connection of a `GET /status` answer waits for or needs an operator for."""
    trouble = []
    error = row.get("last_error")
    if error == "current_secret_refused":
        trouble.append(
            "the upstream refuses the current secret, and the one before it brought the token (current_secret_refused)"
        )
    elif error:
        at = f", next attempt {row['next_attempt_at']}" if row.get("next_attempt_at") else ""
        trouble.append(f"the last exchange failed: {error}, {row.get('failures_in_a_row')} in a row{at}")
    if row.get("exchanges_left") == 0:
        trouble.append("no exchanges are left for now")
    return trouble
