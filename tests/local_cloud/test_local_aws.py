"""The whole way through the local AWS: `sam build`, `sam deploy`, a signed call, the function, the answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.exceptions
import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SigningCredentials

from local.cloud import PROJECT, LocalCloud
from local.sdk import ROOT, Credentials

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="session")
def granted(echo_cloud: LocalCloud) -> Credentials:
    return echo_cloud.create_caller("granted", [echo_cloud.outputs["CallerPolicyArn"]])


def call(cloud: LocalCloud, caller: Credentials, path: str = "/", body: bytes = b"") -> requests.Response:
    url = f"{cloud.function_url}{path}"
    request = AWSRequest("POST", url, data=body)
    signer = SigningCredentials(caller.access_key_id, caller.secret_access_key, caller.session_token)
    SigV4Auth(signer, "lambda", cloud.region).add_auth(request)
    with requests.Session() as session:
        session.trust_env = False
        return session.post(url, data=body, headers=dict(request.headers), timeout=30, allow_redirects=False)


def wait_until(condition: Callable[[], bool], within_s: float = 15) -> None:
    give_up_at_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_at_s, "did not happen in time"
        time.sleep(0.1)


def echo(reply: requests.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    value: dict[str, Any] = reply.json()
    return value


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


def test_keys_that_ministack_leaves_unchecked_are_forbidden(echo_cloud: LocalCloud) -> None:
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


def test_handler_error_is_a_bare_502_and_lands_in_the_log(
    echo_cloud: LocalCloud, granted: Credentials
) -> None:
    reply = call(echo_cloud, granted, "/fail")
    assert (reply.status_code, reply.text) == (502, "Internal Server Error")
    assert any(
        "canary-inside" in line for line in echo_cloud.function_logs(echo_cloud.outputs["EchoFunctionName"])
    )


def test_retired_instance_is_replaced_by_a_fresh_one(echo_cloud: LocalCloud, granted: Credentials) -> None:
    first = echo(call(echo_cloud, granted))["instance"]
    echo_cloud.retire_instances(echo_cloud.outputs["EchoFunctionName"])
    assert echo(call(echo_cloud, granted))["instance"] != first


def test_function_runs_as_its_role_and_sees_nothing_of_the_host(
    echo_cloud: LocalCloud, granted: Credentials
) -> None:
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
    sealer = echo_cloud.create_caller("sealer")
    statement = {
        "Effect": "Allow",
        "Action": "kms:Encrypt",
        "Resource": "*",
        "Condition": {"Null": {"kms:EncryptionContext:connection": "false"}},
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    echo_cloud.client("iam").put_role_policy(RoleName="sealer", PolicyName="seal", PolicyDocument=document)
    kms = echo_cloud.client("kms", sealer)
    assert kms.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionContext={"connection": "c"})["CiphertextBlob"]
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        kms.encrypt(KeyId=key_id, Plaintext=b"x")


def test_one_time_schedule_runs_the_function_now(echo_cloud: LocalCloud) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=1)
    function_name = echo_cloud.outputs["EchoFunctionName"]
    echo_cloud.client("scheduler").create_schedule(
        Name="now",
        ScheduleExpression=f"at({moment:%Y-%m-%dT%H:%M:%S})",
        FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE",
        Target={
            "Arn": echo_cloud.outputs["EchoFunctionArn"],
            "RoleArn": f"arn:aws:iam::{echo_cloud.account_id}:role/granted",
            "Input": json.dumps({"mark": "from-the-schedule"}),
        },
    )
    wait_until(lambda: any("from-the-schedule" in line for line in echo_cloud.function_logs(function_name)))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_signs_as_the_readme_shows(echo_cloud: LocalCloud, granted: Credentials) -> None:
    user = f"{granted.access_key_id}:{granted.secret_access_key}"
    answer = subprocess.run(  # noqa: S603 - the test's own command
        [str(shutil.which("curl")), "-sS", "--noproxy", "*", "--max-time", "20", "--aws-sigv4", f"aws:amz:{echo_cloud.region}:lambda",
         "--user", user, "-H", f"x-amz-security-token: {granted.session_token}",
         "-H", "content-type: application/json", "-d", '{"connection":"digishare"}', f"{echo_cloud.function_url}/token"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert json.loads(answer.stdout)["event"]["body"] == '{"connection":"digishare"}'


@pytest.mark.parametrize(
    ("setup", "auth", "complaint"),
    [
        (
            "import ministack.services.scheduler as s; del s._SCHEDULE_TICK_INTERVAL",
            "true",
            "_SCHEDULE_TICK_INTERVAL",
        ),
        ("pass", "false", "AUTH=true"),
    ],
    ids=["internal-missing", "signatures-unchecked"],
)
def test_ministack_that_would_not_do_is_refused_at_start(setup: str, auth: str, complaint: str) -> None:
    ended = subprocess.run(  # noqa: S603 - the test's own command
        [PROJECT / ".local/aws/bin/python", "-c", f"{setup}\nfrom local.aws import MinistackBackend\nMinistackBackend()"],
        cwd=PROJECT, env={"AUTH": auth, "PATH": os.defpath}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert complaint in ended.stderr
