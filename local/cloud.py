"""The local cloud: an AWS, a Digishare and a signed Function URL on loopback, from one `with` statement.

    with LocalCloud() as cloud:      # seconds
        cloud.build()                # sam build
        cloud.deploy()               # sam deploy of the built template, unmodified
        caller = cloud.create_caller("reports", [cloud.outputs["CallerPolicyArn"]])
        test = cloud.deploy("token-broker-test")    # a second stack, with a Function URL of its own

`make local` (local/up.py) runs one with the stack deployed; `make demo` (local/demo.py) shows the main job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import quote

from local.account import Account
from local.aws import FUNCTION_URL_PATH, RETIRE_INSTANCES_PATH
from local.build import SAM, alone_with_the_build, build
from local.children import Children, LocalCloudError, clean_environment, host_environment
from local.reaper import AlreadyRunningError, Reaper
from local.sdk import ROOT, send
from local.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import requests

PROJECT = Path(__file__).resolve().parent.parent
STACK_NAME = "token-broker"
"""The main stack, which is meant where no other is named."""
ENV_FILE = PROJECT / ".local/env"
"""KEY=VALUE lines of the cloud that `make local` runs."""

BUILD_TIMEOUT_S = 240.0
DEPLOY_TIMEOUT_S = 120.0
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Stack:
    """A deployed stack; its `function_url` has no slash at the end."""

    name: str
    outputs: Mapping[str, str]
    function_url: str


class LocalCloud(Account):
    """One local cloud; a context manager. Everything that it made is removed when it ends, also after a crash.

    Attributes:
        region, account_id: where the stacks are; see `Account` for what can be done there.
        aws_endpoint_url: the local AWS; signatures and policies are enforced.
        function_url: the main stack's Function URL (no slash at the end); 404 until the stack is deployed.
        digishare_url, digishare_admin_url, ca_file: the fake Digishare, its admin API, and the CA of its certificate.
        outputs: the main stack's outputs, once it is deployed.
    """

    function_url: str
    digishare_url: str
    digishare_admin_url: str
    ca_file: Path

    def __init__(
        self, template_folder: Path = PROJECT, say: Callable[[str], None] = print, name: str = ""
    ) -> None:
        """Start nothing yet.

        Args:
            template_folder: the folder of `template.yaml`.
            say: shows a line of progress.
            name: which only one live cloud of this checkout can have at a time; "" for one beside which there may be others.
        """
        self._template_folder = template_folder
        self._say = say
        self._name = name
        self._parent_pid = os.getppid()
        self._stacks: dict[str, Stack] = {}

    def __enter__(self) -> Self:
        try:
            self._reaper = Reaper(PROJECT, self._name)
        except AlreadyRunningError as error:
            raise LocalCloudError(str(error)) from None
        # Short, because a path below it is a parameter of at most 80 characters, also in a Mac's long folder.
        self._folder = Path(tempfile.mkdtemp(prefix="token-broker-"))
        self._reaper.remove_at_end(self._folder)
        self._children = Children(PROJECT, self._folder, self._reaper)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._children.end()

    def wait_for_an_end(self) -> NoReturn:
        """Block until a part of this cloud has ended, or the program that has started this process, such as make.

        Raises:
            LocalCloudError: always; it says what has ended.
        """
        while os.getppid() == self._parent_pid:
            self._children.check()
            time.sleep(_LOOK_EVERY_S)
        raise LocalCloudError("the program that has started this has ended")

    def remove_at_end(self, path: Path) -> None:
        """Remove this file when the cloud ends, also after a crash."""
        self._reaper.remove_at_end(path)

    def build(self) -> None:
        """Run `sam build`; quick when nothing changed. The result is in `.aws-sam/build` beside the template."""
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
        return str(_ask("GET", f"{self.aws_endpoint_url}{path}").json()["function_url"])

    def open_to_containers(self, bridge: str) -> None:
        """Let containers reach AWS, the main Function URL and Digishare, without its admin API, by this interface.

        Raises:
            LocalCloudError: it is no bridge of this machine.
        """
        urls = (self.aws_endpoint_url, self.function_url, self.digishare_url)
        ports = [url.rpartition(":")[2] for url in urls]
        command = [sys.executable, "-m", "local.bridge", bridge, *ports]
        self._children.start("bridge", command, clean_environment(self._folder))

    def function_environment(self, name: str) -> dict[str, str]:
        """Return a function's environment, with its own role's keys; `name` is the main stack's output that names it."""
        configuration = self.client("lambda").get_function_configuration(FunctionName=self.outputs[name])
        key = self.assume(configuration["Role"])
        return {**configuration["Environment"]["Variables"], **self.environment, **key.environment}

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
        _ask("POST", f"{self.aws_endpoint_url}{RETIRE_INSTANCES_PATH}{function_name}")

    def steer_digishare(self, verb: str, path: str, body: object = None) -> Any:
        """Send one request to the fake Digishare's admin API (see local/digishare/admin.py); return its answer."""
        return _ask(verb, f"{self.digishare_admin_url}{path}", body).json()

    def run_campaigns_job(
        self, within_s: float = 60.0, stack_name: str = STACK_NAME, /, **members: object
    ) -> dict[str, Any]:
        """Have the scheduler run a deployed campaigns job once; return the line that it logs of this run.

        Args:
            within_s: how long to wait for it.
            stack_name: the stack whose job it is.
            members: further members of the schedule's input.

        Raises:
            LocalCloudError: the job has not logged anything in time.
        """
        scheduler, outputs = self.client("scheduler"), self._stacks[stack_name].outputs
        name = outputs["CampaignsFunctionName"]
        target = scheduler.get_schedule(Name=outputs["CampaignsScheduleName"])["Target"]
        moment = datetime.now(UTC) + timedelta(seconds=1)
        count_before = len(self.function_reports(name))
        scheduler.create_schedule(
            Name=f"once-{time.time_ns()}",
            ScheduleExpression=f"at({moment:%Y-%m-%dT%H:%M:%S})",
            ScheduleExpressionTimezone="UTC",
            FlexibleTimeWindow={"Mode": "OFF"},
            ActionAfterCompletion="DELETE",
            Target={**target, "Input": json.dumps({**json.loads(target["Input"]), **members})},
        )
        if reports := wait_until(lambda: self.function_reports(name)[count_before:], within_s):
            return reports[0]
        raise LocalCloudError(f"the campaigns job has not reported within {within_s:.0f} s")

    def _start(self) -> None:
        started_s = time.monotonic()
        self._say("· starting the local AWS and the fake Digishare")
        self._start_aws()
        self._start_digishare()
        self._say(f"  up in {time.monotonic() - started_s:.1f} s")

    def _start_aws(self) -> None:
        settings = {"AUTH": "true", "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0"}
        place = {"MINISTACK_REGION": self.region, "MINISTACK_ACCOUNT_ID": self.account_id}
        command = [str(PROJECT / ".local/aws/bin/python"), "-m", "local.aws"]
        aws = self._children.start("aws", command, clean_environment(self._folder, **settings, **place))
        self.aws_endpoint_url = aws["endpoint_url"]
        self.function_url = self.find_function_url(STACK_NAME)

    def _start_digishare(self) -> None:
        command = [sys.executable, "-m", "local.fake_digishare", "--tls-dir", str(self._folder)]
        digishare = self._children.start("digishare", command, clean_environment(self._folder))
        self.digishare_url, self.digishare_admin_url = digishare["url"], digishare["admin_url"]
        self.ca_file = Path(digishare["ca_file"])

    def _deploy_command(self, stack_name: str, parameters: dict[str, str]) -> list[str]:
        template = str(self._template_folder / ".aws-sam/build/template.yaml")
        return [
            SAM, "deploy", "--template-file", template, "--stack-name", stack_name,
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
            **self.environment,
            **ROOT.environment,
        )


def _ask(verb: str, url: str, body: object = None) -> requests.Response:
    """Send one request to a server of the local cloud. Raises requests.HTTPError for 4xx and 5xx."""
    answer = send(verb, url, json=body)
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
