"""`mints` reads what the broker's ledger writes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import boto3
import pytest

from functions.broker.mint_ledger import Mint, MintLedger, Outcome

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.conftest import Account

YEAR_S = 365 * 86_400.0
IN_SERVICE = "1111111111111111"


@pytest.fixture
def ledger(account: Account) -> MintLedger:
    dynamodb = boto3.client("dynamodb")
    item = {"connection": "digishare", "record": "token", "token_id": IN_SERVICE}
    dynamodb.put_item(TableName=account.table, Item={name: {"S": value} for name, value in item.items()})
    ledger = MintLedger(dynamodb, table=account.table)
    now = time.time()

    def mint(fence: int, outcome: Outcome, token_id: str, *, age_s: float, generation: int = 0) -> Mint:
        begun = now - age_s
        expiry = begun + YEAR_S if token_id else None
        return Mint("digishare", fence, begun, "soft", outcome, "v1", token_id, generation, expiry)

    for row in (
        mint(1, Outcome.ISSUED, "a" * 16, age_s=YEAR_S + 60, generation=1),
        mint(2, Outcome.ISSUED, "b" * 16, age_s=500, generation=2),
        mint(3, Outcome.FAILED, "", age_s=400),
        mint(4, Outcome.BEGUN, "", age_s=300),
        mint(5, Outcome.ORPHAN, "c" * 16, age_s=200),
        mint(0, Outcome.ISSUED, "d" * 16, age_s=150),
        mint(6, Outcome.ISSUED, IN_SERVICE, age_s=100, generation=3),
    ):
        ledger.write(row)
    ledger.write(Mint("other", 1, now, "soft", Outcome.ISSUED, "v1", "e" * 16, 1, now + YEAR_S))
    return ledger


def test_mints_names_what_may_be_alive_and_what_it_is_used_for(
    run: Run, account: Account, ledger: MintLedger
) -> None:
    rows = run("mints", "--table", account.table, "--json").value["mints"]

    assert [(row["token_id"], row["use"]) for row in rows] == [
        ("b" * 16, "superseded"),
        (None, "unknown"),
        ("c" * 16, "orphan"),
        ("d" * 16, "direct"),
        (IN_SERVICE, "in service"),
    ]


def test_all_has_failed_and_expired_mints_too(run: Run, account: Account, ledger: MintLedger) -> None:
    rows = run("mints", "--table", account.table, "--all", "--json").value["mints"]

    assert [row["use"] for row in rows] == [
        "expired",
        "superseded",
        "failed",
        "unknown",
        "orphan",
        "direct",
        "in service",
    ]


def test_a_person_is_told_what_to_revoke(
    run: Run, account: Account, ledger: MintLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_BROKER_TABLE", account.table)

    ended = run("mints")

    assert len(ended.out.splitlines()) == 6
    assert "orphan: nobody is served this token: revoke it" in ended.err


def test_other_connections_have_their_own_ledger(run: Run, account: Account, ledger: MintLedger) -> None:
    rows = run("mints", "--table", account.table, "--connection", "other", "--json").value["mints"]

    assert [row["token_id"] for row in rows] == ["e" * 16]
    assert run("mints", "--table", account.table, "--connection", "none").exit_code == 0


def test_a_table_that_is_not_there_is_told(run: Run, account: Account) -> None:
    ended = run("mints", "--table", "nowhere")

    assert ended.exit_code == 1
    assert "ResourceNotFoundException" in ended.err
    assert "Traceback" not in ended.err
