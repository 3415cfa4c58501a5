"""A deployment that changes the layer or a parameter changes what callers get. The version before can be restored."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from samtranslator.yaml_helper import yaml_parse

from local.build import SAM
from local.cloud import PROJECT
from local.waiting import wait_until
from tests.conftest import CREDENTIAL
from tests.local_cloud.calling import call, cloud_with_a_copied_build
from tests.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local.cloud import LocalCloud

pytestmark = pytest.mark.cloud

AUDIT_LINE = '"service": service,'


FUNCTIONS = ("BrokerFunctionName", "CampaignsFunctionName")


class Updated:
    """A cloud of its own, with a copy of the build that tests change and deploy."""

    def __init__(self, cloud: LocalCloud, build: Path) -> None:
        self.cloud, self.build = cloud, build
        cloud.deploy()
        cloud.put_connection("digishare", CREDENTIAL)
        self._caller = cloud.create_caller("local-updates", [cloud.outputs["CallerPolicyArn"]])

    def change_layer(self) -> None:
        """Have the layer write another member into the line of every answer."""
        telemetry = self.build / "CommonLayer/python/lambda_support/telemetry.py"
        source = telemetry.read_text()
        assert AUDIT_LINE in source
        telemetry.write_text(source.replace(AUDIT_LINE, f'{AUDIT_LINE} "mark": "changed",'))
        shutil.rmtree(telemetry.parent / "__pycache__", ignore_errors=True)

    def lease_seconds(self) -> int:
        """Call, and return the lease's length."""
        return int(call(self.cloud, self._caller, "/token").json()["expires_in"])

    def last_line(self) -> dict[str, Any]:
        """Return the last line that an answer has left."""
        lines = self.cloud.function_logs(self.cloud.outputs["BrokerFunctionName"])
        return next(dict(json.loads(line)) for line in reversed(lines) if line.startswith('{"_aws"'))

    def live(self, name: str) -> dict[str, Any]:
        """Return the configuration that `live` of one of the functions points to."""
        function = self.cloud.outputs[name]
        client = self.cloud.client("lambda")
        return dict(client.get_function_configuration(FunctionName=function, Qualifier="live"))

    def versions(self) -> list[str]:
        """Return what `live` of broker and job point to."""
        return [self.live(name)["Version"] for name in FUNCTIONS]


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Updated]:
    folder = tmp_path_factory.mktemp("updates")
    with cloud_with_a_copied_build(folder) as cloud:
        yield Updated(cloud, folder / ".aws-sam/build")


def test_a_new_parameter_reaches_callers_then_the_version_before_then_a_new_layer(
    updated: Updated,
) -> None:
    broker_before, campaigns_before = updated.versions()
    assert updated.lease_seconds() == 900

    updated.cloud.deploy(LeaseSeconds="600")

    assert updated.lease_seconds() == 600
    # Nothing of this reaches the job: no new version of it, which AWS would refuse to make.
    broker_now, campaigns_now = updated.versions()
    assert campaigns_now == campaigns_before
    client, function = updated.cloud.client("lambda"), updated.cloud.outputs["BrokerFunctionName"]
    client.update_alias(FunctionName=function, Name="live", FunctionVersion=broker_before)
    assert updated.lease_seconds() == 900

    updated.change_layer()
    updated.cloud.deploy()

    assert updated.lease_seconds() == 600
    assert wait_until(lambda: updated.last_line().get("mark") == "changed")
    broker_then, campaigns_then = updated.versions()
    assert broker_then not in {broker_before, broker_now}
    assert campaigns_then != campaigns_now


def test_a_new_parameter_of_the_job_reaches_it_alone_and_no_change_makes_no_version(
    updated: Updated,
) -> None:
    broker_before, _ = updated.versions()

    updated.cloud.deploy(CampaignsEventBus="another")

    variables = updated.live("CampaignsFunctionName")["Environment"]["Variables"]
    assert variables["CAMPAIGNS_EVENT_BUS"] == "another"
    versions = updated.versions()
    assert versions[0] == broker_before

    updated.cloud.deploy()

    assert updated.versions() == versions


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
    files = ("--template-file", broken, "--config-file", PROJECT / "samconfig.toml")
    command = (SAM, "deploy", *files, "--stack-name", "first", "--no-confirm-changeset")
    ended = run_program(*command, env=cloud.operator_environment(), timeout_s=120)
    assert ended.returncode != 0, ended.stdout[-3000:]
    with pytest.raises(ClientError, match="does not exist"):
        cloud.client("cloudformation").describe_stacks(StackName="first")

    # AWS leaves the first attempt's table, which is protected. The local AWS deletes it.
    assert cloud.deploy("first").outputs["BrokerFunctionUrl"]
