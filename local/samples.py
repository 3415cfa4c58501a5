"""The answer to each file of `events/`, where the connection `digishare` has a right client secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from local.cloud import PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EVENTS: Final = PROJECT / "events"
# By the file's name; of the broker: status and error code, of the campaigns job: whether it has read everything.
ANSWERS: Final = {
    "campaigns-accept-missing": "complete",
    "campaigns-by-hand": "complete",
    "campaigns-scheduled": "complete",
    "method-not-allowed": "405 method_not_allowed",
    "not-found": "404 not_found",
    "status": "200",
    "token-default": "200",
    "token-malformed": "400 invalid_request",
    "token-min-ttl": "200",
    "token-no-body": "200",
    "token-not-granted": "403 access_denied",
    "token-oauth-client": "200",
    "token-rejected": "200",
    "token-unknown-connection": "403 access_denied",
    "token-unknown-grant-type": "400 unsupported_grant_type",
}


def function_for(event: Path) -> str:
    """Return the logical id of the function that the event is for."""
    return "CampaignsFunction" if event.stem.startswith("campaigns-") else "BrokerFunction"


def describe(answer: Mapping[str, Any]) -> str:
    """Return what a function has answered, in the words of ANSWERS."""
    if "statusCode" in answer:
        error = json.loads(answer["body"]).get("error", "")
        return f"{answer['statusCode']} {error}".rstrip()
    return (
        "complete" if answer.get("is_complete") else str(answer.get("reason") or answer.get("errorMessage"))
    )
