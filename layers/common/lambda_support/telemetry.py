"""What the functions write: one embedded-metric line per answer, and log lines for what went wrong.

The metric line is also the audit record: its fields are metadata in the same line (CloudWatch embedded metric format),
so that an answer costs one line instead of two.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_lambda_powertools import Logger

# `json.dumps` would make an encoder for each line. No line contains itself, so none is searched for it.
_encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode
# Each stack has its own, so that a test stack's events raise no alarm of production's.
_NAMESPACE = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "TokenBroker")
_LOGGERS_THAT_PRINT_SECRETS = ("boto3", "botocore", "urllib3", "requests")


def quiet_logging() -> None:
    """Set a fixed level for the loggers that print request bodies and secret strings in clear at DEBUG.

    Lambda's ApplicationLogLevel sets the root logger's level, and so that of all loggers without their own. A log line
    that cannot be written is dropped silently, because Python would print the error that is being handled with its text.
    """
    logging.raiseExceptions = False
    for name in _LOGGERS_THAT_PRINT_SECRETS:
        logging.getLogger(name).setLevel(logging.WARNING)


def new_logger(service: str) -> Logger:
    """Return the JSON logger of one function, the SDK's own quieted; safe to call again (loggers are per name)."""
    # Only failures are logged, so most instances never load it.
    from aws_lambda_powertools import Logger  # noqa: PLC0415 - see above

    quiet_logging()
    return Logger(service=service, log_uncaught_exceptions=False)


def write_metric_line(
    service: str,
    metrics: Mapping[str, tuple[float, str]],
    dimensions: Mapping[str, str],
    fields: Mapping[str, object],
    events: Mapping[str, int] | None = None,
) -> None:
    """Write one embedded-metric line to standard output.

    Without a library, which takes six times as long for one line of JSON (docs/performance.md). The format is
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

    Args:
        service: the function's name; becomes the `service` dimension.
        metrics: name to (value, CloudWatch unit such as "Count", "Milliseconds", "Seconds").
        dimensions: few and of few values each; every combination is a metric that costs money.
        fields: the audit record: searchable, not charged as metrics. Must contain nothing secret.
        events: name to count. They have the dimension `service` alone, so that an alarm's metric does not depend on
            what was answered.
    """
    units = {name: unit for name, (_, unit) in metrics.items()}
    directives = [_directive([*dimensions, "service"], units)]
    events = events or {}
    if events:
        directives.append(_directive(["service"], dict.fromkeys(events, "Count")))
    line = {
        "_aws": {"Timestamp": int(1000 * time.time()), "CloudWatchMetrics": directives},
        **fields,
        **dimensions,
        "service": service,
        **{name: [value] for name, (value, _) in metrics.items()},
        **{name: [count] for name, count in events.items()},
    }
    # One write, so that nothing comes between a line and its end.
    sys.stdout.write(_encode(line) + "\n")


def _directive(dimensions: list[str], units: Mapping[str, str]) -> dict[str, object]:
    return {
        "Namespace": _NAMESPACE,
        "Dimensions": [dimensions],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit in units.items()],
    }
