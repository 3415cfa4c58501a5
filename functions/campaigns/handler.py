"""The campaigns job: on a schedule, reads all campaigns and reports their counts in one line.

An ordinary caller of the broker: its token comes on a lease, by the function's own AWS identity.
"""

from __future__ import annotations

import os
import re
import time
import traceback
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from functions.campaigns.campaigns_api import CampaignsApi, CampaignsUnreadable, Summary
from lambda_support.telemetry import new_logger, write_metric_line
from lambda_support.upstream_http import new_session
from token_broker.client import BrokerClient, Lease
from token_broker.errors import TokenBrokerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests
    from aws_lambda_powertools.utilities.typing import LambdaContext

SERVICE: Final = "campaigns"
DEFAULT_BASE_URL: Final = "https://api.digishare.ma/v1"

_TIME_TO_REPORT_S: Final = 5.0
_MOST_METRICS_OF_A_KIND: Final = 10
_PLAIN_NAME: Final = re.compile(r"[a-z_]{1,32}")


class RunFailed(Exception):
    """The run failed for the reason that its text gives; the text is safe to log and to send on."""


@dataclass(frozen=True)
class _Job:
    client: BrokerClient
    session: requests.Session
    base_url: str


@cache
def _job() -> _Job:
    """Build what all runs of this instance share, from the environment."""
    return _Job(
        client=BrokerClient(),
        session=new_session(os.environ.get("UPSTREAM_CA_FILE") or None),
        base_url=(os.environ.get("DIGISHARE_BASE_URL") or DEFAULT_BASE_URL).rstrip("/"),
    )


class _Bearer:
    """The token of one run; reports it to the broker when the API refused it."""

    def __init__(self, client: BrokerClient) -> None:
        self._client = client
        self.lease: Lease | None = None

    def __call__(self, refused: str | None) -> str:
        if self.lease is None or refused is None:
            self.lease = self._client.token()
        else:
            self.lease = self._client.report_rejected(self.lease.token_id)
        return self.lease.access_token


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, object]:
    """Read all campaigns, write one metric line, return the same summary.

    Args:
        event: the schedule's `Input`; `scheduled_time` and `schedule` (or `schedule_arn`) name the run, both optional.
        context: Lambda's; its remaining time bounds the run.

    Raises:
        RunFailed: after one log line that says why. Nothing is chained to it, so Lambda's failure destination gets
            this text and no more.
    """
    started_at_s = time.monotonic()
    logger = new_logger(SERVICE)
    run = {
        "request_id": context.aws_request_id,
        "scheduled_time": _text(event, "scheduled_time"),
        "schedule": _text(event, "schedule") or _text(event, "schedule_arn"),
    }
    outcome = _read(context)
    if isinstance(outcome, RunFailed):
        logger.error("campaigns could not be read", extra={"reason": str(outcome), **run})
        raise outcome
    summary, token_id = outcome
    duration_ms = round((time.monotonic() - started_at_s) * 1000)
    report = {**asdict(summary), "duration_ms": duration_ms, "token_id": token_id, **run}
    _write_report(summary, duration_ms, report)
    return report


def _read(context: LambdaContext) -> tuple[Summary, str | None] | RunFailed:
    """Return counts and token id, or the error to raise: outside of the `except`, so that it has no context."""
    try:
        job = _job()
        bearer = _Bearer(job.client)
        api = CampaignsApi(
            job.session,
            job.base_url,
            bearer,
            lambda: context.get_remaining_time_in_millis() / 1000 - _TIME_TO_REPORT_S,
        )
        return api.summarize(), bearer.lease.token_id if bearer.lease else None
    except (TokenBrokerError, CampaignsUnreadable) as error:
        return RunFailed(str(error))
    except Exception as error:  # noqa: BLE001 - a bug: its own text may hold anything, so only its place is told
        place = traceback.extract_tb(error.__traceback__)[-1]
        file = place.filename.rpartition("/")[2]
        return RunFailed(f"internal_error: {type(error).__name__} at {file}:{place.lineno}")


def _write_report(summary: Summary, duration_ms: int, report: dict[str, object]) -> None:
    metrics = {
        "Campaigns": (summary.campaigns, "Count"),
        "Pages": (summary.pages, "Count"),
        "IncompleteRuns": (0 if summary.is_complete else 1, "Count"),
        "Duration": (duration_ms, "Milliseconds"),
        **_counts("Status", summary.by_status),
        **_counts("Channel", summary.by_channel),
    }
    write_metric_line(SERVICE, metrics, {}, report)


def _counts(kind: str, counts: Mapping[str, int]) -> dict[str, tuple[float, str]]:
    """Return a metric for each of the commonest names; all of them stand in the line's fields anyway.

    A metric name costs money for as long as it is used, and the upstream may send any text.
    """
    plain = {name: count for name, count in counts.items() if _PLAIN_NAME.fullmatch(name)}
    commonest = sorted(plain, key=lambda name: -plain[name])[:_MOST_METRICS_OF_A_KIND]
    return {f"{kind}.{name}": (plain[name], "Count") for name in commonest}


def _text(event: object, name: str) -> str | None:
    value = event.get(name) if isinstance(event, dict) else None
    return value[:200] if isinstance(value, str) else None
