"""`token-broker get`: one call of the API, which treats its token as `BrokerAdapter` does."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from botocore.httpsession import get_cert_path

from token_broker.bounded_http import CallError, UnusableRequest, call, new_tls_context
from token_broker.cli.outcome import CommandError, Exit
from token_broker.cli.tokens import THE_BROKER, new_client
from token_broker.renewal import authorization, lease_to_repeat_with
from token_broker.token_hosts import is_private_channel

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from token_broker.cli.outcome import Options
    from token_broker.cli.terminal import Terminal
    from token_broker.lease import Lease

_THE_API: Final = "the API"
DEFAULT_BASE_URL: Final = "https://api.digishare.ma/v1"
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
TOTAL_TIMEOUT_S: Final = 60.0
_CONNECT_TIMEOUT_S: Final = 5.0


def get(options: Options, terminal: Terminal, _clock: Callable[[], float]) -> int:
    """Print the API's answer; a refused token is reported and replaced once."""
    base_url = options.base_url or os.environ.get("DIGISHARE_BASE_URL") or DEFAULT_BASE_URL
    url = _url_below(base_url, options.path)
    tls = _tls_context(options.ca_file or os.environ.get("DIGISHARE_CA_FILE"))
    client = new_client(options)
    with terminal.waiting(THE_BROKER):
        lease = client.token()
    with terminal.waiting(_THE_API):
        status, body = _send(url, lease, tls)
    if status == 401:  # noqa: PLR2004 - HTTP's own number
        with terminal.waiting(THE_BROKER):
            report = partial(client.report_rejected, lease.token_id)
            renewed = lease_to_repeat_with(report, lease, can_repeat=True)
        if renewed is not None:
            terminal.note(
                f"note: the API refused token {lease.token_id}; trying once more with {renewed.token_id}"
            )
            with terminal.waiting(_THE_API):
                status, body = _send(url, renewed, tls)
    failure = _failure_of(status, url)
    if terminal.as_json:
        answer = _json_value(body)
        if failure is not None:
            failure.details = {"answer": answer}
        else:
            terminal.show_json(answer)
    elif body:
        terminal.show_body(body)
    if failure is not None:
        raise failure
    return Exit.OK


def _url_below(base_url: str, path: str) -> str:
    if not _is_base_url(base_url):
        raise CommandError(
            "the API's base URL must be https, or the token would be sent in clear, and have no query",
            fix="pass --base-url https://…, or set DIGISHARE_BASE_URL",
            exit_code=Exit.USAGE,
            code="usage",
        )
    base_url = base_url.rstrip("/")
    if path.startswith(f"{base_url}/"):
        return path
    if "://" in path.partition("?")[0]:
        raise CommandError(
            "a token goes to the API's base URL only",
            fix="give the path alone, such as /campaigns",
            exit_code=Exit.USAGE,
            code="usage",
        )
    return f"{base_url}/{path.lstrip('/')}"


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        well_formed = bool(parts.hostname) and parts.port != 0 and not set("?#") & set(url)
        return well_formed and is_private_channel(url)
    except ValueError:  # a bracket without its pair, a port that is no number
        return False


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return new_tls_context(ca_file or str(get_cert_path(verify=True)))
    except (OSError, ValueError):
        raise CommandError(
            f"no certificates can be read from {ca_file}",
            fix="correct --ca-file or DIGISHARE_CA_FILE",
            exit_code=Exit.USAGE,
            code="usage",
        ) from None


def _send(url: str, lease: Lease, tls: ssl.SSLContext) -> tuple[int, bytes]:
    """Send one GET; neither proxies of the environment nor redirects can divert the token."""
    try:
        response = call(
            "GET",
            url,
            headers={"Accept": "application/json", "Authorization": authorization(lease)},
            tls=tls if url.startswith("https:") else None,
            total_timeout_s=TOTAL_TIMEOUT_S,
            connect_timeout_s=_CONNECT_TIMEOUT_S,
            max_body_bytes=MAX_ANSWER_BYTES,
        )
    except UnusableRequest as error:
        raise CommandError(
            f"{url.partition('?')[0]}: {error}",
            fix="correct --base-url or PATH",
            exit_code=Exit.USAGE,
            code="usage",
        ) from None
    except CallError as error:
        raise CommandError(
            f"no answer from {url.partition('?')[0]}; {error}",
            fix="check --base-url, the network, and --ca-file where the API has a private CA",
            exit_code=Exit.TEMPORARY,
            code="api_unreachable",
        ) from None
    return response.status, response.body


def _json_value(body: bytes) -> object:
    """Return a body's JSON value, or its text where it is not JSON; None for an empty body."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace") or None


def _failure_of(status: int, url: str) -> CommandError | None:
    if 200 <= status < 300:  # noqa: PLR2004 - HTTP's own numbers
        return None
    exit_code, fix = Exit.FAILURE, "see the API's answer"
    if status == 401:  # noqa: PLR2004 - HTTP's own number
        exit_code, fix = Exit.UPSTREAM_REJECTED, "the API refuses the token: token-broker doctor"
    elif status == 403:  # noqa: PLR2004 - HTTP's own number
        exit_code, fix = Exit.ACCESS_DENIED, "the token lacks the scope; ask for another --connection"
    elif status == 429 or status >= 500:  # noqa: PLR2004 - HTTP's own numbers
        exit_code, fix = Exit.TEMPORARY, "try again later"
    elif 300 <= status < 400:  # noqa: PLR2004 - HTTP's own numbers
        fix = "redirects are not followed: correct --base-url"
    return CommandError(
        f"{url.partition('?')[0]}: HTTP {status}", fix=fix, exit_code=exit_code, code="api_error"
    )
