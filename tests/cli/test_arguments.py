"""Arguments of every kind, as processes get them: what is refused says what to pass, and nothing ends in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import PROGRAM, run_process

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
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
VARIABLES = [
    "TOKEN_BROKER_URL",
    "TOKEN_BROKER_CONNECTION",
    "TOKEN_BROKER_STACK",
    "TOKEN_BROKER_TABLE",
    "DIGISHARE_BASE_URL",
]


@pytest.mark.parametrize("kind", ODD)
def test_odd_arguments_are_refused_in_a_line_that_names_them(broker: FakeBroker, kind: str) -> None:
    odd = ODD[kind]
    commands = {name: [*command, f"{name}=".encode() + odd] for name, command in OPTIONS.items()}
    commands |= {name: [*command, odd] for name, command in POSITIONALS.items()}

    with ThreadPoolExecutor(4) as pool:
        all_ended = dict(
            zip(commands, pool.map(lambda command: run_process(*command), commands.values()), strict=True)
        )

    for name, ended in all_ended.items():
        assert (name, ended.exit_code, ended.out) == (name, 2, "")
        assert not [
            line for line in ended.err.splitlines() if line.startswith(("Traceback", "fix: do as I say"))
        ]
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


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("kind", ["a line end", "an escape sequence", "no UTF-8"])
def test_odd_variables_are_refused_by_their_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.setenv(name, os.fsdecode(ODD[kind]))

    ended = run("doctor")

    assert (ended.exit_code, ended.out) == (2, "")
    assert f"the variable {name} must be " in ended.err


@pytest.mark.parametrize(
    "seconds", ["nan", "inf", "-inf", "-1", "-0.001", "1e300", "1e10", "1" + "0" * 5000, "", "soon", "9e999"]
)
@pytest.mark.parametrize("command", [["token"], ["exec", "--"]], ids=" ".join)
def test_a_validity_that_is_none_is_refused_with_what_to_pass(
    broker: FakeBroker, command: list[str], seconds: str
) -> None:
    # Never `exec` in this process: a fault would end all tests with the code of its command.
    ended = run_process(command[0], f"--min-ttl={seconds}", *command[1:], *(["true"] if command[1:] else []))

    assert (ended.exit_code, ended.out, broker.calls) == (2, "", [])
    assert ended.err.splitlines()[-1].endswith(
        "argument --min-ttl: must be seconds from 0 to 1,000,000,000, such as 600"
    )


@pytest.mark.parametrize(("seconds", "sent"), [("0", None), ("0.5", 1), ("1e3", 1000), ("1000000000", 10**9)])
def test_a_validity_is_sent_in_whole_seconds(
    run: Run, broker: FakeBroker, seconds: str, sent: int | None
) -> None:
    assert run("token", "--min-ttl", seconds).exit_code == 0
    assert broker.calls[0].body.get("min_ttl") == sent


def test_a_token_in_the_place_of_its_id_is_neither_sent_nor_shown(run: Run, broker: FakeBroker) -> None:
    ended = run("token", "--rejected", broker.token)

    assert (ended.exit_code, ended.out, broker.calls) == (2, "", [])
    assert broker.token not in ended.err


@pytest.mark.parametrize(
    "base_url",
    ["https://[::1", "https://", "https://api.example/v1?a=b", "https://api.example/v1#a", "https://a:b:c/"],
)
def test_a_base_url_that_is_none_is_refused(run: Run, broker: FakeBroker, base_url: str) -> None:
    ended = run("get", "/campaigns", "--base-url", base_url)

    assert (ended.exit_code, ended.out, broker.calls) == (2, "", [])
    assert "fix: pass --base-url" in ended.err


@pytest.mark.parametrize(
    "file", [b"", b"/no/such/file", b"/no/\xff/file", b"/", b"a" * 5000, os.fsencode(os.devnull)]
)
def test_a_ca_file_that_is_none_is_refused(broker: FakeBroker, file: bytes) -> None:
    ended = run_process("get", "/campaigns", "--ca-file", file)

    assert (ended.exit_code, ended.out) == (2, "")
    assert "--ca-file" in ended.err
    assert "Traceback" not in ended.err
    assert "internal error" not in ended.err


SHOW = "import os, sys; print(len(os.environ['DIGISHARE_ACCESS_TOKEN']), sys.argv[1:])"


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (["--", "PYTHON", "--", "x"], ["--", "x"]),
        (["PYTHON", "--", "x"], ["--", "x"]),
        (["PYTHON", "--json", "-x", "--min-ttl", "nan"], ["--json", "-x", "--min-ttl", "nan"]),
        (["--min-ttl", "5", "PYTHON", "a", "--", "b", "--", "c"], ["a", "--", "b", "--", "c"]),
        (["--json", "--", "PYTHON", "--help", "--"], ["--help", "--"]),
        (["--", "PYTHON", "", "é\udcff"], ["", "é\udcff"]),
    ],
    ids=lambda value: " ".join(value).encode("ascii", "backslashreplace").decode(),
)
def test_exec_hands_on_what_stands_behind_its_command(
    broker: FakeBroker, tmp_path: Path, arguments: list[str], seen: list[str]
) -> None:
    # As `env`, `sudo` and `kubectl exec` do it: one `--` before the command is the end of exec's own options.
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{SHOW}")
    script.chmod(0o755)
    command = [str(script) if argument == "PYTHON" else argument for argument in arguments]

    ended = run_process("exec", *map(os.fsencode, command))

    assert (ended.exit_code, ended.out, ended.err) == (0, f"{len(broker.token)} {seen}\n", "")


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["--", "--", "true"], 127),
        (["--min-ttl"], 2),
        (["--json"], 2),
        (["--json", "--"], 2),
        (["--unknown", "true"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exec_takes_nothing_before_its_command_but_options(
    broker: FakeBroker, arguments: list[str], exit_code: int
) -> None:
    assert run_process("exec", *arguments).exit_code == exit_code


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [([""], 126), (["a\0b"], 126), (["true", "a\0b"], 126), (["/"], 126), (["a" * 5000], 126)],
)
def test_exec_says_in_a_line_that_a_command_cannot_be_run(
    run: Run, broker: FakeBroker, command: list[str], exit_code: int
) -> None:
    ended = run("exec", "--", *command)

    assert (ended.exit_code, ended.out) == (exit_code, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "\0" not in ended.err


def test_exec_says_by_its_code_that_a_command_cannot_be_run_where_nobody_reads(broker: FakeBroker) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(  # noqa: S603 - our own program
        [*PROGRAM, "exec", "--", "no-such-command"], stdout=writing, stderr=writing, timeout=60, check=False
    )
    os.close(writing)

    assert done.returncode == 127


def test_exec_leaves_odd_bytes_of_the_environment_as_they_are(broker: FakeBroker) -> None:
    program = ["env", b"ODD=\xff\xfe=\n", sys.executable, "-m", "token_broker.cli"]
    ended = run_process("exec", "--", "sh", "-c", 'printf %s "$ODD" | od -An -tx1', program=program)  # type: ignore[arg-type] # bytes are arguments, too

    assert ended.out.split() == ["ff", "fe", "3d", "0a"]


@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_execs_command_finds_the_streams_as_they_were(
    broker: FakeBroker, tmp_path: Path, streams: str
) -> None:
    said = tmp_path / "said"
    code = f"import os; open({str(said)!r}, 'w').write(str([os.path.exists(f'/proc/self/fd/{{n}}') for n in (0, 1, 2)]))"
    alone = run_process(program=[sys.executable, "-c", code], streams=streams)
    expected = said.read_text()
    said.unlink()

    ended = run_process("exec", "--", sys.executable, "-c", code, streams=streams)

    assert (ended.exit_code, alone.exit_code) == (0, 0)
    assert said.read_text() == expected
