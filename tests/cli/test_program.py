"""What holds for every command: help, exit codes, errors, and how it ends when it is interrupted."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import PROGRAM, heed_ctrl_c, run_on_terminal
from tests.client.fake_broker import Answer, failure
from token_broker.cli.arguments import SHELLS
from token_broker.cli.outcome import _FIXES
from token_broker.errors import BY_CODE

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.client.fake_broker import FakeBroker

COMMANDS = [
    *(["token"], ["exec"], ["get"], ["status"], ["mints"], ["doctor"], ["completion"]),
    *(["connection"], ["connection", "put"], ["connection", "list"], ["connection", "check"]),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_has_an_example(run: Run, command: list[str]) -> None:
    ended = run(*command, "--help")

    assert ended.exit_code == 0
    assert f"token-broker {' '.join(command)}" in ended.out.partition("examples:")[2]


def test_help_lists_commands_and_exit_codes(run: Run) -> None:
    ended = run("--help")

    assert all(command[0] in ended.out for command in COMMANDS)
    assert "exit codes:" in ended.out


def test_help_does_not_load_the_aws_sdk() -> None:
    code = "import sys, token_broker.cli.arguments as a; a.new_parser(); print('botocore' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], timeout=30) == b"False\n"  # noqa: S603 - our own code


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        *(("invalid_request", 2), ("access_denied", 3), ("upstream_rejected", 5)),
        *(("slow_down", 4), ("temporarily_unavailable", 4)),
    ],
)
def test_each_error_has_an_exit_code_and_fix(run: Run, broker: FakeBroker, code: str, exit_code: int) -> None:
    # Waiting longer than the client's time budget makes it give up at once.
    broker.script.extend([failure(BY_CODE[code].status, code, retry_after_s=600)] * 4)

    ended = run("token")

    assert (ended.exit_code, ended.out) == (exit_code, "")
    error, fix = ended.err.splitlines()
    assert error == f"error: said {code} (request req-1)"
    assert fix.startswith("fix: ")


def test_every_error_class_but_two_has_a_fix() -> None:
    unplanned = {kind for kind in BY_CODE.values() if kind not in _FIXES}

    assert {kind.code for kind in unplanned} == {"not_found", "method_not_allowed"}


def test_with_json_the_error_is_on_both_streams(run: Run, broker: FakeBroker) -> None:
    broker.script.append(failure(403, "access_denied"))

    ended = run("--json", "token")

    assert ended.value["error"] == "access_denied"
    assert ended.value["exit_code"] == ended.exit_code == 3
    assert ended.err.startswith("error: ")


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["token", "--nonsense"], ["exec"], ["exec", "--"], ["token", "--", "x"], ["get"]],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(run: Run, arguments: list[str]) -> None:
    ended = run(*arguments)

    assert (ended.exit_code, ended.out) == (2, "")
    assert ended.err.startswith("usage: ")


def test_shared_options_may_come_before_or_after_the_command(run: Run, broker: FakeBroker) -> None:
    run("--connection", "before", "token")
    run("token", "--connection", "behind")
    run("--connection", "before", "token", "--json")

    assert [call.body["connection"] for call in broker.calls] == ["before", "behind", "before"]


def test_missing_keys_and_url_differ(run: Run, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert run("token").exit_code == 3
    monkeypatch.delenv("TOKEN_BROKER_URL")
    assert run("token").exit_code == 2


@pytest.mark.parametrize(
    ("settings", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], *, is_coloured: bool
) -> None:
    for name, value in {"TERM": "xterm", **settings}.items():
        monkeypatch.setenv(name, value)
    _, shown, _ = run_on_terminal("token")

    assert ("\x1b[31merror:" in shown) is is_coloured
    assert "error:" in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_PROFILE", "no-such-profile"), ("AWS_ENDPOINT_URL", "nonsense"), ("AWS_REGION", "not a region")],
)
@pytest.mark.parametrize("command", [["mints"], ["connection", "list"], ["doctor"], ["token"]], ids=" ".join)
def test_settings_of_the_sdk_that_are_not_good_are_told_without_a_traceback(
    run: Run, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    ended = run(*command)

    # `token` and `doctor` can do without some of them.
    assert ended.exit_code in {0, 1, 2, 3}
    assert ended.exit_code == 0 or "fix: " in ended.err + ended.out


@pytest.mark.parametrize(
    "url", ["nonsense", "https://", "https://[::1", "https://a b/", "http://example.com/", "https://x/?a=1"]
)
@pytest.mark.parametrize("command", ["token", "doctor"])
def test_a_bad_url_is_told_without_a_traceback(run: Run, broker: FakeBroker, command: str, url: str) -> None:
    ended = run(command, "--url", url)

    assert ended.exit_code in {1, 2, 4}
    assert "fix: " in ended.err + ended.out


TOO_LARGE = "the answer is too large, or nested too deeply"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("canary-secret"), "internal error: ValueError at program.py:"),
        (KeyError("canary-secret"), "internal error: KeyError at program.py:"),
        (ExceptionGroup("canary-secret", [ValueError()]), "internal error: ExceptionGroup at "),
        (UnicodeDecodeError("utf-8", b"canary-secret", 0, 1, "x"), "internal error: UnicodeDecodeError at "),
        (MemoryError("canary-secret"), TOO_LARGE),
        (RecursionError("canary-secret"), TOO_LARGE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_unforeseen_error_is_one_line_without_its_text(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def command(*_: object) -> int:
        raise error

    monkeypatch.setattr("token_broker.cli.program._load", lambda _: command)
    for_people, for_programs = run("token"), run("--json", "token")

    assert (for_people.exit_code, for_people.out) == (1, "")
    assert for_people.err.startswith(f"error: {said}")
    assert for_programs.value["exit_code"] == 1
    assert for_programs.value["error_description"].startswith(said)
    assert "canary-secret" not in for_people.err + for_programs.out + for_programs.err


def test_the_place_of_an_unforeseen_error_is_the_last_line_of_this_package(
    run: Run, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, connection: object = None) -> None:
        raise LookupError("canary-secret")

    monkeypatch.setattr("token_broker.client.BrokerClient.status", fail)

    ended = run("status")

    assert ended.exit_code == 1
    assert re.match(r"error: internal error: LookupError at tokens\.py:\d+\nfix: report ", ended.err)


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP)],
)
def test_a_signal_ends_it_silently(broker: FakeBroker, number: signal.Signals, exit_code: int) -> None:
    broker.may_answer.clear()
    with subprocess.Popen(  # noqa: S603 - our own program
        [*PROGRAM, "token"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - it does one system call
    ) as running:
        assert broker.was_asked.wait(20)
        running.send_signal(number)
        out, err = running.communicate(timeout=20)

    assert (running.returncode, out, err) == (exit_code, "", "")


def test_a_deeply_nested_answer_gives_no_traceback(run: Run, broker: FakeBroker) -> None:
    broker.script.extend([Answer(200, b'{"connections":' + b"[" * 20_000 + b"]" * 20_000 + b"}")] * 4)

    ended = run("status", "--json")

    assert (ended.exit_code, ended.value["exit_code"]) == (1, 1)
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command(run: Run, shell: str) -> None:
    script = run("completion", shell).out

    assert all(command[-1] in script for command in COMMANDS)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, timeout=20, check=True)  # noqa: S603 - reads only


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_and_options(run: Run) -> None:
    script = run("completion", "bash").out
    function = script.rpartition("complete -o ")[2].split()[-2]
    ask = (
        f"{script}\nCOMP_WORDS=(token-broker connection p); COMP_CWORD=2; {function} token-broker p connection;"
        ' echo "${COMPREPLY[@]}"'
    )

    assert subprocess.check_output(["bash", "-c", ask], timeout=20) == b"put\n"  # noqa: S603, S607 - what was printed
