"""`mints` reads what the broker's store and ledger write, and says which tokens a person must revoke."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from functions.broker.adapters.mint_ledger import MintLedger
from functions.broker.adapters.token_store import TokenStore
from functions.broker.token import Lock, TokenRecord
from tests.cli.conftest import stack_with
from token_broker.issued_token import Token
from token_broker.ledger_row import Mint, Outcome

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.conftest import Account

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S
CALLER = "123456789012:role/reports"


def token(token_id: str, issued_at: float, lifetime_s: float | None = YEAR_S) -> Token:
    """Return a token; one without a said lifetime has a guessed expiry, after a day."""
    expires_at = issued_at + (DAY_S if lifetime_s is None else lifetime_s)
    return Token(token_id * 16, issued_at, expires_at, lifetime_s, None, "version-1")


def personal_token(token_id: str, issued_at: float) -> Token:
    return Token(token_id * 16, issued_at, None, None, None, "version-1")


@dataclass
class Table:
    """The token table. It writes rows and items as the broker does."""

    account: Account
    connection: str = "digishare"
    fence: int = 0

    def __post_init__(self) -> None:
        self.now = round(time.time(), 3)
        self._dynamodb = boto3.client("dynamodb")
        self._ledger = MintLedger(self._dynamodb, table=self.account.table)

    def add(
        self, outcome: Outcome, made: Token | None = None, *, age_s: float, jti: str = "", error: str = ""
    ) -> None:
        """Write the row of an exchange that began so long ago."""
        self.fence += 1
        begun_at = made.issued_at_epoch_s if made else self.now - age_s
        owner = f"owner-{self.fence}"
        row = Mint(self.connection, self.fence, owner, begun_at, "refresh", CALLER, "version-1")
        self._ledger.complete(replace(row, outcome=outcome, token=made, jti=jti, error=error))

    def issue(
        self, token_id: str, *, age_s: float, jti: str = "", lifetime_s: float | None = YEAR_S
    ) -> Token:
        made = token(token_id, self.now - age_s, lifetime_s)
        self.add(Outcome.ISSUED, made, age_s=age_s, jti=jti)
        return made

    def publish(self, made: Token) -> None:
        """Publish the token in a new item."""
        kms = boto3.client("kms")
        store = TokenStore(self._dynamodb, kms, table=self.account.table, key_arn=self.account.key_arn)
        seen = TokenRecord(self.connection)
        locked = store.write(seen, seen._replace(fence=1, lock=Lock("owner", self.now + 14.5)))
        assert locked
        sealed = store.seal(self.connection, locked.fence, made, "token")
        assert store.write(locked, TokenRecord(self.connection, sealed, generation=1, fence=1))


@pytest.fixture(autouse=True)
def no_stack(aws_says: dict[str, Any]) -> None:
    # moto's CloudFormation needs packages that nothing else here needs.
    error: Any = {"Error": {"Code": "ValidationError", "Message": "does not exist"}}
    aws_says["DescribeStacks"] = ClientError(error, "x")


@pytest.fixture
def table(account: Account) -> Table:
    return Table(account)


def read(run: Run, table: Table, *arguments: str) -> list[dict[str, Any]]:
    ended = run("mints", "--table", table.account.table, "--json", *arguments)
    assert ended.exit_code == 0
    return list(ended.value["mints"])


def uses(rows: list[dict[str, Any]]) -> list[tuple[str | None, str]]:
    return [(row["token_id"] and row["token_id"][0], row["use"]) for row in rows]


@pytest.fixture
def busy_table(table: Table) -> Table:
    """A year of exchanges; the last one's token is in service."""
    table.issue("a", age_s=YEAR_S + 60)
    table.issue("b", age_s=5_000, jti="jti-of-b")
    table.add(Outcome.FAILED, age_s=4_000, error="invalid_client")
    table.add(Outcome.BEGUN, age_s=3_000)
    table.publish(table.issue("c", age_s=2_000, jti="jti-of-c"))
    table.issue("d", age_s=500)  # of a holder that had lost its lock: its caller alone was served
    table.add(Outcome.BEGUN, age_s=5)
    return table


def test_every_token_that_may_be_valid_is_shown_and_all_with_an_option(run: Run, busy_table: Table) -> None:
    before = [("a", "expired"), ("b", "to revoke"), (None, "failed"), (None, "unknown")]
    everything = [*before, ("c", "in service"), ("d", "still leased"), (None, "under way")]

    assert uses(read(run, busy_table, "--all")) == everything
    relevant = [each for each in everything if each[1] not in {"expired", "failed"}]
    assert uses(read(run, busy_table)) == relevant


def test_a_row_names_the_caller_and_the_tokens_jti(run: Run, table: Table) -> None:
    table.issue("b", age_s=5_000, jti="jti-of-b")

    (row,) = read(run, table)

    assert row["jti"] == "jti-of-b"
    assert row["caller"] == CALLER
    assert (row["reason"], row["fence"], row["owner"]) == ("refresh", 1, "owner-1")
    assert row["outcome"] == "issued"
    times = [datetime.fromisoformat(row[name]).timestamp() for name in ("begun_at", "expires_at")]
    assert times == pytest.approx([table.now - 5_000, table.now - 5_000 + YEAR_S], abs=1)


def test_a_token_is_to_be_revoked_once_the_leases_on_it_have_ended(run: Run, table: Table) -> None:
    table.issue("a", age_s=YEAR_S / 2)
    table.publish(table.issue("b", age_s=950))

    (old, _) = read(run, table)

    # Replaced 950 s ago: instances may have served it from memory for a minute more, each time for 900 s.
    assert old["use"] == "still leased"
    revoke_after = datetime.fromisoformat(old["revoke_after"]).timestamp()
    assert revoke_after - (table.now - 950) >= 900 + 60


def test_a_token_that_was_replaced_long_ago_is_to_be_revoked_unless_the_stacks_leases_are_longer(
    run: Run, table: Table, aws_says: dict[str, Any]
) -> None:
    table.issue("a", age_s=YEAR_S / 2)
    table.publish(table.issue("b", age_s=1_000))

    assert uses(read(run, table)) == [("a", "to revoke"), ("b", "in service")]
    aws_says["DescribeStacks"] = stack_with({}, {"LeaseSeconds": "36e2"})
    assert uses(read(run, table)) == [("a", "still leased"), ("b", "in service")]
    assert "cannot be read" not in run("mints", "--table", table.account.table).err


def test_a_guessed_expiry_ends_no_token(run: Run, table: Table) -> None:
    table.issue("a", age_s=2 * DAY_S, lifetime_s=None)
    table.issue("b", age_s=2 * DAY_S, lifetime_s=DAY_S)
    table.publish(table.issue("c", age_s=DAY_S / 2, lifetime_s=DAY_S))

    rows = read(run, table)

    assert uses(rows) == [("a", "to revoke"), ("c", "in service")]
    assert [row["expiry_is_known"] for row in rows] == [False, True]


def test_a_personal_token_has_no_expiry_and_is_to_be_revoked_once_replaced(run: Run, table: Table) -> None:
    table.add(Outcome.ISSUED, personal_token("a", table.now - 5 * YEAR_S), age_s=0)
    new = personal_token("b", table.now - 5_000)
    table.add(Outcome.ISSUED, new, age_s=0)
    table.publish(new)

    rows = read(run, table)

    assert uses(rows) == [("a", "to revoke"), ("b", "in service")]
    assert [row["expires_at"] for row in rows] == [None, None]


def test_a_token_that_was_published_twice_is_in_service(run: Run, table: Table) -> None:
    table.issue("a", age_s=5_000)
    table.publish(table.issue("a", age_s=2_000))

    assert uses(read(run, table)) == [("a", "in service"), ("a", "in service")]


def test_the_oldest_exchange_is_first_where_a_restored_table_repeats_fences(run: Run, table: Table) -> None:
    table.fence = 9
    table.issue("a", age_s=6_000)
    table.fence = 0
    table.issue("b", age_s=5_000)

    assert uses(read(run, table)) == [("a", "to revoke"), ("b", "to revoke")]


def test_a_person_is_told_what_to_do(run: Run, busy_table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_BROKER_TABLE", busy_table.account.table)

    ended = run("mints")

    heading, first, *others = ended.out.splitlines()
    assert heading.split()[:3] == ["TOKEN", "ID", "USE"]
    assert first.split()[:3] == ["b" * 16, "to", "revoke"]
    assert "jti-of-b" in first
    assert len(others) == 4
    told = [line.partition(":")[0] for line in ended.err.splitlines()]
    assert told[:4] == ["to revoke", "still leased", "unknown", "under way"]
    assert "the longest lease is taken as 900 s" in ended.err


def test_other_connections_have_their_own_ledger(run: Run, account: Account, busy_table: Table) -> None:
    other = Table(account, "other")
    other.issue("e", age_s=5_000)

    assert uses(read(run, other, "--connection", "other")) == [("e", "to revoke")]
    assert read(run, other, "--connection", "none") == []


def test_a_row_of_a_later_format_is_told(run: Run, account: Account, table: Table) -> None:
    row = {"connection": {"S": "digishare"}, "record": {"S": "mint#1"}, "format": {"N": "2"}}
    boto3.client("dynamodb").put_item(TableName=account.table, Item=row)

    ended = run("mints", "--table", account.table)

    assert ended.exit_code == 1
    assert "a later version" in ended.err


@pytest.mark.parametrize(
    "written",
    [{}, {"outcome": {"S": "issued"}, "begun_at_epoch_s": {"N": "1e50"}}, {"outcome": {"S": "nonsense"}}],
    ids=["no members", "a time far ahead", "another outcome"],
)
def test_a_row_that_somebody_else_wrote_hides_no_other(
    run: Run, account: Account, table: Table, written: dict[str, dict[str, str]]
) -> None:
    row = {"connection": {"S": "digishare"}, "record": {"S": "mint#x"}, **written}
    boto3.client("dynamodb").put_item(TableName=account.table, Item=row)
    table.issue("a", age_s=5_000)

    rows = read(run, table)

    assert ("a", "to revoke") in uses(rows)
    assert len(rows) == 2


def test_a_table_that_is_not_there_is_told(run: Run, account: Account) -> None:
    ended = run("mints", "--table", "nowhere")

    assert ended.exit_code == 1
    assert "ResourceNotFoundException" in ended.err
    assert "Traceback" not in ended.err
