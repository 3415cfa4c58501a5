"""All steps on the local AWS: `sam build`, `sam deploy`, a signed call, the function, the answer."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import botocore.exceptions
import pytest

from local.cloud import PROJECT, LocalCloud
from local.sdk import ROOT, Credentials
from local.waiting import wait_until
from tests.local_cloud.calling import EVERYTHING, call, echo, new_caller
from tests.programs import run_program

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.cloud


def test_event_names_the_role_and_session_that_signed(echo_cloud: LocalCloud, granted: Credentials) -> None:
    iam = echo(call(echo_cloud, granted))["event"]["requestContext"]["authorizer"]["iam"]
    role = echo_cloud.client("iam").get_role(RoleName="granted")["Role"]
    assert iam["userArn"] == f"arn:aws:sts::{echo_cloud.account_id}:assumed-role/granted/local"
    assert iam["userId"] == f"{role['RoleId']}:local"
    assert iam["accessKey"] == granted.access_key_id


def test_half_of_the_permissions_or_none_is_forbidden(echo_cloud: LocalCloud) -> None:
    half = echo_cloud.create_caller("half", [echo_cloud.outputs["HalfPolicyArn"]])
    assert call(echo_cloud, half).status_code == 403
    assert call(echo_cloud, echo_cloud.create_caller("none")).status_code == 403


def test_keys_that_ministack_does_not_check_are_forbidden(echo_cloud: LocalCloud) -> None:
    for key in (ROOT, Credentials(echo_cloud.account_id, "anything"), Credentials("AKIAUNKNOWN", "anything")):
        assert call(echo_cloud, key).status_code == 403


def test_iam_user_with_a_long_lived_key_may_call(echo_cloud: LocalCloud) -> None:
    iam = echo_cloud.client("iam")
    iam.create_user(UserName="person")
    iam.attach_user_policy(UserName="person", PolicyArn=echo_cloud.outputs["CallerPolicyArn"])
    key = iam.create_access_key(UserName="person")["AccessKey"]
    person = Credentials(key["AccessKeyId"], key["SecretAccessKey"])
    caller = echo(call(echo_cloud, person))["event"]["requestContext"]["authorizer"]["iam"]
    assert caller["userArn"] == f"arn:aws:iam::{echo_cloud.account_id}:user/person"
    iam.update_access_key(UserName="person", AccessKeyId=person.access_key_id, Status="Inactive")
    assert call(echo_cloud, person).status_code == 403


def test_caller_cannot_invoke_past_the_url(echo_cloud: LocalCloud, granted: Credentials) -> None:
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        echo_cloud.client("lambda", granted).invoke(
            FunctionName=echo_cloud.outputs["EchoFunctionName"], Qualifier="live", Payload=b"{}"
        )


def test_handler_error_is_a_bare_502_and_is_logged(echo_cloud: LocalCloud, granted: Credentials) -> None:
    reply = call(echo_cloud, granted, "/fail")
    assert (reply.status_code, reply.text) == (502, "Internal Server Error")
    assert wait_for_line(echo_cloud, "canary-inside")


def test_retired_instance_is_replaced_by_a_fresh_one(echo_cloud: LocalCloud, granted: Credentials) -> None:
    first = echo(call(echo_cloud, granted))["instance"]
    echo_cloud.retire_instances(echo_cloud.outputs["EchoFunctionName"])
    assert echo(call(echo_cloud, granted))["instance"] != first


def test_function_has_its_role_and_nothing_of_the_host(echo_cloud: LocalCloud, granted: Credentials) -> None:
    environment = echo(call(echo_cloud, granted))["environment"]
    function = Credentials(
        *(environment[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"))
    )
    identity = echo_cloud.client("sts", function).get_caller_identity()
    assert ":assumed-role/token-broker-EchoRole" in identity["Arn"]
    assert environment["HOME"] != str(Path.home())
    assert not {"PYTHONPATH", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST", "HTTPS_PROXY"} & set(environment)
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        echo_cloud.client("secretsmanager", function).get_secret_value(SecretId="any")


def test_policies_see_the_encryption_context(echo_cloud: LocalCloud) -> None:
    key_id = echo_cloud.client("kms").create_key()["KeyMetadata"]["KeyId"]
    condition = {"Null": {"kms:EncryptionContext:connection": "false"}}
    statement = {**EVERYTHING, "Action": "kms:Encrypt", "Condition": condition}
    kms = echo_cloud.client("kms", new_caller(echo_cloud, "sealer", statement))
    assert kms.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionContext={"connection": "c"})["CiphertextBlob"]
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        kms.encrypt(KeyId=key_id, Plaintext=b"x")


EVENT = {"Source": "token-broker.campaigns", "DetailType": "Campaigns Changed", "Detail": "{}"}


def test_policies_see_source_and_detail_type_of_events(echo_cloud: LocalCloud) -> None:
    keys = {"events:source": EVENT["Source"], "events:detail-type": EVENT["DetailType"]}
    statement = {
        "Effect": "Allow",
        "Action": "events:PutEvents",
        "Resource": f"arn:aws:events:{echo_cloud.region}:{echo_cloud.account_id}:event-bus/default",
        "Condition": {"StringEquals": keys},
    }
    events = echo_cloud.client("events", new_caller(echo_cloud, "publisher", statement))
    assert events.put_events(Entries=[EVENT, EVENT])["FailedEntryCount"] == 0
    for other in ({"Source": "other"}, {"DetailType": "Other"}, {"EventBusName": "other"}):
        for entries in ([EVENT | other], [EVENT, EVENT | other]):
            with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
                events.put_events(Entries=entries)


def create_schedule(cloud: LocalCloud, name: str, moment: datetime, mark: str) -> str:
    """Let the echo function be called with `mark` at this moment; return the schedule's ARN."""
    arn: str = cloud.client("scheduler").create_schedule(
        Name=name,
        ScheduleExpression=f"at({moment:%Y-%m-%dT%H:%M:%S})",
        FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE",
        Target={
            "Arn": cloud.outputs["EchoFunctionArn"],
            "RoleArn": f"arn:aws:iam::{cloud.account_id}:role/any",
            "Input": json.dumps({"mark": mark}),
        },
    )["ScheduleArn"]
    return arn


def wait_for_line(cloud: LocalCloud, text: str) -> str:
    """Return the first line of the echo function's log that holds this text."""
    name = cloud.outputs["EchoFunctionName"]
    found = wait_until(lambda: [line for line in cloud.function_logs(name) if text in line])
    assert found
    return found[0]


def test_one_time_schedule_runs_the_function_now(echo_cloud: LocalCloud) -> None:
    create_schedule(echo_cloud, "now", datetime.now(UTC) + timedelta(seconds=1), "from-the-schedule")
    assert wait_for_line(echo_cloud, "from-the-schedule")


def test_context_attributes_of_a_schedule_reach_the_function(echo_cloud: LocalCloud) -> None:
    names = ("schedule-arn", "scheduled-time", "execution-id", "attempt-number")
    execution_ids = set()
    # The scheduler is late for both. Each function still gets the time at which it was due.
    for hour in (11, 12):
        mark = f"late-{hour}:" + "|".join(f"<aws.scheduler.{name}>" for name in names)
        due = datetime(2026, 7, 6, hour, 59, 43, tzinfo=UTC)
        arn = create_schedule(echo_cloud, f"late-{hour}", due, mark)
        text = wait_for_line(echo_cloud, f"late-{hour}:").partition(f"late-{hour}:")[2].partition("'")[0]
        schedule_arn, scheduled_time, execution_id, attempt = text.split("|")
        assert (schedule_arn, scheduled_time, attempt) == (arn, f"2026-07-06T{hour}:59:43Z", "1")
        execution_ids.add(execution_id)
    assert len(execution_ids) == 2


def test_input_of_a_rule_reaches_the_function_unchanged(echo_cloud: LocalCloud) -> None:
    events = echo_cloud.client("events")
    events.put_rule(Name="any", EventPattern=json.dumps({"source": [EVENT["Source"]]}))
    text = json.dumps({"mark": "<aws.scheduler.attempt-number> from-the-rule"})
    target = {"Id": "echo", "Arn": echo_cloud.outputs["EchoFunctionArn"], "Input": text}
    events.put_targets(Rule="any", Targets=[target])
    assert events.put_events(Entries=[EVENT])["FailedEntryCount"] == 0
    events.delete_rule(Name="any", Force=True)
    assert "<aws.scheduler.attempt-number> from-the-rule" in wait_for_line(echo_cloud, "from-the-rule")


TICKS = """
import types
from local.aws import MinistackBackend
from ministack.core.responses import get_account_id, get_region
from ministack.services import eventbridge, scheduler

MinistackBackend()
clock = types.SimpleNamespace(now=1_783_339_183.4)  # 2026-07-06T11:59:43.4Z
scheduler.time = types.SimpleNamespace(time=lambda: clock.now)
eventbridge._dispatch_to_lambda = lambda arn, payload: print(payload)
function = f"arn:aws:lambda:{get_region()}:{get_account_id()}:function:any"
for expression in ("rate(5 minutes)", "cron(0 * * * ? *)"):
    target = {"Arn": function, "RoleArn": "any", "Input": f"{expression} <aws.scheduler.scheduled-time>"}
    schedule = {"ScheduleExpression": expression, "FlexibleTimeWindow": {"Mode": "OFF"}, "Target": target}
    scheduler._create_schedule(expression.partition("(")[0], schedule)
for seconds in (0, 20, 280, 1, 310, 4000):
    clock.now += seconds
    scheduler._tick_schedules()
"""


def run_in_ministack(program: str, auth: str = "true") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.defpath, "AUTH": auth}
    return run_program(PROJECT / ".local/aws/bin/python", "-c", program, env=environment)


def test_scheduled_time_is_when_a_run_was_due_however_late_the_ticker_is() -> None:
    assert run_in_ministack(TICKS).stdout.splitlines() == [
        "cron(0 * * * ? *) 2026-07-06T12:00:00Z",
        "rate(5 minutes) 2026-07-06T12:04:43Z",
        "rate(5 minutes) 2026-07-06T12:09:43Z",
        "rate(5 minutes) 2026-07-06T13:14:43Z",
        "cron(0 * * * ? *) 2026-07-06T13:00:00Z",
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_signs_as_the_readme_shows(echo_cloud: LocalCloud, granted: Credentials) -> None:
    user = f"{granted.access_key_id}:{granted.secret_access_key}"
    signed = ("--aws-sigv4", f"aws:amz:{echo_cloud.region}:lambda", "--user", user)
    headers = ("-H", f"x-amz-security-token: {granted.session_token}", "-H", "content-type: application/json")
    sent = (*headers, "-d", '{"connection":"digishare"}', f"{echo_cloud.function_url}/token")
    answer = run_program("curl", "-sS", "--noproxy", "*", "--max-time", "20", *signed, *sent)
    assert json.loads(answer.stdout)["event"]["body"] == '{"connection":"digishare"}'


WITHOUT_AN_INTERNAL = "import ministack.services.scheduler as s; del s._SCHEDULE_TICK_INTERVAL"


@pytest.mark.parametrize(
    ("setup", "auth", "complaint"),
    [(WITHOUT_AN_INTERNAL, "true", "_SCHEDULE_TICK_INTERVAL"), ("pass", "false", "AUTH=true")],
    ids=["internal-missing", "signatures-unchecked"],
)
def test_unsuitable_ministack_is_refused_at_start(setup: str, auth: str, complaint: str) -> None:
    ended = run_in_ministack(f"{setup}\nfrom local.aws import MinistackBackend\nMinistackBackend()", auth)
    assert ended.returncode == 1
    assert complaint in ended.stderr
