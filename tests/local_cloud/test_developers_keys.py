"""No documented way of running the functions gives them what a developer's shell has for real AWS."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from local.cloud import PROJECT
from local.samples import EVENTS
from local.waiting import wait_until
from tests.cli.fake_aws import FakeAws
from tests.local_cloud.fake_engine import FakeEngine
from tests.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cloud
MARK = "OFADEVELOPER"
SAM = ".local/sam/bin/sam"
# What every checkout has once `make build` has run; the environments are shared, everything else is a copy.
SHARED = [".venv", ".local/sam", ".local/aws"]
COPIED = ["Makefile", "samconfig.toml", "template.yaml", "pyproject.toml", "events", "functions", "layers",
    "local", "tests", ".aws-sam"]  # fmt: skip


@dataclass
class Desk:
    """A checkout of its own, a developer's environment, and the AWS that this environment leads to."""

    checkout: Path
    environment: dict[str, str]
    real_aws: FakeAws
    demo: subprocess.Popen[bytes]
    local: subprocess.Popen[bytes]
    seen: dict[str, bytes]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_program(*command, cwd=self.checkout, env=self.environment | environment, timeout_s=120)

    @property
    def env_file(self) -> dict[str, str]:
        lines = (self.checkout / ".local/env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def variables(self, function: str) -> dict[str, str]:
        variables = json.loads((self.checkout / ".local/container/env.json").read_text())
        return dict(variables[function])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """`make local` is up, and `make demo` runs."""
    home = tmp_path_factory.mktemp("home")
    checkout = tmp_path_factory.mktemp("project")
    _check_out(checkout)
    with FakeAws() as real_aws, contextlib.ExitStack() as ending:
        environment = _developers_environment(home, real_aws.origin)
        seen: dict[str, bytes] = {}
        ending.enter_context(_watch(checkout, seen))
        demo, local = (_start(checkout, environment, target) for target in ("demo", "local"))
        for process in (demo, local):
            ending.callback(_end, process)
        log = checkout / "local.log"
        assert wait_until(lambda: "Ctrl-C" in log.read_text() or local.poll() is not None, 120)
        assert local.poll() is None, log.read_text()
        yield Desk(checkout, environment, real_aws, demo, local, seen)


def test_make_invoke_runs_with_the_functions_own_role(desk: Desk) -> None:
    broker = desk.run("make", "invoke", "EVENT=events/token-default.json")
    again = ("make", "--old-file=build", "invoke")  # what was built a moment ago
    campaigns = desk.run(*again, "FUNCTION=campaigns", "EVENT=events/campaigns-by-hand.json")

    assert json.loads(broker.stdout)["statusCode"] == 200, broker.stderr
    assert json.loads(campaigns.stdout)["is_complete"], campaigns.stderr
    assert desk.real_aws.asked == []
    _assert_none_has_the_developers(desk.seen, "awslambdaric")


def test_the_deployed_functions_have_nothing_of_the_developers(desk: Desk) -> None:
    token = desk.run(".venv/bin/token-broker", "token", **desk.env_file)

    assert token.returncode == 0, token.stderr
    assert desk.real_aws.asked == []
    _assert_none_has_the_developers(desk.seen, "_worker.py")


def test_sam_local_invoke_passes_on_the_file_and_nothing_else(desk: Desk) -> None:
    command = (SAM, "local", "invoke", "BrokerFunction", "--event", "events/token-default.json")
    with FakeEngine() as engine:
        ended = desk.run(*command, DOCKER_HOST=engine.host)

    assert len(engine.created) == 1, ended.stderr
    _assert_container_is_set_up(desk, "BrokerFunction", engine.created[0])
    # SAM itself asks who the developer is before it starts. It passes the answer to nobody.
    assert {operation for operation, _ in desk.real_aws.asked} <= {"GetCallerIdentity"}


def test_sam_local_start_lambda_passes_on_the_file_and_nothing_else(desk: Desk, tmp_path: Path) -> None:
    names = ["BrokerFunction", "BrokerFunction:live", "CampaignsFunction"]
    with FakeEngine() as engine, _start_lambda(desk, engine, tmp_path / "log") as address:
        for name in names:
            invocations = f"{address}/2015-03-31/functions/{name}/invocations"
            requests.post(invocations, data=b"{}", timeout=60)

    assert len(engine.created) == len(names)
    for name, container in zip(names, engine.created, strict=True):
        _assert_container_is_set_up(desk, name.removesuffix(":live"), container)


@contextlib.contextmanager
def _start_lambda(desk: Desk, engine: FakeEngine, log: Path) -> Iterator[str]:
    command = [SAM, "local", "start-lambda", "--port", "0"]
    environment = desk.environment | {"DOCKER_HOST": engine.host}
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=desk.checkout, env=environment, stdout=output, stderr=output)  # noqa: S603
    try:
        assert wait_until(lambda: "Running on" in log.read_text() or server.poll() is not None, 60)
        yield re.findall(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())[0]
    finally:
        server.terminate()
        server.wait()


def test_without_the_local_cloud_sam_starts_nothing(desk: Desk, tmp_path: Path) -> None:
    shutil.copy(desk.checkout / "samconfig.toml", tmp_path)
    shutil.copytree(desk.checkout / ".aws-sam/build", tmp_path / ".aws-sam/build")
    with FakeEngine() as engine:
        environment = desk.environment | {"DOCKER_HOST": engine.host}
        for command in (["invoke", "BrokerFunction", "--event", EVENTS / "status.json"], ["start-lambda"]):
            ended = run_program(desk.checkout / SAM, "local", *command, cwd=tmp_path, env=environment)
            assert ended.returncode != 0
            assert ".local/container/" in ended.stderr
    assert engine.created == []


def test_make_demo_keeps_every_promise_and_leaves_the_files_of_make_local(desk: Desk) -> None:
    assert desk.demo.wait(180) == 0, (desk.checkout / "demo.log").read_text()
    _assert_none_has_the_developers(desk.seen, "_worker.py")
    assert {operation for operation, _ in desk.real_aws.asked} <= {"GetCallerIdentity"}
    assert desk.env_file
    assert desk.variables("BrokerFunction")


def test_the_operator_looks_into_table_and_secrets(desk: Desk) -> None:
    written = desk.env_file
    written["AWS_ENDPOINT_URL_DYNAMODB"] = written["AWS_ENDPOINT_URL"]  # the developer's would come first
    keys = {name: value for name, value in written.items() if "OPERATOR" in name}
    operator = {name.removeprefix("OPERATOR_"): value for name, value in keys.items()}
    program = """
import boto3
[stack] = boto3.client("cloudformation").describe_stacks(StackName="token-broker")["Stacks"]
names = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
items = boto3.client("dynamodb").scan(TableName=names["TokenTableName"])["Items"]
secret_id = names["SecretPrefix"] + "/digishare"
print("client_secret" in boto3.client("secretsmanager").get_secret_value(SecretId=secret_id)["SecretString"])
"""
    looked = desk.run(".venv/bin/python", "-c", program, **(written | operator))

    assert looked.stdout == "True\n", looked.stderr
    refused = desk.run(".venv/bin/python", "-c", program, **written)
    assert "AccessDenied" in refused.stderr


# The last test: it ends what the others use.
def test_when_the_local_aws_dies_make_local_says_so_and_ends(desk: Desk) -> None:
    desk.demo.wait(180)
    pids = [entry.split()[0] for entry in desk.seen if "local.aws" in entry]
    [aws] = [int(pid) for pid in pids if Path("/proc", pid).exists()]
    os.kill(aws, signal.SIGKILL)

    assert desk.local.wait(30) != 0
    log = (desk.checkout / "local.log").read_text()
    assert "error: aws has ended with status -9; its last lines:" in log
    assert not (desk.checkout / ".local/env").exists()
    assert not (desk.checkout / ".local/container").exists()


def _assert_container_is_set_up(desk: Desk, function: str, container: dict[str, Any]) -> None:
    given = dict(variable.split("=", 1) for variable in container["Env"])
    of_the_file = desk.variables(function)
    of_sam = {name for name in given.keys() - of_the_file.keys() if not name.startswith("AWS_LAMBDA_")}

    assert given.items() >= of_the_file.items()
    key = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    assert of_the_file.keys() >= key | {"AWS_DEFAULT_REGION"}
    assert given["AWS_ENDPOINT_URL"].startswith("http://localhost:")
    assert of_sam <= {"AWS_SAM_LOCAL", "AWS_ACCOUNT_ID"}
    assert MARK not in json.dumps(container)
    assert container["HostConfig"]["ExtraHosts"] == ["localhost:host-gateway"]


def _assert_none_has_the_developers(seen: dict[str, bytes], kind: str) -> None:
    """Check all processes of this kind. There was at least one."""
    environments = [environment for command, environment in seen.items() if kind in command]

    assert environments
    assert not [environment for environment in environments if MARK.encode() in environment]


def _check_out(folder: Path) -> None:
    (folder / ".local").mkdir()
    for name in SHARED:
        (folder / name).symlink_to(PROJECT / name)
    for name in COPIED:
        if (source := PROJECT / name).is_dir():
            but = shutil.ignore_patterns("__pycache__") if name != ".aws-sam" else None
            shutil.copytree(source, folder / name, ignore=but)
        else:
            shutil.copy2(source, folder / name)
    # Older than the environments, which are shared: make must not make them again.
    for requirements in (folder / "pyproject.toml", *folder.glob("*/**/*.txt")):
        os.utime(requirements, (0, 0))


def _developers_environment(home: Path, real_aws: str) -> dict[str, str]:
    (home / "config").write_text(f"[profile production]\nregion = {MARK}\n")
    key = f"aws_access_key_id = AKIA{MARK}\naws_secret_access_key = {MARK}\n"
    (home / "credentials").write_text(f"[production]\n{key}")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return inherited | {
        "HOME": str(home),
        "AWS_CONFIG_FILE": str(home / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "credentials"),
        "AWS_PROFILE": "production",
        "AWS_ACCESS_KEY_ID": f"AKIA{MARK}",
        "AWS_SECRET_ACCESS_KEY": f"{MARK}-secret",
        "AWS_SESSION_TOKEN": f"{MARK}-session",
        **dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), f"us-{MARK.lower()}-1"),
        **dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"), f"{real_aws}/{MARK}"),
        "SAM_CLI_TELEMETRY": "0",
    }


def _start(checkout: Path, environment: dict[str, str], target: str) -> subprocess.Popen[bytes]:
    with (checkout / f"{target}.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - what the README says
            ["make", target],  # noqa: S607 - as a developer's shell finds it
            cwd=checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


@contextlib.contextmanager
def _watch(checkout: Path, seen: dict[str, bytes]) -> Iterator[None]:
    """Note the environment of every process that there is of this checkout, by its command."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):  # it ended while we looked
                    command = (process / "cmdline").read_bytes().decode(errors="replace")
                    environment = (process / "environ").read_bytes()
                    if str(checkout) in command or str(checkout).encode() in environment:
                        seen[f"{process.name} {command}"] = environment

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()
