"""A deployment that changes the layer or a parameter changes what callers get, and the version before can be had back."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from samtranslator.yaml_helper import yaml_parse

from local.build import SAM, alone_with_the_build
from local.cloud import PROJECT, LocalCloud
from local.waiting import wait_until
from tests.conftest import CANARY_CLIENT_ID, CANARY_SECRET, CREDENTIAL
from tests.local_cloud.calling import call

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local.sdk import Credentials

pytestmark = pytest.mark.cloud

AUDIT_LINE = '"service": service,'


class Updated:
    """A cloud of its own, with a copy of the build that tests change and deploy."""

    def __init__(self, cloud: LocalCloud, build: Path) -> None:
        self.cloud, self.build = cloud, build
        self._telemetry = build / "CommonLayer/python/lambda_support/telemetry.py"
        self._caller: Credentials | None = None

    def deploy(self, **parameters: str) -> None:
        self.cloud.deploy(**parameters)
        if self._caller is None:
            self.cloud.put_connection("digishare", CREDENTIAL)
            self._caller = self.cloud.create_caller("local-updates", [self.cloud.outputs["CallerPolicyArn"]])

    def change_layer(self, mark: str) -> None:
        """Have the layer write another member into the line of every answer."""
        source = self._telemetry.read_text()
        assert AUDIT_LINE in source
        self._telemetry.write_text(source.replace(AUDIT_LINE, f'{AUDIT_LINE} "mark": "{mark}",'))
        shutil.rmtree(self._telemetry.parent / "__pycache__", ignore_errors=True)

    def lease_seconds(self) -> int:
        """Call, and return the lease's length."""
        assert self._caller is not None
        return int(call(self.cloud, self._caller, "/token").json()["expires_in"])

    def last_line(self) -> dict[str, Any]:
        """Return the last line that an answer has left."""
        lines = self.cloud.function_logs(self.cloud.outputs["BrokerFunctionName"])
        return next(dict(json.loads(line)) for line in reversed(lines) if line.startswith('{"_aws"'))

    def live(self, name: str) -> dict[str, Any]:
        """Return the configuration that `live` of one of the functions points to."""
        client = self.cloud.client("lambda")
        return dict(
            client.get_function_configuration(FunctionName=self.cloud.outputs[name], Qualifier="live")
        )


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Updated]:
    folder = tmp_path_factory.mktemp("updates")
    with alone_with_the_build():
        shutil.copytree(PROJECT / ".aws-sam/build", folder / ".aws-sam/build")
    with LocalCloud(folder, say=lambda _: None) as cloud:
        clients = [{"client_id": CANARY_CLIENT_ID, "secrets": [CANARY_SECRET]}]
        cloud.steer_digishare("PUT", "/clients", clients)
        updated = Updated(cloud, folder / ".aws-sam/build")
        updated.deploy()
        yield updated


def test_a_changed_parameter_reaches_callers_and_the_version_before_can_be_had_back(updated: Updated) -> None:
    before, campaigns_before = updated.live("BrokerFunctionName"), updated.live("CampaignsFunctionName")
    assert updated.lease_seconds() == 900

    updated.deploy(LeaseSeconds="600")

    assert updated.lease_seconds() == 600
    # Nothing of this reaches the job: no new version of it, which AWS would refuse to make.
    assert updated.live("CampaignsFunctionName")["Version"] == campaigns_before["Version"]
    client, function = updated.cloud.client("lambda"), updated.cloud.outputs["BrokerFunctionName"]
    client.update_alias(FunctionName=function, Name="live", FunctionVersion=before["Version"])
    assert updated.lease_seconds() == 900

    updated.deploy(LeaseSeconds="300")
    assert updated.lease_seconds() == 300


def test_a_changed_layer_reaches_callers(updated: Updated) -> None:
    before = {name: updated.live(name)["Version"] for name in ("BrokerFunctionName", "CampaignsFunctionName")}

    updated.change_layer("changed")
    updated.deploy()

    updated.lease_seconds()
    assert wait_until(lambda: updated.last_line().get("mark") == "changed")
    assert all(updated.live(name)["Version"] != version for name, version in before.items())


def test_a_changed_parameter_of_the_job_reaches_the_job_alone(updated: Updated) -> None:
    broker_before = updated.live("BrokerFunctionName")["Version"]

    updated.deploy(CampaignsEventBus="another")

    variables = updated.live("CampaignsFunctionName")["Environment"]["Variables"]
    assert variables["CAMPAIGNS_EVENT_BUS"] == "another"
    assert updated.live("BrokerFunctionName")["Version"] == broker_before


def test_deploying_the_same_again_makes_no_version(updated: Updated) -> None:
    updated.deploy()
    before = {name: updated.live(name)["Version"] for name in ("BrokerFunctionName", "CampaignsFunctionName")}

    updated.deploy()

    assert {name: updated.live(name)["Version"] for name in before} == before


def test_a_first_deployment_that_failed_can_be_repeated(updated: Updated) -> None:
    cloud, broken = updated.cloud, updated.build / "broken.json"
    template = yaml_parse((updated.build / "template.yaml").read_text())
    template["Resources"]["Broken"] = {
        "Type": "AWS::Lambda::Url",
        "DependsOn": ["BrokerFunction", "CampaignsFunction", "TokenTable"],
        "Properties": {"TargetFunctionArn": "no-such-function", "AuthType": "AWS_IAM"},
    }
    broken.write_text(json.dumps(template))

    # As `make deploy` does, with what samconfig.toml says.
    ended = subprocess.run(  # noqa: S603 - our own program
        [SAM, "deploy", "--template-file", str(broken), "--config-file", f"{PROJECT}/samconfig.toml", "--stack-name", "first", "--no-confirm-changeset"],
        env=cloud.operator_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode != 0, ended.stdout[-3000:]
    with pytest.raises(ClientError, match="does not exist"):
        cloud.client("cloudformation").describe_stacks(StackName="first")

    # AWS keeps the first attempt's table, which is protected; the local AWS deletes it all the same.
    assert cloud.deploy("first").outputs["BrokerFunctionUrl"]
