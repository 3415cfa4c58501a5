"""Any handler, on a clock that each event moves, with a count of the TLS contexts that loaded root certificates."""

from __future__ import annotations

import importlib
import os
import ssl
import time
from typing import Any

_real_time = time.time
_real_load = ssl.SSLContext.load_verify_locations
_offset_s = 0.0
_contexts: list[int] = []


def _moved_time() -> float:
    return _real_time() + _offset_s


def _counted_load(self: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
    _real_load(self, *args, **kwargs)
    _contexts.append(self.cert_store_stats()["x509_ca"])


time.time = _moved_time
ssl.SSLContext.load_verify_locations = _counted_load  # type: ignore[method-assign] # that is the purpose
_module, _, _name = os.environ["WATCHED_HANDLER"].rpartition(".")
_handler = getattr(importlib.import_module(_module), _name)


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    global _offset_s  # noqa: PLW0603 - this module is the clock
    _offset_s = float(event["headers"].pop("x-clock-offset", "0"))
    answer: dict[str, Any] = _handler(event, context)
    answer["headers"] = {**answer.get("headers", {}), "x-tls-contexts": _contexts}
    return answer
