"""AWS keys that no header can contain: every command names the variable, and shows no part of any key."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.client.fake_broker import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.client.fake_api import FakeApi
    from tests.client.fake_broker import FakeBroker

KEYS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    "AWS_SESSION_TOKEN": "canary-session-token-4c1b",
}
CALLERS = ("token", "token --json", "get /campaigns", "status", "doctor", "doctor --json")
OPERATORS = ("mints --table t", "connection list --prefix p")


@pytest.mark.parametrize("odd", ["\n", "\r\nX-Injected: 1", "é", "€", " ", "\x1b"], ids=ascii)
@pytest.mark.parametrize("name", KEYS)
def test_no_command_shows_a_key(  # noqa: PLR0917 - fixtures
    name: str,
    odd: str,
    run: Run,
    broker: FakeBroker,
    api: FakeApi,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="token_broker")
    for variable, value in KEYS.items():
        monkeypatch.setenv(variable, value[:6] + odd + value[6:] if variable == name else value)
    for service in ("STS", "IAM", "DYNAMODB", "SECRETS_MANAGER", "CLOUDFORMATION"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", api.url("/"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    for command in (*CALLERS, *OPERATORS):
        ended = run(*command.split())
        shown = ended.out + ended.err + caplog.text
        assert ended.exit_code not in {0, 141}
        assert name in shown or command in OPERATORS
        for value in KEYS.values():
            assert value[6:] not in shown
    assert not broker.calls
