"""The template and the policy of "Calling the broker" give a caller what the stack's CallerPolicy gives, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfnlint.decode import decode_str
from samtranslator.translator.transform import transform

from tests.recipes.page import texts
from token_broker.cli.remedies import caller_statements

if TYPE_CHECKING:
    import pytest

RECIPES = texts("recipe")
TEMPLATE = Path(__file__).parents[2] / "template.yaml"
FUNCTION_ARN = "arn:aws:lambda:REGION:ACCOUNT:function:BROKER:live"


def parsed(template: str) -> Any:
    value, problems = decode_str(template)
    assert not problems
    return json.loads(json.dumps(value))


class _NoManagedPolicies:
    """The translator asks for the names of AWS's managed policies; the template uses none."""

    def load(self) -> dict[str, str]:
        return {}


def callers_policy() -> list[dict[str, Any]]:
    document = parsed(TEMPLATE.read_text())["Resources"]["CallerPolicy"]["Properties"]["PolicyDocument"]
    statements: list[dict[str, Any]] = document["Statement"]
    for statement in statements:
        assert statement["Resource"] == {"Fn::Sub": "${BrokerFunction.Arn}:live"}
        statement["Resource"] = FUNCTION_ARN
    return statements


def test_the_sam_recipes_function_has_the_callers_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    template = parsed(RECIPES["sam"])
    template["Resources"]["Report"]["Properties"]["CodeUri"] = "s3://bucket/key"

    translated = transform(template, {}, _NoManagedPolicies())

    role = translated["Resources"]["ReportRole"]["Properties"]
    schedule = translated["Resources"]["ReportEveryMorning"]["Properties"]
    assert {"Ref": "CallerPolicyArn"} in role["ManagedPolicyArns"]
    assert "Policies" not in role
    assert "Input" not in schedule["Target"]


def test_the_policy_for_other_accounts_is_the_stacks_own() -> None:
    assert json.loads(RECIPES["caller-policy"])["Statement"] == callers_policy()


def test_the_doctor_prescribes_the_stacks_own_policy() -> None:
    prescribed = list(caller_statements(FUNCTION_ARN).values())

    assert prescribed == callers_policy()
