"""A test stack beside production's, in one account and region; and who gets in by which policy, seen without the others.

The test stack has `DirectInvocation` ALLOWED: what the caller policy denies is then denied by nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest
from botocore.exceptions import ClientError

from local.cloud import PROJECT, Stack
from local.sdk import Credentials
from local.translated_template import TEMPLATE, parse
from tests.conftest import CREDENTIAL
from tests.local_cloud.calling import call
from tests.local_cloud.test_permissions import put_policy
from tests.recipes.page import DOCS, texts

if TYPE_CHECKING:
    from pathlib import Path

    from local.cloud import LocalCloud

pytestmark = pytest.mark.cloud

NAME: Final = "token-broker-test"
OTHER_ACCOUNT: Final = "111122223333"
SECURITY: Final = DOCS / "security.md"
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
        for name in ("BrokerFunctionName", "CampaignsFunctionName")
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


def operator_environment(cloud: LocalCloud) -> dict[str, str]:
    return {**cloud.operator_environment(), "PATH": os.environ["PATH"]}


def run_promote(cloud: LocalCloud, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["nice", sys.executable, "-m", "local.promote", *arguments]
    return subprocess.run(  # noqa: S603 - our own program
        command,
        cwd=PROJECT,
        env=operator_environment(cloud),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_a_test_stack_runs_is_promoted_as_it_is(cloud: LocalCloud, test_stack: Stack) -> None:
    parameters = "OtherAccounts=555566667777 LeaseSeconds=300"
    ended = run_promote(
        cloud, NAME, "--stack-name", "promoted", "--no-confirm-changeset", "--parameter-overrides", parameters
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    described = cloud.client("cloudformation").describe_stacks(StackName="promoted")["Stacks"][0]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
    promoted = Stack("promoted", outputs, "")
    for name in ("BrokerFunctionName", "CampaignsFunctionName"):
        there, here = configuration(cloud, promoted, name), configuration(cloud, test_stack, name)
        assert there["CodeSha256"] == here["CodeSha256"]
    assert (
        configuration(cloud, promoted, "BrokerFunctionName")["Environment"]["Variables"]["LEASE_SECONDS"]
        == "300"
    )


def test_a_stack_that_is_not_there_cannot_be_promoted(cloud: LocalCloud) -> None:
    ended = run_promote(cloud, "token-broker-tset")

    assert ended.returncode == 1
    assert "token-broker-tset" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


# --- past the URL -----------------------------------------------------------------------------------------------------


def forged_event(cloud: LocalCloud) -> bytes:
    """Return what a Function URL would send for a caller that is granted every connection."""
    iam = {"userArn": f"arn:aws:sts::{cloud.account_id}:assumed-role/local-forged/session"}
    context = {"http": {"method": "POST", "path": "/token"}, "authorizer": {"iam": iam}}
    event = {"rawPath": "/token", "requestContext": context, "body": '{"connection": "digishare"}'}
    return json.dumps(event).encode()


def attack(cloud: LocalCloud, keys: Credentials, function: str) -> str:
    """Invoke the function with a forged identity, and return all that comes back."""
    try:
        answer = cloud.client("lambda", keys).invoke(FunctionName=function, Payload=forged_event(cloud))
    except ClientError as refused:
        return str(refused)
    return str(answer["Payload"].read())


@pytest.mark.parametrize(("condition", "got_the_token"), [("BoolIfExists", False), ("Bool", True)])
def test_the_caller_policy_alone_stops_a_forged_identity_and_its_condition_is_why(
    cloud: LocalCloud, test_stack: Stack, condition: str, *, got_the_token: bool
) -> None:
    iam, policy = cloud.client("iam"), test_stack.outputs["CallerPolicyArn"]
    version = iam.get_policy(PolicyArn=policy)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=policy, VersionId=version)["PolicyVersion"]["Document"]
    statements = json.loads(json.dumps(document["Statement"]).replace("BoolIfExists", condition))
    name = f"attacker-{condition}"  # no grant names it
    keys = cloud.create_caller(name)
    put_policy(cloud, name, *statements, INVOKES_EVERYTHING)
    assert call(test_stack, keys, "/token").json()["error"] == "access_denied"

    answer = attack(cloud, keys, f"{test_stack.outputs['BrokerFunctionName']}:live")

    assert ("access_token" in answer) is got_the_token


@pytest.mark.parametrize("qualifier", ["", ":live", ":$LATEST", ":1"])
def test_the_functions_own_policy_stops_those_whom_no_other_policy_stops(
    cloud: LocalCloud, test_stack: Stack, qualifier: str
) -> None:
    name = f"invokes-everything-{uuid.uuid4().hex[:6]}"
    keys = cloud.create_caller(name)
    put_policy(cloud, name, INVOKES_EVERYTHING)

    assert "access_token" in attack(cloud, keys, f"{test_stack.outputs['BrokerFunctionName']}{qualifier}")
    answer = attack(cloud, keys, f"{cloud.outputs['BrokerFunctionName']}{qualifier}")
    assert "AccessDenied" in answer
    assert "access_token" not in answer


def administrator(cloud: LocalCloud, *statements: dict[str, Any]) -> Credentials:
    name = f"administrator-{uuid.uuid4().hex[:6]}"
    keys = cloud.create_caller(name)
    put_policy(cloud, name, {"Effect": "Allow", "Action": "*", "Resource": "*"}, *statements)
    return keys


def test_the_organization_policy_of_the_page_alone_stops_an_administrator(
    cloud: LocalCloud, test_stack: Stack
) -> None:
    # As a policy of the administrator: the local AWS does not enforce an organization's.
    organization = json.loads(texts("policy", SECURITY)["organization"])["Statement"]
    function = test_stack.outputs["BrokerFunctionName"]
    free, bound = administrator(cloud), administrator(cloud, *organization)

    assert "access_token" in attack(cloud, free, function)
    for target in (function, f"{function}:live", f"{function}:1"):
        assert "AccessDenied" in attack(cloud, bound, target)
    assert (
        call(test_stack, bound, "/token").json()["error"] == "access_denied"
    )  # by the URL: the broker's own answer
    with pytest.raises(ClientError, match="AccessDenied"):
        cloud.client("lambda", bound).update_function_configuration(FunctionName=function, Timeout=31)
    cloud.client("lambda", free).update_function_configuration(FunctionName=function, Timeout=31)


def test_the_query_of_the_page_lists_who_could_and_nobody_else(
    cloud: LocalCloud, test_stack: Stack, tmp_path: Path
) -> None:
    could, could_not = "could-invoke", "could-not-invoke"
    cloud.create_caller(could)
    put_policy(cloud, could, INVOKES_EVERYTHING)
    cloud.create_caller(could_not, [test_stack.outputs["CallerPolicyArn"]])
    put_policy(cloud, could_not, INVOKES_EVERYTHING)
    program = tmp_path / "who_could.py"
    program.write_text(
        texts("query", SECURITY)["who-could"].replace('STACK = "token-broker"', f'STACK = "{NAME}"')
    )

    ended = subprocess.run(  # noqa: S603 - the page's own program
        [sys.executable, str(program)],
        env=operator_environment(cloud),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    found = [line.split("/")[-1] for line in ended.stdout.splitlines()]
    assert f"{could} lambda:InvokeFunction" in found, ended.stderr
    assert not [
        line for line in found if line.startswith((could_not, f"{could} lambda:Update", f"{could} kms"))
    ]


# --- other accounts ---------------------------------------------------------------------------------------------------


def organization_of(cloud: LocalCloud, account_id: str) -> str:
    """Return the organization of an account; the local AWS gives each that asks one of its own."""
    client = cloud.client("organizations", Credentials(account_id, "none"))
    return str(client.describe_organization()["Organization"]["Id"])


def role_elsewhere(cloud: LocalCloud, name: str, test_stack: Stack) -> Credentials:
    """Return a session of another account's role that has what "From another account" says."""
    root = Credentials(OTHER_ACCOUNT, "none")
    iam, sts = cloud.client("iam", root), cloud.client("sts", root)
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{OTHER_ACCOUNT}:root"},
        "Action": "sts:AssumeRole",
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    policy = cloud.client("iam").get_policy_version(
        PolicyArn=test_stack.outputs["CallerPolicyArn"], VersionId="v1"
    )
    statements = policy["PolicyVersion"]["Document"]
    iam.put_role_policy(RoleName=name, PolicyName="caller", PolicyDocument=json.dumps(statements))
    keys = sts.assume_role(RoleArn=role, RoleSessionName="elsewhere")["Credentials"]
    return Credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])


def test_who_is_named_or_of_the_organization_gets_in_and_the_own_account_is_not_of_it(
    cloud: LocalCloud, test_stack: Stack
) -> None:
    elsewhere = role_elsewhere(cloud, "elsewhere", test_stack)
    stranger = cloud.create_caller("stranger-of-the-own-account")

    def answers() -> list[str]:
        bodies = (call(test_stack, keys, "/token").json() for keys in (elsewhere, stranger))
        return [body.get("error") or body["Message"] for body in bodies]

    refused_by_aws, let_in = "Forbidden", "access_denied"  # let in, and no grant names it
    assert answers() == [refused_by_aws, refused_by_aws]

    cloud.deploy(NAME, OtherAccounts=f"444455556666,{OTHER_ACCOUNT}")
    assert answers() == [let_in, refused_by_aws]

    # A parameter that is not named keeps its value.
    cloud.deploy(NAME, OtherAccounts="", OrganizationId=organization_of(cloud, OTHER_ACCOUNT))
    assert answers() == [let_in, refused_by_aws]

    cloud.deploy(NAME, OrganizationId=organization_of(cloud, cloud.account_id))
    assert answers() == [refused_by_aws, refused_by_aws]


def test_the_ca_file_of_a_macs_temporary_folder_fits_the_parameter(cloud: LocalCloud) -> None:
    folder = f"/var/folders/zz/{'x' * 30}/T"
    longest = parse(TEMPLATE.read_text())["Parameters"]["UpstreamCaFile"]["MaxLength"]

    assert len(f"{folder}/{cloud.ca_file.parent.name}/{cloud.ca_file.name}") <= longest
