"""`make verify-deployment`: ten checks of a deployed stack, with the AWS identity of the environment.

They read, and make calls that must be refused; nothing is changed, nothing is exchanged, and no secret is read. The
identity has to be an operator's with the CallerPolicy. docs/deploying.md has each check as a command.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import boto3
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError

from local.promises import Line, render, verdict
from local.sdk import send
from token_broker import BrokerClient
from token_broker.errors import AccessDenied, TokenBrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN_LIFE_DAYS: Final = 400
CONTEXT: Final = {"connection": "verify-deployment", "fence": "0", "expires_at": "none"}
_REFUSED: Final = {"AccessDenied", "AccessDeniedException"}
_GOOD: Final = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"}


class Deployment:
    """A stack of this account and region, for the ten checks."""

    def __init__(self, stack_name: str) -> None:
        # boto3 itself reads AWS_DEFAULT_REGION alone.
        self._session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
        self._config = Config(
            connect_timeout=3, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3}
        )
        described = self.client("cloudformation").describe_stacks(StackName=stack_name)
        self._stack: dict[str, Any] = described["Stacks"][0]
        self._outputs = {output["OutputKey"]: output["OutputValue"] for output in self._stack["Outputs"]}
        self._parameters = {
            each["ParameterKey"]: each["ParameterValue"] for each in self._stack["Parameters"]
        }
        self.url = (os.environ.get("TOKEN_BROKER_URL") or self._outputs["BrokerFunctionUrl"]).rstrip("/")

    def client(self, service: str) -> Any:
        session: Any = self._session
        return session.client(service, config=self._config)

    # --- what was deployed --------------------------------------------------------------------------------------------

    def stack(self) -> str:
        status = self._stack["StackStatus"]
        return "complete" if status in _GOOD else str(status)

    def live_version(self) -> str:
        client = self.client("lambda")
        for name in ("BrokerFunctionName", "CampaignsFunctionName"):
            live, latest = (
                client.get_function_configuration(FunctionName=self._outputs[name], Qualifier=qualifier)
                for qualifier in ("live", "$LATEST")
            )
            for member in ("CodeSha256", "Layers", "Environment", "Timeout", "MemorySize", "Role"):
                if live.get(member) != latest.get(member):
                    return f"{self._outputs[name]}: live has another {member} than was deployed last"
        return "what was deployed last"

    # --- who gets in --------------------------------------------------------------------------------------------------

    def calls_without_a_signature(self) -> str:
        region = self._session.region_name
        request = AWSRequest("GET", f"{self.url}/status")
        SigV4Auth(Credentials("AKIAIOSFODNN7EXAMPLE", "no such key"), "lambda", region).add_auth(request)
        answers = (
            send("GET", f"{self.url}/status", 40.0, headers=each) for each in ({}, dict(request.headers))
        )
        return ", ".join(str(answer.status_code) for answer in answers)

    def signed_call(self) -> str:
        found = self._client().status()["connections"]
        shown = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
        names = [f"{each['connection']} ({each['state']})" for each in shown]
        return f"answered: may use {', '.join(names) or 'no connection by name: add a line to grants.json'}"

    def call_for_another_connection(self) -> str:
        try:
            self._client().status("no-such-connection")
        except AccessDenied as refused:
            return refused.code
        return "answered"

    def _client(self) -> BrokerClient:
        return BrokerClient(self.url, session=self._session)

    def direct_invocation(self) -> str:
        """Ask Lambda whether it would run the function without its URL: a dry run runs nothing."""
        client, function = self.client("lambda"), self._outputs["BrokerFunctionName"]
        version = client.get_alias(FunctionName=function, Name="live")["FunctionVersion"]
        targets = [f"{function}{qualifier}" for qualifier in ("", ":$LATEST", ":live", f":{version}")]
        allowed = [
            target
            for target in targets
            if not self.is_refused(partial(client.invoke, FunctionName=target, InvocationType="DryRun"))
        ]
        if allowed and self._parameters.get("DirectInvocation") == "ALLOWED":
            return "denied to callers alone: DirectInvocation is ALLOWED"
        return f"allowed: {', '.join(allowed)}" if allowed else "denied"

    # --- what only roles may ------------------------------------------------------------------------------------------

    def use_of_the_key(self) -> str:
        client, key = self.client("kms"), self._outputs["TokenKeyArn"]
        calls = {
            "Encrypt": lambda: client.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=CONTEXT),
            "GenerateDataKey": lambda: client.generate_data_key(
                KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT
            ),
        }
        allowed = [name for name, call in calls.items() if not self.is_refused(call)]
        state = client.describe_key(KeyId=key)["KeyMetadata"]["KeyState"]
        if allowed:
            return f"allowed: {', '.join(allowed)}"
        return "denied, key enabled" if state == "Enabled" else f"denied, the key is {state}"

    def roles(self) -> str:
        """Ask IAM what the functions' roles may do; nothing is called."""
        client = self.client("lambda")
        broker, campaigns = (
            client.get_function_configuration(FunctionName=self._outputs[name])["Role"]
            for name in ("BrokerFunctionName", "CampaignsFunctionName")
        )
        described = self.client("dynamodb").describe_table(TableName=self._outputs["TokenTableName"])
        table = described["Table"]["TableArn"]
        partition, region, account = table.split(":")[1], table.split(":")[3], table.split(":")[4]
        secrets = f"arn:{partition}:secretsmanager:{region}:{account}:secret"
        client_secret = f"{secrets}:{self._outputs['SecretPrefix']}/digishare-AbCdEf"
        asked = [
            (campaigns, "dynamodb:GetItem", table),
            (campaigns, "secretsmanager:GetSecretValue", client_secret),
            (broker, "secretsmanager:GetSecretValue", f"{secrets}:another-AbCdEf"),
            (broker, "dynamodb:DeleteItem", table),
        ]
        allowed = [
            f"{role.rpartition('/')[2]} may {action}"
            for role, action, resource in asked
            if self._may(role, action, resource)
        ]
        return "; ".join(allowed) or "denied"

    def _may(self, role_arn: str, action: str, resource_arn: str) -> bool:
        answer = self.client("iam").simulate_principal_policy(
            PolicySourceArn=role_arn, ActionNames=[action], ResourceArns=[resource_arn]
        )
        return bool(answer["EvaluationResults"][0]["EvalDecision"] == "allowed")

    # --- what has to stay, and who is told ----------------------------------------------------------------------------

    def what_stays(self) -> str:
        client, name = self.client("dynamodb"), self._outputs["TokenTableName"]
        table = client.describe_table(TableName=name)["Table"]
        backups = client.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        recovery = backups.get("PointInTimeRecoveryDescription", {})
        expiry = client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
        prefix = self._outputs["BrokerLogGroupName"]
        groups = self.client("logs").describe_log_groups(logGroupNamePrefix=prefix)["logGroups"]
        days = [group.get("retentionInDays", TOKEN_LIFE_DAYS) for group in groups]
        stays = {
            "deletion protection": table.get("DeletionProtectionEnabled"),
            "point-in-time recovery": recovery.get("PointInTimeRecoveryStatus") == "ENABLED",
            "expiry of rows": expiry.get("AttributeName") == "delete_after_epoch_s",
            f"a log of {TOKEN_LIFE_DAYS} days": max(days, default=0) >= TOKEN_LIFE_DAYS,
        }
        if missing := [what for what, is_there in stays.items() if not is_there]:
            return f"without {', '.join(missing)}"
        return f"protected, logs for {TOKEN_LIFE_DAYS} days or more"

    def who_is_told(self) -> str:
        described = self.client("cloudwatch").describe_alarms(AlarmNamePrefix=self._stack["StackName"])
        namespace = f"TokenBroker/{self._stack['StackName']}"
        own = [alarm for alarm in described["MetricAlarms"] if alarm["Namespace"] == namespace]
        ringing = [alarm["MetricName"] for alarm in own if alarm["StateValue"] == "ALARM"]
        queue = self.client("sqs").get_queue_attributes(
            QueueUrl=self._outputs["CampaignsDeadLetterQueueUrl"],
            AttributeNames=["ApproximateNumberOfMessages"],
        )["Attributes"]["ApproximateNumberOfMessages"]
        told = "a topic" if self._parameters.get("AlarmTopicArn") else "nobody: set AlarmTopicArn"
        trouble = [f"in alarm: {', '.join(ringing)}"] * bool(ringing)
        trouble += [f"failed runs in the queue: {queue}"] * (queue != "0")
        return "; ".join(trouble) or f"{len(own)} alarms, no failed run; told: {told}"

    @staticmethod
    def is_refused(call: Callable[[], object]) -> bool:
        try:
            call()
        except ClientError as error:
            if error.response["Error"]["Code"] in _REFUSED:
                return True
            raise
        return False


CHECKS: Final = (
    ("the stack", "complete", Deployment.stack),
    ("what `live` runs", "what was deployed last", Deployment.live_version),
    ("unsigned call, wrong signature", "403, 403", Deployment.calls_without_a_signature),
    ("signed call", "answered: may use", Deployment.signed_call),
    ("signed call for a connection without a grant", "access_denied", Deployment.call_for_another_connection),
    ("invoking the function past its URL", "denied", Deployment.direct_invocation),
    ("using the key", "denied, key enabled", Deployment.use_of_the_key),
    ("what the functions' roles must not do", "denied", Deployment.roles),
    ("table and log", "protected, logs for 400 days or more", Deployment.what_stays),
    ("alarms and failed runs", "4 alarms, no failed run;", Deployment.who_is_told),
)
"""Name, promise and check, in the order of the page."""


def look(deployment: Deployment, what: str, promised: str, check: Callable[[Deployment], str]) -> Line:
    """Return the line of one check, also where this identity may not read what it checks."""
    try:
        return Line(what, promised, check(deployment))
    except ClientError as error:
        refusal = f"{error.operation_name}: {error.response['Error']['Code']}"
        return Line(what, promised, f"cannot be looked at: {refusal}")
    except (TokenBrokerError, BotoCoreError, requests.RequestException, LookupError) as error:
        return Line(what, promised, f"{type(error).__name__}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="local.verify_deployment", description=__doc__.partition("\n")[0])
    parser.add_argument("stack", help="the stack's name")
    stack_name = parser.parse_args().stack
    try:
        deployment = Deployment(stack_name)
    except (ClientError, BotoCoreError) as error:
        print(f"error: the stack {stack_name} cannot be read: {error}", file=sys.stderr)
        return 1
    lines = [look(deployment, *check) for check in CHECKS]
    print(f"{render(lines)}\n\n{verdict(lines)}")
    print(
        "Nothing was exchanged. The first call that may exchange a token, which then lives for a year: token-broker token"
    )
    return 0 if all(line.holds for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
