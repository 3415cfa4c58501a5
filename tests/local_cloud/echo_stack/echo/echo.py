"""Answers with the event that it got; some paths ask for other behaviour."""

from __future__ import annotations

import os
import sys
from typing import Any


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    path = event.get("rawPath", "")
    sys.stdout.write(f"echoing {path or event}\n")
    if path == "/fail":
        raise RuntimeError("canary-inside")
    return {
        "event": event,
        "instance": os.getpid(),
        "function_arn": context.invoked_function_arn,
        "environment": dict(os.environ),
    }
