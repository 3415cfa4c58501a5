"""`mints record` writes the same row for a token got by hand as the broker for its own, and shows no token."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from tests.cli.conftest import run_on_terminal
from tests.cli.test_ledger import Table
from token_broker.issued_token import token_id_of

if TYPE_CHECKING:
    from local.fake_digishare import FakeDigishare
    from tests.cli.conftest import Ended, Run
    from tests.cli.fake_aws import FakeAws
    from tests.client.fake_broker import FakeBroker
    from tests.conftest import Account, Invoke

YEAR_S = 31_536_000


def jwt(**claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJub25lIn0.{payload}.canary-signature-7d20"


TOKEN = jwt(jti="jti-of-hand", iat=1, exp=1 + YEAR_S)
TOKEN_ID = token_id_of(TOKEN)
ANSWER = {"token_type": "Bearer", "expires_in": YEAR_S, "access_token": TOKEN}
FIRST, SECOND, THIRD = TOKEN.split(".")


@pytest.fixture
def table(account: Account, monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setenv("TOKEN_BROKER_TABLE", account.table)
    return Table(account)


def record(run: Run, *arguments: str, answer: object = ANSWER) -> Ended:
    """Record an answer, and check that the output has no part of its token."""
    text = answer if isinstance(answer, str | bytes) else json.dumps(answer)
    ended = run("mints", "record", "digishare", "--reason", "the key is disabled", *arguments, stdin=text)
    assert_shows_no_token(ended.out + ended.err)
    return ended


def assert_shows_no_token(text: str) -> None:
    assert "canary" not in text
    assert SECOND not in text


def listed(run: Run, *arguments: str) -> list[dict[str, Any]]:
    return list(run("mints", "--json", *arguments).value["mints"])


def at(epoch_s: float) -> tuple[str, str]:
    return "--issued-at", datetime.fromtimestamp(epoch_s, UTC).isoformat()


def test_the_row_describes_the_token_as_the_brokers_own_row_does(
    run: Run, account: Account, invoke: Invoke, digishare: FakeDigishare, table: Table
) -> None:
    answer = json.loads(invoke()["body"])
    (own,) = (item for item in account.items() if item["record"]["S"].startswith("mint#"))

    ended = run(
        "mints", "record", "digishare", "--reason", "no broker", *at(float(own["issued_at_epoch_s"]["N"])),
        stdin=json.dumps({"access_token": answer["access_token"], "expires_in": float(own["lifetime_s"]["N"])}),
    )  # fmt: skip

    assert ended.exit_code == 0, ended.err
    assert answer["access_token"] not in ended.out + ended.err
    (by_hand,) = (item for item in account.items() if "#by-hand-" in item["record"]["S"])
    of_the_exchange = {"record", "fence", "owner", "begun_at_epoch_s", "reason", "caller", "secret_version"}
    assert own["jti"]["S"]
    assert set(by_hand) == set(own)
    assert {name for name in own if own[name] != by_hand[name]} <= of_the_exchange
    assert by_hand["reason"]["S"] == "by hand: no broker"


def test_it_is_listed_and_the_token_in_service_stays(run: Run, account: Account, table: Table) -> None:
    table.publish(table.issue("c", age_s=9_000))
    item = account.item()

    ended = record(run, *at(table.now - 5_000), "--json")

    assert ended.exit_code == 0
    assert (ended.value["token_id"], ended.value["recorded"]) == (TOKEN_ID, True)
    in_service, by_hand = listed(run)
    assert (in_service["token_id"], in_service["use"]) == ("c" * 16, "in service")
    assert (by_hand["token_id"], by_hand["jti"], by_hand["use"]) == (TOKEN_ID, "jti-of-hand", "to revoke")
    assert (by_hand["outcome"], by_hand["reason"]) == ("issued", "by hand: the key is disabled")
    assert by_hand["caller"] == ended.value["caller"]
    assert by_hand["caller"].startswith("arn:aws:sts::")
    assert datetime.fromisoformat(by_hand["begun_at"]).timestamp() == pytest.approx(table.now - 5_000, abs=1)
    assert account.item() == item


def test_without_a_lifetime_the_row_stays_for_the_longest(run: Run, account: Account, table: Table) -> None:
    before = time.time()
    record(run, answer={"access_token": "canary-opaque-token", "scope": "read write"})

    (item,) = account.items()
    assert "lifetime_s" not in item
    assert item["scope"] == {"S": "read write"}
    assert before - 1 <= float(item["delete_after_epoch_s"]["N"]) - 401 * 86_400 <= time.time()
    assert before - 1 <= float(item["issued_at_epoch_s"]["N"]) <= time.time()


def test_a_recorded_token_is_told_and_its_row_stays(run: Run, account: Account, table: Table) -> None:
    record(run, *at(table.now - 5_000))
    (row,) = account.items()

    again = record(run)
    for_programs = record(run, "--json")

    assert again.exit_code == 0
    assert f"token {TOKEN_ID} (JTI jti-of-hand)" in again.out
    assert "in the ledger already" in again.out
    assert for_programs.value["recorded"] is False
    assert account.items() == [row]


def test_two_tokens_have_two_rows(run: Run, account: Account, table: Table) -> None:
    record(run)
    record(run, answer={**ANSWER, "access_token": jwt(jti="another")})

    assert [row["jti"] for row in listed(run)] == ["jti-of-hand", "another"]


BAD = {
    "nothing": ("", "not a JSON object"),
    "no JSON": (TOKEN, "not a JSON object"),
    "a cut answer": (json.dumps(ANSWER)[:-30], "not a JSON object"),
    "HTML": (f"<html><body>{TOKEN}</body></html>", "not a JSON object"),
    "a list": ([ANSWER], "not a JSON object"),
    "UTF-16": (json.dumps(ANSWER).encode("utf-16"), "not a JSON object"),
    "deep": ("[" * 60_000, "not a JSON object"),
    "no token": ({"token_type": "Bearer", "refresh_token": TOKEN}, "has no `access_token`"),
    "an error": ({"error": "invalid_client", "error_description": TOKEN}, "an `error` of the token endpoint"),
    "a token with a space": ({"access_token": f"{TOKEN} "}, "Bearer header"),
    "a token that is a list": ({"access_token": [TOKEN]}, "Bearer header"),
    "two tokens": (f'{{"access_token": "{TOKEN}", "access_token": "a"}}', "Bearer header"),
    "another kind of token": ({**ANSWER, "token_type": "mac"}, "Bearer header"),
    "65 KB": ({**ANSWER, "more": "x" * 65_536}, "more than 65536 bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "said"), BAD.values(), ids=BAD)
def test_what_is_no_answer_is_not_recorded_and_not_quoted(
    run: Run, account: Account, table: Table, answer: object, said: str
) -> None:
    ended = record(run, answer=answer)

    assert ended.exit_code == 2
    assert said in ended.err
    assert "nothing was recorded" in ended.err
    assert "revoke it there" in ended.err
    assert account.items() == []


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("2026-11-27T10:00:00", "a time with its zone"),
        ("yesterday", "a time with its zone"),
        ("9999-12-31T23:59:59-23:59", "in the future"),
        (3600, "in the future"),
        (-2 * YEAR_S, "would have expired already"),
        ("0001-01-01T00:00:00+23:59", "would have expired already"),
    ],
)
def test_a_time_that_cannot_be_right_is_refused(run: Run, table: Table, moment: str | int, said: str) -> None:
    ended = record(run, "--issued-at", moment if isinstance(moment, str) else at(table.now + moment)[1])

    assert ended.exit_code == 2
    assert said in ended.err
    assert table.account.items() == []


@pytest.mark.parametrize("arguments",
    [["record", "a/b", "--reason", "r"], ["record", TOKEN, "--reason", "r"], ["record"], ["record", "digishare"],
        ["record", "digishare", "--reason", "a\nb"]])  # fmt: skip
def test_wrong_usage_writes_nothing(run: Run, account: Account, table: Table, arguments: list[str]) -> None:
    ended = run("mints", *arguments, stdin=json.dumps(ANSWER))

    assert ended.exit_code == 2
    assert account.items() == []
    assert_shows_no_token(ended.out + ended.err)


def test_without_a_table_it_is_told_how_to_find_the_token_later(run: Run, account: Account) -> None:
    ended = record(run, "--table", "nowhere")

    assert ended.exit_code == 1
    assert f"not recorded: token {TOKEN_ID} (JTI jti-of-hand) of digishare" in ended.err
    assert "there is no table nowhere" in ended.err
    assert "--table" in ended.err


FAILURES = {
    "denied": (ClientError({"Error": {"Code": "AccessDeniedException", "Message": TOKEN}}, "PutItem"), 3,
        '"dynamodb:PutItem"'),
    "throttled": (ClientError({"Error": {"Code": "ThrottlingException", "Message": TOKEN}}, "PutItem"), 4,
        "try again later"),
    "no answer": (EndpointConnectionError(endpoint_url=TOKEN), 4, "check the network"),
    "anything": (ValueError(TOKEN), 4, "check the network"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_write_shows_no_token(run: Run, table: Table, aws_says: dict[str, Any], name: str) -> None:
    aws_says["PutItem"], exit_code, said = FAILURES[name]

    ended = record(run)

    assert ended.exit_code == exit_code
    assert said in ended.err
    assert f"not recorded: token {TOKEN_ID}" in ended.err


def test_nothing_is_written_without_keys(run: Run, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")

    ended = record(run)

    assert ended.exit_code == 3
    assert "no AWS credentials" in ended.err


def test_a_person_pastes_the_answer_without_echo(broker: FakeBroker, aws: FakeAws) -> None:
    aws.answers["PutItem"] = {}

    exit_code, shown, _ = run_on_terminal(
        "mints", "record", "digishare", "--table", "tokens", "--reason", "the function does not start",
        typed=[("(hidden)", json.dumps(ANSWER).encode() + b"\n")],
    )  # fmt: skip

    assert exit_code == 0, shown
    assert f"recorded token {TOKEN_ID} (JTI jti-of-hand)" in shown
    assert_shows_no_token(shown)
    sent = dict(aws.asked)["PutItem"]
    assert sent["Item"]["caller"] == {"S": "arn:aws:iam::123456789012:user/test"}
    assert sent["ConditionExpression"] == "attribute_not_exists(#record)"
    assert_shows_no_token(json.dumps(sent))
