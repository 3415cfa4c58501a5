"""What the functions write: one embedded-metric line per answer, and log lines for what went wrong.

The metric line is at once the audit record: its fields travel as metadata in the same write (CloudWatch embedded
metric format), so that an answer costs one line instead of two. Only the functions import this module; it needs
aws-lambda-powertools, which callers of the broker do not install.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE = "TokenBroker"

# At DEBUG these print request bodies and secret strings in clear, and Lambda's ApplicationLogLevel reaches the
# root logger: pinned here, whatever the environment says.
_LOGGERS_THAT_PRINT_SECRETS = ("boto3", "botocore", "urllib3", "requests")


def new_logger(service: str) -> Logger:
    """Return the JSON logger of one function; safe to call again (loggers are per name)."""
    for name in _LOGGERS_THAT_PRINT_SECRETS:
        logging.getLogger(name).setLevel(logging.WARNING)
    return Logger(service=service, log_uncaught_exceptions=False)


def write_metric_line(
    service: str,
    metrics: Mapping[str, tuple[float, str]],
    dimensions: Mapping[str, str],
    fields: Mapping[str, object],
) -> None:
    """Write one embedded-metric line to standard output.

    Args:
        service: the function's name; becomes the `service` dimension.
        metrics: name to (value, CloudWatch unit such as "Count", "Milliseconds", "Seconds").
        dimensions: few and of few values each; every combination is a metric that costs money.
        fields: the audit record: searchable, not charged as metrics. Must hold nothing secret.
    """
    line = EphemeralMetrics(namespace=NAMESPACE, service=service)
    for name, (value, unit) in metrics.items():
        line.add_metric(name=name, unit=unit, value=value)
    for name, text in dimensions.items():
        line.add_dimension(name=name, value=text)
    for name, fact in fields.items():
        line.add_metadata(key=name, value=fact)
    line.flush_metrics()
