"""The figures and names in the documents are those of the code."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from functions.broker import lifetime, token
from functions.broker.adapters import oauth_exchange
from local import sam_local, samples
from local.translated_template import TEMPLATE, parse
from local.verify_deployment import CHECKS
from token_broker import issued_token

ROOT = Path(__file__).parents[2]
BROKER = ROOT / "functions" / "broker"
LAYER = ROOT / "layers/common"
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
DEPLOYING = (ROOT / "docs/deploying.md").read_text()


def architecture(start: str, end: str) -> str:
    """Return the part of that page between these two."""
    return ARCHITECTURE[ARCHITECTURE.index(start) : ARCHITECTURE.index(end)]


def _sources() -> str:
    return "\n".join(file.read_text() for file in BROKER.rglob("*.py"))


def test_the_table_of_figures_is_true_and_complete() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|", ARCHITECTURE, re.MULTILINE)
    figures = {
        name: float(value)
        for module in (issued_token, lifetime, token)
        for name, value in vars(module).items()
        if name.isupper() and not name.startswith("_") and type(value) in {int, float}
    }

    assert {name: float(value) for name, value in rows} == figures
    assert len(rows) == len(figures)


def test_the_drawing_of_the_lock_and_of_the_longest_wait_adds_up() -> None:
    wait_s = lifetime.LOCK_S + lifetime.CLOCK_DIFFERENCE_S + lifetime.LONGEST_POLL_S + lifetime.TO_LOCK_S
    deadline_s = lifetime.FUNCTION_TIMEOUT_S - lifetime.ANSWER_S

    assert f"= {lifetime.LOCK_S:g} s\n" in ARCHITECTURE
    assert f"= {wait_s:g} s\n" in ARCHITECTURE
    assert f"{deadline_s:g}  {lifetime.FUNCTION_TIMEOUT_S:g}\n" in ARCHITECTURE
    assert wait_s <= deadline_s


def test_every_code_of_a_failure_is_in_the_table_of_failures() -> None:
    codes = set(re.findall(r'MintFailedError\(\s*"([a-z_]+)"', _sources()))
    codes |= set(oauth_exchange.REFUSALS) | set(oauth_exchange._CODES_OF_UNSENT.values())
    codes |= {token.HOLDER_LOST, "upstream_unreachable"}
    table = architecture("## Failures", "## Unavailable")

    assert len(codes) > 15
    assert {code for code in codes if f"`{code}`" not in table} == set()


def test_every_event_is_in_the_table_of_events() -> None:
    events = set(re.findall(r'_?notice\(\s*"([A-Z]\w+)"', _sources()))
    events |= set(re.findall(r'event = "(\w+)"', _sources()))
    table = architecture("## Events and alarms", "## How this is shown")

    assert {"Mint", "MintFailed", "SealBroken", "AwsRefused", "Bug"} <= events
    assert {event for event in events if f"`{event}`" not in table} == set()


def test_the_modules_that_the_drawing_names_are_those_that_there_are() -> None:
    broker = architecture("```\nfunctions/broker/", "```\nlayers/common/")
    layer = architecture("```\nlayers/common/", "## One request")

    for drawing, files in (
        (broker, BROKER.rglob("*.py")),
        (layer, [*LAYER.glob("token_broker/*.py"), *LAYER.glob("lambda_support/*.py")]),
    ):
        named = set(re.findall(r"\w+\.py", drawing))
        assert named == {file.name for file in files if file.name != "__init__.py"}


def test_every_make_task_that_a_page_names_exists() -> None:
    tasks = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        page: set(re.findall(r"(?m)(?:^|`)make ([a-z-]+)", (ROOT / page).read_text()))
        for page in ("README.md", ".github/CONTRIBUTING.md")
    }

    assert {"demo", "test", "local", "invoke", "check", "build", "deploy"} <= named["README.md"] <= tasks
    assert {"demo", "test", "check", "lock"} <= named[".github/CONTRIBUTING.md"] <= tasks


@pytest.mark.parametrize("page", ["README.md", ".github/SECURITY.md", ".github/CONTRIBUTING.md"])
def test_every_link_of_a_front_page_leads_to_a_file_and_a_heading(page: str) -> None:
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", (ROOT / page).read_text())

    assert links
    for path, anchor in links:
        text = ((ROOT / page).parent / path).read_text()
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors


@pytest.mark.parametrize("page", ["SECURITY.md", "CONTRIBUTING.md"])
def test_a_policy_is_one_screen(page: str) -> None:
    assert len((ROOT / ".github" / page).read_text().splitlines()) <= 40


def test_the_lines_for_sam_are_those_that_the_proof_runs() -> None:
    proven = {sam_local.LOCAL_CLOUD, sam_local.START_LAMBDA} | {
        sam_local.INVOKE.format(function=samples.function_for(samples.EVENTS / name), event=name)
        for name in samples.ANSWERS
    }
    for page in ("README.md", "docs/running-locally.md"):
        lines = re.findall(r"^(?:sam local|make local) .*$", (ROOT / page).read_text(), re.MULTILINE)
        assert {sam_local.LOCAL_CLOUD, sam_local.START_LAMBDA} <= set(lines) <= proven


def test_the_output_of_the_proof_in_the_page_is_of_the_present_one() -> None:
    page = (ROOT / "docs/running-locally.md").read_text()
    rows = {tuple(re.split(r"  +", line)[1:]) for line in page.splitlines() if line.startswith("✓")}

    for name, promised in samples.ANSWERS.items():
        command = sam_local.INVOKE.format(function=samples.function_for(samples.EVENTS / name), event=name)
        assert (command, promised, promised) in rows
    for function, _, promised in sam_local.CALLS:
        assert (f"{sam_local.START_LAMBDA}, {function}", promised, promised) in rows


def test_the_table_of_parameters_is_true_and_complete() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]+)`|empty) \|", DEPLOYING, re.MULTILINE)
    parameters = parse(TEMPLATE.read_text())["Parameters"]

    assert dict(rows) == {name: str(parameter["Default"]) for name, parameter in parameters.items()}


def test_the_ten_checks_of_a_deployment_are_those_that_the_page_lists() -> None:
    table = DEPLOYING.partition("| check | by hand | expected |")[2].splitlines()[2:]
    listed = [row.split(" | ")[0].removeprefix("| ") for row in itertools.takewhile(str.strip, table)]

    assert listed == [name for name, _, _ in CHECKS]
    assert len(listed) == 10
