"""What the template promises, read from its translation: what CloudFormation would really get."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker import audit, lifetime
from functions.broker.settings import Settings
from functions.campaigns.adapters import event_bus
from lambda_support.telemetry import write_metric_line
from local.translated_template import TEMPLATE, parse, translate

if TYPE_CHECKING:
    from collections.abc import Callable

Resource = dict[str, Any]


@cache
def resources() -> dict[str, Resource]:
    translated: dict[str, Resource] = translate(parse(TEMPLATE.read_text()))["Resources"]
    return translated


def properties(name: str) -> Resource:
    found: Resource = resources()[name]["Properties"]
    return found


def statements(role: str) -> list[Resource]:
    return [
        statement
        for policy in properties(role).get("Policies", [])
        for statement in policy["PolicyDocument"]["Statement"]
    ]


def actions(statement: Resource) -> list[str]:
    found = statement["Action"]
    return found if isinstance(found, list) else [found]


def test_the_function_url_takes_signed_requests_only_and_belongs_to_the_alias() -> None:
    urls = [r["Properties"] for r in resources().values() if r["Type"] == "AWS::Lambda::Url"]

    assert [(url["AuthType"], url["TargetFunctionArn"]) for url in urls] == [
        ("AWS_IAM", {"Ref": "BrokerFunctionAliaslive"})
    ]
    assert "Cors" not in urls[0]


def test_callers_get_both_actions_and_no_way_around_the_url() -> None:
    invoke_url, invoke = properties("CallerPolicy")["PolicyDocument"]["Statement"]

    assert actions(invoke_url) == ["lambda:InvokeFunctionUrl"]
    assert invoke_url["Condition"] == {"StringEquals": {"lambda:FunctionUrlAuthType": "AWS_IAM"}}
    assert actions(invoke) == ["lambda:InvokeFunction"]
    assert invoke["Condition"] == {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}
    for statement in (invoke_url, invoke):
        assert statement["Resource"] == {"Fn::Sub": "${BrokerFunction.Arn}:live"}


@pytest.mark.parametrize("who", ["OtherAccount1", "OtherAccount2", "OtherAccount3", "Organization"])
def test_callers_of_other_accounts_get_both_permissions_and_only_if_asked_for(who: str) -> None:
    call_url, invoke = (resources()[f"{who}{suffix}"] for suffix in ("CallsUrl", "InvokesViaUrl"))

    assert call_url["Properties"]["Action"] == "lambda:InvokeFunctionUrl"
    assert call_url["Properties"]["FunctionUrlAuthType"] == "AWS_IAM"
    assert invoke["Properties"]["Action"] == "lambda:InvokeFunction"
    assert invoke["Properties"]["InvokedViaFunctionUrl"] is True
    for permission in (call_url, invoke):
        assert permission["Type"] == "AWS::Lambda::Permission"
        assert permission["Condition"] == f"Has{who}"
        assert permission["Properties"]["FunctionName"] == {"Ref": "BrokerFunctionAliaslive"}
    assert call_url["Properties"]["Principal"] == invoke["Properties"]["Principal"]


def test_anybody_means_anybody_of_the_organization() -> None:
    open_to_all = [
        r["Properties"]
        for r in resources().values()
        if r["Type"] == "AWS::Lambda::Permission" and r["Properties"]["Principal"] == "*"
    ]

    assert len(open_to_all) == 2
    assert all(permission["PrincipalOrgID"] == {"Ref": "OrganizationId"} for permission in open_to_all)


def test_campaigns_can_read_neither_secret_nor_table_nor_key() -> None:
    granted = {
        statement["Sid"]: (actions(statement), statement["Resource"])
        for statement in statements("CampaignsRole")
    }

    bus = "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/${CampaignsEventBus}"
    assert granted == {
        "WriteOwnLog": (
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            {"Fn::GetAtt": ["CampaignsLogGroup", "Arn"]},
        ),
        "ReportFailedRuns": (["sqs:SendMessage"], {"Fn::GetAtt": ["CampaignsDeadLetterQueue", "Arn"]}),
        "KeepSnapshot": (
            ["dynamodb:GetItem", "dynamodb:PutItem"],
            {"Fn::GetAtt": ["CampaignsTable", "Arn"]},
        ),
        "TellChanges": (["events:PutEvents"], {"Fn::Sub": bus}),
        "FindTheBus": (["events:DescribeEventBus"], {"Fn::Sub": bus}),
    }
    assert properties("CampaignsRole")["ManagedPolicyArns"] == [{"Ref": "CallerPolicy"}]


def test_campaigns_can_send_its_own_events_alone() -> None:
    (statement,) = [one for one in statements("CampaignsRole") if one["Sid"] == "TellChanges"]

    assert statement["Condition"] == {
        "StringEquals": {"events:source": event_bus.SOURCE, "events:detail-type": event_bus.DETAIL_TYPE}
    }


def test_the_broker_may_do_what_it_does_and_nothing_else() -> None:
    granted = {statement["Sid"]: actions(statement) for statement in statements("BrokerRole")}

    assert granted == {
        "WriteOwnLog": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "KeepTokens": ["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"],
        "SealTokens": ["kms:Encrypt", "kms:Decrypt"],
        "ReadConnectionSecrets": ["secretsmanager:GetSecretValue"],
    }
    assert "ManagedPolicyArns" not in properties("BrokerRole")


@pytest.mark.parametrize("role", ["BrokerRole", "CampaignsRole", "CampaignsSchedulerRole"])
def test_no_role_has_a_wildcard(role: str) -> None:
    for statement in statements(role):
        assert statement["Resource"] != "*"
        assert not any("*" in action for action in actions(statement))


def test_every_function_has_a_role_of_its_own() -> None:
    roles = [
        json.dumps(r["Properties"]["Role"])
        for r in resources().values()
        if r["Type"] == "AWS::Lambda::Function"
    ]

    assert len(roles) == len(set(roles)) == 2
    assert {name for name, r in resources().items() if r["Type"] == "AWS::IAM::Role"} == {
        "BrokerRole",
        "CampaignsRole",
        "CampaignsSchedulerRole",
    }


def test_only_this_account_can_make_the_scheduler_assume_its_role() -> None:
    (statement,) = properties("CampaignsSchedulerRole")["AssumeRolePolicyDocument"]["Statement"]

    assert statement["Condition"]["StringEquals"]["aws:SourceAccount"] == {"Ref": "AWS::AccountId"}


def test_the_table_keeps_the_ledger_safe() -> None:
    table = properties("TokenTable")

    assert table["SSESpecification"] == {"SSEEnabled": True}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "delete_after_epoch_s", "Enabled": True}
    assert table["DeletionProtectionEnabled"] == {"Ref": "TableDeletionProtection"}
    assert resources()["TokenTable"]["DeletionPolicy"] == "RetainExceptOnCreate"


def test_the_key_is_used_only_with_everything_that_a_ciphertext_is_bound_to() -> None:
    (statement,) = [one for one in statements("BrokerRole") if one["Sid"] == "SealTokens"]

    bound_to = ("connection", "fence", "expires_at")
    assert statement["Condition"] == {"Null": {f"kms:EncryptionContext:{name}": "false" for name in bound_to}}


def test_the_function_has_the_time_that_its_policy_counts_on() -> None:
    assert properties("BrokerFunction")["Timeout"] == lifetime.FUNCTION_TIMEOUT_S


def test_no_instance_is_refused_because_of_a_reservation() -> None:
    assert "ReservedConcurrentExecutions" not in properties("BrokerFunction")


def test_the_function_is_given_every_setting_and_none_that_nobody_reads() -> None:
    variables = set(properties("BrokerFunction")["Environment"]["Variables"]) - {"AWS_CA_BUNDLE"}

    assert variables == {name.upper() for name in Settings.__dataclass_fields__}


def line_of_the_broker(event: str) -> None:
    account = audit.Audit()
    account.begin("request-1")
    account.notice(event, {"connection": "digishare"})
    account.write("temporarily_unavailable", 503, 1.0)


def line_of_campaigns(event: str) -> None:
    write_metric_line("campaigns", {}, {}, {"reason": "canary"}, {event: 1})


@pytest.mark.parametrize(
    ("event", "write"),
    [
        ("SealBroken", line_of_the_broker),
        ("PreviousSecretUsed", line_of_the_broker),
        ("AwsRefused", line_of_the_broker),
        ("OtherCampaigns", line_of_campaigns),
    ],
)
def test_an_event_that_a_person_must_look_at_raises_the_alarm_of_its_name(
    event: str, write: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    alarm = properties(f"{event}Alarm")
    write(event)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert alarm["MetricName"] == event
    assert line[event] == [1]
    dimensions = {dimension["Name"]: dimension["Value"] for dimension in alarm["Dimensions"]}
    assert {name: line[name] for name in dimensions} == dimensions
    counted = [
        (directive["Namespace"], directive["Dimensions"], metric["Unit"])
        for directive in line["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
        if metric["Name"] == event
    ]
    assert counted == [(alarm["Namespace"], [[*dimensions]], "Count")]
    # One such event in five minutes is enough, and none at all is not an alarm.
    assert (alarm["Statistic"], alarm["Threshold"], alarm["Period"]) == ("Sum", 1, 300)
    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
    assert (alarm["EvaluationPeriods"], alarm["TreatMissingData"]) == (1, "notBreaching")


def test_alarms_are_there_without_a_topic_and_tell_the_topic_that_is_named() -> None:
    alarms = [r for r in resources().values() if r["Type"] == "AWS::CloudWatch::Alarm"]

    assert len(alarms) == 4
    told = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
    for alarm in alarms:
        assert "Condition" not in alarm
        assert alarm["Properties"]["AlarmActions"] == alarm["Properties"]["OKActions"] == told


def test_no_secret_is_made_by_the_template() -> None:
    assert not [r for r in resources().values() if r["Type"] == "AWS::SecretsManager::Secret"]


def test_functions_run_on_arm_with_the_shared_layer() -> None:
    for name in ("BrokerFunction", "CampaignsFunction"):
        function = properties(name)
        assert (function["Runtime"], function["Architectures"]) == ("python3.13", ["arm64"])
        assert len(function["Layers"]) == 1


def test_failed_runs_and_undelivered_events_reach_the_dead_letter_queue() -> None:
    schedule = properties("CampaignsFunctionSchedule")
    (invoke,) = [r for r in resources().values() if r["Type"] == "AWS::Lambda::EventInvokeConfig"]

    queue = {"Fn::GetAtt": ["CampaignsDeadLetterQueue", "Arn"]}
    assert schedule["Target"]["DeadLetterConfig"]["Arn"] == queue
    assert invoke["Properties"]["DestinationConfig"]["OnFailure"]["Destination"] == queue


def test_every_log_group_forgets() -> None:
    groups = [r["Properties"] for r in resources().values() if r["Type"] == "AWS::Logs::LogGroup"]

    assert len(groups) == 2
    assert all(group["RetentionInDays"] == {"Ref": "LogRetentionDays"} for group in groups)
