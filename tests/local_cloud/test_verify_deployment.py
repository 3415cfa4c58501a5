"""`make verify-deployment` finds a sound stack sound, changes nothing, and sees what is wrong with another."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from local.cloud import STACK_NAME
from local.verify_deployment import Deployment, look
from tests.local_cloud.calling import EVERYTHING, new_caller, put_policy
from tests.programs import run_program
from tests.recipes.conftest import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.cloud import LocalCloud
    from local.sdk import Credentials

    Trouble = Callable[[LocalCloud, ExitStack], None]

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def operator(cloud: LocalCloud) -> Credentials:
    """An operator with every right of IAM, and the caller policy; no grant names it."""
    cloud.client("sqs").purge_queue(QueueUrl=cloud.outputs["CampaignsDeadLetterQueueUrl"])
    # The local AWS does not do what the template says of these two.
    dynamodb, table = cloud.client("dynamodb"), cloud.outputs["TokenTableName"]
    ttl = {"AttributeName": "delete_after_epoch_s", "Enabled": True}
    dynamodb.update_time_to_live(TableName=table, TimeToLiveSpecification=ttl)
    set_backups(cloud, enabled=True)
    return new_caller(cloud, "verifies", EVERYTHING, policy=cloud.outputs["CallerPolicyArn"])


def set_backups(cloud: LocalCloud, *, enabled: bool) -> None:
    cloud.client("dynamodb").update_continuous_backups(
        TableName=cloud.outputs["TokenTableName"],
        PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": enabled},
    )


def verify(cloud: LocalCloud, keys: Credentials, stack: str = STACK_NAME) -> tuple[int, str, dict[str, str]]:
    """Return exit code, output, and what each failed check has seen, by the check's name."""
    command = ("nice", sys.executable, "-m", "local.verify_deployment", stack)
    ended = run_program(*command, env=environment_of(cloud, keys), timeout_s=120)
    broken = (line.split("  ") for line in ended.stdout.splitlines() if line.startswith("✗"))
    return ended.returncode, ended.stdout + ended.stderr, {cells[1]: cells[-1].strip() for cells in broken}


def everything_in(cloud: LocalCloud) -> list[Any]:
    """Return what a check could have changed."""
    items = cloud.client("dynamodb").scan(TableName=cloud.outputs["TokenTableName"])["Items"]
    secrets = cloud.client("secretsmanager").list_secrets()["SecretList"]
    return [
        sorted(map(str, items)),
        cloud.steer_digishare("GET", "/state")["mint_count"],
        sorted(str(secret.get("SecretVersionsToStages")) for secret in secrets),
        cloud.client("kms").list_grants(KeyId=cloud.outputs["TokenKeyArn"])["Grants"],
    ]


def test_a_sound_stack_is_found_sound_and_nothing_changes(cloud: LocalCloud, operator: Credentials) -> None:
    before = everything_in(cloud)

    code, output, broken = verify(cloud, operator)

    assert (code, broken) == (0, {}), output
    assert len([line for line in output.splitlines() if line.startswith("✓")]) == 10
    assert everything_in(cloud) == before


# --- what is wrong with a stack ---------------------------------------------------------------------------------------


def live_left_behind(cloud: LocalCloud, undo: ExitStack) -> None:
    client, name = cloud.client("lambda"), cloud.outputs["CampaignsFunctionName"]
    memory = client.get_function_configuration(FunctionName=name)["MemorySize"]
    client.update_function_configuration(FunctionName=name, MemorySize=memory + 128)
    undo.callback(client.update_function_configuration, FunctionName=name, MemorySize=memory)


def key_for_everybody(cloud: LocalCloud, undo: ExitStack) -> None:
    client, policy = cloud.client("kms"), {"KeyId": cloud.outputs["TokenKeyArn"], "PolicyName": "default"}
    undo.callback(client.put_key_policy, **policy, Policy=client.get_key_policy(**policy)["Policy"])
    everybody = {**EVERYTHING, "Principal": {"AWS": "*"}, "Action": "kms:*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [everybody]})
    client.put_key_policy(**policy, Policy=document)


def role_with_one_right_too_many(cloud: LocalCloud, undo: ExitStack) -> None:
    name = cloud.outputs["CampaignsFunctionName"]
    role = cloud.client("lambda").get_function_configuration(FunctionName=name)["Role"].rpartition("/")[2]
    put_policy(cloud, role, {**EVERYTHING, "Action": "dynamodb:*"})
    undo.callback(cloud.client("iam").delete_role_policy, RoleName=role, PolicyName="more")


def no_backups(cloud: LocalCloud, undo: ExitStack) -> None:
    set_backups(cloud, enabled=False)
    undo.callback(set_backups, cloud, enabled=True)


def short_log(cloud: LocalCloud, undo: ExitStack) -> None:
    keep, group = cloud.client("logs").put_retention_policy, cloud.outputs["BrokerLogGroupName"]
    keep(logGroupName=group, retentionInDays=90)
    undo.callback(keep, logGroupName=group, retentionInDays=400)


def failed_run(cloud: LocalCloud, undo: ExitStack) -> None:
    client, queue = cloud.client("sqs"), cloud.outputs["CampaignsDeadLetterQueueUrl"]
    client.send_message(QueueUrl=queue, MessageBody="{}")
    undo.callback(client.purge_queue, QueueUrl=queue)


@pytest.mark.parametrize(
    ("trouble", "what", "seen"),
    [
        (live_left_behind, "what `live` runs", "live has another MemorySize"),
        (key_for_everybody, "using the key", "allowed: Encrypt, GenerateDataKey"),
        (role_with_one_right_too_many, "what the functions' roles must not do", "may dynamodb:GetItem"),
        (no_backups, "table and log", "without point-in-time recovery"),
        (short_log, "table and log", "without a log of 400 days"),
        (failed_run, "alarms and failed runs", "failed runs in the queue: 1"),
    ],
)
def test_what_is_wrong_is_seen_and_nothing_else_is(
    cloud: LocalCloud, operator: Credentials, trouble: Trouble, what: str, seen: str
) -> None:
    with ExitStack() as undo:
        trouble(cloud, undo)
        code, output, broken = verify(cloud, operator)

    assert (code, list(broken)) == (1, [what]), output
    assert seen in broken[what]


def test_who_may_not_read_is_told_what_could_not_be_checked(cloud: LocalCloud) -> None:
    statement = {**EVERYTHING, "Action": "cloudformation:DescribeStacks"}
    keys = new_caller(cloud, "reads-the-stack", statement)

    code, output, broken = verify(cloud, keys)

    assert code == 1
    assert broken["signed call"].startswith("RefusedByAws"), output
    assert broken["using the key"] == "cannot be looked at: DescribeKey: AccessDeniedException"
    assert "Traceback" not in output


def test_a_stack_that_is_not_there_is_an_error_of_one_line(cloud: LocalCloud, operator: Credentials) -> None:
    code, output, _ = verify(cloud, operator, "token-broker-tset")

    assert code == 1
    assert output.startswith("error: the stack token-broker-tset cannot be read")
    assert len(output.splitlines()) == 1


def test_an_error_that_is_no_refusal_proves_nothing() -> None:
    def throttled() -> None:
        raise ClientError({"Error": {"Code": "ThrottlingException", "Message": ""}}, "Encrypt")

    deployment = Deployment.__new__(Deployment)
    line = look(deployment, "it", "denied", lambda _: str(Deployment.is_refused(throttled)))

    assert line.seen == "cannot be looked at: Encrypt: ThrottlingException"
