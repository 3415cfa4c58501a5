"""The AWS account of a local cloud: its clients, its identities, and what its functions log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local.sdk import ROOT, Credentials, new_client

if TYPE_CHECKING:
    from collections.abc import Iterable

REGION = "eu-west-3"
ACCOUNT_ID = "000000000000"
SESSION_DURATION_S = 12 * 3600


class Account:
    """An account in a local AWS that listens at `aws_endpoint_url` and checks signatures and policies."""

    region = REGION
    account_id = ACCOUNT_ID
    aws_endpoint_url: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point the SDKs at this account; a key must be added."""
        return {
            "AWS_ENDPOINT_URL": self.aws_endpoint_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }

    def client(self, service: str, credentials: Credentials = ROOT) -> Any:
        """Return an SDK client of the local AWS, with these credentials; default: the operator's."""
        return new_client(service, credentials, self.region, self.aws_endpoint_url)

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

    def function_reports(self, function_name: str) -> list[dict[str, Any]]:
        """Return what the function has logged as JSON objects, oldest first."""
        return [json.loads(line) for line in self.function_logs(function_name) if line.startswith("{")]
