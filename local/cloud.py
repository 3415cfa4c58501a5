"""The local cloud: an AWS, a Digishare and a signed Function URL on loopback, from one `with` statement.

    with LocalCloud() as cloud:      # seconds
        cloud.build()                # sam build
        cloud.deploy()               # sam deploy of the built template, unmodified
        caller = cloud.create_caller("reports", [cloud.outputs["CallerPolicyArn"]])
        test = cloud.deploy("token-broker-test")    # a second stack, with a Function URL of its own

`make local` (local/up.py) keeps one up with the stack deployed; `make demo` (local/demo.py) shows the main job.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import requests

from local.aws import FUNCTION_URL_PATH, RETIRE_INSTANCES_PATH
from local.build import SAM, alone_with_the_build, build
from local.children import Children, LocalCloudError, clean_environment, host_environment
from local.reaper import Reaper
from local.sdk import ROOT, Credentials, new_client, new_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import boto3

PROJECT = Path(__file__).resolve().parent.parent
REGION = "eu-west-3"
ACCOUNT_ID = "000000000000"
STACK_NAME = "token-broker"
"""The main stack, the one that is meant where no other is named."""
ENV_FILE = PROJECT / ".local/env"
"""KEY=VALUE lines of the cloud that `make local` keeps up."""

BUILD_TIMEOUT_S = 240.0
DEPLOY_TIMEOUT_S = 120.0
SESSION_DURATION_S = 12 * 3600


@dataclass(frozen=True)
class Stack:
    """A deployed stack; its `function_url` has no slash at the end."""

    name: str
    outputs: Mapping[str, str]
    function_url: str


class LocalCloud:
    """One local cloud; a context manager. Everything it made is gone when it ends, also after a crash.

    Attributes:
        region, account_id: where the stacks live.
        aws_endpoint_url: the local AWS; signatures and policies are enforced.
        function_url: the main stack's Function URL (no slash at the end); 404 until the stack is deployed.
        digishare_url, digishare_admin_url, ca_file: the fake Digishare, its controls, and the CA that it speaks with.
        outputs: the main stack's outputs, once it is deployed.
    """

    region = REGION
    account_id = ACCOUNT_ID
    aws_endpoint_url: str
    function_url: str
    digishare_url: str
    digishare_admin_url: str
    ca_file: Path

    def __init__(self, template_folder: Path = PROJECT, say: Callable[[str], None] = print) -> None:
        """Take the folder of `template.yaml` and a function that shows a line of progress."""
        self._template_folder = template_folder
        self._say = say
        self._stacks: dict[str, Stack] = {}

    def __enter__(self) -> Self:
        # Short: a path below it, also in the long folder of a Mac, is a parameter of at most 80 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="token-broker-"))
        self._reaper = Reaper(PROJECT)
        self._reaper.remove_at_end(self._folder)
        self._children = Children(PROJECT, self._folder, self._reaper)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._reaper.act()
        self._children.collect()

    def remove_at_end(self, path: Path) -> None:
        """Remove this file together with the cloud, whatever ends it."""
        self._reaper.remove_at_end(path)

    def build(self) -> None:
        """Run `sam build`; quick when nothing changed. The result lies in `.aws-sam/build` beside the template."""
        started_s = time.monotonic()
        self._say("· sam build")
        build(
            lambda command, **variables: self._children.run(
                "sam-build", command, host_environment(self._folder, **variables), BUILD_TIMEOUT_S
            ),
            self._template_folder,
        )
        self._say(f"  built in {time.monotonic() - started_s:.0f} s")

    @property
    def outputs(self) -> Mapping[str, str]:
        return self._stacks[STACK_NAME].outputs

    def deploy(self, stack_name: str = STACK_NAME, /, **parameters: str) -> Stack:
        """Run `sam deploy` of what `build` made; `parameters` override those that point the stack at this cloud."""
        started_s = time.monotonic()
        self._say(f"· sam deploy {stack_name}")
        function_url = self.find_function_url(stack_name)
        digishare = self.digishare_url.removeprefix("https://")
        overrides = {
            "UpstreamHosts": digishare,
            "UpstreamCaFile": str(self.ca_file),
            "DigishareBaseUrl": f"{self.digishare_url}/v1",
            "BrokerUrl": function_url,
            **parameters,
        }
        with alone_with_the_build(self._template_folder):
            command, environment = self._deploy_command(stack_name, overrides), self.operator_environment()
            self._children.run("sam-deploy", command, environment, DEPLOY_TIMEOUT_S)
        described = self.client("cloudformation").describe_stacks(StackName=stack_name)["Stacks"][0]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])}
        self._stacks[stack_name] = Stack(stack_name, outputs, function_url)
        self._say(f"  deployed in {time.monotonic() - started_s:.0f} s")
        return self._stacks[stack_name]

    def find_function_url(self, stack_name: str) -> str:
        """Return the address of a stack's Function URL (no slash at the end), also before it is deployed.

        Raises:
            requests.HTTPError: no stack can have this name.
        """
        path = f"{FUNCTION_URL_PATH}{quote(stack_name, safe='')}"
        answer: dict[str, str] = _send("GET", f"{self.aws_endpoint_url}{path}").json()
        return answer["function_url"]

    def open_to_containers(self, bridge: str) -> None:
        """Let containers reach AWS, the main Function URL and Digishare by this network interface; its admin server, not.

        Raises:
            LocalCloudError: it is no bridge of this machine.
        """
        urls = (self.aws_endpoint_url, self.function_url, self.digishare_url)
        ports = [url.rpartition(":")[2] for url in urls]
        command = [sys.executable, "-m", "local.bridge", bridge, *ports]
        self._children.start("bridge", command, clean_environment(self._folder))

    def client(self, service: str, credentials: Credentials = ROOT) -> Any:
        """Return an SDK client of the local AWS; the operator's, unless `credentials` say otherwise."""
        return new_client(service, credentials, self.region, self.aws_endpoint_url)

    def session(self, credentials: Credentials = ROOT) -> boto3.Session:
        """Return an SDK session that reads nothing of the host's AWS settings."""
        return new_session(credentials, self.region)

    def create_caller(self, name: str, managed_policy_arns: Iterable[str] = ()) -> Credentials:
        """Create an IAM role with these policies, and return the keys of a session of it."""
        iam = self.client("iam")
        role = iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=self._operators_may_assume(),
            MaxSessionDuration=SESSION_DURATION_S,
        )["Role"]
        for policy_arn in managed_policy_arns:
            iam.attach_role_policy(RoleName=name, PolicyArn=policy_arn)
        return self._session_of(role["Arn"])

    def function_environment(self, name: str) -> dict[str, str]:
        """Return what a deployed function needs to run as a process, with the rights of its own role and no others.

        Args:
            name: the main stack's output that names the function.
        """
        configuration = self.client("lambda").get_function_configuration(FunctionName=self.outputs[name])
        key = self.assume(configuration["Role"])
        return {
            **configuration["Environment"]["Variables"],
            "AWS_ENDPOINT_URL": self.aws_endpoint_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": key.access_key_id,
            "AWS_SECRET_ACCESS_KEY": key.secret_access_key,
            "AWS_SESSION_TOKEN": key.session_token or "",
        }

    def assume(self, role_arn: str) -> Credentials:
        """Return keys of a session of a function's own role, which on AWS can be assumed by Lambda alone."""
        iam, name = self.client("iam"), role_arn.rpartition("/")[2]
        trust = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
        iam.update_assume_role_policy(RoleName=name, PolicyDocument=self._operators_may_assume())
        try:
            return self._session_of(role_arn)
        finally:
            iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trust))

    def _session_of(self, role_arn: str) -> Credentials:
        assumed = self.client("sts").assume_role(
            RoleArn=role_arn, RoleSessionName="local", DurationSeconds=SESSION_DURATION_S
        )["Credentials"]
        return Credentials(assumed["AccessKeyId"], assumed["SecretAccessKey"], assumed["SessionToken"])

    def _operators_may_assume(self) -> str:
        principal = {"AWS": f"arn:aws:iam::{self.account_id}:root"}
        statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
        return json.dumps({"Version": "2012-10-17", "Statement": [statement]})

    def put_connection(self, name: str, secret: dict[str, str], stack_name: str = STACK_NAME) -> None:
        """Store a connection's credential for a deployed stack in Secrets Manager, or a new version of it."""
        secrets_manager = self.client("secretsmanager")
        secret_id = f"{self._stacks[stack_name].outputs['SecretPrefix']}/{name}"
        text = json.dumps(secret)
        try:
            secrets_manager.put_secret_value(SecretId=secret_id, SecretString=text)
        except secrets_manager.exceptions.ResourceNotFoundException:
            secrets_manager.create_secret(Name=secret_id, SecretString=text)

    def retire_instances(self, function_name: str) -> None:
        """Make the function's next call start in a fresh execution environment."""
        _send("POST", f"{self.aws_endpoint_url}{RETIRE_INSTANCES_PATH}{function_name}")

    def steer_digishare(self, verb: str, path: str, body: object = None) -> Any:
        """Send one request to the fake Digishare's admin API (see local/digishare/admin.py); return its answer."""
        return _send(verb, f"{self.digishare_admin_url}{path}", body).json()

    def function_logs(self, function_name: str) -> list[str]:
        """Return every line that the function has logged, oldest first."""
        configuration = self.client("lambda").get_function_configuration(FunctionName=function_name)
        group = configuration.get("LoggingConfig", {}).get("LogGroup") or f"/aws/lambda/{function_name}"
        logs = self.client("logs")
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
        try:
            return [event["message"] for page in pages for event in page["events"]]
        except logs.exceptions.ResourceNotFoundException:
            return []  # a function's first line makes its log group

    def run_campaigns_job(
        self, within_s: float = 60.0, stack_name: str = STACK_NAME, /, **members: object
    ) -> dict[str, Any]:
        """Have the scheduler run a deployed campaigns job once; return the line that it logs of this run.

        Args:
            within_s: how long to wait for it.
            stack_name: the stack whose job it is.
            members: what the schedule's input says besides.

        Raises:
            LocalCloudError: it has not logged anything in time.
        """
        scheduler, outputs = self.client("scheduler"), self._stacks[stack_name].outputs
        name = outputs["CampaignsFunctionName"]
        target = scheduler.get_schedule(Name=outputs["CampaignsScheduleName"])["Target"]
        moment = datetime.now(UTC) + timedelta(seconds=1)
        lines_before = len(self.function_logs(name))
        scheduler.create_schedule(
            Name=f"once-{time.time_ns()}",
            ScheduleExpression=f"at({moment:%Y-%m-%dT%H:%M:%S})",
            ScheduleExpressionTimezone="UTC",
            FlexibleTimeWindow={"Mode": "OFF"},
            ActionAfterCompletion="DELETE",
            Target={**target, "Input": json.dumps({**json.loads(target["Input"]), **members})},
        )
        give_up_at_s = time.monotonic() + within_s
        while time.monotonic() < give_up_at_s:
            for line in self.function_logs(name)[lines_before:]:
                if line.startswith("{"):
                    return dict(json.loads(line))
            time.sleep(0.2)
        raise LocalCloudError(f"the campaigns job has not reported within {within_s:.0f} s")

    def _start(self) -> None:
        started_s = time.monotonic()
        self._say("· starting the local AWS and the fake Digishare")
        python = str(PROJECT / ".local/aws/bin/python")
        aws = self._children.start(
            "aws",
            [python, "-m", "local.aws"],
            clean_environment(
                self._folder,
                AUTH="true",
                IOT_MTLS_ENABLED="0",
                SFTP_ENABLED="0",
                MINISTACK_REGION=self.region,
                MINISTACK_ACCOUNT_ID=self.account_id,
            ),
        )
        self.aws_endpoint_url = aws["endpoint_url"]
        self.function_url = self.find_function_url(STACK_NAME)
        digishare = self._children.start(
            "digishare",
            [sys.executable, "-m", "local.fake_digishare", "--port", "0", "--tls-dir", str(self._folder)],
            clean_environment(self._folder),
        )
        self.digishare_url, self.digishare_admin_url = digishare["url"], digishare["admin_url"]
        self.ca_file = Path(digishare["ca_file"])
        self._say(f"  up in {time.monotonic() - started_s:.1f} s")

    @property
    def _built_template(self) -> Path:
        return self._template_folder / ".aws-sam/build/template.yaml"

    def _deploy_command(self, stack_name: str, parameters: dict[str, str]) -> list[str]:
        return [
            SAM, "deploy", "--template-file", str(self._built_template), "--stack-name", stack_name,
            "--resolve-s3", "--capabilities", "CAPABILITY_IAM", "CAPABILITY_NAMED_IAM",
            "--no-confirm-changeset", "--no-fail-on-empty-changeset", "--no-progressbar",
            "--parameter-overrides", *(f'{name}="{value}"' for name, value in parameters.items()),
        ]  # fmt: skip

    def operator_environment(self) -> dict[str, str]:
        """Return the environment of a program that may do everything in this cloud."""
        return clean_environment(
            self._folder,
            SAM_CLI_TELEMETRY="0",
            SAM_CLI_POLL_DELAY="1",
            AWS_ENDPOINT_URL=self.aws_endpoint_url,
            AWS_DEFAULT_REGION=self.region,
            AWS_ACCESS_KEY_ID=ROOT.access_key_id,
            AWS_SECRET_ACCESS_KEY=ROOT.secret_access_key,
        )


def _send(verb: str, url: str, body: object = None) -> requests.Response:
    """Send one request to a server of the local cloud, past any proxy.

    Raises:
        requests.HTTPError: the answer is 4xx or 5xx.
    """
    with requests.Session() as session:
        session.trust_env = False
        answer = session.request(verb, url, json=body, timeout=10, allow_redirects=False)
    answer.raise_for_status()
    return answer


def end_in_order_on_signals() -> None:
    """Turn signals into an exception, so that `with LocalCloud()` cleans up before the process ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # started with nohup
        signal.signal(number, _end)


def _end(number: int, _frame: object) -> None:
    print("· ending", flush=True)
    raise SystemExit(128 + number)
