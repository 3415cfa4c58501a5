"""Each means of a quick start, alone: the broker as it is deployed, with one means taken away or one habit added.

A variant is either a module that stands in for the handler (its source is below), or another path or environment.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bench.stages import copy_without_byte_code

if TYPE_CHECKING:
    from pathlib import Path

    from bench.instances import Stage
    from bench.world import World

_HANDLER: Final = "from functions.broker.handler import lambda_handler\n"

_HABITS: Final = {
    "boto3": (
        "boto3's session instead of botocore's",
        (
            "import boto3, botocore.session\n"
            "_session = boto3.session.Session()._session\n"
            "botocore.session.get_session = botocore.session.Session = lambda *_, **__: _session\n"
        ),
    ),
    "sessions": (
        "a session for each client",
        (
            "import botocore.session\n"
            "_create = botocore.session.Session.create_client\n"
            "def create_client(self, *args, **kwargs):\n"
            "    return _create(botocore.session.get_session(), *args, **kwargs)\n"
            "botocore.session.Session.create_client = create_client\n"
        ),
    ),
    "requests": ("the upstream's HTTP stack at start", "import lambda_support.upstream_http\n"),
    "secretsmanager": (
        "the Secrets Manager client at start",
        (
            "import dataclasses, functions.broker.handler\n"
            "from functions.broker import assembly\n"
            "_assemble = assembly.assemble_policy\n"
            "def assemble_policy(settings, clients, ports):\n"
            "    client = clients.make_secretsmanager()\n"
            "    made = dataclasses.replace(clients, make_secretsmanager=lambda: client)\n"
            "    return _assemble(settings, made, ports)\n"
            "assembly.assemble_policy = assemble_policy\n"
        ),
    ),
    "exchange": (
        "the modules of an exchange at start",
        (
            "import functions.broker.handler, functions.broker.replace_token\n"
            "from functions.broker.adapters import client_secret, mint_ledger, oauth_exchange\n"
        ),
    ),
    "metrics": (
        "Powertools' Logger and Metrics",
        (
            "from aws_lambda_powertools import Logger, Metrics\n"
            "from aws_lambda_powertools.metrics import EphemeralMetrics\n"
            "_logger = Logger(service='broker')\n"
            "_metrics = EphemeralMetrics(namespace='TokenBroker', service='broker')\n"
        ),
    ),
    "tracer": (
        "Powertools' Tracer with its patches",
        "from aws_lambda_powertools import Tracer\n_tracer = Tracer(service='broker')\n",
    ),
    "resolver": (
        "Powertools' URL resolver",
        (
            "from aws_lambda_powertools.event_handler import LambdaFunctionUrlResolver\n"
            "_app = LambdaFunctionUrlResolver()\n"
        ),
    ),
    "gc": (
        "garbage collection on while importing",
        "import gc\ngc.disable = gc.freeze = lambda: None\n",
    ),
    "handlers": (
        "the SDK's handlers of other services",
        (
            "import botocore.session\n"
            "_session = botocore.session.Session()\n"
            "botocore.session.Session = lambda *_, **__: _session\n"
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """`name` for plots, `meaning` for people: what is different from the broker as deployed."""

    name: str
    meaning: str
    stage: Stage


def variants(world: World) -> list[Variant]:
    """Lay out every variant; takes some seconds for the copies."""
    ours, folder = world.ours, world.artefacts.folder / "variants"
    made = [
        Variant("bytecode", "no byte code in the artefact", _without_byte_code(ours, folder)),
        Variant("roots", "all public roots for AWS's endpoints", world.with_all_roots(ours)),
        Variant(
            "sdkdata",
            "the SDK's data as published",
            _with_published_data(ours, folder, world.artefacts.packages),
        ),
    ]
    for name, (meaning, prelude) in _HABITS.items():
        place = folder / name
        place.mkdir(parents=True)
        (place / f"variant_{name}.py").write_text(prelude + _HANDLER)
        world.artefacts.add_byte_code(place)
        # Behind the layer: what the layer lacks (boto3, X-Ray's SDK) comes from the published packages.
        path = (*ours.path, place, world.artefacts.references)
        made.append(
            Variant(
                name, meaning, replace(ours, name=name, handler=f"variant_{name}.lambda_handler", path=path)
            )
        )
    return made


def _without_byte_code(stage: Stage, folder: Path) -> Stage:
    def bare(part: Path) -> Path:
        return copy_without_byte_code(part, folder / "bytecode" / part.name)

    function, layer, runtime = stage.path
    return replace(stage, name="bytecode", path=(bare(function), bare(layer), runtime))


def _with_published_data(stage: Stage, folder: Path, packages: Path) -> Stage:
    function, layer, runtime = stage.path
    copied = _linked(layer, folder / "sdkdata")
    shutil.rmtree(copied / "botocore/data")
    shutil.copytree(packages / "botocore/data", copied / "botocore/data")
    return replace(stage, name="sdkdata", path=(function, copied, runtime))


def _linked(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, copy_function=os.link)
    return target
