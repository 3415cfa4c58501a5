"""`token-broker doctor` against each of its faults: what it says is what the page shows.

`UPDATE_DOCS=1 pytest tests/recipes/test_doctor.py` writes the page's outputs again.
"""

from __future__ import annotations

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import CREDENTIAL
from tests.recipes.conftest import environment_of
from tests.recipes.page import replace_output, texts
from token_broker.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.cloud import LocalCloud

    Consult = Callable[..., str]
    NewCaller = Callable[..., dict[str, str]]

pytestmark = pytest.mark.cloud

FUNCTION_URL = "https://abcdefghijklmnop.lambda-url.eu-west-3.on.aws"


def may(*actions: str) -> dict[str, object]:
    return {"Effect": "Allow", "Action": actions, "Resource": "*"}


MAY_ASK = may("iam:SimulatePrincipalPolicy", "iam:GetRole", "cloudformation:DescribeStacks")


@pytest.fixture
def consult(
    cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Consult:
    """Return a function that runs the doctor in this environment, and returns its report as the page shows it."""

    def run(environment: dict[str, str], *arguments: str, expected: int = 1, slow_by_s: float = 0) -> str:
        for name, value in environment.items():
            if name.startswith(("AWS_", "TOKEN_BROKER_")):
                monkeypatch.setenv(name, value)
        if slow_by_s:
            # The signature has the wrong time, too, so that it is really refused.
            now = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=slow_by_s)
            monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_: now)
        exit_code = main(["doctor", *arguments], clock=lambda: time.time() - slow_by_s)
        told = capsys.readouterr()
        assert exit_code == expected, told
        assert told.err == ""
        return as_on_page(told.out, cloud)

    return run


def as_on_page(report: str, cloud: LocalCloud) -> str:
    """Return a report with what differs from run to run as it would look on AWS."""
    for pattern, text in (
        (re.escape(cloud.function_url), FUNCTION_URL),
        (r"\b0{12}\b", "111122223333"),
        (r"-([A-Z][A-Za-z]+)-[0-9A-F]{13}\b", r"-\1-1A2B3C"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "2027-07-06T12:00:00+00:00"),
        (r"\b[0-9a-f]{16}, leased for \d+ s", "3f9a0c417be2d815, leased for 900 s"),
        (r"local-recipes-([a-z-]+)/local", r"\1/session"),
        (r"local-recipes-", ""),
        (r"\b600 s behind|\b(599|601) s behind", "600 s behind"),
        (r"in \d+ s\b", "in 30 s"),
    ):
        report = re.sub(pattern, text, report)
    return report


def assert_on_page(name: str, report: str) -> None:
    if os.environ.get("UPDATE_DOCS"):
        replace_output(name, report)
    assert texts("output")[name] == report


@pytest.fixture
def new_caller(cloud: LocalCloud) -> NewCaller:
    """Return a maker of callers with these statements in their own policy, and their environments."""

    def make(name: str, *statements: dict[str, object], attach: bool = False) -> dict[str, str]:
        role = f"local-recipes-{name}"
        key = cloud.create_caller(role, [cloud.outputs["CallerPolicyArn"]] if attach else [])
        if statements:
            give(cloud, role, "own", list(statements))
        return environment_of(cloud, key)

    return make


def give(cloud: LocalCloud, role: str, policy: str, statements: object) -> None:
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    cloud.client("iam").put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=document)


def test_no_url(consult: Consult, environment: dict[str, str]) -> None:
    del environment["TOKEN_BROKER_URL"]
    assert_on_page("no-url", consult(environment))


def test_no_credentials(cloud: LocalCloud, consult: Consult) -> None:
    assert_on_page("no-credentials", consult(environment_of(cloud, None)))


def test_wrong_region(consult: Consult, new_caller: NewCaller) -> None:
    report = consult(new_caller("elsewhere", attach=True) | {"AWS_REGION": "eu-west-1"})
    # A real Function URL names its region, and the client takes it from there.
    assert_on_page("wrong-region", report.replace(FUNCTION_URL, "https://broker.example.com"))


@pytest.mark.parametrize(
    ("name", "caller", "statements", "options"),
    [
        ("healthy", "reports", None, {"expected": 0}),
        ("clock", "late", None, {"slow_by_s": 600}),
        ("some-permission", "nobody", (), {}),
        ("one-permission", "half", (may("lambda:InvokeFunctionUrl"), MAY_ASK), {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_caller_is_told(
    consult: Consult, new_caller: NewCaller, name: str, caller: str, statements: Any, options: dict[str, int]
) -> None:
    environment = new_caller(caller, *statements or (), attach=statements is None)

    assert_on_page(name, consult(environment, **options))


def test_the_other_permission_is_missing(consult: Consult, new_caller: NewCaller) -> None:
    report = consult(new_caller("other-half", may("lambda:InvokeFunction"), MAY_ASK))

    assert "lambda:InvokeFunctionUrl is missing" in report
    assert "OnlyThroughItsUrl" not in report


def test_the_proposed_statement_is_enough(cloud: LocalCloud, consult: Consult, new_caller: NewCaller) -> None:
    environment = new_caller("patient", MAY_ASK)
    _, _, proposed = consult(environment).partition("or add to a policy of it:\n")
    text = proposed.partition("\n- ")[0].replace("111122223333", cloud.account_id)
    function = cloud.outputs["BrokerFunctionName"]
    text = re.sub(r"function:[\w-]+:live", f"function:{function}:live", text)
    give(cloud, "local-recipes-patient", "proposed", json.loads(text))

    assert "✘" not in consult(environment, expected=0)


def test_no_grant(cloud: LocalCloud, consult: Consult) -> None:
    # Not `local-…`: those are granted every connection.
    key = cloud.create_caller("orders", [cloud.outputs["CallerPolicyArn"]])
    assert_on_page("no-grant", consult(environment_of(cloud, key), "--connection", "marketing"))


def test_refused_secret(cloud: LocalCloud, consult: Consult, new_caller: NewCaller) -> None:
    cloud.put_connection("refused", {"client_id": "client-1", "client_secret": "canary-wrong"})
    assert_on_page("refused-secret", consult(new_caller("sender", attach=True), "--connection", "refused"))


def test_the_upstream_is_unavailable(cloud: LocalCloud, consult: Consult, new_caller: NewCaller) -> None:
    cloud.put_connection("unavailable", CREDENTIAL)
    fault = {"target": "token", "kind": "status", "status": 503, "times": None}
    cloud.steer_digishare("POST", "/faults", fault)
    try:
        report = consult(new_caller("night", attach=True), "--connection", "unavailable")
    finally:
        cloud.steer_digishare("DELETE", "/faults")
    assert_on_page("unavailable", report)
