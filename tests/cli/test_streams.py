"""Closed, full and odd standard streams, for every command: no traceback, the right exit code, no leaked secret."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Ended, run_each
from tests.client.fake_broker import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Answer
from token_broker.cli import main

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.cli.fake_aws import FakeAws
    from tests.client.fake_api import FakeApi
    from tests.client.fake_broker import FakeBroker

SECRET = "canary-client-secret-c3f0"
CREDENTIAL = json.dumps({"client_id": "client-1", "client_secret": SECRET})
PREFIX = ("--prefix", "token-broker/connections")
COMMANDS: dict[str, tuple[str, ...]] = {
    "token": ("token",),
    "token --json": ("token", "--json"),
    "exec": ("exec", "--", "sh", "-c", "exit 0"),
    "get": ("get", "/campaigns"),
    "get --json": ("get", "/campaigns", "--json"),
    "status": ("status",),
    "mints": ("mints", "--table", "tokens"),
    "connection put": ("connection", "put", "marketing", *PREFIX),
    "connection list": ("connection", "list", *PREFIX),
    "connection check": ("connection", "check", "marketing", *PREFIX),
    "doctor": ("doctor",),
    "completion": ("completion", "bash"),
    "--help": ("--help",),
    "--version": ("--version",),
}
NO_RESULT = {"exec"}


@pytest.fixture
def world(aws: FakeAws, broker: FakeBroker, api: FakeApi) -> FakeBroker:
    """Everything that a command may ask, with a result for each."""
    row = {"connection": "digishare", "record": "mint#1", "outcome": "begun", "begun_at_epoch_s": None}
    secret = {"Name": f"{PREFIX[1]}/marketing", "SecretVersionsToStages": {"version-1": ["AWSCURRENT"]}}
    aws.answers |= {
        "Query": {"Items": [{name: {"S": value} for name, value in row.items() if value}]},
        "GetItem": {},
        "ListSecrets": {"SecretList": [secret]},
        "GetSecretValue": {"VersionId": "version-1", "SecretString": CREDENTIAL},
        "PutSecretValue": {"VersionId": "version-2"},
    }
    return broker


def assert_clean(ended: Ended, broker: FakeBroker) -> None:
    """Check that there is no traceback, and no secret on the wrong stream."""
    for complaint in ("Traceback", "Exception ignored", "Fatal Python error", "internal error"):
        assert complaint not in ended.out + ended.err
    assert broker.token not in ended.err
    for secret in (SECRET, SECRET_ACCESS_KEY, ACCESS_KEY_ID):
        assert secret not in ended.out + ended.err


@pytest.mark.parametrize(
    ("streams", "reason"),
    [
        (">&-", "Bad file descriptor"),
        (">/dev/full", "No space left on device"),
        ("1</dev/null", "Bad file descriptor"),
        (">&- 2>&-", ""),
    ],
)
def test_a_result_that_cannot_be_written_is_a_failure(world: FakeBroker, streams: str, reason: str) -> None:
    for name, ended in run_each(COMMANDS, streams=streams, stdin=CREDENTIAL.encode()).items():
        assert_clean(ended, world)
        assert (name, ended.exit_code, ended.out) == (name, 0 if name in NO_RESULT else 1, "")
        if reason and name not in NO_RESULT:
            assert f"standard output cannot be written: {reason}" in ended.err
            assert "fix: " in ended.err


@pytest.mark.parametrize("streams", ["", "2>&-", "2>/dev/full"])
def test_results_are_written_without_a_usable_standard_error(world: FakeBroker, streams: str) -> None:
    for name, ended in run_each(COMMANDS, streams=streams, stdin=CREDENTIAL.encode()).items():
        assert_clean(ended, world)
        assert (name, ended.exit_code) == (name, 0)
        assert bool(ended.out) is (name not in NO_RESULT)


@pytest.mark.parametrize("streams", ["<&-", "0>/dev/null", "<&- >&- 2>&-"])
def test_only_put_needs_standard_input(world: FakeBroker, aws: FakeAws, streams: str) -> None:
    for name, ended in run_each(COMMANDS, streams=streams, stdin=CREDENTIAL.encode()).items():
        assert_clean(ended, world)
        if name == "connection put":
            assert ended.exit_code == 2
            assert "nothing was stored" in ended.err or "2>&-" in streams
        else:
            assert (name, ended.exit_code) == (name, 1 if " >&-" in streams and name not in NO_RESULT else 0)
    assert "PutSecretValue" not in [operation for operation, _ in aws.asked]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_error(world: FakeBroker, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    all_ended = run_each(COMMANDS, stdin=CREDENTIAL.encode(), stdout=writing, PYTHONUNBUFFERED=unbuffered)

    os.close(writing)
    assert all_ended == {name: Ended(0 if name in NO_RESULT else 141, "", "") for name in COMMANDS}


@pytest.mark.parametrize(
    ("environment", "encoding"),
    [
        ({"PYTHONIOENCODING": "ascii:strict"}, "ascii"),
        ({"PYTHONIOENCODING": "utf-16"}, "utf-16"),
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
    ],
    ids=["ascii", "utf-16", "latin-1", "C"],
)
def test_json_is_json_in_every_encoding(
    world: FakeBroker,
    aws: FakeAws,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    encoding: str,
) -> None:
    aws.answers["ListSecrets"]["SecretList"][0]["Name"] = f"{PREFIX[1]}/été-☕-🎉"
    row = {"connection": "été-☕-🎉\udce9", "lifetime": float("nan")}
    world.script.extend([Answer(200, json.dumps({"connections": [row]}).encode())] * 2)

    commands = {"list": COMMANDS["connection list"], "status": ("status",)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    as_json = {f"{name} --json": (*command, "--json") for name, command in commands.items()}
    all_ended = run_each(commands | as_json, encoding=encoding)

    lines = [all_ended[name].out for name in as_json]
    listed, status = (json.loads(line, parse_constant=pytest.fail) for line in lines)
    assert listed["connections"][0]["connection"] == "été-☕-🎉"
    assert status["connections"] == [{**row, "lifetime": None}]
    assert [line.count("\n") for line in lines] == [1, 1]
    assert {ended.exit_code for ended in all_ended.values()} == {0}
    assert "\\udce9" in all_ended["status"].out
    for name in commands:
        assert ("☕" in all_ended[name].out) is (encoding == "utf-16")


BODIES = {
    "JSON": '{"name": "été\\u202e"}'.encode(),
    "JSON of two lines": b'{\n"name": "x"}\n',
    "latin-1": "été".encode("latin-1"),
    "binary": bytes(range(256)),
    "large": b'["' + b"x" * 300_000 + b'"]',
    "deep": b"[" * 100_000 + b"]" * 100_000,
}


@pytest.mark.parametrize(
    ("name", "encoding"),
    [*((name, "utf-8") for name in BODIES), ("JSON", "utf-16"), ("JSON", "ascii"), ("binary", "utf-16")],
)
def test_get_writes_the_body_unchanged(
    world: FakeBroker, api: FakeApi, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str
) -> None:
    api.body = BODIES[name]
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding, "strict"))

    assert main(["get", "/campaigns"]) == 0
    assert written.getvalue() == BODIES[name]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{\n"a": [1, NaN, -Infinity, 1e999]}', {"a": [1, None, None, None]}),
        (BODIES["JSON"], {"name": "été\u202e"}),
        (BODIES["latin-1"], "\ufffdt\ufffd"),
        (b"", None),
    ],
    ids=["numbers that JSON does not have", "text", "no JSON", "nothing"],
)
def test_get_json_is_one_value(run: Run, world: FakeBroker, api: FakeApi, body: bytes, value: object) -> None:
    api.body = body
    ended = run("get", "/campaigns", "--json")

    assert (ended.exit_code, ended.out.count("\n")) == (0, 1)
    assert ended.value == value
    assert "NaN" not in ended.out


def test_get_with_json_has_the_apis_answer_in_its_error(run: Run, world: FakeBroker, api: FakeApi) -> None:
    ended = run("get", "/forbidden", "--json", "--base-url", api.url(""))

    assert ended.exit_code == 3
    assert ended.out.count("\n") == 1
    assert ended.value["error"] == "api_error"
    assert ended.value["answer"] == {"status": 403}
