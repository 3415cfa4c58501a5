"""The built artefacts, with function and layer alone on the path, as Lambda loads them."""

from __future__ import annotations

import json
import re
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local.pythons import find_python
from tests.packaging.test_imports import imports
from tests.packaging.test_permissions import permissions
from tests.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "layers" / "common"
BUILD = ROOT / ".aws-sam" / "build"
LAYER = BUILD / "CommonLayer" / "python"
OURS = ("lambda_support", "token_broker")

# Each module that is loaded makes a start slower. None of these is needed before the first mint, or ever.
NOT_AT_START = {
    "asyncio",
    "aws_lambda_powertools",
    "aws_xray_sdk",
    "boto3",
    "botocore.docs.service",
    "botocore.retries.bucket",
    "dateutil.parser._parser",
    "html.parser",
    "importlib.metadata",
    "importlib.resources",
    "jmespath.parser",
    "multiprocessing",
    "pydantic",
    "requests",
    "functions.broker.adapters.client_secret",
    "functions.broker.adapters.mint_ledger",
    "functions.broker.adapters.oauth_exchange",
    "functions.broker.attempt",
    "functions.broker.replace_token",
    "s3transfer",
    "lambda_support.upstream_http",
    "token_broker.bounded_http",
    "token_broker.client",
}


def run(function: str, code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run code with the path that Lambda has, and return what it prints."""
    command = (sys.executable, "-S", "-B", "-W", "error", "-c", code, *arguments)
    variables = {**(environment or {}), "PYTHONPATH": f"{BUILD / function}:{LAYER}"}
    done = run_program(*command, cwd=BUILD, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def built() -> None:
    assert (BUILD / "template.yaml").exists(), "run `make build` first (`make test` does)"


@pytest.mark.parametrize(
    ("function", "module"),
    [("BrokerFunction", "functions.broker.handler"), ("CampaignsFunction", "functions.campaigns.handler")],
)
def test_the_handler_is_imported_from_function_and_layer_alone(function: str, module: str) -> None:
    code = (
        f"import {module} as m, token_broker as t; print(m.__file__, t.__file__, callable(m.lambda_handler))"
    )
    handler, package, is_callable = run(function, code).split()

    assert Path(handler).is_relative_to(BUILD / function)
    assert Path(package).is_relative_to(LAYER)
    assert is_callable == "True"


@pytest.mark.parametrize("function", ["BrokerFunction", "CampaignsFunction"])
def test_what_is_loaded_later_is_in_function_and_layer_too(function: str) -> None:
    code = (
        "import importlib, pkgutil, functions, lambda_support.telemetry\n"
        "for module in pkgutil.walk_packages(functions.__path__, 'functions.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(lambda_support.telemetry.new_logger('test').name)"
    )

    assert run(function, code).strip() == "test"


def test_the_brokers_start_loads_only_what_it_needs() -> None:
    loaded = run("BrokerFunction", "import sys, functions.broker.handler; print(*sys.modules, sep='\\n')")

    assert not NOT_AT_START & set(loaded.split())


@pytest.mark.parametrize(
    ("source", "artefact"),
    [
        ("functions/broker", "BrokerFunction/functions/broker"),
        ("functions/campaigns", "CampaignsFunction/functions/campaigns"),
        ("layers/common/lambda_support", "CommonLayer/python/lambda_support"),
    ],
)
def test_the_artefact_is_built_from_the_present_sources(source: str, artefact: str) -> None:
    assert (sources := contents(ROOT / source))
    assert contents(BUILD / artefact) == sources


def test_the_layer_has_of_the_client_what_functions_import_and_no_more() -> None:
    client, reached = SOURCES / "token_broker", {SOURCES / "token_broker/__init__.py"}
    waiting = [*(ROOT / "functions").rglob("*.py"), *(SOURCES / "lambda_support").rglob("*.py")]
    while waiting:
        new = layer_files_imported_by(waiting.pop()) - reached
        reached |= new
        waiting += new

    in_layer = contents(LAYER / "token_broker")
    assert {client / name for name in in_layer} - {client / "py.typed"} == {
        file for file in reached if file.is_relative_to(client)
    }
    assert in_layer.items() <= contents(client).items()


def layer_files_imported_by(file: Path) -> set[Path]:
    """Return the files of the layer's own packages that a file imports."""
    names = {part for name in imports(file) for part in (name, name.rpartition(".")[0])}
    return {path for name in names if (path := SOURCES / f"{name.replace('.', '/')}.py").is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_a_function_has_its_own_code_only() -> None:
    broker = {file.name for file in (BUILD / "BrokerFunction" / "functions").iterdir()}

    assert broker - {"__pycache__"} == {"__init__.py", "broker"}


def test_the_layer_has_neither_boto3_nor_what_comes_with_it() -> None:
    assert not [name for name in ("boto3", "s3transfer", "shtab") if (LAYER / name).exists()]


def test_the_layers_sdk_knows_what_the_functions_roles_allow_and_nothing_else() -> None:
    said = permissions()
    policies = [said["BrokerRole"], said["CampaignsRole"], said["TokenKey"]["KeyPolicy"][0]]
    allowed = set(re.findall(r'"((?:dynamodb|events|kms|secretsmanager):[A-Z]\w+)"', json.dumps(policies)))
    # What Secrets Manager does with a key on the broker's behalf, and condition keys.
    allowed -= {"kms:CallerAccount", "kms:ViaService"}
    known = set()
    for model in (LAYER / "botocore/data").glob("*/*/service-2.json"):
        operations = json.loads(model.read_text())["operations"]
        known |= {f"{model.parts[-3]}:{operation}" for operation in operations}

    assert known == allowed


ENDPOINTS = """
import botocore.session, json
session, found = botocore.session.Session(include_builtin_handlers=False), []
session.set_credentials("AKIAEXAMPLE", "secret")
def note(request, **_):
    found.append([request.url, request.headers["Authorization"].split(b"/", 2)[2].split(b",")[0].decode()])
    raise InterruptedError
calls = {
    "dynamodb": lambda client: client.get_item(TableName="t", Key={}),
    "events": lambda client: client.put_events(Entries=[{}]),
    "kms": lambda client: client.decrypt(CiphertextBlob=b"x"),
    "secretsmanager": lambda client: client.get_secret_value(SecretId="s"),
}
for region in ("eu-west-3", "us-east-1", "us-gov-west-1", "cn-north-1", "eu-central-77"):
    for service, call in calls.items():
        client = session.create_client(service, region)
        client.meta.events.register("before-send", note)
        try:
            call(client)
        except InterruptedError:
            pass
print(json.dumps(found))
"""


def test_the_layers_sdk_reaches_the_same_endpoints_as_the_published_one() -> None:
    published = json.loads(run_program(sys.executable, "-c", ENDPOINTS, env={}).stdout)

    assert len(published) == 20
    assert json.loads(run("BrokerFunction", ENDPOINTS)) == published


def test_the_layer_trusts_amazons_five_roots_for_aws() -> None:
    roots = (LAYER / "amazon-roots.pem").read_text()

    assert roots.count("-----BEGIN CERTIFICATE-----") == 5
    ssl.create_default_context(cadata=roots)  # raises if one is no certificate


@pytest.mark.parametrize("artefact", ["BrokerFunction", "CampaignsFunction", "CommonLayer"])
def test_every_source_has_byte_code_of_lambdas_python_where_that_is_installed(artefact: str) -> None:
    sources = {file.with_suffix("") for file in (BUILD / artefact).rglob("*.py")}
    compiled = list((BUILD / artefact).rglob("*.pyc"))
    unchecked = {file for file in compiled if file.read_bytes()[4:8] == b"\1\0\0\0"}

    assert {file.parent.parent / file.name.removesuffix(".cpython-313.pyc") for file in unchecked} == (
        sources if find_python("3.13") else set()
    )
    assert unchecked == set(compiled)


def test_nothing_in_the_artefacts_names_the_machine_that_built_them() -> None:
    for folder in (BUILD / "BrokerFunction", BUILD / "CampaignsFunction", *map(LAYER.joinpath, OURS)):
        for file in folder.rglob("*"):
            assert not file.is_file() or str(ROOT).encode() not in file.read_bytes()


def test_a_stand_in_for_a_module_does_what_the_module_did() -> None:
    code = """
import certifi, jmespath, dateutil.parser, lambda_support.upstream_http
print(jmespath.search("a[0].b", {"a": [{"b": 7}]}), jmespath.compile("a").search({"a": 1}))
print(dateutil.parser.parse("2026-11-30T12:00:00Z").isoformat())
lambda_support.upstream_http.new_session(None)  # an OSError without its root certificates
print(certifi.where())
"""
    shown = ["7 1", "2026-11-30T12:00:00+00:00", f"{LAYER}/certifi/cacert.pem"]
    assert run("BrokerFunction", code).splitlines() == shown
