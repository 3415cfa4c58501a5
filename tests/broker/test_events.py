"""Every sample event is executed against its handler, so that none can rot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.conftest import EVENTS

if TYPE_CHECKING:
    from tests.conftest import Invoke

EXPECTED = {
    "method-not-allowed": (405, "method_not_allowed"),
    "not-found": (404, "not_found"),
    "status": (200, None),
    "token-default": (200, None),
    "token-malformed": (400, "invalid_request"),
    "token-min-ttl": (200, None),
    "token-no-body": (200, None),
    "token-not-granted": (403, "access_denied"),
    "token-oauth-client": (200, None),
    "token-rejected": (200, None),
    "token-unknown-connection": (403, "access_denied"),
    "token-unknown-grant-type": (400, "unsupported_grant_type"),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_broker_answers_the_event_as_expected(name: str, invoke: Invoke) -> None:
    answer = invoke(json.loads((EVENTS / f"{name}.json").read_text()))

    assert (answer["statusCode"], json.loads(answer["body"]).get("error")) == EXPECTED[name]


def test_no_event_is_left_out() -> None:
    """Those of the campaigns job are sent in tests/campaigns/test_handler.py."""
    names = {file.stem for file in EVENTS.glob("*.json")}

    assert names == set(EXPECTED) | {name for name in names if name.startswith("campaigns-")}
