"""`connection put|list|check`: what they store, what they refuse, and that they show no secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import boto3
import pytest

from functions.broker.adapters.client_secret import ConnectionSecrets
from functions.broker.ports import MintFailedError
from tests.cli.conftest import stack_with
from tests.client.fake_broker import Answer
from token_broker.cli.credentials import checked_text
from token_broker.cli.outcome import CommandError

if TYPE_CHECKING:
    from tests.cli.conftest import Ended, Run
    from tests.client.fake_broker import FakeBroker
    from tests.conftest import Account

PREFIX = ("--prefix", "token-broker/connections")
CANARY = "canary-client-secret-b81e"
CLIENT = {"client_id": "client-1", "client_secret": CANARY}


def put(run: Run, stdin: str | bytes, *options: str) -> Ended:
    return run("connection", "put", "marketing", *PREFIX, *options, stdin=stdin)


def stored(name: str) -> Any:
    answer = boto3.client("secretsmanager").get_secret_value(SecretId=f"token-broker/connections/{name}")
    return json.loads(answer["SecretString"])


def test_put_stores_and_rotates_from_standard_input(run: Run, account: Account) -> None:
    first, second = (put(run, json.dumps(CLIENT | scope), "--json") for scope in ({}, {"scope": "a"}))

    assert [first.value["created"], second.value["created"]] == [True, False]
    assert first.value["version"] != second.value["version"]
    assert stored("marketing") == {"type": "client_credentials", **CLIENT, "scope": "a"}
    assert CANARY not in first.out + first.err + second.out + second.err


@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["by the stack", "by hand"])
def test_a_new_secret_is_encrypted_with_the_key_that_its_stack_names(
    run: Run, account: Account, aws_says: dict[str, Any], prefix: tuple[str, ...]
) -> None:
    # moto's CloudFormation needs packages that nothing else here needs.
    aws_says["DescribeStacks"] = stack_with(
        {"SecretPrefix": PREFIX[1]}, {"ConnectionSecretsKeyArn": account.key_arn}
    )

    assert run("connection", "put", "marketing", *prefix, stdin=json.dumps(CLIENT)).exit_code == 0

    told = boto3.client("secretsmanager").describe_secret(SecretId="token-broker/connections/marketing")
    assert told.get("KmsKeyId") == (None if prefix else account.key_arn)  # the named stack may be another one


def test_put_asks_a_person_without_echo(run: Run, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt: CANARY)
    url = "https://api.digishare.ma/t"

    by_client = run("connection", "put", "one", *PREFIX, "--token-url", url, typed="client-1 \n")
    by_person = run("connection", "put", "two", *PREFIX, "--type", "personal_access_token", typed="")

    assert stored("one") == {"type": "client_credentials", **CLIENT, "token_url": url}
    assert stored("two") == {"type": "personal_access_token", "access_token": CANARY}
    assert CANARY not in by_client.out + by_client.err + by_person.out + by_person.err


def personal(access_token: str) -> str:
    return json.dumps({"type": "personal_access_token", "access_token": access_token})


BAD = {
    "nothing": "",
    "null": "null",
    "no object": "[]",
    "no JSON": CANARY,
    "UTF-16 without a mark": json.dumps(CLIENT).encode("utf-16-le").decode(),
    "two marks": "\ufeff\ufeff" + json.dumps(CLIENT),
    "no secret": json.dumps({"client_id": "client-1"}),
    "an empty id": json.dumps({**CLIENT, "client_id": ""}),
    "an empty URL": json.dumps({**CLIENT, "token_url": ""}),
    "a URL that is null": json.dumps({**CLIENT, "token_url": None}),
    "a line end in the secret": json.dumps({**CLIENT, "client_secret": f"{CANARY}\n"}),
    "a list as the secret": json.dumps({**CLIENT, "client_secret": [CANARY]}),
    "a letter beyond ASCII": json.dumps({**CLIENT, "client_secret": f"{CANARY}é"}),
    "another type": json.dumps({**CLIENT, "type": CANARY}),
    "no type": json.dumps({**CLIENT, "type": None}),
    "a personal token under another name": personal(CANARY).replace('access_token":', 'client_secret":'),
    "an empty personal token": personal(""),
    "a personal token with a space": personal(f"{CANARY} {CANARY}"),
    "a personal token with a space behind": personal(f"{CANARY} "),
    "a personal token that no header takes": personal("x" * 4097),
}
NOT_STORED: dict[str, str | bytes] = {
    **BAD,
    "bytes that are no text": b"\x80" + json.dumps(CLIENT).encode(),
    "another member": json.dumps({**CLIENT, "clientsecret": CANARY}),
    "http": json.dumps({**CLIENT, "token_url": "http://api.digishare.ma/t"}),
    "a user in the URL": json.dumps({**CLIENT, "token_url": f"https://{CANARY}@api.digishare.ma/t"}),
    "a secret of 50 KB": json.dumps({**CLIENT, "client_secret": CANARY * 2000}),
}
GOOD = {
    "client credentials": json.dumps(CLIENT),
    "a byte order mark": "\ufeff" + json.dumps(CLIENT),
    "an empty scope": json.dumps({**CLIENT, "type": "client_credentials", "scope": ""}),
    "a scope that is null": json.dumps({**CLIENT, "scope": None}),
    "URL and scope": json.dumps({**CLIENT, "token_url": "https://api.digishare.ma:8443/t", "scope": "a b"}),
    "a personal token": personal(CANARY),
    "the longest personal token": personal("!~" * 2048),
}


@pytest.mark.parametrize("text", NOT_STORED.values(), ids=NOT_STORED)
def test_what_is_no_credential_is_not_stored_or_quoted(run: Run, account: Account, text: str | bytes) -> None:
    assert_refused(put(run, text))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_in_another_encoding_is_refused_by_its_name(run: Run, account: Account, encoding: str) -> None:
    ended = put(run, json.dumps(CLIENT).encode(encoding))

    assert_refused(ended)
    assert "UTF-16" in ended.err
    assert "save it as UTF-8" in ended.err


def test_a_file_with_a_byte_order_mark_is_stored_without_it(run: Run, account: Account) -> None:
    assert put(run, json.dumps(CLIENT).encode("utf-8-sig")).exit_code == 0
    assert stored("marketing") == {"type": "client_credentials", **CLIENT}


def assert_refused(ended: Ended) -> None:
    """Check that nothing was stored for `marketing`, and that no secret is shown."""
    assert (ended.exit_code, ended.out) == (2, "")
    assert "nothing was stored" in ended.err
    assert CANARY not in ended.err
    secrets = boto3.client("secretsmanager").list_secrets()["SecretList"]
    assert [secret["Name"] for secret in secrets] == ["token-broker/connections/digishare"]


@pytest.mark.parametrize("text", (BAD | GOOD).values(), ids=BAD | GOOD)
def test_the_broker_takes_what_put_takes_and_refuses_what_it_refuses(text: str) -> None:
    answer = {"VersionId": "version-1", "SecretString": text}
    client = Mock(**{"get_secret_value.return_value": answer})
    secrets = ConnectionSecrets(client, "prefix", "https://default/t")
    if text in GOOD.values():
        checked_text(text)
        secrets.read("digishare")
        return
    with pytest.raises(CommandError):
        checked_text(text)
    with pytest.raises(MintFailedError, match="secret_malformed"):
        secrets.read("digishare")


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 65, "é"])
def test_names_that_the_broker_would_refuse_are_refused(run: Run, account: Account, name: str) -> None:
    assert run("connection", "put", *PREFIX, "--", name).exit_code == 2


PUT_ACTIONS = '"Action": [ "secretsmanager:PutSecretValue", "secretsmanager:CreateSecret" ]'


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        # moto would overwrite it; AWS refuses.
        pytest.param("InvalidRequestException", 1, "restore-secret", id="marked for deletion"),
        pytest.param("AccessDeniedException", 3, PUT_ACTIONS, id="denied"),
    ],
)
def test_a_refusal_of_awss_is_told_with_what_to_do(
    run: Run, account: Account, aws_says: dict[str, Any], code: str, exit_code: int, said: str
) -> None:
    def refuse(client: Any, operation: str, _: object) -> None:
        raise client.exceptions.from_code(code)({"Error": {"Code": code, "Message": CANARY}}, operation)

    aws_says[""] = refuse

    ended = run("connection", "put", "digishare", *PREFIX, stdin=json.dumps(CLIENT))

    assert ended.exit_code == exit_code
    assert said in " ".join(ended.err.split())
    assert CANARY not in ended.err


def test_list_shows_names_and_versions_of_this_prefix_only(run: Run, account: Account) -> None:
    account.secretsmanager.create_secret(Name="token-broker/connections-of-others/x", SecretString="x")
    put(run, json.dumps(CLIENT))

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


def test_check_says_what_a_secret_must_be_that_is_not_text(run: Run, account: Account) -> None:
    account.put_secret("binary", json.dumps(CLIENT).encode())
    account.put_secret("utf-16", json.dumps(CLIENT).encode("utf-16-le").decode())

    binary = run("connection", "check", "binary", *PREFIX)
    utf_16 = run("connection", "check", "utf-16", *PREFIX)

    assert (binary.exit_code, utf_16.exit_code) == (1, 1)
    assert "the secret is binary: it must be text (SecretString)" in binary.out
    assert "it has NUL characters, as UTF-16 has" in utf_16.out
    assert CANARY not in binary.out + utf_16.out


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"state": "fresh", "exchanges_left": 24}, None),
        (
            {"state": "due", "last_error": "upstream_503", "exchanges_left": 21}
            | {"failures_in_a_row": 3, "next_attempt_at": "2027-07-06T12:00:00+00:00"},
            "the last exchange failed: upstream_503, 3 in a row, next attempt 2027-07-06T12:00:00+00:00",
        ),
        (
            {"state": "fresh", "last_error": "current_secret_refused", "exchanges_left": 23},
            "the upstream refuses the current secret, and the one before it brought the token",
        ),
        ({"state": "expired", "exchanges_left": 0}, "no exchanges are left for now"),
    ],
    ids=["nothing", "a failure", "the current secret", "the pace"],
)
def test_check_tells_the_brokers_last_failure(
    run: Run, account: Account, broker: FakeBroker, facts: dict[str, object], said: str | None
) -> None:
    row = {"connection": "digishare", "generation": 1, **facts}
    broker.script.append(Answer(200, json.dumps({"connections": [row]}).encode()))

    ended = run("connection", "check", "digishare", *PREFIX, "--json")

    (finding,) = (each for each in ended.value["findings"] if each["topic"] == "broker")
    assert ended.exit_code == 0
    assert finding["verdict"] == ("caution" if said else "ok")
    assert (said or f"state {facts['state']}") in finding["text"]


def test_check_mints_only_if_told(run: Run, account: Account, broker: FakeBroker) -> None:
    row = Answer(200, json.dumps({"connections": [{"connection": "digishare", "state": "none"}]}).encode())
    broker.script.extend([row, row])

    run("connection", "check", "digishare", *PREFIX)
    assert [call.path for call in broker.calls] == ["/status"]
    ended = run("connection", "check", "digishare", *PREFIX, "--mint")
    assert [call.path for call in broker.calls] == ["/status", "/status", "/token"]
    assert ended.exit_code == 0
    assert broker.token_id in ended.out
    assert broker.token not in ended.out
