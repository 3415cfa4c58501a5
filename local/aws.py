"""The local AWS in one process: ministack behind its gateway, and a Function URL front for each stack beside it.

Runs in its own environment (`.local/aws/bin/python -m local.aws`), because keys, sessions and policies can be read only
inside ministack's process. The version is pinned in local/requirements/cloud.txt, so using its internals is safe. Those
of INTERNALS are looked up at start, and a missing one ends the start.
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
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local.aws_gaps import close_gaps
from local.function_url import FunctionUrlFront, Throttled
from local.payload import FunctionFailed, FunctionUrl
from local.signature import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FUNCTION_URL_PATH = "/_local/function-url/"
"""`GET <gateway>/_local/function-url/STACK`: `{"function_url": …}`, the address of the stack's Function URL.

The address exists before the stack is deployed: until the stack has a URL, it answers 404.
"""

RETIRE_INSTANCES_PATH = "/_local/retire-instances/"
"""`POST <gateway>/_local/retire-instances/FUNCTION`: the function's next call gets a fresh execution environment."""

_STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")

INTERNALS = {
    "app": "app AUTH",  # the ASGI application, and whether it checks signatures
    "core.iam_evaluator": "is_root_access_key find_iam_access_key_account resolve_credential enforce "
    "AmbiguousAccessKeyError ResolvedCredential _resolve_condition_key",
    "core.iam_actions": "extract_resource_arn request_tag_context",
    "core.lambda_runtime": "invalidate_worker",
    "core.responses": "set_request_account_id set_request_region _account_from_sts_session",
    "core.concurrency": "run_reentrant",
    "services.cloudformation": "_stacks",
    "services.cloudformation.provisioners": "_RESOURCE_HANDLERS _lambda_function_for_cfn_ref",
    "services.dynamodb": "_tables",
    "services.lambda_svc": "_functions function_policy_for_arn _function_urls _function_url_id "
    "_get_func_record_for_ref_in_scope _execution_record_for_config _execute_function_with_config_scope",
    "services.iam": "_roles",
    "services.scheduler": "_SCHEDULE_TICK_INTERVAL _schedule_last_fired _tick_schedules _at_time_epoch",
    "services.eventbridge": "_invoke_target _parse_rate_seconds _parse_cron_fields _cron_next_fire",
}
"""The names that this module and aws_gaps.py use of ministack, by the module that has them."""


class MinistackBackend:
    """What the Function URL front asks of AWS, answered by the ministack in this process."""

    def __init__(self) -> None:
        self._internals = _load_internals()
        close_gaps(self._internals)

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
            return None  # ministack does not check root's requests
        try:
            account_id = iam.find_iam_access_key_account(access_key_id)
        except iam.AmbiguousAccessKeyError:
            return None
        responses = self._internals["core.responses"]
        account_id = account_id or responses._account_from_sts_session(access_key_id)  # noqa: SLF001 - listed above
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
            raise FunctionFailed(f"{target.function_arn} does not exist any more")
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
        """Return account, region and name of each function of the stack; a name alone may be in several accounts."""
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
    # ministack reads its port when it is imported, and passes it to the functions that it starts.
    os.environ["GATEWAY_PORT"] = str(gateway_socket.getsockname()[1])
    threading.Thread(target=_end_with_input, daemon=True).start()
    asyncio.run(_serve(gateway_socket, ready_file))


def _end_with_input() -> None:
    """Once the supervisor has ended, end this process and the functions that it has started, also busy ones."""
    # Not through sys.stdin: a thread that has its buffer's lock breaks the interpreter's exit.
    while os.read(0, 4096):
        pass
    os.killpg(os.getpid(), signal.SIGKILL)  # and no other group, where this process leads none


async def _serve(gateway_socket: socket.socket, ready_file: Path) -> None:
    backend = MinistackBackend()
    async with asyncio.TaskGroup() as servers:

        @functools.cache
        def open_function_url(stack_name: str) -> str:
            front = FunctionUrlFront(backend, os.environ["MINISTACK_REGION"], stack_name)
            listener = _listen()
            servers.create_task(_serve_one(front, listener))
            return _address(listener)

        gateway = Gateway(importlib.import_module("ministack.app").app, backend, open_function_url)
        servers.create_task(_serve_one(gateway, gateway_socket))
        ready = json.dumps({"endpoint_url": _address(gateway_socket)})
        await asyncio.to_thread(ready_file.write_text, ready)


async def _serve_one(application: Any, listener: socket.socket) -> None:
    hypercorn = importlib.import_module("hypercorn.asyncio")
    config = importlib.import_module("hypercorn.config").Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = 75
    config.include_server_header = False
    # Without a trigger, the server would handle the process's signals itself.
    await hypercorn.serve(application, config, shutdown_trigger=asyncio.Event().wait)


def _load_internals() -> dict[str, Any]:
    """Import ministack and return its modules by the names above.

    Raises:
        RuntimeError: this version lacks an internal, or does not check signatures.
    """
    modules = {name: importlib.import_module(f"ministack.{name}") for name in INTERNALS}
    missing = [
        f"{module}.{name}"
        for module, names in INTERNALS.items()
        for name in names.split()
        if not hasattr(modules[module], name)
    ]
    if missing:
        raise RuntimeError(f"this version of ministack lacks {', '.join(missing)}: adapt {__name__}")
    if not modules["app"].AUTH:
        raise RuntimeError("ministack would not check signatures and policies: start it with AUTH=true")
    return modules


def _listen() -> socket.socket:
    """Return a socket that accepts connections at once, so that its address can be given out before it is served."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def _address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


if __name__ == "__main__":
    main()
