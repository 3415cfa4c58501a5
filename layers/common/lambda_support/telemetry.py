"""What the functions write: one embedded-metric line per answer, and log lines for what went wrong.

The metric line is at once the audit record: its fields travel as metadata in the same write (CloudWatch embedded
metric format), so that an answer costs one line instead of two.
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

# `json.dumps` would make an encoder for each line.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_LOGGERS_THAT_PRINT_SECRETS = ("boto3", "botocore", "urllib3", "requests")


def quiet_logging() -> None:
    """Pin the loggers that print request bodies and secret strings in clear at DEBUG, whatever the environment says.

    Lambda's ApplicationLogLevel reaches the root logger, and with it all that are not pinned. A log line that cannot be
    written is lost without a word: Python would print the error that is being handled meanwhile, its text included.
    """
    logging.raiseExceptions = False
    for name in _LOGGERS_THAT_PRINT_SECRETS:
        logging.getLogger(name).setLevel(logging.WARNING)


def new_logger(service: str) -> Logger:
    """Return the JSON logger of one function, the SDK's own quieted; safe to call again (loggers are per name)."""
    # Only what goes wrong is logged: most instances end without having loaded it.
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

    By hand: a library for one line of JSON takes six times as long for it (docs/performance.md). The format is
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

    Args:
        service: the function's name; becomes the `service` dimension.
        metrics: name to (value, CloudWatch unit such as "Count", "Milliseconds", "Seconds").
        dimensions: few and of few values each; every combination is a metric that costs money.
        fields: the audit record: searchable, not charged as metrics. Must hold nothing secret.
        events: name to count. They have the dimension `service` alone, so that an alarm can name them whatever was
            answered meanwhile.
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
        # Each stack has its own, so that a test stack's events raise no alarm of production's.
        "Namespace": os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "TokenBroker"),
        "Dimensions": [dimensions],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit in units.items()],
    }
