"""The nursery of `local.instances`: loads a handler once, and forks an instance for every socket that it receives.

`python -m local.nursery FD HANDLER PREPARE`: the control socket, `module.function`, and statements to run before the
first fork. It needs the standard library only, so that the bench can run it beside any handler.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

_LONGEST_ORDER_BYTES = 16 * 1024


class _Context:
    """What handlers read of Lambda's context object."""

    function_name = "broker"
    function_version = "1"
    invoked_function_arn = "arn:aws:lambda:eu-west-3:000000000000:function:broker:live"
    memory_limit_in_mb = 1024

    def __init__(self, aws_request_id: str, end_s: float) -> None:
        self.aws_request_id = aws_request_id
        self.end_s = end_s

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * (self.end_s - time.monotonic()))


def _run_nursery(control: socket.socket, handler: str, prepare: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended instances leave no zombies
    module = importlib.import_module(handler.rpartition(".")[0])
    exec(prepare)  # noqa: S102 - from the tests or the bench
    gc.freeze()  # what is imported stays shared between the instances
    while True:
        order, descriptors, *_ = socket.recv_fds(control, _LONGEST_ORDER_BYTES, 1)
        if not descriptors:
            break
        if os.fork() == 0:
            control.close()
            with socket.socket(fileno=descriptors[0]) as connection:
                _run_instance(connection, json.loads(order), module, handler.rpartition(".")[2])
            os._exit(0)
        os.close(descriptors[0])


def _run_instance(
    connection: socket.socket, environment: Mapping[str, str], module: ModuleType, name: str
) -> None:
    os.environ.update(environment)
    # The broker's cold start, without a request; other handlers made theirs when they were imported.
    getattr(module, "_broker", lambda: None)()

    def send(value: object) -> None:
        connection.sendall(json.dumps(value).encode() + b"\n")

    with connection.makefile("r", encoding="utf-8") as orders:
        if step := os.environ.get("STOP_AT"):

            def stop() -> None:
                send({"stopped": step})
                orders.readline()

            _call_once_at(step, stop)
        send({"pid": os.getpid()})
        number = 0
        while line := orders.readline():
            order, number = json.loads(line), number + 1
            time.sleep(max(0.0, order["at_epoch_s"] - time.time()))
            began_at = time.time()
            context = _Context(f"{os.getpid()}-{number}", time.monotonic() + order["run_time_s"])
            try:
                answer = getattr(module, name)(order["event"], context)
            except Exception as error:  # noqa: BLE001 - an answer like any other: the caller of a function sees a 502
                body = json.dumps({"error": type(error).__name__})
                answer = {"statusCode": HTTPStatus.BAD_GATEWAY, "headers": {}, "body": body}
            send({"answer": answer, "began_at_epoch_s": began_at, "ended_at_epoch_s": time.time()})


def _call_once_at(step: str, action: Callable[[], None]) -> None:
    moment, _, place = step.partition(" ")
    module, _, name = place.partition(":")
    class_name, _, method_name = name.partition(".")
    owner = getattr(importlib.import_module(f"functions.broker.{module}"), class_name)
    method = getattr(owner, method_name)

    def stopping(*arguments: Any, **named: Any) -> Any:
        setattr(owner, method_name, method)
        if moment == "before":
            action()
        result = method(*arguments, **named)
        if moment == "after":
            action()
        return result

    setattr(owner, method_name, stopping)


_LOADED_BY_AN_EXCHANGE = (
    "functions.broker.adapters.client_secret",
    "functions.broker.adapters.mint_ledger",
    "functions.broker.adapters.oauth_exchange",
    "functions.broker.replace_token",
    "lambda_support.upstream_http",
    "requests",
)


def load_broker() -> None:
    """Load what an exchange needs, and the SDK's service models: most of a start's CPU time, without effect on a race."""
    for module in _LOADED_BY_AN_EXCHANGE:
        importlib.import_module(module)
    from botocore.loaders import JSONFileLoader  # noqa: PLC0415 - only the nursery loads the SDK
    from botocore.session import get_session  # noqa: PLC0415 - the same

    load_file, known = JSONFileLoader.load_file, {}

    def load_file_once(self: JSONFileLoader, file_path: str) -> object:
        if file_path not in known:
            known[file_path] = load_file(self, file_path)
        return known[file_path]

    JSONFileLoader.load_file = load_file_once  # type: ignore[method-assign] # in this process and its forks only
    session = get_session()
    for service in ("dynamodb", "kms", "secretsmanager"):
        session.create_client(service)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _control:
        _run_nursery(_control, sys.argv[2], sys.argv[3])
