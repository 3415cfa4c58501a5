"""What each optimization of the start saves: the deployed broker without one of them, or with one common habit."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bench.stages import copy_without_byte_code

if TYPE_CHECKING:
    from pathlib import Path

    from bench.instances import Stage
    from bench.world import World

# Sources that run before the handler is imported.
_HABITS: Final = {
    "boto3's session instead of botocore's": """
import boto3, botocore.session
session = boto3.session.Session()._session
botocore.session.get_session = botocore.session.Session = lambda *_, **__: session
""",
    "a session for each client": """
import botocore.session
create = botocore.session.Session.create_client
botocore.session.Session.create_client = (
    lambda self, *args, **named: create(botocore.session.get_session(), *args, **named)
)
""",
    "the upstream's HTTP stack at start": "import lambda_support.upstream_http",
    "the Secrets Manager client at start": """
from functions.broker import assembly
assemble_policy = assembly.assemble_policy
def with_client(settings, clients, ports):
    client = clients.make_secretsmanager()
    return assemble_policy(settings, clients._replace(make_secretsmanager=lambda: client), ports)
assembly.assemble_policy = with_client
""",
    "the modules of an exchange at start": """
import functions.broker.replace_token
from functions.broker.adapters import client_secret, mint_ledger, oauth_exchange
""",
    "Powertools' Logger and Metrics": """
from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics
logger, metrics = Logger(service="broker"), EphemeralMetrics(namespace="TokenBroker", service="broker")
""",
    "Powertools' Tracer with its patches": """
from aws_lambda_powertools import Tracer
tracer = Tracer(service="broker")
""",
    "Powertools' URL resolver": """
from aws_lambda_powertools.event_handler import LambdaFunctionUrlResolver
app = LambdaFunctionUrlResolver()
""",
    "garbage collection on while importing": "import gc\ngc.disable = gc.freeze = lambda: None",
    "the SDK's handlers of other services": """
import botocore.session
session = botocore.session.Session()
botocore.session.Session = lambda *_, **__: session
""",
}


def variants(world: World) -> dict[str, Stage]:
    """Lay out every variant and return them by their difference; takes some seconds for the copies."""
    ours, folder = world.ours, world.artefacts.folder / "variants"
    made = {
        "no byte code in the artefact": _without_byte_code(ours, folder / "bytecode"),
        "all public roots for AWS's endpoints": world.with_all_roots(ours),
        "the SDK's data as published": _with_published("botocore/data", ours, folder, world),
    }
    place = folder / "habits"
    place.mkdir(parents=True)
    # boto3 does not start with the layer's replacements of the SDK's modules.
    whole_sdk = _with_published("botocore/docs", ours, folder, world)
    for number, (meaning, source) in enumerate(_HABITS.items()):
        handler = f"{source}\nfrom functions.broker.handler import lambda_handler\n"
        (place / f"habit_{number}.py").write_text(handler)
        stage = whole_sdk if "import boto3" in source else ours
        # After the layer on the path: what the layer lacks (boto3, X-Ray's SDK) comes from the published packages.
        path = (*stage.path, place, world.artefacts.references)
        made[meaning] = replace(ours, handler=f"habit_{number}.lambda_handler", path=path)
    world.artefacts.add_byte_code(place)
    return {meaning: replace(stage, name=meaning) for meaning, stage in made.items()}


def _without_byte_code(stage: Stage, folder: Path) -> Stage:
    function, layer, runtime = stage.path
    bare = [copy_without_byte_code(part, folder / part.name) for part in (function, layer)]
    return replace(stage, path=(*bare, runtime))


def _with_published(part: str, stage: Stage, folder: Path, world: World) -> Stage:
    function, layer, runtime = stage.path
    copied = folder / part.replace("/", "-")
    shutil.copytree(layer, copied, copy_function=os.link)
    shutil.rmtree(copied / part)
    shutil.copytree(world.artefacts.packages / part, copied / part)
    world.artefacts.add_byte_code(copied / part)
    return replace(stage, path=(function, copied, runtime))
