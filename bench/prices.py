"""AWS's public prices and quotas, as read in November 2026, and what a number of answers costs by them.

us-east-1 (N. Virginia), on demand, US dollars, before free tiers and discounts. Other regions have the same shape; for
eu-west-3 expect up to a fifth more for DynamoDB and logs. Sources: https://aws.amazon.com/lambda/pricing/,
/dynamodb/pricing/on-demand/, /kms/pricing/, /secrets-manager/pricing/, /cloudwatch/pricing/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

READ: Final = "2026-11-23"
SECONDS_A_MONTH: Final = 365 * 86_400 / 12
MILLION: Final = 1e6

LAMBDA_REQUEST: Final = 0.20 / MILLION
LAMBDA_ARM_GB_SECOND: Final = 0.0000133334
DYNAMODB_READ_UNIT: Final = 0.125 / MILLION
DYNAMODB_WRITE_UNIT: Final = 0.625 / MILLION
KMS_REQUEST: Final = 0.03 / 10_000
KMS_KEY_MONTH: Final = 1.00
SECRET_MONTH: Final = 0.40
SECRETS_MANAGER_REQUEST: Final = 0.05 / 10_000
LOGS_GB: Final = 0.50
METRIC_MONTH: Final = 0.30
ALARM_MONTH: Final = 0.10

MEMORY_GB: Final = 1.0
"""template.yaml: MemorySize of the broker."""
METRICS: Final = 30
"""Answers and Duration for each outcome and source that occurs (about a dozen pairs), and the events."""
ALARMS: Final = 4
"""template.yaml."""
LAMBDA_LINES_BYTES: Final = 350
"""START, END and REPORT, which Lambda writes for each invocation."""
LOG_ENTRY_BYTES: Final = 26
"""CloudWatch Logs adds so many bytes to each event."""


MINTS_A_MONTH: Final = 4 / 36


@dataclass(frozen=True)
class Load:
    """What a fleet does all month.

    Attributes:
        instances: execution environments that are alive.
        calls_per_s: answers a second, all together.
        instance_life_s: after this time a cold instance replaces one.
        audit_line_bytes: of the line that each answer writes; this many where the run has not measured it.
        warm_s, cold_s: billed duration of an answer from memory, and of a start with its first answer: assumed, on 0.6
            of a CPU, about three times the measured CPU time.
        mints_per_month: exchanges.
    """

    instances: int
    calls_per_s: float
    instance_life_s: float
    audit_line_bytes: int = 700
    warm_s: float = 0.002
    cold_s: float = 0.7
    mints_per_month: float = MINTS_A_MONTH


def monthly_cost(load: Load) -> dict[str, float]:
    """Return dollars a month for each kind of cost."""
    calls = load.calls_per_s * SECONDS_A_MONTH
    starts = load.instances * SECONDS_A_MONTH / load.instance_life_s
    # One read a minute for each instance; if an instance is called less often than that, one for each call.
    reads = min(load.instances / 60, load.calls_per_s) * SECONDS_A_MONTH + starts
    decrypts = starts + load.instances * load.mints_per_month
    log_bytes = load.audit_line_bytes + LAMBDA_LINES_BYTES + 4 * LOG_ENTRY_BYTES
    return {
        "logs": calls * log_bytes / 1024**3 * LOGS_GB,
        "Lambda requests": calls * LAMBDA_REQUEST,
        "Lambda duration": (calls * load.warm_s + starts * load.cold_s) * MEMORY_GB * LAMBDA_ARM_GB_SECOND,
        "DynamoDB": reads * DYNAMODB_READ_UNIT + load.mints_per_month * 8 * DYNAMODB_WRITE_UNIT,
        "KMS": (decrypts + 2 * load.mints_per_month) * KMS_REQUEST,
        "fixed": METRICS * METRIC_MONTH
        + ALARMS * ALARM_MONTH
        + KMS_KEY_MONTH
        + SECRET_MONTH
        # Each exchange reads the current and the previous version.
        + load.mints_per_month * 2 * SECRETS_MANAGER_REQUEST,
    }


def cost_per_million(load: Load) -> dict[str, float]:
    """Return dollars for a million answers, for each kind of cost."""
    millions = load.calls_per_s * SECONDS_A_MONTH / MILLION
    return {name: dollars / millions for name, dollars in monthly_cost(load).items()}
