"""The broker's HTTP contract, end to end in one process: moto for AWS, real TLS to the fake Digishare."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker import handler as broker_handler
from functions.broker.assembly import assemble
from functions.broker.audit import Audit
from tests.conftest import ACCOUNT, LambdaContext, new_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.fake_digishare import FakeDigishare
    from tests.conftest import Account, Invoke


def body_of(answer: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(answer["body"])
    return value


def test_first_call_mints_and_the_second_is_served_from_memory(
    invoke: Invoke, digishare: FakeDigishare
) -> None:
    first, second = body_of(invoke()), body_of(invoke())

    assert first["token_type"] == "Bearer"
    assert first["connection"] == "digishare"
    assert 0 < first["expires_in"] <= 900
    assert second["access_token"] == first["access_token"]
    assert len(digishare.mints) == 1


def test_a_fresh_instance_serves_the_token_of_the_table(
    new_broker: Callable[[], Invoke], digishare: FakeDigishare
) -> None:
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


def test_errors_have_a_code_a_sentence_and_the_request_id(invoke: Invoke) -> None:
    answer = body_of(invoke(body={"grant_type": "password"}))

    assert answer == {
        "error": "unsupported_grant_type",
        "error_description": "`grant_type` must be client_credentials, or left out",
        "request_id": "request-1",
    }


@pytest.mark.parametrize(
    "user_arn",
    [
        f"arn:aws:iam::{ACCOUNT}:root",
        "arn:aws:sts::999999999999:assumed-role/local-orders/session",
        f"arn:aws:sts::{ACCOUNT}:assumed-role/orders/session",
        f"arn:aws:sts::{ACCOUNT}:federated-user/local-orders",
        f"arn:aws:sts::{ACCOUNT}:assumed-role/local-orders",
        "",
        None,
    ],
)
def test_whoever_is_not_granted_is_refused_before_anything_is_looked_up(
    invoke: Invoke, digishare: FakeDigishare, account: Account, user_arn: str | None
) -> None:
    answer = invoke(user_arn=user_arn)

    assert (answer["statusCode"], body_of(answer)["error"]) == (403, "access_denied")
    assert account.item() == {}
    assert digishare.calls == []


def test_a_missing_connection_and_one_that_is_not_granted_get_the_same_answer(invoke: Invoke) -> None:
    stranger = f"arn:aws:sts::{ACCOUNT}:assumed-role/stranger/session"

    missing = invoke(body={"connection": "missing"})
    not_granted = invoke(body={"connection": "missing"}, user_arn=stranger)

    assert (missing["statusCode"], missing["body"]) == (not_granted["statusCode"], not_granted["body"])


def test_an_ordinary_oauth_client_is_served(invoke: Invoke) -> None:
    answer = invoke(
        body="grant_type=client_credentials&client_id=ignored",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )

    assert body_of(answer)["token_type"] == "Bearer"


def test_the_lease_is_never_longer_than_the_token_lives(invoke: Invoke, digishare: FakeDigishare) -> None:
    digishare.configure(token_lifetime_s=400)

    assert 390 <= body_of(invoke())["expires_in"] <= 400


def test_a_wrong_client_secret_is_an_operators_matter(
    invoke: Invoke, account: Account, digishare: FakeDigishare
) -> None:
    account.put_secret("digishare", {"client_id": "client-1", "client_secret": "wrong-one"})
    digishare.set_clients([])

    answer = invoke()

    assert (answer["statusCode"], body_of(answer)["error"]) == (502, "upstream_rejected")
    assert digishare.mints == []


def test_a_personal_access_token_is_a_connection_too(
    invoke: Invoke, account: Account, digishare: FakeDigishare
) -> None:
    account.put_secret("digishare", {"type": "personal_access_token", "access_token": "canary-pat-77aa"})

    answer = body_of(invoke())

    assert answer["access_token"] == "canary-pat-77aa"
    assert answer["expires_in"] == 900
    assert digishare.calls == []


def test_status_tells_everything_but_the_token(invoke: Invoke) -> None:
    token = body_of(invoke())
    answer = invoke(path="/status", method="GET", query={"connection": "digishare"})

    (connection,) = body_of(answer)["connections"]
    assert connection["state"] == "fresh"
    assert connection["generation"] == 1
    assert connection["token_id"] == token["token_id"]
    assert connection["exchanges_left"] == 23
    assert connection["last_error"] is None
    assert token["access_token"] not in answer["body"]


def test_the_ledger_has_a_row_for_the_mint(invoke: Invoke, account: Account) -> None:
    token = body_of(invoke())

    (row,) = [item for item in account.items() if item["record"]["S"].startswith("mint#0000000001#")]

    assert row["token_id"]["S"] == token["token_id"]
    assert row["outcome"]["S"] == "issued"
    assert row["caller"]["S"] == f"{ACCOUNT}:role/local-orders"
    assert int(row["delete_after_epoch_s"]["N"]) == int(float(row["expires_at_epoch_s"]["N"]) + 86_400)


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
