"""Random conditional updates get the same answers from the fake as from moto."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.broker.adapters.dynamodb import token_key
from local.fakes.dynamodb import FakeDynamoDB
from local.fakes.expressions import Placeholders, UnknownExpressionError, holds

if TYPE_CHECKING:
    from tests.conftest import Account
    from tests.fakes.backends import Backend


_CONDITIONS = (
    "",
    "attribute_not_exists(#a)",
    "#a = :x",
    "#a < :x",
    "#a = :x AND #b = :y",
    "#a = :x AND (attribute_not_exists(#b) OR #b < :y)",
    "#b = :y OR NOT #a < :x AND attribute_exists(#b)",
)
_VALUES: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"N": "1"}, {"N": "2.500"}, {"N": "-3"}, {"N": "10"}, {"S": "10"}, {"S": ""}, {"S": "é"}, {"B": b"\xff"},
        {"M": {"m": {"N": "1.0"}}}, {"L": [{"N": "0"}, {"S": "x"}]},
    ]
)  # fmt: skip
_UPDATES = (
    "SET #a = :x",
    "SET #a = :x, #b = :y",
    "SET #b = :y REMOVE #a",
    "SET #a = :x REMOVE #c",
    " REMOVE #a, #c",
)
_CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "update": st.sampled_from(_UPDATES),
            "condition": st.sampled_from(_CONDITIONS),
            "x": _VALUES,
            "y": _VALUES,
        }
    ),
    min_size=1,
    max_size=6,
)


def answer_of(dynamodb: Any, call: dict[str, Any], key: str) -> object:
    """Send one drawn call; return its answer, or the error's code and item."""
    used = f"{call['update']} {call['condition']}"
    request: dict[str, Any] = {
        "TableName": "tokens",
        "Key": {"connection": {"S": key}, "record": {"S": "token"}},
        "UpdateExpression": call["update"],
        "ExpressionAttributeNames": {f"#{name}": name for name in "abc" if f"#{name}" in used},
        "ExpressionAttributeValues": {f":{name}": call[name] for name in "xy" if f":{name}" in used},
        "ReturnValues": "ALL_NEW",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    if not request["ExpressionAttributeValues"]:
        del request["ExpressionAttributeValues"]
    if call["condition"]:
        request["ConditionExpression"] = call["condition"]
    try:
        return dynamodb.update_item(**request)["Attributes"]
    except ClientError as error:
        return error.response["Error"]["Code"], error.response.get("Item")


def in_full(value: Any) -> Any:
    """Return an answer with numbers compared by value."""
    if isinstance(value, dict):
        return {name: float(member) if name == "N" else in_full(member) for name, member in value.items()}
    return [in_full(member) for member in value] if isinstance(value, list | tuple) else value


def test_random_conditional_updates_get_the_same_answers_as_from_moto(moto: Account) -> None:
    moto.empty()
    keys = iter(range(10_000))

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(_CALLS)
    def compare(calls: list[dict[str, Any]]) -> None:
        fake, key = FakeDynamoDB(), str(next(keys))
        for call in calls:
            try:
                expected = answer_of(moto.dynamodb, call, key)
            except TypeError:
                return  # moto cannot order values of different types; DynamoDB can: the comparison is false
            assert in_full(answer_of(fake, call, key)) == in_full(expected), call

    compare()


def update_item(
    dynamodb: Any, names: dict[str, str], values: dict[str, Any], expression: str = "SET #a = :x"
) -> None:
    request = {"ExpressionAttributeNames": names, "ExpressionAttributeValues": values}
    given_ones = {name: value for name, value in request.items() if value}
    key = token_key("digishare")
    dynamodb.update_item(TableName="tokens", Key=key, UpdateExpression=expression, **given_ones)


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ({"#a": "a", "#b": "b"}, {":x": {"N": "1"}}),
        ({"#a": "a"}, {":x": {"N": "1"}, ":y": {"N": "1"}}),
        ({"#a": "record"}, {":x": {"S": "1"}}),
    ],
    ids=["unused name", "unused value", "key"],
)
def test_bad_expressions_are_refused(backend: Backend, names: dict[str, str], values: dict[str, Any]) -> None:
    with pytest.raises(ClientError) as raised:
        update_item(backend.dynamodb, names, values)
    assert raised.value.response["Error"]["Code"] == "ValidationException"


def test_the_fake_refuses_an_expression_that_it_does_not_know() -> None:
    with pytest.raises(UnknownExpressionError):
        update_item(FakeDynamoDB(), {"#a": "a"}, {":x": {"N": "1"}}, "ADD #a :x")
    for condition in ("#a = :x = :x", "size(#a) = :x", "#a <> :x", "#a = :x +"):
        with pytest.raises(UnknownExpressionError):
            holds(condition, {}, Placeholders({"#a": "a"}, {":x": {"N": "1"}}))


def test_no_comparison_of_different_types_is_true() -> None:
    placeholders = Placeholders({"#a": "a"}, {":x": {"N": "1"}})
    for condition in ("#a = :x", "#a < :x", ":x < #a"):
        assert not holds(condition, {"a": {"S": "1"}}, placeholders)


def test_the_fake_refuses_placeholders_that_are_not_defined() -> None:
    for names, values in (({"#a": "a"}, {}), ({}, {":x": {"N": "1"}})):
        with pytest.raises(ClientError, match="ValidationException"):
            update_item(FakeDynamoDB(), names, values)
