"""The nursery of `local.instances`: forks an instance of the broker for every socket that it is handed.

`python -m local.nursery FD SABOTAGE`: the control socket, and the `module:function` of a planted fault or "".
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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LONGEST_ORDER_BYTES = 16 * 1024


@dataclass(slots=True)
class _Context:
    """What the handler reads of Lambda's context object."""

    aws_request_id: str
    end_s: float

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * (self.end_s - time.monotonic()))


_LOADED_BY_AN_EXCHANGE = (
    "functions.broker.adapters.client_secret",
    "functions.broker.adapters.mint_ledger",
    "functions.broker.adapters.oauth_exchange",
    "functions.broker.replace_token",
    "lambda_support.upstream_http",
    "requests",
)


def _run_nursery(control: socket.socket, sabotage: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended instances leave no zombies
    for module in ("functions.broker.handler", *_LOADED_BY_AN_EXCHANGE):
        importlib.import_module(module)
    _read_sdk_data_once()
    if sabotage:
        module, _, name = sabotage.partition(":")
        getattr(importlib.import_module(module), name)()
    gc.freeze()  # what is imported stays shared between the instances
    while True:
        order, descriptors, *_ = socket.recv_fds(control, _LONGEST_ORDER_BYTES, 1)
        if not descriptors:
            break
        if os.fork() == 0:
            control.close()
            with socket.socket(fileno=descriptors[0]) as connection:
                _run_instance(connection, json.loads(order))
            os._exit(0)
        os.close(descriptors[0])


def _run_instance(connection: socket.socket, environment: Mapping[str, str]) -> None:
    from functions.broker import handler  # noqa: PLC0415 - only the nursery loads the broker

    os.environ.update(environment)
    handler._broker()  # noqa: SLF001 - a cold start, without a request

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
            answer = handler.lambda_handler(order["event"], context)  # type: ignore[arg-type] # all that it reads
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


def _read_sdk_data_once() -> None:
    """Parse the SDK's service models here: that is most of a start's CPU time, and no part of any race."""
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
        _run_nursery(_control, sys.argv[2])
