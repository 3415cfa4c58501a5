"""What commands say where the API, the broker, AWS or the machine answers as it rarely does."""

from __future__ import annotations

import io
import json
import runpy
import sys
import time
from importlib.metadata import PackageNotFoundError
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError

from tests.cli.conftest import stack_with
from tests.client.fake_broker import Answer, failure
from token_broker.cli import arguments, main, program, prompts
from token_broker.cli.deployment import Deployment
from token_broker.cli.identity import Identity, find_missing_actions
from token_broker.cli.outcome import Options

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.client.fake_api import FakeApi
    from tests.client.fake_broker import FakeBroker
    from tests.conftest import Account

PREFIX = ("--prefix", "token-broker/connections")
CLIENT = {"client_id": "client-1", "client_secret": "canary-client-secret-b81e"}
TOKEN_URL = "https://login.example:8443/token"


def aws_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, "Operation")


@pytest.mark.parametrize(
    ("status", "exit_code", "fix"),
    [
        (302, 1, "redirects are not followed: correct --base-url"),
        (404, 1, "see the API's answer"),
        (503, 4, "try again later"),
    ],
)
def test_a_status_of_the_api_has_its_exit_code_and_advice(
    run: Run, broker: FakeBroker, api: FakeApi, status: int, exit_code: int, fix: str
) -> None:
    api.first_statuses.append(status)

    ended = run("get", "/things")

    assert ended.exit_code == exit_code
    assert f"HTTP {status}" in ended.err
    assert fix in ended.err


def test_a_path_may_be_the_whole_url_and_an_empty_body_is_printed_as_nothing(
    run: Run, broker: FakeBroker, api: FakeApi
) -> None:
    api.body = b""

    ended = run("get", api.url("/v1/things"))

    assert (ended.exit_code, ended.out, [seen.path for seen in api.seen]) == (0, "", ["/v1/things"])


def test_a_url_that_cannot_be_sent_is_wrong_usage(run: Run, broker: FakeBroker) -> None:
    ended = run("get", "/things", "--base-url", "https://ex%61mple.com/v1")

    assert ended.exit_code == 2
    assert "fix: correct --base-url or PATH" in ended.err


def test_nothing_to_list_is_said(run: Run, account: Account, broker: FakeBroker) -> None:
    broker.script.append(Answer(200, b'{"connections": []}'))

    assert "no connection is granted to you by its name" in run("status").err
    assert "no tokens of digishare that may be valid" in run("mints", "--table", account.table).err
    assert "the ledger is empty" in run("mints", "--table", account.table, "--all").err


@pytest.mark.parametrize(
    ("allowed", "verdict", "text"),
    [
        ("api.digishare.ma, login.example:8443", "ok", "is one of the stack's UpstreamHosts"),
        ("api.digishare.ma", "fault", "is none of the stack's UpstreamHosts"),
        (None, "skipped", "cannot be read"),
    ],
)
def test_check_compares_the_token_url_with_the_hosts_of_the_stack(
    run: Run, account: Account, aws_says: dict[str, Any], allowed: str | None, verdict: str, text: str
) -> None:
    account.put_secret("digishare", {**CLIENT, "token_url": TOKEN_URL})
    aws_says["DescribeStacks"] = (
        aws_error("AccessDenied") if allowed is None else stack_with({}, {"UpstreamHosts": allowed})
    )

    findings = run("connection", "check", "digishare", *PREFIX, "--json").value["findings"]

    (found,) = (each for each in findings if each["topic"] == "token_url")
    assert found["verdict"] == verdict
    assert text in found["text"]


def test_check_tells_the_brokers_refusals(run: Run, account: Account, broker: FakeBroker) -> None:
    granted = Answer(
        200, json.dumps({"connections": [{"connection": "digishare", "state": "none"}]}).encode()
    )
    broker.script.extend([failure(403, "access_denied"), granted, failure(502, "upstream_rejected")])

    no_status = run("connection", "check", "digishare", *PREFIX, "--json").value["findings"]
    no_token = run("connection", "check", "digishare", *PREFIX, "--mint", "--json").value["findings"]

    assert ("broker", "fault") in [(each["topic"], each["verdict"]) for each in no_status]
    assert ("token", "fault") in [(each["topic"], each["verdict"]) for each in no_token]


def test_put_asks_for_what_its_options_do_not_say(
    run: Run, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: "canary-typed")

    scoped = run("connection", "put", "digishare", *PREFIX, "--scope", "a b", typed="client-1\n")
    bad_url = run(
        "connection", "put", "digishare", *PREFIX, "--token-url", "https://[::1", typed="client-1\n"
    )

    assert scoped.exit_code == 0
    assert bad_url.exit_code != 0
    assert "token_url" in bad_url.err


def test_a_line_that_is_no_text_is_as_if_nothing_were_typed(
    run: Run, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="ascii")
    monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)

    monkeypatch.setattr(sys, "stdin", typed)
    assert main(["connection", "put", "digishare", *PREFIX]) != 0


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (stack_with({}, {}), "the stack token-broker has no output SecretPrefix"),
        (aws_error("ValidationError"), "there is no stack token-broker in eu-west-3"),
    ],
    ids=["no output", "no stack"],
)
def test_what_the_stack_does_not_tell_can_be_passed(
    run: Run, account: Account, aws_says: dict[str, Any], said: object, text: str
) -> None:
    aws_says["DescribeStacks"] = said

    ended = run("connection", "list")

    assert ended.exit_code != 0
    assert text in ended.err
    assert "--prefix" in ended.err


def test_a_region_that_nobody_tells_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)

    ended = run("connection", "list", *PREFIX)

    assert ended.exit_code == 2
    assert "the AWS region is not known\nfix: pass --region, or set AWS_REGION" in ended.err


def doctor(run: Run, *options: str) -> dict[str, dict[str, str]]:
    return {each["topic"]: each for each in run("doctor", "--json", *options).value["findings"]}


def test_the_doctor_says_that_nobody_answers(run: Run, broker: FakeBroker, aws_says: dict[str, Any]) -> None:
    aws_says[""] = aws_error("AccessDenied")

    found = doctor(run, "--url", "http://localhost:9/")

    assert found["network"]["verdict"] == "fault"


def test_the_doctor_names_a_principal_in_general_where_sts_does_not_tell_it(
    run: Run, broker: FakeBroker, aws_says: dict[str, Any]
) -> None:
    aws_says[""] = aws_error("AccessDenied")
    broker.script.append(failure(403, "access_denied"))

    assert "ACCOUNT:role/ROLE" in json.dumps(doctor(run)["grant"])


@pytest.mark.parametrize(("ahead_s", "verdict"), [(120, "caution"), (400, "fault")])
def test_the_doctor_blames_the_clock_before_what_it_explains(
    broker: FakeBroker,
    aws_says: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    ahead_s: int,
    verdict: str,
) -> None:
    aws_says[""] = aws_error("AccessDenied")
    broker.script.append(failure(403, "access_denied"))

    main(["doctor", "--json"], clock=lambda: time.time() + ahead_s)

    found = {each["topic"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert found["clock"]["verdict"] == verdict
    assert "ahead of AWS's; signatures are refused beyond 300 s" in found["clock"]["text"]
    assert (found["grant"]["verdict"] == "fault") is (verdict == "caution")


def test_the_doctor_knows_awss_refusal_of_an_old_signature(
    run: Run, broker: FakeBroker, aws_says: dict[str, Any]
) -> None:
    aws_says[""] = aws_error("AccessDenied")
    told = json.dumps({"Message": "Signature expired: 20260101T000000Z is now earlier than 20260102T000000Z"})
    broker.script.append(Answer(403, told.encode(), {"x-amzn-ErrorType": "InvalidSignatureException"}))

    assert doctor(run)["clock"]["verdict"] == "fault"


def test_a_copy_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def raise_not_found(_name: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(arguments, "version", raise_not_found)
    monkeypatch.setattr(program, "find_spec", lambda _name: None)

    ended = run("token")

    assert ended.exit_code == 2
    assert "pip install 'token_broker-(not installed)-py3-none-any.whl[cli]'" in ended.err


def test_streams_of_other_kinds_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own)

    program._prepare_streams()

    assert sys.stdout is own


def test_a_machine_without_termios_has_no_echo_to_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as windows:
        windows.setitem(sys.modules, "termios", None)
        with runpy.run_path(prompts.__file__)["echo_restored"]():
            pass


def test_missing_actions_are_asked_for_with_the_users_path(
    account: Account, aws_says: dict[str, Any]
) -> None:
    arn = "arn:aws:iam::123456789012:user/teams/orders/ali"
    simulate = Mock(return_value={"EvaluationResults": [{"EvalDecision": "allowed"}]})
    aws_says |= {"GetUser": {"User": {"Arn": arn}}, "SimulatePrincipalPolicy": simulate}
    user = Identity("arn:aws:iam::123456789012:user/ali", "aws", "123456789012", "user", "ali")
    needed = {"lambda:InvokeFunctionUrl": ("lambda:FunctionUrlAuthType", "string", "AWS_IAM")}

    missing = find_missing_actions(user, Deployment(Options(region="eu-west-3", url=None)), needed, "*")

    assert missing == []
    assert simulate.call_args.args[2]["PolicySourceArn"] == arn
