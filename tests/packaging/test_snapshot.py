"""What importing a handler does: everything where Lambda initializes an instance, nothing where it makes a snapshot."""

from __future__ import annotations

import json

import pytest

from tests.packaging.test_artefacts import run

ENVIRONMENT = {
    "TOKEN_TABLE": "t",
    "TOKEN_KEY_ARN": "arn:aws:kms:eu-west-3:000000000000:key/k",
    "SECRET_PREFIX": "p",
    "UPSTREAM_HOSTS": "h",
    "DEFAULT_TOKEN_URL": "https://h/",
    "LEASE_SECONDS": "900",
    "CAMPAIGNS_ROLE": "campaigns-role",
    "CAMPAIGNS_TABLE": "t",
    "CAMPAIGNS_EVENT_BUS": "b",
    "TOKEN_BROKER_URL": "https://u.lambda-url.eu-west-3.on.aws/",
    "AWS_DEFAULT_REGION": "eu-west-3",
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "example",
}
HANDLERS = {
    "broker": ("BrokerFunction", "functions.broker.handler", "_broker"),
    "campaigns": ("CampaignsFunction", "functions.campaigns.handler", "_job"),
}
SHOW = """
import gc, importlib, json, os, pkgutil, sys
module, build = sys.argv[1:]
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event == "socket.connect" else None)
class Watched(type(os.environ)):
    reads = []
    def __getitem__(self, name):
        Watched.reads.append(name)
        return super().__getitem__(name)
os.environ.__class__ = Watched
package = importlib.import_module(module.rpartition(".")[0])
for other in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if other.name != module:
        importlib.import_module(other.name)
settings = [name for name in Watched.reads if name.startswith(("AWS_", "TOKEN_", "CAMPAIGNS_"))]
handler = importlib.import_module(module)
print(json.dumps({
    "built": getattr(handler, build).cache_info().currsize,
    "connections": opened,
    "settings read by other modules": settings,
    "collecting": gc.isenabled(),
}))
"""
BROKEN = """
import json
from functions.broker.handler import lambda_handler
class Context:
    aws_request_id = "request"
for _ in range(2):
    print(json.dumps(lambda_handler({"rawPath": "/token"}, Context())))
"""

RESTORE = """
import os, json
import functions.broker.handler as handler
children = []
for _ in range(2):
    read, write = os.pipe()
    if os.fork() == 0:
        ports = handler._broker().issuer.ports
        os.write(write, json.dumps([ports.new_id(), ports.randomness()]).encode())
        os._exit(0)
    os.wait()
    children.append(json.loads(os.read(read, 1000)))
print(json.dumps(children))
"""


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
@pytest.mark.parametrize(("initialization", "built"), [("snap-start", 0), ("on-demand", 1), ("", 1)])
def test_the_handler_alone_builds_when_it_is_imported_but_not_into_a_snapshot(
    handler: tuple[str, str, str], initialization: str, built: int
) -> None:
    function, *names = handler
    environment = ENVIRONMENT | {"AWS_LAMBDA_INITIALIZATION_TYPE": initialization}

    assert json.loads(run(function, SHOW, *names, environment=environment)) == {
        "built": built,
        "connections": [],
        "settings read by other modules": [],
        "collecting": True,
    }


def test_with_a_broken_setting_the_function_starts_and_each_request_is_a_503() -> None:
    printed = run("BrokerFunction", BROKEN, environment=ENVIRONMENT | {"LEASE_SECONDS": "many"})

    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["statusCode"] for line in lines if "statusCode" in line] == [503, 503]
    problems = [line["problem"] for line in lines if "problem" in line]
    assert problems == ["LEASE_SECONDS must be a whole number above 0, not 'many'"] * 2


def test_instances_of_one_snapshot_share_neither_ids_nor_chance() -> None:
    environment = ENVIRONMENT | {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
    (first_id, first_chance), (second_id, second_chance) = json.loads(
        run("BrokerFunction", RESTORE, environment=environment)
    )

    assert first_id != second_id
    assert first_chance != second_chance
