"""A test stack beside production's, in one account and region; and whom each policy alone stops.

The test stack has `DirectInvocation` ALLOWED: what the caller policy denies is then denied by nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest
from botocore.exceptions import ClientError

from local.cloud import Stack
from local.sdk import Credentials
from local.translated_template import TEMPLATE, parse
from tests.conftest import CREDENTIAL, new_event
from tests.local_cloud.calling import EVERYTHING, call, new_caller
from tests.programs import run_program
from tests.recipes.page import DOCS, texts

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from local.cloud import LocalCloud

pytestmark = pytest.mark.cloud

NAME: Final = "token-broker-test"
OTHER_ACCOUNT: Final = "111122223333"
SECURITY: Final = DOCS / "security.md"
FUNCTIONS: Final = ("BrokerFunctionName", "CampaignsFunctionName")
INVOKES_EVERYTHING: Final = {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": "*"}


@pytest.fixture(scope="module")
def test_stack(cloud: LocalCloud) -> Stack:
    stack = cloud.deploy(NAME, DirectInvocation="ALLOWED")
    cloud.put_connection("digishare", CREDENTIAL, NAME)
    return stack


def configuration(cloud: LocalCloud, stack: LocalCloud | Stack, name: str) -> dict[str, Any]:
    client = cloud.client("lambda")
    return dict(client.get_function_configuration(FunctionName=stack.outputs[name], Qualifier="live"))


# --- side by side -----------------------------------------------------------------------------------------------------


def test_a_test_stacks_role_reads_no_secret_of_production(cloud: LocalCloud, test_stack: Stack) -> None:
    role = configuration(cloud, test_stack, "BrokerFunctionName")["Role"]
    secrets_manager = cloud.client("secretsmanager", cloud.assume(role))

    assert secrets_manager.get_secret_value(SecretId=f"{test_stack.outputs['SecretPrefix']}/digishare")
    with pytest.raises(ClientError, match="AccessDenied"):
        secrets_manager.get_secret_value(SecretId=f"{cloud.outputs['SecretPrefix']}/digishare")


def test_metrics_and_alarms_of_two_stacks_are_apart(cloud: LocalCloud, test_stack: Stack) -> None:
    namespaces = [
        configuration(cloud, stack, name)["Environment"]["Variables"]["POWERTOOLS_METRICS_NAMESPACE"]
        for stack in (cloud, test_stack)
        for name in FUNCTIONS
    ]
    alarms = cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]

    assert namespaces == ["TokenBroker/token-broker"] * 2 + [f"TokenBroker/{NAME}"] * 2
    assert {alarm["Namespace"] for alarm in alarms} == set(namespaces)


def test_the_jobs_of_two_stacks_run_apart(cloud: LocalCloud, test_stack: Stack) -> None:
    lines_before = len(cloud.function_logs(cloud.outputs["CampaignsFunctionName"]))

    report = cloud.run_campaigns_job(60, NAME)

    assert report["is_complete"], report
    assert len(cloud.function_logs(cloud.outputs["CampaignsFunctionName"])) == lines_before
    assert test_stack.outputs["CampaignsScheduleName"] != cloud.outputs["CampaignsScheduleName"]


def run_as_operator(cloud: LocalCloud, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**cloud.operator_environment(), "PATH": os.environ["PATH"]}
    return run_program("nice", sys.executable, *arguments, env=environment, timeout_s=120)


def test_what_a_test_stack_runs_is_promoted_as_it_is(cloud: LocalCloud, test_stack: Stack) -> None:
    parameters = ("--parameter-overrides", "OtherAccounts=555566667777 LeaseSeconds=300")
    more = ("--stack-name", "promoted", "--no-confirm-changeset", *parameters)
    ended = run_as_operator(cloud, "-m", "local.promote", NAME, *more)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    described = cloud.client("cloudformation").describe_stacks(StackName="promoted")["Stacks"][0]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
    promoted = Stack("promoted", outputs, "")
    for name in FUNCTIONS:
        there, here = configuration(cloud, promoted, name), configuration(cloud, test_stack, name)
        assert there["CodeSha256"] == here["CodeSha256"]
    variables = configuration(cloud, promoted, "BrokerFunctionName")["Environment"]["Variables"]
    assert variables["LEASE_SECONDS"] == "300"


def test_a_stack_that_is_not_there_cannot_be_promoted(cloud: LocalCloud) -> None:
    ended = run_as_operator(cloud, "-m", "local.promote", "token-broker-tset")

    assert ended.returncode == 1
    assert "token-broker-tset" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


# --- past the URL -----------------------------------------------------------------------------------------------------


def attack(cloud: LocalCloud, keys: Credentials, function: str) -> str:
    """Invoke the function as its URL would for a caller with every grant, and return all that comes back."""
    event = new_event(
        body={"connection": "digishare"},
        user_arn=f"arn:aws:sts::{cloud.account_id}:assumed-role/local-forged/session",
    )
    try:
        answer = cloud.client("lambda", keys).invoke(FunctionName=function, Payload=json.dumps(event))
    except ClientError as refused:
        return str(refused)
    return str(answer["Payload"].read())


def statements_of_the_caller_policy(cloud: LocalCloud, stack: Stack) -> list[Any]:
    iam, policy = cloud.client("iam"), stack.outputs["CallerPolicyArn"]
    version = iam.get_policy(PolicyArn=policy)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=policy, VersionId=version)["PolicyVersion"]["Document"]
    return list(document["Statement"])


@pytest.mark.parametrize(("condition", "got_the_token"), [("BoolIfExists", False), ("Bool", True)])
def test_the_caller_policy_alone_stops_a_forged_identity_and_its_condition_is_why(
    cloud: LocalCloud, test_stack: Stack, condition: str, *, got_the_token: bool
) -> None:
    as_deployed = json.dumps(statements_of_the_caller_policy(cloud, test_stack))
    statements = json.loads(as_deployed.replace("BoolIfExists", condition))
    # No grant names it.
    keys = new_caller(cloud, f"attacker-{condition}", *statements, INVOKES_EVERYTHING)
    assert call(test_stack, keys, "/token").json()["error"] == "access_denied"

    answer = attack(cloud, keys, f"{test_stack.outputs['BrokerFunctionName']}:live")

    assert ("access_token" in answer) is got_the_token


@pytest.mark.parametrize("qualifier", ["", ":live", ":$LATEST", ":1"])
def test_the_functions_own_policy_stops_those_whom_no_other_policy_stops(
    cloud: LocalCloud, test_stack: Stack, qualifier: str
) -> None:
    keys = new_caller(cloud, f"invokes-everything-{uuid.uuid4().hex[:6]}", INVOKES_EVERYTHING)

    assert "access_token" in attack(cloud, keys, f"{test_stack.outputs['BrokerFunctionName']}{qualifier}")
    answer = attack(cloud, keys, f"{cloud.outputs['BrokerFunctionName']}{qualifier}")
    assert "AccessDenied" in answer
    assert "access_token" not in answer


def test_the_pages_organization_policy_stops_an_administrator(cloud: LocalCloud, test_stack: Stack) -> None:
    # As a policy of the administrator: the local AWS does not enforce an organization's.
    organization = json.loads(texts("policy", SECURITY)["organization"])["Statement"]
    function = test_stack.outputs["BrokerFunctionName"]
    free = new_caller(cloud, "free-administrator", EVERYTHING)
    bound = new_caller(cloud, "bound-administrator", EVERYTHING, *organization)

    assert "access_token" in attack(cloud, free, function)
    for target in (function, f"{function}:live", f"{function}:1"):
        assert "AccessDenied" in attack(cloud, bound, target)
    # By the URL: the broker's own answer.
    assert call(test_stack, bound, "/token").json()["error"] == "access_denied"
    with pytest.raises(ClientError, match="AccessDenied"):
        cloud.client("lambda", bound).update_function_configuration(FunctionName=function, Timeout=31)
    cloud.client("lambda", free).update_function_configuration(FunctionName=function, Timeout=31)


def test_the_pages_query_lists_who_could_invoke(cloud: LocalCloud, test_stack: Stack, tmp_path: Path) -> None:
    new_caller(cloud, "could-invoke", INVOKES_EVERYTHING)
    new_caller(cloud, "could-not-invoke", INVOKES_EVERYTHING, policy=test_stack.outputs["CallerPolicyArn"])
    text = texts("query", SECURITY)["who-could"]
    program = tmp_path / "who_could.py"
    program.write_text(text.replace('STACK = "token-broker"', f'STACK = "{NAME}"'))

    ended = run_as_operator(cloud, program)

    found = [line.split("/")[-1] for line in ended.stdout.splitlines()]
    assert "could-invoke lambda:InvokeFunction" in found, ended.stderr
    wrong = ("could-not-invoke", "could-invoke lambda:Update", "could-invoke kms")
    assert not [line for line in found if line.startswith(wrong)]


# --- other accounts ---------------------------------------------------------------------------------------------------


def organization_of(cloud: LocalCloud, account_id: str) -> str:
    """Return the organization of an account; the local AWS gives each that asks one of its own."""
    client = cloud.client("organizations", Credentials(account_id, "none"))
    return str(client.describe_organization()["Organization"]["Id"])


def role_elsewhere(cloud: LocalCloud, name: str, test_stack: Stack) -> Credentials:
    """Return a session of another account's role that has what "From another account" says."""
    root = Credentials(OTHER_ACCOUNT, "none")
    iam, sts = cloud.client("iam", root), cloud.client("sts", root)
    principal = {"AWS": f"arn:aws:iam::{OTHER_ACCOUNT}:root"}
    trust = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    statements = statements_of_the_caller_policy(cloud, test_stack)
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_role_policy(RoleName=name, PolicyName="caller", PolicyDocument=document)
    keys = sts.assume_role(RoleArn=role, RoleSessionName="elsewhere")["Credentials"]
    return Credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])


def change(cloud: LocalCloud, **parameters: str) -> None:
    """Update the test stack with these parameters, and nothing else: quicker than `sam deploy`."""
    client = cloud.client("cloudformation")
    before = client.describe_stacks(StackName=NAME)["Stacks"][0]["Parameters"]
    values = {each["ParameterKey"]: each["ParameterValue"] for each in before} | parameters
    rows = [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]
    kinds = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    client.update_stack(StackName=NAME, UsePreviousTemplate=True, Parameters=rows, Capabilities=kinds)
    client.get_waiter("stack_update_complete").wait(StackName=NAME, WaiterConfig={"Delay": 1})


def test_only_named_accounts_and_an_organization_are_allowed(cloud: LocalCloud, test_stack: Stack) -> None:
    elsewhere = role_elsewhere(cloud, "elsewhere", test_stack)
    stranger = cloud.create_caller("stranger-of-the-own-account")

    def answers() -> list[str]:
        bodies = (call(test_stack, keys, "/token").json() for keys in (elsewhere, stranger))
        return [body.get("error") or body["Message"] for body in bodies]

    refused_by_aws, let_in = "Forbidden", "access_denied"  # let in, and no grant names it
    assert answers() == [refused_by_aws, refused_by_aws]

    change(cloud, OtherAccounts=f"444455556666,{OTHER_ACCOUNT}")
    assert answers() == [let_in, refused_by_aws]

    change(cloud, OtherAccounts="", OrganizationId=organization_of(cloud, OTHER_ACCOUNT))
    assert answers() == [let_in, refused_by_aws]

    change(cloud, OrganizationId=organization_of(cloud, cloud.account_id))
    assert answers() == [refused_by_aws, refused_by_aws]


def test_the_ca_file_of_a_macs_temporary_folder_fits_the_parameter(cloud: LocalCloud) -> None:
    folder = f"/var/folders/zz/{'x' * 30}/T"
    longest = parse(TEMPLATE.read_text())["Parameters"]["UpstreamCaFile"]["MaxLength"]

    assert len(f"{folder}/{cloud.ca_file.parent.name}/{cloud.ca_file.name}") <= longest
