"""The local AWS in one process: ministack behind its gateway, and a Function URL front for each stack beside it.

Runs in its own environment (`.local/aws/bin/python -m local.aws`), because only inside ministack's process are keys,
sessions and policies at hand. The version is pinned in local/requirements/cloud.txt, so leaning on these internals
is safe; each is looked up at start, and a missing one stops the start:

    app.app, app.AUTH                                   the ASGI application, and whether it checks signatures
    core.iam_evaluator      is_root_access_key, find_iam_access_key_account, resolve_credential, enforce,
                            AmbiguousAccessKeyError, ResolvedCredential, _resolve_condition_key
    core.iam_actions        extract_resource_arn, request_tag_context
    core.lambda_runtime     invalidate_worker
    core.responses          set_request_account_id, set_request_region
    core.concurrency        run_reentrant
    services.cloudformation _stacks
    services.dynamodb       _tables
    services.lambda_svc     _function_urls, _function_url_id, _get_func_record_for_ref_in_scope,
                            _execution_record_for_config, _execute_function_with_config_scope, _functions
    services.iam            _roles
    services.scheduler      _SCHEDULE_TICK_INTERVAL, _schedule_last_fired, _tick_schedules, _at_time_epoch
    services.eventbridge    _invoke_target, _parse_rate_seconds, _parse_cron_fields, _cron_next_fire
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import functools
import importlib
import json
import os
import re
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local.function_url import FunctionFailed, FunctionUrl, FunctionUrlFront, Throttled
from local.signature import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FUNCTION_URL_PATH = "/_local/function-url/"
"""`GET <gateway>/_local/function-url/STACK`: `{"function_url": …}`, the address of the stack's Function URL.

It may be asked for before the stack is deployed: until there is a URL, the address answers 404.
"""

RETIRE_INSTANCES_PATH = "/_local/retire-instances/"
"""`POST <gateway>/_local/retire-instances/FUNCTION`: the function's next call gets a fresh execution environment."""

_STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")

_INTERNALS = {
    "app": ("app", "AUTH"),
    "core.iam_evaluator": (
        "is_root_access_key",
        "find_iam_access_key_account",
        "resolve_credential",
        "enforce",
        "AmbiguousAccessKeyError",
        "ResolvedCredential",
        "_resolve_condition_key",
    ),
    "core.iam_actions": ("extract_resource_arn", "request_tag_context"),
    "core.lambda_runtime": ("invalidate_worker",),
    "core.responses": ("set_request_account_id", "set_request_region"),
    "core.concurrency": ("run_reentrant",),
    "services.cloudformation": ("_stacks",),
    "services.dynamodb": ("_tables",),
    "services.lambda_svc": (
        "_function_urls",
        "_function_url_id",
        "_get_func_record_for_ref_in_scope",
        "_execution_record_for_config",
        "_execute_function_with_config_scope",
        "_functions",
    ),
    "services.iam": ("_roles",),
    "services.scheduler": (
        "_SCHEDULE_TICK_INTERVAL",
        "_schedule_last_fired",
        "_tick_schedules",
        "_at_time_epoch",
    ),
    "services.eventbridge": (
        "_invoke_target",
        "_parse_rate_seconds",
        "_parse_cron_fields",
        "_cron_next_fire",
    ),
}


class MinistackBackend:
    """What the Function URL front asks of AWS, answered by the ministack in this process."""

    def __init__(self) -> None:
        self._internals = _load_internals()
        # Seconds between two looks at the schedules; the default of 10 makes everybody wait.
        self._internals["services.scheduler"]._SCHEDULE_TICK_INTERVAL = 1  # noqa: SLF001 - listed above
        _supply_condition_keys(self._internals["core.iam_actions"], self._internals["services.dynamodb"])
        _name_principals_as_aws_does(self._internals["core.iam_evaluator"], self._internals["services.iam"])
        _name_described_bus(self._internals["core.iam_actions"])
        _fill_in_schedule_inputs(
            self._internals["services.scheduler"], self._internals["services.eventbridge"]
        )

    def find_function_url(self, stack_name: str) -> FunctionUrl | None:
        lambda_svc = self._internals["services.lambda_svc"]
        functions = self._functions_of(stack_name)
        found = [
            (account_id, region, reference, config)
            for (account_id, region, reference), config in lambda_svc._function_urls.all_items()  # noqa: SLF001 - listed above
            if config.get("AuthType") == "AWS_IAM"
            and (account_id, region, reference.partition(":")[0]) in functions
        ]
        if len(found) != 1:
            return None
        [(account_id, region, reference, config)] = found
        return FunctionUrl(
            url_id=lambda_svc._function_url_id(config["FunctionUrl"]),  # noqa: SLF001 - listed above
            account_id=account_id,
            region=region,
            function_arn=f"arn:aws:lambda:{region}:{account_id}:function:{reference}",
        )

    def find_caller(self, access_key_id: str) -> Caller | None:
        iam = self._internals["core.iam_evaluator"]
        if iam.is_root_access_key(access_key_id):
            return None  # ministack takes root's requests unchecked
        try:
            account_id = iam.find_iam_access_key_account(access_key_id)
        except iam.AmbiguousAccessKeyError:
            return None
        credential = iam.resolve_credential(access_key_id, account_id)
        if not isinstance(credential, iam.ResolvedCredential):
            return None
        return Caller(
            access_key_id=access_key_id,
            secret_access_key=credential.secret_access_key,
            session_token=credential.session_token,
            account_id=credential.account_id,
            user_arn=credential.principal_arn,
            user_id=self._unique_id(credential),
            expires_at_epoch_s=credential.expiration,
        )

    def is_allowed(self, caller: Caller, action: str, resource: str, context: Mapping[str, str]) -> bool:
        def decide() -> bool:
            responses = self._internals["core.responses"]
            region = resource.split(":")[3]
            responses.set_request_account_id(caller.access_key_id)
            responses.set_request_region(region)
            denial = self._internals["core.iam_evaluator"].enforce(
                caller.access_key_id,
                action,
                "lambda",
                region,
                resource_arn=resource,
                service_context=dict(context),
            )
            return denial is None

        return contextvars.copy_context().run(decide)

    async def invoke(self, target: FunctionUrl, event: Mapping[str, object]) -> object:
        lambda_svc = self._internals["services.lambda_svc"]
        reference = target.function_arn.partition(":function:")[2]
        record, config, _ = lambda_svc._get_func_record_for_ref_in_scope(  # noqa: SLF001 - listed above
            reference, account_id=target.account_id, region=target.region
        )
        if record is None or config is None:
            raise FunctionFailed(f"{target.function_arn} is gone")
        functions = lambda_svc._functions  # noqa: SLF001 - listed above
        unqualified = functions.get_scoped(target.account_id, target.region, reference.partition(":")[0])
        if unqualified.get("concurrency") == 0:  # the function is switched off
            raise Throttled
        execution = lambda_svc._execution_record_for_config(record, config)  # noqa: SLF001 - listed above
        result = await self._internals["core.concurrency"].run_reentrant(
            lambda_svc._execute_function_with_config_scope,  # noqa: SLF001 - listed above
            execution,
            event,
        )
        if result.get("throttle"):
            raise Throttled
        if result.get("error"):
            raise FunctionFailed
        return result.get("body")

    def retire_instances(self, function_name: str) -> None:
        self._internals["core.lambda_runtime"].invalidate_worker(function_name)

    def _functions_of(self, stack_name: str) -> set[tuple[str, str, str]]:
        """Return account, region and name of each function of the stack; names alone do not tell whose they are."""
        stacks = self._internals["services.cloudformation"]._stacks.all_items()  # noqa: SLF001 - listed above
        return {
            (account_id, region, resource["PhysicalResourceId"])
            for (account_id, region, name), stack in stacks
            if name == stack_name
            for resource in stack["_resources"].values()
            if resource["ResourceType"] == "AWS::Lambda::Function"
        }

    def _unique_id(self, credential: Any) -> str:
        """Return what AWS calls userId: `AIDA…` for a user, `AROA…:session` for a role's session.

        ministack gives sessions of a function's own role the role's name instead of its id.
        """
        principal_id = str(credential.principal_id)
        role_name, separator, session_name = principal_id.partition(":")
        role = self._internals["services.iam"]._roles.get_scoped(  # noqa: SLF001 - listed above
            credential.account_id, None, role_name
        )
        return f"{role['RoleId']}:{session_name}" if separator and role else principal_id


class Gateway:
    """ministack's own application, with two more paths for the operator of the local cloud."""

    def __init__(
        self, application: Any, backend: MinistackBackend, open_function_url: Callable[[str], str]
    ) -> None:
        self._application = application
        self._backend = backend
        self._open_function_url = open_function_url

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if path.startswith(RETIRE_INSTANCES_PATH):
            function_name = path.removeprefix(RETIRE_INSTANCES_PATH)
            await asyncio.to_thread(self._backend.retire_instances, function_name)
            await _answer(send, 204)
        elif path.startswith(FUNCTION_URL_PATH):
            stack_name = path.removeprefix(FUNCTION_URL_PATH)
            if _STACK_NAME.fullmatch(stack_name):
                await _answer(send, 200, {"function_url": self._open_function_url(stack_name)})
            else:
                await _answer(send, 400, {"Message": f"{stack_name!r} is no name of a stack"})
        else:
            await self._application(scope, receive, send)


async def _answer(send: Any, status: int, value: object = None) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if value is None else json.dumps(value).encode()})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ready-file", type=Path, required=True, help="where to write the gateway's address as JSON"
    )
    ready_file = parser.parse_args().ready_file
    gateway_socket = _listen()
    # ministack reads its port when imported, and hands it to the functions that it starts.
    os.environ["GATEWAY_PORT"] = str(gateway_socket.getsockname()[1])
    asyncio.run(_serve(gateway_socket, ready_file))


async def _serve(gateway_socket: socket.socket, ready_file: Path) -> None:
    backend = MinistackBackend()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as servers:

        @functools.cache
        def open_function_url(stack_name: str) -> str:
            front = FunctionUrlFront(backend, os.environ["MINISTACK_REGION"], stack_name)
            listener = _listen()
            servers.create_task(_serve_one(front, listener, stop))
            return _address(listener)

        gateway = Gateway(importlib.import_module("ministack.app").app, backend, open_function_url)
        servers.create_task(_serve_one(gateway, gateway_socket, stop))
        partial = ready_file.with_suffix(".partial")
        partial.write_text(json.dumps({"endpoint_url": _address(gateway_socket)}))
        partial.rename(ready_file)


async def _serve_one(application: Any, listener: socket.socket, stop: asyncio.Event) -> None:
    hypercorn = importlib.import_module("hypercorn.asyncio")
    config = importlib.import_module("hypercorn.config").Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = 75
    config.include_server_header = False
    config.graceful_timeout = 0.1
    await hypercorn.serve(application, config, shutdown_trigger=stop.wait)


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
            schema = dynamodb._tables.get(request["TableName"], {}).get("KeySchema", [])  # noqa: SLF001 - listed above
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
    resolve_condition_key = iam_evaluator._resolve_condition_key  # noqa: SLF001 - listed above

    def resolve(key: str, context: Any) -> Any:
        if key.lower() == "kms:calleraccount":
            return context.principal_account
        value = resolve_condition_key(key, context)
        if key.lower() == "aws:principalarn" and ":assumed-role/" in str(value):
            role_name = str(value).split("/")[1]
            role = iam._roles.get_scoped(context.principal_account, None, role_name)  # noqa: SLF001 - listed above
            return role["Arn"] if role else value
        return value

    iam_evaluator._resolve_condition_key = resolve  # noqa: SLF001 - listed above


def _name_described_bus(iam_actions: Any) -> None:
    """Let policies see which bus `events:DescribeEventBus` asks for; ministack takes its name for a rule's."""
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

    ministack hands them to the target as they stand. There is one attempt at each run.
    """
    tick_schedules, invoke_target = scheduler._tick_schedules, eventbridge._invoke_target  # noqa: SLF001 - listed above
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

    scheduler._tick_schedules = tick_and_remember  # noqa: SLF001 - listed above
    eventbridge._invoke_target = invoke_with_context  # noqa: SLF001 - listed above


def _due_time(
    scheduler: Any, eventbridge: Any, schedule: Any, before_epoch_s: float, now_epoch_s: float
) -> datetime:
    """Return when the run that starts now was due; `before_epoch_s` is when ministack started the one before."""
    expression = schedule["ScheduleExpression"]
    due_epoch_s = scheduler._at_time_epoch(expression)  # noqa: SLF001 - listed above
    if interval_s := eventbridge._parse_rate_seconds(expression):  # noqa: SLF001 - listed above
        # AWS counts from the schedule's creation, ministack from the run before.
        due_epoch_s = now_epoch_s - (now_epoch_s - schedule["CreationDate"]) % interval_s
    if due_epoch_s is not None:
        return datetime.fromtimestamp(due_epoch_s, UTC)
    fields = eventbridge._parse_cron_fields(expression)  # noqa: SLF001 - listed above
    due: datetime = eventbridge._cron_next_fire(fields, datetime.fromtimestamp(before_epoch_s, UTC))  # noqa: SLF001 - listed above
    return due


def _load_internals() -> dict[str, Any]:
    """Import ministack and return its modules by the names above.

    Raises:
        RuntimeError: this version lacks an internal, or does not check signatures.
    """
    modules = {name: importlib.import_module(f"ministack.{name}") for name in _INTERNALS}
    missing = [
        f"{module}.{name}"
        for module, names in _INTERNALS.items()
        for name in names
        if not hasattr(modules[module], name)
    ]
    if missing:
        raise RuntimeError(f"this version of ministack lacks {', '.join(missing)}: adapt {__name__}")
    if not modules["app"].AUTH:
        raise RuntimeError("ministack would not check signatures and policies: start it with AUTH=true")
    return modules


def _listen() -> socket.socket:
    """Return a socket that takes connections at once, so that its address can be told before it is served."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def _address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


if __name__ == "__main__":
    main()
