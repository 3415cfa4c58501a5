"""The broker's HTTP contract, end to end in one process: moto for AWS, real TLS to the fake Digishare."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from functions.broker import handler as broker_handler
from functions.broker.assembly import assemble
from functions.broker.audit import Audit
from tests.conftest import ACCOUNT, LambdaContext, new_event

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from local.fake_digishare import FakeDigishare
    from tests.conftest import Invoke


def body_of(answer: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(answer["body"])
    return value


def test_the_first_call_mints_and_memory_serves_the_second(invoke: Invoke, digishare: FakeDigishare) -> None:
    first, second = body_of(invoke()), body_of(invoke())

    assert first["token_type"] == "Bearer"
    assert first["connection"] == "digishare"
    assert 0 < first["expires_in"] <= 900
    assert second["access_token"] == first["access_token"]
    assert len(digishare.mints) == 1


def test_a_cold_instance_reads_the_table(new_broker: Callable[[], Invoke], digishare: FakeDigishare) -> None:
    first, second = body_of(new_broker()()), body_of(new_broker()())

    assert second["token_id"] == first["token_id"]
    assert len(digishare.mints) == 1


def test_every_answer_says_that_it_must_not_be_stored(invoke: Invoke) -> None:
    answers = [
        invoke(),
        invoke(path="/status", method="GET"),
        invoke(path="/nowhere"),
        invoke(method="GET"),
        invoke(body="{"),
        invoke(body={"connection": "not-granted"}),
        invoke(user_arn=None),
    ]

    assert [answer["statusCode"] for answer in answers] == [200, 200, 404, 405, 400, 403, 403]
    for answer in answers:
        assert answer["headers"]["Cache-Control"] == "no-store"
        assert answer["headers"]["Pragma"] == "no-cache"
        assert answer["headers"]["Content-Type"] == "application/json"


def test_a_missing_connection_and_one_that_is_not_granted_get_the_same_answer(invoke: Invoke) -> None:
    stranger = f"arn:aws:sts::{ACCOUNT}:assumed-role/stranger/session"

    missing = invoke(body={"connection": "missing"})
    not_granted = invoke(body={"connection": "missing"}, user_arn=stranger)

    assert (missing["statusCode"], missing["body"]) == (not_granted["statusCode"], not_granted["body"])


def test_an_unforeseen_error_is_answered_without_a_trace(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object) -> None:
        raise KeyError("canary-in-an-unforeseen-error")

    monkeypatch.setattr("functions.broker.handler.read_request", break_down)

    answer = invoke()

    assert (answer["statusCode"], body_of(answer)["error"]) == (503, "temporarily_unavailable")
    (record,) = [vars(record) for record in caplog.records]
    assert record["exception"] == "KeyError"
    assert "break_down" in record["frames"][-1]
    assert "canary" not in answer["body"] + repr(record)


def test_a_function_that_is_deployed_incompletely_says_what_is_missing_to_its_operator_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("TOKEN_TABLE", "LEASE_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(broker_handler, "_broker", lambda: assemble({"LEASE_SECONDS": "long"}, Audit()))

    answer = broker_handler.lambda_handler(new_event(), LambdaContext())  # type: ignore[arg-type] # a stand-in

    assert answer["statusCode"] == 503
    assert "TOKEN_TABLE" not in answer["body"]
    (record,) = [vars(record) for record in caplog.records]
    assert record["exception"] == "SettingsError"
    assert "TOKEN_TABLE is missing" in record["problem"]
    assert "LEASE_SECONDS must be a whole number" in record["problem"]
