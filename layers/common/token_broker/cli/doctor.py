"""`token-broker doctor`: checks each step of a request for a token, up to the first one that fails.

    url ▶ credentials ▶ network ▶ region ▶ clock ▶ permissions ▶ grant ▶ upstream ▶ token

One request to the broker shows most of it, because each step has an error of its own; see `_TOPIC_OF_ERROR` and
`_topic_of_refusal`. It asks for a token like any caller, so the broker mints one if it has none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from token_broker import errors
from token_broker.cli import remedies
from token_broker.cli.deployment import Deployment
from token_broker.cli.identity import Identity, look_up_identity
from token_broker.cli.outcome import Exit, from_broker_error
from token_broker.cli.reachability import Reachability, look_for_answer
from token_broker.cli.terminal import Finding
from token_broker.cli.tokens import connections_in, trouble_in
from token_broker.client import BrokerClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from token_broker.cli.outcome import Options
    from token_broker.cli.terminal import Terminal

TOPICS: Final = (
    "url",
    "credentials",
    "network",
    "region",
    "clock",
    "permissions",
    "grant",
    "upstream",
    "token",
)
LARGEST_CLOCK_DIFFERENCE_S: Final = 300.0
"""By how much a clock may differ before AWS refuses signatures."""
_NOTABLE_CLOCK_DIFFERENCE_S: Final = 60.0
_TIME_BUDGET_S: Final = 35.0
_TOPIC_OF_ERROR: Final[dict[type[errors.TokenBrokerError], str]] = {
    errors.NoCredentials: "credentials",
    errors.CredentialsExpired: "credentials",
    errors.CredentialsUnavailable: "credentials",
    errors.AccessDenied: "grant",
    errors.UpstreamRejected: "upstream",
    errors.UnusableAnswer: "url",
    errors.NotFound: "url",
}


@dataclass(frozen=True)
class _Visit:
    """What the request showed; `error` is the broker's, AWS's or the client's, if there was one."""

    url: str
    region: str | None
    connection: str
    reachability: Reachability
    identity: Identity = field(default_factory=Identity)
    row: dict[str, Any] = field(default_factory=dict)
    lease_text: str = ""
    error: errors.TokenBrokerError | None = None


def run(options: Options, terminal: Terminal, clock: Callable[[], float]) -> int:
    """Show a finding for every step, and what to do about the first one that fails; return 0 if none does."""
    deployment = Deployment(options)
    try:
        client = BrokerClient(
            options.url, connection=options.connection, region=options.region, time_budget_s=_TIME_BUDGET_S
        )
    except errors.NotConfigured as error:
        found = {
            "url": Finding("url", "fault", error.description, remedies.SET_URL.format(stack=options.stack))
        }
    else:
        with terminal.waiting("the broker and AWS"):
            visit = _visit(client, options, deployment, clock)
            found = _examine(visit, options, deployment)
    findings = _in_order(found)
    terminal.show_findings(findings)
    return Exit.FAILURE if any(finding.verdict == "fault" for finding in findings) else Exit.OK


def _visit(
    client: BrokerClient, options: Options, deployment: Deployment, clock: Callable[[], float]
) -> _Visit:
    url = (options.url or os.environ["TOKEN_BROKER_URL"]).rstrip("/")
    visit = _Visit(url, deployment.region, client.connection, look_for_answer(url, clock))
    try:
        lease = client.token()
        visit = replace(visit, lease_text=f"{lease.token_id}, leased for {lease.expires_in_s():.0f} s")
        rows = connections_in(client.status(client.connection))
        visit = replace(visit, row=rows[0] if rows else {})
    except errors.TokenBrokerError as error:
        visit = replace(visit, error=error)
    # Without credentials STS cannot answer, and the SDK would search for them again, which may take long.
    has_credentials = visit.error is None or _TOPIC_OF_ERROR.get(type(visit.error)) != "credentials"
    return replace(visit, identity=look_up_identity(deployment, clock)) if has_credentials else visit


def _examine(visit: _Visit, options: Options, deployment: Deployment) -> dict[str, Finding]:
    found = {
        "url": Finding("url", "ok", visit.url),
        "credentials": Finding("credentials", "ok", visit.identity.text),
        "network": Finding("network", "ok", "the URL answers"),
        "region": Finding("region", "ok", f"signs for {visit.region}"),
        "clock": _examine_clock(visit),
        "permissions": Finding("permissions", "ok", "AWS lets the call through"),
        "grant": Finding("grant", "ok", f"may use the connection {visit.connection}"),
        "upstream": _examine_upstream(visit.row),
        "token": Finding("token", "ok", visit.lease_text),
    }
    if visit.error is None:
        return found
    topic = _topic_of(visit.error, visit.reachability)
    # A clock that differs too much explains a refused signature better than any later step.
    if found["clock"].verdict == "fault" and TOPICS.index(topic) >= TOPICS.index("clock"):
        return found
    return {**found, topic: _fault(topic, visit, visit.error, options, deployment)}


def _examine_clock(visit: _Visit) -> Finding:
    difference_s = visit.reachability.clock_difference_s
    if difference_s is None:
        difference_s = visit.identity.clock_difference_s
    if difference_s is None:
        return Finding("clock", "caution", "not compared: no answer has a date")
    text = f"{abs(difference_s):.0f} s {'ahead of' if difference_s > 0 else 'behind'} AWS's"
    if abs(difference_s) > LARGEST_CLOCK_DIFFERENCE_S:
        return Finding("clock", "fault", f"{text}; signatures are refused beyond 300 s", remedies.SET_CLOCK)
    if abs(difference_s) > _NOTABLE_CLOCK_DIFFERENCE_S:
        return Finding("clock", "caution", f"{text}; signatures are refused beyond 300 s")
    return Finding("clock", "ok", "within a minute of AWS's")


def _examine_upstream(row: dict[str, Any]) -> Finding:
    if not row:
        return Finding("upstream", "ok", "no refusal of the stored credential is known")
    trouble = trouble_in(row)
    expiry = f"valid until {row['expires_at']}" if row.get("expires_at") else "without a known expiry"
    text = "; ".join([*trouble, f"its token is {row.get('state')}, {expiry}"])
    return Finding("upstream", "caution" if trouble else "ok", text)


def _topic_of(error: errors.TokenBrokerError, reachability: Reachability) -> str:
    if isinstance(error, errors.RefusedByAws):
        return _topic_of_refusal(error)
    if isinstance(error, errors.BrokerUnreachable) and not reachability.answers:
        return "network"
    if isinstance(error, errors.NotConfigured):
        return "region" if "region" in error.description else "network"
    return _TOPIC_OF_ERROR.get(type(error), "token")


def _topic_of_refusal(error: errors.RefusedByAws) -> str:
    message = error.aws_message.lower()
    if "region" in message:
        return "region"
    if "signature expired" in message or "not yet current" in message:
        return "clock"
    if error.aws_error_type in {"", "AccessDeniedException"} and "signature" not in message:
        return "permissions"
    return "credentials"


def _fault(
    topic: str, visit: _Visit, error: errors.TokenBrokerError, options: Options, deployment: Deployment
) -> Finding:
    if topic == "permissions":
        return remedies.missing_permissions(visit.identity, deployment, options.stack)
    if topic == "grant":
        return remedies.missing_grant(visit.identity, visit.connection, error.description)
    said = error.aws_message if isinstance(error, errors.RefusedByAws) else error.description
    if topic == "credentials":
        # A source that does not answer is not asked once more.
        is_silent = isinstance(error, errors.CredentialsUnavailable)
        fix = from_broker_error(error).fix if is_silent else remedies.working_credentials(deployment)
        return Finding(topic, "fault", said.partition(";")[0], fix)
    is_setting = isinstance(error, errors.NotConfigured)
    text, fix = {
        "url": (said, remedies.SET_URL.format(stack=options.stack)),
        "network": (said, remedies.CORRECT_SETTING if is_setting else remedies.REACH_URL),
        "region": (f"signs for {visit.region}: {said}", remedies.SET_REGION),
        "clock": (said, remedies.SET_CLOCK),
        "upstream": (said, remedies.STORE_CREDENTIAL.format(name=visit.connection)),
        "token": (f"{error.code}: {said}", from_broker_error(error).fix),
    }[topic]
    return Finding(topic, "fault", text, fix)


def _in_order(found: dict[str, Finding]) -> list[Finding]:
    """Return a finding for every topic; those after a fault are empty, because it may be the cause of all."""
    findings: list[Finding] = []
    ended = False
    for topic in TOPICS:
        findings.append(Finding(topic, "skipped", "") if ended else found[topic])
        ended = ended or findings[-1].verdict == "fault"
    return findings
