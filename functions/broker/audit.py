"""One line for every answer, which is metrics and audit record at once, and one log line for every event."""

from __future__ import annotations

import functools
import traceback
from typing import TYPE_CHECKING

from functions.broker.grants import GrantsError
from functions.broker.settings import SettingsError
from lambda_support.telemetry import new_logger, quiet_logging, write_metric_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_lambda_powertools import Logger

    from functions.broker.grants import Caller

SERVICE = "broker"


class Audit:
    """Collects the facts of the request that is being answered. Serves one request at a time."""

    def __init__(self) -> None:
        quiet_logging()
        self._facts: dict[str, object] = {}
        self._events: dict[str, int] = {}

    @functools.cached_property
    def _logger(self) -> Logger:
        return new_logger(SERVICE)

    def begin(self, request_id: str) -> None:
        """Forget the request before this one."""
        self._facts = {"request_id": request_id}
        self._events = {}

    def add(self, **facts: object) -> None:
        """Note facts for the line of this answer; nothing secret."""
        self._facts.update(facts)

    def add_caller(self, caller: Caller) -> None:
        self.add(
            caller_account=caller.account,
            caller_kind=caller.kind,
            caller_name=caller.name,
            caller_session=caller.session,
        )

    def notice(self, event: str, facts: Mapping[str, object]) -> None:
        """Count an event in this answer's metrics and write it down at once, in case the answer never comes."""
        self._events[event] = self._events.get(event, 0) + 1
        self._logger.warning(event, extra={"request_id": self._facts.get("request_id"), **facts})

    def notice_bug(self, error: Exception) -> None:
        """Log where an unforeseen error came from, without its text, which may contain anything."""
        frames = [
            f"{frame.name} ({frame.filename.rpartition('/')[2]}:{frame.lineno})"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        facts: dict[str, object] = {"exception": type(error).__name__, "frames": frames}
        if isinstance(error, SettingsError | GrantsError):
            facts["problem"] = str(error)  # our own text: what the deployment lacks, nothing secret
        self.notice("Bug", facts)

    def write(self, outcome: str, status: int, duration_ms: float) -> None:
        """Write the line of this answer."""
        source = str(self._facts.pop("source", "none"))  # a dimension, and no field
        write_metric_line(
            SERVICE,
            metrics={
                "Answers": (1, "Count"),
                "Duration": (round(duration_ms, 1), "Milliseconds"),
            },
            dimensions={"outcome": outcome, "source": source},
            fields={"status": status, **self._facts},
            events=self._events,
        )
