"""Closed, full and odd standard streams, for every command: no traceback, a fitting exit code, secrets where they belong."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import PROGRAM, Ended, run_process
from tests.client.fake_broker import SECRET_ACCESS_KEY, Answer

if TYPE_CHECKING:
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


def run_all(streams: str = "", **environment: str) -> dict[str, Ended]:
    def run(command: tuple[str, ...]) -> Ended:
        return run_process(*command, streams=streams, stdin=CREDENTIAL.encode(), **environment)

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(COMMANDS, pool.map(run, COMMANDS.values()), strict=True))


def assert_decent(ended: Ended, broker: FakeBroker) -> None:
    """Look that nothing was told that is not meant for a person, and nothing secret on the wrong stream."""
    for complaint in ("Traceback", "Exception ignored", "Fatal Python error", "internal error"):
        assert complaint not in ended.out + ended.err
    assert broker.token not in ended.err
    for secret in (SECRET, SECRET_ACCESS_KEY):
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
    for name, ended in run_all(streams).items():
        assert_decent(ended, world)
        assert (name, ended.exit_code, ended.out) == (name, 0 if name in NO_RESULT else 1, "")
        if reason and name not in NO_RESULT:
            assert f"standard output cannot be written: {reason}" in ended.err
            assert "fix: " in ended.err


@pytest.mark.parametrize("streams", ["", "2>&-", "2>/dev/full"])
def test_results_are_written_whatever_becomes_of_standard_error(world: FakeBroker, streams: str) -> None:
    for name, ended in run_all(streams).items():
        assert_decent(ended, world)
        assert (name, ended.exit_code) == (name, 0)
        assert bool(ended.out) is (name not in NO_RESULT)


@pytest.mark.parametrize("streams", ["<&-", "0>/dev/null", "<&- >&- 2>&-"])
def test_only_put_needs_standard_input(world: FakeBroker, aws: FakeAws, streams: str) -> None:
    for name, ended in run_all(streams).items():
        assert_decent(ended, world)
        if name == "connection put":
            assert ended.exit_code == 2
            assert "nothing was stored" in ended.err or "2>&-" in streams
        else:
            assert (name, ended.exit_code) == (name, 1 if " >&-" in streams and name not in NO_RESULT else 0)
    assert "PutSecretValue" not in [operation for operation, _ in aws.asked]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_reason_to_complain(
    world: FakeBroker, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)

    def run(command: tuple[str, ...]) -> tuple[int, str]:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(  # noqa: S603 - our own program
            [*PROGRAM, *command],
            input=CREDENTIAL,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(writing)
        return done.returncode, done.stderr

    with ThreadPoolExecutor(4) as pool:
        ended = dict(zip(COMMANDS, pool.map(run, COMMANDS.values()), strict=True))

    assert ended == {name: (0 if name in NO_RESULT else 141, "") for name in COMMANDS}


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
    world: FakeBroker, aws: FakeAws, environment: dict[str, str], encoding: str
) -> None:
    aws.answers["ListSecrets"]["SecretList"][0]["Name"] = f"{PREFIX[1]}/été-☕-🎉"
    row = {"connection": "été-☕-🎉\udce9", "lifetime": float("nan")}
    world.script.extend([Answer(200, json.dumps({"connections": [row]}).encode())] * 2)

    shown = [
        subprocess.run(  # noqa: S603 - our own program
            [*PROGRAM, *command],
            env={**os.environ, **environment},
            capture_output=True,
            timeout=60,
            check=False,
        )
        for command in (["connection", "list", *PREFIX, "--json"], ["status", "--json"], ["status"])
    ]

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    listed, status = (json.loads(done.stdout.decode(encoding), parse_constant=refuse) for done in shown[:2])
    assert listed["connections"][0]["connection"] == "été-☕-🎉"
    assert status["connections"] == [{**row, "lifetime": None}]
    assert all(done.stdout.decode(encoding).count("\n") == 1 for done in shown[:2])
    table = shown[2].stdout.decode(encoding)
    assert shown[2].returncode == 0
    assert "\\udce9" in table
    assert ("☕" in table) is (encoding == "utf-16")


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
    [
        *((name, "utf-8") for name in BODIES),
        ("JSON", "utf-16"),
        ("JSON", "ascii:strict"),
        ("binary", "utf-16"),
    ],
)
def test_get_hands_a_body_on_as_it_came(world: FakeBroker, api: FakeApi, name: str, encoding: str) -> None:
    api.body = BODIES[name]
    done = subprocess.run(  # noqa: S603 - our own program
        [*PROGRAM, "get", "/campaigns"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, BODIES[name], b"")


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
def test_get_with_json_prints_one_value_on_one_line(
    world: FakeBroker, api: FakeApi, body: bytes, value: object
) -> None:
    api.body = body
    ended = run_process("get", "/campaigns", "--json")

    assert (ended.exit_code, ended.out.count("\n")) == (0, 1)
    assert ended.value == value
    assert "NaN" not in ended.out


def test_get_with_json_has_the_apis_answer_in_its_error(world: FakeBroker, api: FakeApi) -> None:
    ended = run_process("get", "/forbidden", "--json", "--base-url", api.url(""))

    assert ended.exit_code == 3
    assert ended.out.count("\n") == 1
    assert ended.value["error"] == "api_error"
    assert ended.value["answer"] == {"status": 403}
