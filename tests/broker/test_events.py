"""Every sample event is executed against its handler, so that none is out of date."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from local.samples import ANSWERS, EVENTS, describe, function_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Invoke


@pytest.mark.parametrize(
    "file",
    [file for file in sorted(EVENTS.glob("*.json")) if function_for(file) == "BrokerFunction"],
    ids=lambda file: file.stem,
)
def test_the_broker_answers_the_event_as_expected(file: Path, invoke: Invoke) -> None:
    """Those of the campaigns job are sent in tests/campaigns/test_handler.py."""
    assert describe(invoke(json.loads(file.read_text()))) == ANSWERS[file.stem]


def test_no_event_is_left_out() -> None:
    assert {file.stem for file in EVENTS.glob("*.json")} == set(ANSWERS)
