"""`make invoke FUNCTION=broker EVENT=events/token-default.json`: one event through the built artefact, as Lambda runs it.

AWS's own runtime interface emulator, which comes inside the SAM CLI wheel, starts `python -m awslambdaric HANDLER`
with nothing but function and layer on the path, against the running local cloud (`make local`). Code and variables are
those that `sam local invoke` has (local/container.py).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from local import sdk
from local.cloud import PROJECT
from local.container import (
    CA_FILE_NAME,
    CONTAINER_FOLDER,
    FUNCTIONS,
    lambda_architecture,
    read_properties,
    read_variables,
)
from local.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT_S = 15.0
_ANSWER_TIMEOUT_S = 310.0  # the campaigns job has 300
_PATH = "/2015-03-31/functions/function/invocations"


class InvokeError(Exception):
    """The event could not be sent; the text says what to do."""


@contextmanager
def emulated(logical_id: str, log: int) -> Iterator[str]:
    """Run the function of this logical id in the emulator, which writes to the descriptor `log`; yield its URL.

    Raises:
        InvokeError: no local cloud is running, or the function did not start.
    """
    try:
        variables, properties = read_variables()[logical_id], read_properties(logical_id)
    except FileNotFoundError:
        raise InvokeError("no local cloud is running: start `make local` in another terminal first") from None
    (emulator,) = (PROJECT / ".local/sam").glob(
        f"lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{lambda_architecture()}"
    )
    code = CONTAINER_FOLDER / logical_id
    emulator.chmod(0o755)
    port, api_port = _free_port(), _free_port()
    process = subprocess.Popen(
        [
            emulator,
            *("--runtime-interface-emulator-address", f"127.0.0.1:{port}"),
            *("--runtime-api-address", f"127.0.0.1:{api_port}"),
            *("--log-level", "error"),
            *(sys.executable, "-m", "awslambdaric", properties["Handler"]),
        ],
        env={
            "PATH": os.defpath,
            "PYTHONPATH": f"{code}:{CONTAINER_FOLDER / 'CommonLayer/python'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "AWS_LAMBDA_FUNCTION_NAME": logical_id,
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(properties["Timeout"]),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(properties["MemorySize"]),
            "AWS_EC2_METADATA_DISABLED": "true",
            **variables,
            "UPSTREAM_CA_FILE": str(code / CA_FILE_NAME),  # a container has the code in /var/task
        },
        cwd=code,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        _wait_until_it_listens(port, process)
        yield f"http://127.0.0.1:{port}{_PATH}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it has no state to lose, and its child must end with it
        process.wait()


def send(url: str, event: object) -> object:
    """Send one event and return the function's answer."""
    answer = sdk.send("POST", url, _ANSWER_TIMEOUT_S, json=event)
    answer.raise_for_status()
    return answer.json()


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(lambda: listens() or process.poll() is not None, START_TIMEOUT_S)
    if not listens():
        raise InvokeError("the runtime interface emulator did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    parser = argparse.ArgumentParser(prog="local.invoke", description=__doc__.partition("\n")[0])
    parser.add_argument("function", choices=sorted(FUNCTIONS))
    parser.add_argument("event", type=Path, help="a file of events/")
    arguments = parser.parse_args()
    try:
        event = json.loads(arguments.event.read_text())
        logical_id = FUNCTIONS[arguments.function]
        with tempfile.TemporaryFile() as log, emulated(logical_id, log.fileno()) as url:
            answer = send(url, event)
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
    except (InvokeError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2))
    return 1 if isinstance(answer, dict) and "errorType" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
