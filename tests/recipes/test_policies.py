"""The template and the policy of "Calling the broker" give a caller what the stack's CallerPolicy gives, and no more."""

from __future__ import annotations

import json
from typing import Any

from local.translated_template import TEMPLATE, parse, translate
from tests.recipes.page import texts
from token_broker.cli.remedies import caller_statements

RECIPES = texts("recipe")
FUNCTION_ARN = "arn:aws:lambda:REGION:ACCOUNT:function:BROKER"


def callers_policy() -> list[dict[str, Any]]:
    document = parse(TEMPLATE.read_text())["Resources"]["CallerPolicy"]["Properties"]["PolicyDocument"]
    statements: list[dict[str, Any]] = document["Statement"]
    arn = '{"Fn::GetAtt": ["BrokerFunction", "Arn"]}'
    text = json.dumps(statements).replace(arn, json.dumps(FUNCTION_ARN))
    for qualifier in ("live", "*"):
        substituted = json.dumps({"Fn::Sub": f"${{BrokerFunction.Arn}}:{qualifier}"})
        text = text.replace(substituted, json.dumps(f"{FUNCTION_ARN}:{qualifier}"))
    found: list[dict[str, Any]] = json.loads(text)
    return found


def test_the_sam_recipes_function_has_the_callers_policy() -> None:
    translated = translate(parse(RECIPES["sam"]))

    role = translated["Resources"]["ReportRole"]["Properties"]
    schedule = translated["Resources"]["ReportEveryMorning"]["Properties"]
    assert {"Ref": "CallerPolicyArn"} in role["ManagedPolicyArns"]
    assert "Policies" not in role
    assert "Input" not in schedule["Target"]


def test_the_policy_for_other_accounts_is_the_stacks_own() -> None:
    assert json.loads(RECIPES["caller-policy"])["Statement"] == callers_policy()


def test_the_doctor_proposes_the_stacks_own_policy() -> None:
    assert caller_statements(f"{FUNCTION_ARN}:live") == callers_policy()
