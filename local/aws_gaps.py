"""What the project needs of AWS and ministack lacks: condition keys, policies of functions, inputs of schedules.

Each function takes modules of ministack and replaces one thing in them. local/aws.py lists every name that is used here.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def close_gaps(internals: Mapping[str, Any]) -> None:
    """Replace what is missing in ministack's modules, by their names below `ministack`."""
    # Seconds between two checks of the schedules; the default of 10 makes tests wait.
    internals["services.scheduler"]._SCHEDULE_TICK_INTERVAL = 1  # noqa: SLF001 - listed in aws.py
    _supply_condition_keys(internals["core.iam_actions"], internals["services.dynamodb"])
    _name_principals_as_aws_does(internals["core.iam_evaluator"], internals["services.iam"])
    _name_described_bus(internals["core.iam_actions"])
    _fill_in_schedule_inputs(internals["services.scheduler"], internals["services.eventbridge"])
    _deploy_policies_of_functions(internals["services.cloudformation.provisioners"])
    _find_policies_of_functions(internals["services.lambda_svc"])


def _deploy_policies_of_functions(provisioners: Any) -> None:
    """Let a stack have `AWS::Lambda::ResourcePolicy`: the whole policy of one function, version or alias."""

    def replace(properties: Any, statements: list[Any]) -> str:
        arn = str(properties["ResourceArn"])
        function, *_ = provisioners._lambda_function_for_cfn_ref(arn)  # noqa: SLF001 - listed in aws.py
        # ministack has the statements of a function, its versions and aliases in one list.
        others = [
            each for each in function["policy"]["Statement"] if each.get("BelongsTo", each["Resource"]) != arn
        ]
        function["policy"]["Statement"] = others + [{**each, "BelongsTo": arn} for each in statements]
        return arn

    def create(_logical_id: str, properties: Any, _stack_name: str) -> tuple[str, dict[str, str]]:
        return replace(properties, properties["PolicyDocument"]["Statement"]), {}

    def update(_physical_id: str, old: Any, new: Any, _stack_name: str) -> tuple[str, dict[str, str]]:
        replace(old, [])
        return create("", new, "")

    def delete(_physical_id: str, properties: Any) -> None:
        replace(properties, [])

    provisioners._RESOURCE_HANDLERS["AWS::Lambda::ResourcePolicy"] = {  # noqa: SLF001 - listed in aws.py
        "create": create,
        "update": update,
        "delete": delete,
    }


def _find_policies_of_functions(lambda_svc: Any) -> None:
    """Let a function's policy be found for callers of other accounts, too: ministack reads the caller's account only."""

    def find(resource_arn: str) -> tuple[Any, str] | None:
        _, _, _, region, account_id, _, name = resource_arn.split(":")[:7]
        function = lambda_svc._functions.get_scoped(account_id, region, name)  # noqa: SLF001 - listed in aws.py
        return (function["policy"], account_id) if function else None

    lambda_svc.function_policy_for_arn = find


def _supply_condition_keys(iam_actions: Any, dynamodb: Any) -> None:
    """Let policies see condition keys that ministack does not know.

    These are `kms:EncryptionContext:NAME`; of `dynamodb:PutItem`, `dynamodb:LeadingKeys` and `dynamodb:Attributes`; and of
    `events:PutEvents`, `events:source` and `events:detail-type`. Where the entries of one request differ, the key has a
    list of values, which `StringEquals` refuses.
    """
    request_tag_context = iam_actions.request_tag_context

    def with_more_keys(service: str, action: str, body: bytes, parameters: Any) -> dict[str, Any]:
        keys = dict(request_tag_context(service, action, body, parameters))
        if service == "kms":
            context = json.loads(body or b"{}").get("EncryptionContext") or {}
            keys |= {f"kms:EncryptionContext:{name}": value for name, value in context.items()}
        if action == "dynamodb:PutItem":
            request = json.loads(body)
            schema = dynamodb._tables.get(request["TableName"], {}).get("KeySchema", [])  # noqa: SLF001 - listed in aws.py
            leading = [key["AttributeName"] for key in schema if key["KeyType"] == "HASH"]
            keys["dynamodb:LeadingKeys"] = [next(iter(request["Item"][name].values())) for name in leading]
            keys["dynamodb:Attributes"] = sorted(request["Item"])
        if action == "events:PutEvents":
            entries = json.loads(body or b"{}").get("Entries") or []
            for key, member in (("events:source", "Source"), ("events:detail-type", "DetailType")):
                values = {entry.get(member, "") for entry in entries}
                keys[key] = values.pop() if len(values) == 1 else sorted(values)
        return keys

    iam_actions.request_tag_context = with_more_keys


def _name_principals_as_aws_does(iam_evaluator: Any, iam: Any) -> None:
    """Let `aws:PrincipalArn` of a role's session be the role's ARN, and `kms:CallerAccount` be there at all."""
    resolve_condition_key = iam_evaluator._resolve_condition_key  # noqa: SLF001 - listed in aws.py

    def resolve(key: str, context: Any) -> Any:
        if key.lower() == "kms:calleraccount":
            return context.principal_account
        value = resolve_condition_key(key, context)
        if key.lower() == "aws:principalarn" and ":assumed-role/" in str(value):
            role_name = str(value).split("/")[1]
            role = iam._roles.get_scoped(context.principal_account, None, role_name)  # noqa: SLF001 - listed in aws.py
            return role["Arn"] if role else value
        return value

    iam_evaluator._resolve_condition_key = resolve  # noqa: SLF001 - listed in aws.py


def _name_described_bus(iam_actions: Any) -> None:
    """Let policies see which bus `events:DescribeEventBus` names; ministack takes the name for a rule's."""
    extract_resource_arn = iam_actions.extract_resource_arn

    def with_bus(service: str, method: str, path: str, headers: Any, body: bytes, *rest: Any) -> Any:
        if service == "events" and headers.get("x-amz-target", "").endswith(".DescribeEventBus"):
            _, region, account_id = rest
            name = json.loads(body or b"{}").get("Name", "default")
            return f"arn:aws:events:{region}:{account_id}:event-bus/{name}"
        return extract_resource_arn(service, method, path, headers, body, *rest)

    iam_actions.extract_resource_arn = with_bus


def _fill_in_schedule_inputs(scheduler: Any, eventbridge: Any) -> None:
    """Let a schedule's `Input` have context attributes, such as `<aws.scheduler.scheduled-time>`.

    ministack passes them to the target unchanged. There is one attempt at each run.
    """
    tick_schedules, invoke_target = scheduler._tick_schedules, eventbridge._invoke_target  # noqa: SLF001 - listed in aws.py
    fired_before: dict[tuple[str, str, str], float] = {}

    def tick_and_remember() -> None:
        fired_before.clear()
        fired_before.update(scheduler._schedule_last_fired)  # noqa: SLF001 - the tick overwrites it
        tick_schedules()

    def invoke_with_context(target: Any, event: Any, rule: Any, view: Any = None) -> None:
        if event["Source"] == "aws.scheduler":
            key = (event["Account"], event["Region"], f"{rule['GroupName']}/{rule['Name']}")
            due = _due_time(scheduler, eventbridge, rule, fired_before.get(key, 0), event["Time"])
            text = (
                target.get("Input", "")
                .replace("<aws.scheduler.schedule-arn>", rule["Arn"])
                .replace("<aws.scheduler.scheduled-time>", f"{due:%Y-%m-%dT%H:%M:%SZ}")
                .replace("<aws.scheduler.execution-id>", event["EventId"])
                .replace("<aws.scheduler.attempt-number>", "1")
            )
            target = {**target, "Input": text}
        invoke_target(target, event, rule, view)

    scheduler._tick_schedules = tick_and_remember  # noqa: SLF001 - listed in aws.py
    eventbridge._invoke_target = invoke_with_context  # noqa: SLF001 - listed in aws.py


def _due_time(
    scheduler: Any, eventbridge: Any, schedule: Any, before_epoch_s: float, now_epoch_s: float
) -> datetime:
    """Return when the run that starts now was due; `before_epoch_s` is when ministack started the one before."""
    expression = schedule["ScheduleExpression"]
    due_epoch_s = scheduler._at_time_epoch(expression)  # noqa: SLF001 - listed in aws.py
    if interval_s := eventbridge._parse_rate_seconds(expression):  # noqa: SLF001 - listed in aws.py
        # AWS counts from the schedule's creation, ministack from the run before.
        due_epoch_s = now_epoch_s - (now_epoch_s - schedule["CreationDate"]) % interval_s
    if due_epoch_s is not None:
        return datetime.fromtimestamp(due_epoch_s, UTC)
    fields = eventbridge._parse_cron_fields(expression)  # noqa: SLF001 - listed in aws.py
    due: datetime = eventbridge._cron_next_fire(fields, datetime.fromtimestamp(before_epoch_s, UTC))  # noqa: SLF001 - listed in aws.py
    return due
