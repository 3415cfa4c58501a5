"""Which modules may import which: tests, bench, local, functions, layers; handler, policy, adapters; and the SDK."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
BROKER = PROJECT / "functions" / "broker"
ADAPTERS = BROKER / "adapters"

THIRD_PARTY_STACKS = {"boto3", "botocore", "requests", "urllib3"}
POLICY = {"attempt", "decide", "issue_token", "lifetime", "ports", "replace_token", "status", "token"}
# All that an adapter may import of the broker: data, figures and ports.
SHARED = {"lifetime", "ports", "token"}
# What adapters share: how an AWS call fails, and DynamoDB's form of values.
MEANS = {"aws_calls", "dynamodb"}


def imports_of(source: str) -> set[str]:
    """Return the modules that a source imports, wherever in it; but for those that only the type checker reads."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "say where a module is: relative imports are not read here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def imports(path: Path) -> set[str]:
    return imports_of(path.read_text())


def modules_of_the_broker(path: Path) -> set[str]:
    """Return the broker's modules that a file imports: `token` or `adapters.dynamodb`."""
    prefix = "functions.broker."
    known = {".".join(file.relative_to(BROKER).with_suffix("").parts) for file in BROKER.rglob("*.py")}
    names = {name.removeprefix(prefix) for name in imports(path) if name.startswith(prefix)}
    return {module for module in known for name in names if f"{name}.".startswith(f"{module}.")}


def test_imports_are_found_anywhere_in_a_source() -> None:
    source = (
        "from __future__ import annotations\n"
        "import botocore.config\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import boto3\nelse:\n    import urllib3\n"
        "def late():\n    from requests import Session\n"
    )

    assert imports_of(source) >= {"botocore.config", "requests.Session", "urllib3"}
    assert "boto3" not in imports_of(source)


@pytest.mark.parametrize("path", sorted(BROKER.glob("*.py")), ids=lambda path: path.stem)
def test_only_adapters_and_the_place_that_makes_clients_know_the_sdk(path: Path) -> None:
    stacks = THIRD_PARTY_STACKS & {name.split(".")[0] for name in imports(path)}

    assert stacks <= ({"botocore"} if path.stem == "assembly" else set())


@pytest.mark.parametrize("name", sorted(POLICY))
def test_policy_knows_policy_and_adapters_alone(name: str) -> None:
    known = modules_of_the_broker(BROKER / f"{name}.py")

    assert {module for module in known if not module.startswith("adapters.")} <= POLICY


def test_the_pure_rules_know_no_adapter() -> None:
    for name in ("attempt", "decide", "lifetime", "ports", "status", "token"):
        assert "functions.broker.adapters" not in " ".join(imports(BROKER / f"{name}.py"))


@pytest.mark.parametrize("path", sorted(ADAPTERS.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_an_adapter_knows_data_and_figures_but_neither_the_policy_nor_another_adapter(path: Path) -> None:
    allowed = SHARED | {f"adapters.{means}" for means in MEANS}

    assert modules_of_the_broker(path) - {"__init__", "adapters.__init__"} <= allowed


@pytest.mark.parametrize("name", ["grants", "http_api", "settings"])
def test_what_reads_and_writes_texts_knows_neither_policy_nor_adapters(name: str) -> None:
    known = modules_of_the_broker(BROKER / f"{name}.py")

    assert not known & POLICY
    assert not [module for module in known if module.startswith("adapters")]


# --- the whole repository -----------------------------------------------------------------------------------------

LAYER = {"token_broker", "lambda_support"}
# By folder: the packages of this project that its modules may import.
DIRECTION = {
    "layers/common/token_broker": {"token_broker"},
    "layers/common/lambda_support": LAYER,
    "functions/broker": {"functions.broker", *LAYER},
    "functions/campaigns": {"functions.campaigns", *LAYER},
    "local": {"local", "functions", *LAYER},
    "bench": {"bench", "local", "functions", *LAYER},
    "tests": {"tests", "bench", "local", "functions", *LAYER},
}


def own_modules() -> dict[str, Path]:
    """Return every module of this project by the name under which it is imported."""
    files = [path for folder in DIRECTION for path in (PROJECT / folder).rglob("*.py")]
    return {module_name(path): path for path in files}


def module_name(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    parts = parts[2:] if parts[0] == "layers" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """Return the names of this project's modules that a file imports."""
    found = set()
    for name in imports(path):
        while name and name not in modules:
            name = name.rpartition(".")[0]  # noqa: PLW2901 - the name of a thing in the module before it
        found.add(name)
    return found - {""}


@pytest.mark.parametrize("folder", DIRECTION)
def test_a_folder_imports_only_what_is_below_it(folder: str) -> None:
    modules, allowed = own_modules(), tuple(f"{name}." for name in DIRECTION[folder])
    astray = {
        f"{module_name(path)} imports {name}"
        for path in (PROJECT / folder).rglob("*.py")
        for name in own_imports(path, modules)
        if not f"{name}.".startswith(allowed)
    }

    assert not astray


def test_no_modules_import_each_other() -> None:
    modules = own_modules()
    graph = {name: own_imports(path, modules) - {name} for name, path in modules.items()}

    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle

    assert len(order) == len(modules) > 200


# --- the campaigns job, in the same order -------------------------------------------------------------------------

CAMPAIGNS = BROKER.parent / "campaigns"


@pytest.mark.parametrize("name", ["walk", "snapshot", "publish", "run"])
def test_the_rules_of_the_campaigns_job_know_neither_adapters_nor_stacks(name: str) -> None:
    known = imports(CAMPAIGNS / f"{name}.py")

    assert not THIRD_PARTY_STACKS & {module.split(".")[0] for module in known}
    assert not [module for module in known if "adapters" in module or module.startswith("token_broker")]


@pytest.mark.parametrize("path", sorted(CAMPAIGNS.glob("adapters/[!_]*.py")), ids=lambda path: path.stem)
def test_an_adapter_of_the_campaigns_job_knows_the_rules_and_no_other_adapter(path: Path) -> None:
    assert not [module for module in imports(path) if "adapters" in module or "handler" in module]
