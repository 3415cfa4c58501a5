"""The campaigns job: reads all campaigns on a schedule, publishes what has changed, and reports in one line.

It is an ordinary caller of the broker: it gets its lease with the function's own AWS identity.
"""

from __future__ import annotations

import os
import re
import time
import traceback
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import botocore.config
import botocore.session

from functions.campaigns.adapters.campaigns_api import CampaignsApi, CampaignsUnreadable
from functions.campaigns.adapters.event_bus import EventBus
from functions.campaigns.adapters.snapshot_table import SnapshotError, SnapshotTable
from functions.campaigns.run import Report, Run, follow
from functions.campaigns.snapshot import OtherCampaignsError
from functions.campaigns.walk import OutOfTimeError, PageTooLargeError
from lambda_support.initialization import build_early
from lambda_support.telemetry import new_logger, quiet_logging, write_metric_line
from lambda_support.upstream_http import new_session
from token_broker.client import BrokerClient
from token_broker.errors import TokenBrokerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests
    from aws_lambda_powertools.utilities.typing import LambdaContext
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient

    from token_broker.lease import Lease

SERVICE: Final = "campaigns"
DEFAULT_BASE_URL: Final = "https://api.digishare.ma/v1"

_TIME_TO_WRITE_S: Final = 30.0
_CLOCKS_DIFFER_BY_S: Final = 300
_MOST_METRICS_OF_A_KIND: Final = 10
_PLAIN_NAME: Final = re.compile(r"[a-z_]{1,32}")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_MEMBERS: Final = {"schedule", "scheduled_time", "accept_missing"}


class RunFailed(Exception):
    """The run failed for the reason that its text gives; the text is safe to log and to send on."""


@dataclass(frozen=True)
class _Job:
    client: BrokerClient
    session: requests.Session
    base_url: str
    dynamodb: DynamoDBClient
    events: EventBridgeClient
    table: str
    bus: str


@cache
def _job() -> _Job:
    """Build what all runs of this instance share, from the environment.

    Raises:
        RunFailed: the function is deployed without one of its settings.
    """
    quiet_logging()
    client = BrokerClient()
    config = botocore.config.Config(
        connect_timeout=2.0, read_timeout=5.0, retries={"mode": "standard", "total_max_attempts": 3}
    )
    aws = botocore.session.get_session()
    return _Job(
        client=client,
        session=new_session(os.environ.get("UPSTREAM_CA_FILE") or None),
        base_url=(os.environ.get("DIGISHARE_BASE_URL") or DEFAULT_BASE_URL).rstrip("/"),
        dynamodb=cast("DynamoDBClient", aws.create_client("dynamodb", config=config)),
        events=cast("EventBridgeClient", aws.create_client("events", config=config)),
        table=_setting("CAMPAIGNS_TABLE"),
        bus=_setting("CAMPAIGNS_EVENT_BUS"),
    )


def _setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise RunFailed(f"not_configured: {name} is not set; template.yaml sets it")
    return value


class _Tokens:
    """The tokens of one run. It has one token replaced at most; after another refusal the run waits."""

    def __init__(self, client: BrokerClient) -> None:
        self._client = client
        self._was_replaced = False
        self.lease: Lease | None = None

    def token(self) -> str:
        self.lease = self._client.token()
        return self.lease.access_token

    def refused(self) -> None:
        if self.lease and not self._was_replaced:
            # The broker gives the same token again while that is too young to be replaced.
            self._was_replaced = (
                self._client.report_rejected(self.lease.token_id).token_id != self.lease.token_id
            )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, object]:
    """Read all campaigns, publish what has changed, write one metric line, return the same report.

    Args:
        event: the schedule's `Input`, all of it optional: `schedule` and `scheduled_time` name the run;
            `accept_missing: true` lets a run through that finds far fewer campaigns than before.
        context: Lambda's; its remaining time bounds the run.

    Raises:
        RunFailed: after one log line that says why. Nothing is chained to it, so Lambda's failure destination gets
            this text and no more.
    """
    started_at_s = time.monotonic()
    facts: dict[str, object] = {"request_id": context.aws_request_id}
    outcome = _follow(event, context, facts)
    duration_ms = round((time.monotonic() - started_at_s) * 1000)
    if isinstance(outcome, Report):
        report = {**outcome.members(), "duration_ms": duration_ms, **facts}
        _write_report(outcome, duration_ms, report)
        if not outcome.problem:
            return report
        outcome = RunFailed(f"events_not_sent: {outcome.problem}; the next run sends them")
    new_logger(SERVICE).error("the campaigns job failed", extra={"reason": str(outcome), **facts})
    raise outcome


def _follow(event: object, context: LambdaContext, facts: dict[str, object]) -> Report | RunFailed:
    """Return the report, or the error to raise: outside of the `except`, so that it has no context.

    Args:
        event: as Lambda gives it.
        context: Lambda's.
        facts: the run's name and its token id are added.
    """
    try:
        run = _run_of(event, time.time())
        facts |= run.name
        job = _job()
        tokens = _Tokens(job.client)
        pages = CampaignsApi(
            job.session,
            job.base_url,
            tokens,
            lambda: context.get_remaining_time_in_millis() / 1000 - _TIME_TO_WRITE_S,
        )
        table = SnapshotTable(job.dynamodb, job.table, writer=uuid.uuid4().hex)
        bus = EventBus(job.events, job.bus)
        try:
            return follow(run, table, bus, pages, clock=time.time, new_id=lambda: uuid.uuid4().hex)
        finally:
            facts["token_id"] = tokens.lease.token_id if tokens.lease else None
    except OtherCampaignsError as error:
        write_metric_line(SERVICE, {}, {}, {"reason": str(error), **facts}, {"OtherCampaigns": 1})
        return RunFailed(
            f"other_campaigns: {error}: another company's list, or a token with other scopes? If the list is right, "
            'invoke the function once with {"accept_missing": true}'
        )
    except OutOfTimeError as error:
        return RunFailed(f"nothing could be read: {error}")
    except (TokenBrokerError, CampaignsUnreadable, PageTooLargeError, SnapshotError, RunFailed) as error:
        return RunFailed(str(error))
    except Exception as error:  # noqa: BLE001 - a bug: only its place is reported, because its text may contain anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        file = place.filename.rpartition("/")[2]
        return RunFailed(f"internal_error: {type(error).__name__} at {file}:{place.lineno}")


def _run_of(event: object, now_epoch_s: float) -> Run:
    """Return the run that an event asks for. Raises RunFailed, which says what is wrong with the event."""
    if not isinstance(event, dict):
        raise RunFailed("invalid_event: a JSON object is expected")
    if unknown := sorted(set(map(str, event)) - _MEMBERS):
        raise RunFailed(f"invalid_event: {unknown[0][:40]!r} is none of {', '.join(sorted(_MEMBERS))}")
    schedule, is_accepted = event.get("schedule", "by hand"), event.get("accept_missing", False)
    if not isinstance(schedule, str) or not 0 < len(schedule) <= 200:  # noqa: PLR2004 - as the schema of the event
        raise RunFailed("invalid_event: schedule must be a name")
    if not isinstance(is_accepted, bool):
        raise RunFailed("invalid_event: accept_missing must be true or false")
    scheduled_at = _epoch_s_of(event.get("scheduled_time"), now_epoch_s)
    if scheduled_at is None:
        raise RunFailed(
            "invalid_event: scheduled_time must be a time like 2026-11-27T12:00:00Z, and not in the future"
        )
    return Run(schedule, scheduled_at, is_accepted)


def _epoch_s_of(text: object, now_epoch_s: float) -> int | None:
    if text is None:
        return int(now_epoch_s)
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        return None
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    # Revisions are computed from it: a time in the future would give one that is above all that follow.
    return int(moment.timestamp()) if moment.timestamp() <= now_epoch_s + _CLOCKS_DIFFER_BY_S else None


def _write_report(report: Report, duration_ms: int, fields: dict[str, object]) -> None:
    walked, update = report.walked, report.update
    metrics = {
        "Campaigns": (len(walked.statuses), "Count"),
        "Pages": (walked.pages, "Count"),
        "IncompleteRuns": (0 if walked.is_complete else 1, "Count"),
        "Changes": (update.created + update.changed, "Count"),
        "Duration": (duration_ms, "Milliseconds"),
        **_counts("Status", walked.by_status),
    }
    write_metric_line(SERVICE, metrics, {}, fields)


def _counts(kind: str, counts: Mapping[str, int]) -> dict[str, tuple[float, str]]:
    """Return a metric for each of the commonest names; the line's fields have all of them anyway.

    A metric name costs money for as long as it is used, and the upstream may send any text.
    """
    plain = {name: count for name, count in counts.items() if _PLAIN_NAME.fullmatch(name)}
    commonest = sorted(plain, key=lambda name: -plain[name])[:_MOST_METRICS_OF_A_KIND]
    return {f"{kind}.{name}": (plain[name], "Count") for name in commonest}


build_early(_job)
