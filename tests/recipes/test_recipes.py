"""Every snippet of "Calling the broker" is run as it is on the page, with signed HTTP calls to the local cloud.

Only Digishare's address is another one, and with it the host that may see the token.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.client.fake_broker import token_id
from tests.conftest import CANARY_SECRET, CREDENTIAL
from tests.recipes.page import read_blocks
from tests.recipes.programs import CAMPAIGNS, RECIPES, json_values, localised, run, run_python, run_shell

if TYPE_CHECKING:
    from local.cloud import LocalCloud

pytestmark = pytest.mark.cloud


def test_every_block_of_the_page_is_run_or_compared() -> None:
    source = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))

    assert not [block for block in read_blocks() if block.use not in {"recipe", "output"} or not block.name]
    assert not [name for name in RECIPES if f'"{name}"' not in source]
    assert len(RECIPES) == sum(block.use == "recipe" for block in read_blocks())


@pytest.mark.parametrize("name", ["requests", "httpx", "oauth"])
def test_python_libraries_read_the_campaigns(name: str, environment: dict[str, str], tmp_path: Path) -> None:
    assert run_python(name, environment, tmp_path).split() == [str(CAMPAIGNS)]


def test_async_calls_share_one_lease(environment: dict[str, str], tmp_path: Path) -> None:
    assert run_python("httpx-async", environment, tmp_path).strip() == "{200}"


def test_the_client_alone_shows_no_token(environment: dict[str, str], tmp_path: Path) -> None:
    shown = run_python("client", environment, tmp_path)

    assert "s left" in shown
    assert "token_id=" in shown
    assert "eyJ" not in shown


def test_a_lambda_function_reads_the_campaigns(environment: dict[str, str], tmp_path: Path) -> None:
    more = "\n\nprint(lambda_handler({}, None), lambda_handler({}, None))\n"

    assert run_python("lambda", environment, tmp_path, more).count(str({"campaigns": CAMPAIGNS})) == 2


def test_the_shell_recipe_has_campaigns_token_and_status(environment: dict[str, str], tmp_path: Path) -> None:
    with_curl, with_exec, token, status = json_values(run_shell("shell", environment, tmp_path))

    assert with_curl["meta"]["total"] == with_exec["meta"]["total"] == CAMPAIGNS
    assert token_id(token["access_token"]) == token["token_id"]
    assert [row["connection"] for row in status["connections"]] == ["digishare"]


def test_curl_signs_by_itself(environment: dict[str, str], tmp_path: Path) -> None:
    (answer,) = json_values(run_shell("curl", environment, tmp_path))

    assert token_id(answer["access_token"]) == answer["token_id"]
    assert answer["token_type"] == "Bearer"


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node is not installed")
def test_node_with_a_published_signer_reads_campaigns(environment: dict[str, str], tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("package.json"), tmp_path)
    install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    installing = {name: environment[name] for name in ("PATH", "HOME")}
    run(install, installing, tmp_path, timeout_s=120)
    (tmp_path / "recipe.mjs").write_text(localised(RECIPES["node"], environment))

    assert run(["node", "recipe.mjs"], environment, tmp_path).split() == [str(CAMPAIGNS)]


def test_the_first_steps_end_with_campaigns(environment: dict[str, str], tmp_path: Path) -> None:
    # The installation has a test of its own (tests/cli/test_installation.py).
    install, *steps = RECIPES["first-steps"].splitlines()
    assert install == "pip install '.[cli]'"

    shown = run(["bash", "-euc", "\n".join(steps)], environment, tmp_path)
    report, _, campaigns = shown.partition("{")
    assert "✘" not in report
    assert len(json.loads("{" + campaigns)["data"]) == 5


def test_an_operator_stores_checks_and_counts(
    cloud: LocalCloud, operator_environment: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "credential.json").write_text(json.dumps({"type": "client_credentials", **CREDENTIAL}))
    leased = json_values(run(["token-broker", "token", "--json"], environment, tmp_path))[0]["token_id"]
    # The local account's owner may not call Function URLs, so the check leaves the broker out.
    del operator_environment["TOKEN_BROKER_URL"]

    shown = run_shell("operator", operator_environment, tmp_path)

    assert "rotated token-broker/connections/digishare" in shown
    assert "client_credentials with client_id, client_secret" in shown
    (line,) = (line for line in shown.splitlines() if line.startswith(leased))
    assert line.split()[1:3] == ["in", "service"]
    assert CANARY_SECRET not in shown
