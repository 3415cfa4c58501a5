"""Every sample event is executed against its handler, so that none can rot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import pytest

from functions.campaigns import handler as campaigns_handler
from tests.conftest import EVENTS, LambdaContext

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext as RealLambdaContext

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


def test_the_campaigns_job_understands_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does with it is tested in test_campaigns_handler.py; here no broker is configured."""
    monkeypatch.delenv("TOKEN_BROKER_URL", raising=False)
    event = json.loads((EVENTS / "campaigns-scheduled.json").read_text())

    with pytest.raises(campaigns_handler.RunFailed, match="TOKEN_BROKER_URL"):
        campaigns_handler.lambda_handler(event, cast("RealLambdaContext", LambdaContext()))


def test_no_event_is_left_out() -> None:
    assert {file.stem for file in EVENTS.glob("*.json")} == set(EXPECTED) | {"campaigns-scheduled"}
