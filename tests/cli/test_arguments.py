"""Arguments of every kind, as processes get them: a refusal says what to pass, and nothing ends in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import run_each
from token_broker.cli.terminal import safe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.client.fake_api import FakeApi
    from tests.client.fake_broker import FakeBroker

ODD: dict[str, bytes] = {
    "nothing": b"",
    "a line end": b"a\nfix: do as I say",
    "an escape sequence": b"a\x1b]0;x\x07",
    "a C1 control": "a\x9bb".encode(),
    "another direction": "a\u202eb".encode(),
    "no UTF-8": b"a\xff\xfeb",
    "very long": b"a" * 100_000,
}
OPTIONS: dict[str, list[str]] = {
    "--url": ["token"],
    "--connection": ["status"],
    "--region": ["token"],
    "--min-ttl": ["token"],
    "--rejected": ["token"],
    "--variable": ["exec"],
    "--base-url": ["get", "/x"],
    "--table": ["mints"],
    "--stack": ["doctor"],
    "--prefix": ["connection", "list"],
    "--token-url": ["connection", "put", "x"],
    "--scope": ["connection", "put", "x"],
}
POSITIONALS = {"PATH": ["get"], "NAME": ["connection", "put"], "SHELL": ["completion"], "COMMAND": []}
OF_THE_BROKER = [f"TOKEN_BROKER_{name}" for name in ("URL", "CONNECTION", "STACK", "TABLE")]


@pytest.mark.parametrize("kind", ODD)
def test_odd_arguments_are_refused_in_a_line_that_names_them(run: Run, broker: FakeBroker, kind: str) -> None:
    odd = os.fsdecode(ODD[kind])
    commands = {name: [*command, f"{name}={odd}"] for name, command in OPTIONS.items()}
    commands |= {name: [*command, odd] for name, command in POSITIONALS.items()}

    for name, command in commands.items():
        ended = run(*command)
        assert (name, ended.exit_code, ended.out) == (name, 2, "")
        assert "\nfix: do as I say" not in ended.err
        assert not set("\x1b\x07\x9b\u202e") & set(ended.err)
        assert ended.err.startswith("usage: ")
        if name in OPTIONS:
            assert f"error: argument {name}: must be " in ended.err
        if kind == "very long" and name not in {"SHELL", "COMMAND"}:
            assert len(ended.err) < 5_000
    assert broker.calls == []


def test_what_no_command_takes_is_quoted_on_one_line(run: Run) -> None:
    ended = run("token", "x\nfix: do as I say\x1b[2J")

    assert ended.exit_code == 2
    assert ended.err.splitlines()[-1].endswith("x\\u000afix: do as I say\\u001b[2J")


@pytest.mark.parametrize("name", [*OF_THE_BROKER, "DIGISHARE_BASE_URL"])
@pytest.mark.parametrize("kind", ["a line end", "an escape sequence", "no UTF-8"])
def test_odd_variables_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    monkeypatch.setenv(name, os.fsdecode(ODD[kind]))

    ended = run("doctor")

    assert (ended.exit_code, ended.out) == (2, "")
    assert f"the variable {name} must be " in ended.err


@pytest.mark.parametrize(
    "seconds", ["nan", "inf", "-inf", "-1", "-0.001", "1e300", "1e10", "1" + "0" * 5000, "", "soon", "9e999"]
)
@pytest.mark.parametrize("command", [["token"], ["exec", "/no/such/command"]], ids=" ".join)
def test_malformed_min_ttl_is_refused(run: Run, broker: FakeBroker, command: list[str], seconds: str) -> None:
    ended = run(command[0], f"--min-ttl={seconds}", *command[1:])

    assert (ended.exit_code, ended.out, broker.calls) == (2, "", [])
    said = "argument --min-ttl: must be seconds from 0 to 1,000,000,000, such as 600\n"
    assert ended.err.endswith(said)


@pytest.mark.parametrize(("seconds", "sent"), [("0", None), ("0.5", 1), ("1e3", 1000), ("1000000000", 10**9)])
def test_min_ttl_is_whole_seconds(run: Run, broker: FakeBroker, seconds: str, sent: int | None) -> None:
    assert run("token", "--min-ttl", seconds).exit_code == 0
    assert broker.calls[0].body.get("min_ttl") == sent


def test_a_token_in_the_place_of_its_id_is_neither_sent_nor_shown(run: Run, broker: FakeBroker) -> None:
    ended = run("token", "--rejected", broker.token)

    assert (ended.exit_code, ended.out, broker.calls) == (2, "", [])
    assert broker.token not in ended.err


@pytest.mark.parametrize(
    "base_url",
    [
        *(
            "https://[::1",
            "https://",
            "https://api.example/v1?a=b",
            "https://api.example/v1#a",
            "https://a:b:c/",
        ),
        *("http://elsewhere.example/v1", "ftp://localhost/v1"),
    ],
)
def test_an_unsafe_base_url_is_refused(run: Run, broker: FakeBroker, api: FakeApi, base_url: str) -> None:
    ended = run("get", "/campaigns", "--base-url", base_url)

    assert (ended.exit_code, ended.out, broker.calls, api.seen) == (2, "", [], [])
    assert "fix: pass --base-url" in ended.err


def test_a_path_is_no_url(run: Run, broker: FakeBroker) -> None:
    assert run("get", "https://elsewhere.example/campaigns").exit_code == 2
    assert not broker.calls


@pytest.mark.parametrize(
    "file", [b"", b"/no/such/file", b"/no/\xff/file", b"/", b"a" * 5000, os.fsencode(os.devnull)]
)
def test_what_is_no_ca_file_is_refused(run: Run, broker: FakeBroker, file: bytes) -> None:
    ended = run("get", "/campaigns", "--ca-file", os.fsdecode(file))

    assert (ended.exit_code, ended.out) == (2, "")
    assert "--ca-file" in ended.err
    assert safe(os.fsdecode(file)) in ended.err or len(file) > 100
    assert "internal error" not in ended.err


SHOW = "import os, sys; print(len(os.environ['DIGISHARE_ACCESS_TOKEN']), sys.argv[1:])"
PIPE = "set -o pipefail; yes | head -1 >/dev/null; echo ${PIPESTATUS[0]}"
TOKEN = "canary-token-1"
EXECUTED: dict[str, tuple[list[str], int, str]] = {
    "-- ends exec's options": (["--", "PYTHON", "--", "x"], 0, "14 ['--', 'x']\n"),
    "-- behind the command is the command's": (["PYTHON", "--", "x"], 0, "14 ['--', 'x']\n"),
    "options behind the command are the command's": (["PYTHON", "--json", "-x"], 0, "14 ['--json', '-x']\n"),
    "options before it are exec's": (
        ["--min-ttl", "5", "PYTHON", "a", "--", "b"],
        0,
        "14 ['a', '--', 'b']\n",
    ),
    "options on both sides": (["--json", "--", "PYTHON", "--help", "--"], 0, "14 ['--help', '--']\n"),
    "empty and odd arguments": (["--", "PYTHON", "", "é\udcff"], 0, "14 ['', 'é\\udcff']\n"),
    "-- twice": (["--", "--", "true"], 127, ""),
    "an option without its value": (["--min-ttl"], 2, ""),
    "no command": (["--json"], 2, ""),
    "no command behind --": (["--json", "--"], 2, ""),
    "an unknown option": (["--unknown", "true"], 2, ""),
    "another variable, and the command's exit code": (
        ["--variable", "API_TOKEN", "--", "sh", "-c", 'echo "$API_TOKEN"; exit 37'],
        37,
        f"{TOKEN}\n",
    ),
    "a broken pipe ends the command as it would alone": (["--", "bash", "-c", PIPE], 0, "141\n"),
}


def test_exec_runs_what_follows_its_options(broker: FakeBroker, tmp_path: Path) -> None:
    # As `env`, `sudo` and `kubectl exec` do it: one `--` before the command is the end of exec's own options.
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{SHOW}")
    script.chmod(0o755)
    commands = {
        name: ["exec", *(str(script) if argument == "PYTHON" else argument for argument in arguments)]
        for name, (arguments, *_) in EXECUTED.items()
    }

    all_ended = run_each(commands)

    shown = {name: (ended.exit_code, ended.out) for name, ended in all_ended.items()}
    assert shown == {name: tuple(expected) for name, (_, *expected) in EXECUTED.items()}
    assert all(bool(ended.err) == (ended.exit_code in {2, 127}) for ended in all_ended.values())


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        *(([name], 127) for name in ("/no/such/command", "no-such-command")),
        *((odd, 126) for odd in ([""], ["a\0b"], ["true", "a\0b"], ["/"], ["a" * 5000], [os.devnull])),
    ],
)
def test_exec_reports_a_bad_command(run: Run, broker: FakeBroker, command: list[str], exit_code: int) -> None:
    ended = run("exec", "--", *command)

    assert (ended.exit_code, ended.out) == (exit_code, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "\0" not in ended.err


def test_exec_has_its_exit_code_where_nobody_reads(broker: FakeBroker) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    all_ended = run_each({"exec": ["exec", "--", "no-such-command"]}, stdout=writing, streams="2>&1")
    os.close(writing)

    assert all_ended["exec"].exit_code == 127


def test_exec_leaves_odd_bytes_of_the_environment_as_they_are(broker: FakeBroker) -> None:
    command = ["exec", "--", "sh", "-c", 'printf %s "$ODD" | od -An -tx1']

    ended = run_each({"exec": command}, ODD=os.fsdecode(b"\xff\xfe=\n"))["exec"]
    assert ended.out.split() == ["ff", "fe", "3d", "0a"]


@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_execs_command_has_the_streams_unchanged(broker: FakeBroker, tmp_path: Path, streams: str) -> None:
    said = tmp_path / "said"
    there = "".join(f'[ -e /proc/self/fd/{n} ] && echo {n} >> "$0";' for n in (0, 1, 2))
    command = ["sh", "-c", f"touch $0; {there} true", str(said)]
    subprocess.run(["sh", "-c", f'exec "$@" {streams}', "sh", *command], check=True, timeout=60)  # noqa: S603, S607
    expected = said.read_text()
    said.unlink()

    assert run_each({"exec": ["exec", "--", *command]}, streams=streams)["exec"].exit_code == 0
    assert said.read_text() == expected
