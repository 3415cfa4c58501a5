"""`connection put|list|check`: what is stored, what is refused before it is stored, and that nothing of it is shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from functions.broker.client_secret import ConnectionSecrets, SecretMalformedError
from tests.client.fake_broker import REGION, Answer
from token_broker.cli.credentials import checked_text
from token_broker.cli.outcome import CommandError

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.client.fake_broker import FakeBroker
    from tests.conftest import Account

PREFIX = ("--prefix", "token-broker/connections")
CANARY = "canary-client-secret-b81e"
CLIENT = {"client_id": "client-1", "client_secret": CANARY}


def stored(name: str) -> Any:
    answer = boto3.client("secretsmanager").get_secret_value(SecretId=f"token-broker/connections/{name}")
    return json.loads(answer["SecretString"])


def test_put_stores_and_rotates_from_standard_input(run: Run, account: Account) -> None:
    first = run("connection", "put", "marketing", *PREFIX, "--json", stdin=json.dumps(CLIENT))
    second = run(
        "connection", "put", "marketing", *PREFIX, "--json", stdin=json.dumps({**CLIENT, "scope": "a"})
    )

    assert [first.value["created"], second.value["created"]] == [True, False]
    assert first.value["version"] != second.value["version"]
    assert stored("marketing") == {"type": "client_credentials", **CLIENT, "scope": "a"}
    assert CANARY not in first.out + first.err + second.out + second.err


def test_put_asks_a_person_without_echo(run: Run, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt: CANARY)
    monkeypatch.setattr("builtins.input", lambda prompt: "client-1 ")

    by_client = run(
        "connection", "put", "one", *PREFIX, "--token-url", "https://api.digishare.ma/t", stdin=None
    )
    by_person = run("connection", "put", "two", *PREFIX, "--type", "personal_access_token", stdin=None)

    assert stored("one") == {
        "type": "client_credentials",
        **CLIENT,
        "token_url": "https://api.digishare.ma/t",
    }
    assert stored("two") == {"type": "personal_access_token", "access_token": CANARY}
    assert CANARY not in by_client.out + by_client.err + by_person.out + by_person.err


BAD = [
    "",
    "null",
    "[]",
    CANARY,
    json.dumps({"client_id": "client-1"}),
    json.dumps({**CLIENT, "client_id": ""}),
    json.dumps({**CLIENT, "client_secret": f"{CANARY}\n"}),
    json.dumps({**CLIENT, "client_secret": [CANARY]}),
    json.dumps({**CLIENT, "client_secret": f"{CANARY}é"}),
    json.dumps({**CLIENT, "type": CANARY}),
    json.dumps({"type": "personal_access_token", "client_secret": CANARY}),
]
BAD_HERE_ONLY = [
    json.dumps({**CLIENT, "clientsecret": CANARY}),
    json.dumps({**CLIENT, "token_url": "http://api.digishare.ma/t"}),
    json.dumps({**CLIENT, "token_url": f"https://{CANARY}@api.digishare.ma/t"}),
    json.dumps({**CLIENT, "client_secret": CANARY * 2000}),
]
GOOD = [
    json.dumps(CLIENT),
    json.dumps({**CLIENT, "type": "client_credentials", "scope": ""}),
    json.dumps({**CLIENT, "token_url": "https://api.digishare.ma:8443/t", "scope": "a b"}),
    json.dumps({"type": "personal_access_token", "access_token": CANARY}),
]


@pytest.mark.parametrize("text", BAD + BAD_HERE_ONLY, ids=range(len(BAD + BAD_HERE_ONLY)))
def test_what_is_no_credential_is_not_stored_and_not_quoted(run: Run, account: Account, text: str) -> None:
    ended = run("connection", "put", "marketing", *PREFIX, stdin=text)

    assert (ended.exit_code, ended.out) == (2, "")
    assert "nothing was stored" in ended.err
    assert CANARY not in ended.err
    assert (
        boto3.client("secretsmanager").list_secrets(
            Filters=[{"Key": "name", "Values": ["token-broker/connections/m"]}]
        )["SecretList"]
        == []
    )


@pytest.mark.parametrize("text", BAD + GOOD, ids=range(len(BAD + GOOD)))
def test_the_broker_takes_what_put_takes_and_refuses_what_it_refuses(text: str) -> None:
    secrets = ConnectionSecrets(lambda: pytest.fail("reads nothing"), "prefix", "https://default/t")
    try:
        checked_text(text)
        here = True
    except CommandError:
        here = False
    try:
        secrets._parse(text, "version-1")
        there = True
    except SecretMalformedError:
        there = False

    assert here is there


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 65, "é"])
def test_names_that_the_broker_would_refuse_are_refused(run: Run, account: Account, name: str) -> None:
    ended = (
        run("connection", "put", *PREFIX, "--", name)
        if name.startswith("-")
        else run("connection", "put", name, *PREFIX)
    )

    assert ended.exit_code == 2


def test_a_secret_marked_for_deletion_is_told(
    run: Run, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    # moto would overwrite it; AWS refuses.
    def refuse(self: Any, operation: str, arguments: object) -> None:
        code = "InvalidRequestException"
        raise self.exceptions.from_code(code)({"Error": {"Code": code, "Message": CANARY}}, operation)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", refuse)

    ended = run("connection", "put", "digishare", *PREFIX, stdin=json.dumps(CLIENT))

    assert ended.exit_code == 1
    assert "restore-secret" in ended.err


def test_list_shows_names_and_versions_of_this_prefix_only(run: Run, account: Account) -> None:
    boto3.client("secretsmanager").create_secret(
        Name="token-broker/connections-of-others/x", SecretString="x"
    )
    run("connection", "put", "marketing", *PREFIX, stdin=json.dumps(CLIENT))

    rows = run("connection", "list", *PREFIX, "--json").value["connections"]

    assert [row["connection"] for row in rows] == ["digishare", "marketing"]
    assert all(row["version"] for row in rows)
    assert "marketing" in run("connection", "list", *PREFIX).out


def test_check_looks_at_the_shape_and_asks_for_nothing(run: Run, account: Account) -> None:
    good = run("connection", "check", "digishare", *PREFIX)
    missing = run("connection", "check", "nobody", *PREFIX)
    account.put_secret("broken", {"client_id": CANARY})
    broken = run("connection", "check", "broken", *PREFIX)

    assert good.exit_code == 0
    assert "client_credentials with client_id, client_secret" in good.out
    assert (missing.exit_code, broken.exit_code) == (1, 1)
    assert "`client_secret` must be printable ASCII text" in broken.out
    assert CANARY not in broken.out


def test_check_mints_only_if_told(
    run: Run, account: Account, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    row = Answer(200, json.dumps({"connections": [{"connection": "digishare", "state": "none"}]}).encode())
    broker.script.extend([row, row])

    run("connection", "check", "digishare", *PREFIX)
    assert [call.path for call in broker.calls] == ["/status"]
    ended = run("connection", "check", "digishare", *PREFIX, "--mint")
    assert [call.path for call in broker.calls] == ["/status", "/status", "/token"]
    assert ended.exit_code == 0
    assert broker.token_id in ended.out
    assert broker.token not in ended.out


def test_without_rights_the_statement_to_add_is_printed(
    run: Run, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(self: object, operation: str, arguments: object) -> None:
        from botocore.exceptions import ClientError  # noqa: PLC0415 - only here

        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": CANARY}}, operation)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", deny)

    ended = run("connection", "put", "digishare", *PREFIX, stdin=json.dumps(CLIENT))

    assert ended.exit_code == 3
    statement = json.loads(ended.err.partition("statement\n")[2])
    assert statement["Action"] == ["secretsmanager:PutSecretValue", "secretsmanager:CreateSecret"]
    assert CANARY not in ended.err
