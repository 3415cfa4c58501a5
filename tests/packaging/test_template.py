"""What the template promises, read from its translation, which is what CloudFormation gets."""

from __future__ import annotations

import json
import runpy
from functools import cache
from typing import Any

import pytest

from functions.broker import audit, lifetime
from functions.broker.settings import Settings
from lambda_support import telemetry
from local.translated_template import TEMPLATE, parse, translate
from token_broker import issued_token

Resource = dict[str, Any]


@cache
def resources() -> dict[str, Resource]:
    translated: dict[str, Resource] = translate(parse(TEMPLATE.read_text()))["Resources"]
    return translated


def properties(name: str) -> Resource:
    found: Resource = resources()[name]["Properties"]
    return found


def of_type(kind: str) -> list[Resource]:
    return [found["Properties"] for found in resources().values() if found["Type"] == f"AWS::{kind}"]


def test_the_function_url_takes_signed_requests_only_and_belongs_to_the_alias() -> None:
    (url,) = of_type("Lambda::Url")

    assert (url["AuthType"], url["TargetFunctionArn"]) == ("AWS_IAM", {"Ref": "BrokerFunctionAliaslive"})
    assert "Cors" not in url


def test_every_function_has_a_role_of_its_own() -> None:
    roles = [json.dumps(function["Role"]) for function in of_type("Lambda::Function")]

    assert len(roles) == len(set(roles)) > 1


def test_the_table_keeps_the_ledger_safe() -> None:
    table = properties("TokenTable")

    assert table["SSESpecification"] == {"SSEEnabled": True}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "delete_after_epoch_s", "Enabled": True}
    assert table["DeletionProtectionEnabled"] == {"Ref": "TableDeletionProtection"}


def test_the_function_has_the_time_that_its_policy_counts_on() -> None:
    assert properties("BrokerFunction")["Timeout"] == lifetime.FUNCTION_TIMEOUT_S


def test_no_instance_is_refused_because_of_a_reservation() -> None:
    assert "ReservedConcurrentExecutions" not in properties("BrokerFunction")


def test_the_function_is_given_every_setting_and_none_that_nobody_reads() -> None:
    variables = set(properties("BrokerFunction")["Environment"]["Variables"])

    read_elsewhere = {"AWS_CA_BUNDLE", "POWERTOOLS_METRICS_NAMESPACE"}
    assert variables == {name.upper() for name in Settings._fields} | read_elsewhere


def line_of_the_broker(event: str) -> None:
    account = audit.Audit()
    account.begin("request-1")
    for connection in ("one", "two"):
        account.notice(event, {"connection": connection})
    account.write("temporarily_unavailable", 503, 1.0)


def line_of_campaigns(event: str) -> None:
    telemetry.write_metric_line("campaigns", {}, {}, {"reason": "canary"}, {event: 1})


@pytest.mark.parametrize("event", ["SealBroken", "PreviousSecretUsed", "AwsRefused", "OtherCampaigns"])
def test_an_event_that_a_person_must_look_at_raises_the_alarm_of_its_name(
    event: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alarm = properties(f"{event}Alarm")
    # Both functions are given the namespace that the alarms name.
    for function in ("BrokerFunction", "CampaignsFunction"):
        variables = properties(function)["Environment"]["Variables"]
        assert variables["POWERTOOLS_METRICS_NAMESPACE"] == alarm["Namespace"]
    namespace = alarm["Namespace"]["Fn::Sub"].replace("${AWS::StackName}", "test-stack")
    with monkeypatch.context() as patch:
        patch.setenv("POWERTOOLS_METRICS_NAMESPACE", namespace)
        patch.setattr(telemetry, "_NAMESPACE", runpy.run_path(telemetry.__file__)["_NAMESPACE"])
        (line_of_campaigns if event == "OtherCampaigns" else line_of_the_broker)(event)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert (alarm["MetricName"], line[event]) == (event, [1 if event == "OtherCampaigns" else 2])
    dimensions = {dimension["Name"]: dimension["Value"] for dimension in alarm["Dimensions"]}
    assert {name: line[name] for name in dimensions} == dimensions
    counted = [
        (directive["Namespace"], directive["Dimensions"], metric["Unit"])
        for directive in line["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
        if metric["Name"] == event
    ]
    assert counted == [(namespace, [[*dimensions]], "Count")]
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
    assert not of_type("SecretsManager::Secret")


def test_functions_run_on_arm_with_the_shared_layer() -> None:
    for name in ("BrokerFunction", "CampaignsFunction"):
        function = properties(name)
        assert (function["Runtime"], function["Architectures"]) == ("python3.13", ["arm64"])
        assert len(function["Layers"]) == 1


def test_failed_runs_and_undelivered_events_reach_the_dead_letter_queue() -> None:
    schedule = properties("CampaignsFunctionSchedule")
    (invoke,) = of_type("Lambda::EventInvokeConfig")

    queue = {"Fn::GetAtt": ["CampaignsDeadLetterQueue", "Arn"]}
    assert schedule["Target"]["DeadLetterConfig"]["Arn"] == queue
    assert invoke["DestinationConfig"]["OnFailure"]["Destination"] == queue


def test_every_log_group_has_a_retention() -> None:
    groups = of_type("Logs::LogGroup")

    assert len(groups) == 2
    assert all(group["RetentionInDays"] == {"Ref": "LogRetentionDays"} for group in groups)


def test_the_log_of_who_got_a_token_lives_as_long_as_the_token() -> None:
    log = resources()["BrokerLogGroup"]

    days = parse(TEMPLATE.read_text())["Parameters"]["LogRetentionDays"]["Default"]
    assert days >= issued_token.LONGEST_LIFETIME_S / 86_400
    assert (log["DeletionPolicy"], log["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")


def test_a_first_deployment_that_failed_has_nothing_to_delete_that_cannot_be_deleted() -> None:
    protected = [r for r in resources().values() if r["Properties"].get("DeletionProtectionEnabled")]

    assert len(protected) == 1
    assert all(r["DeletionPolicy"] == r["UpdateReplacePolicy"] == "Retain" for r in protected)
    # A name that is fixed would be taken when the deployment is repeated.
    assert not any("TableName" in r["Properties"] for r in protected)


def test_two_stacks_of_one_account_share_no_name() -> None:
    fixed = [
        (name, member, value)
        for name, resource in resources().items()
        for member, value in resource["Properties"].items()
        if member.endswith("Name") and isinstance(value, str)
    ]

    # An alias belongs to its function, an alarm's metric to its namespace.
    names = {(member, value) for name, member, value in fixed if not name.endswith("Aliaslive")}
    assert {member for member, _ in names} <= {"MetricName"}
    prefix = "${AWS::StackName}/connections"
    assert properties("BrokerFunction")["Environment"]["Variables"]["SECRET_PREFIX"] == {"Fn::Sub": prefix}
    alarms = of_type("CloudWatch::Alarm")
    assert all("${AWS::StackName}" in alarm["Namespace"]["Fn::Sub"] for alarm in alarms)
