"""Every change of code, layer or parameter makes a new version for the alias `live`; two translations are compared.

tests/local_cloud/test_updates.py deploys them, as far as a local AWS behaves like CloudFormation.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest

from local.translated_template import TEMPLATE, parse, translate

LONGEST_DESCRIPTION: Final = 256
NOT_OF_THE_FUNCTION: Final = {
    "VersionDescription",
    "Events",
    "EventInvokeConfig",
    "FunctionUrlConfig",
    "Role",
}
ORIGINAL: Final = parse(TEMPLATE.read_text())
FUNCTIONS: Final = [
    name for name, each in ORIGINAL["Resources"].items() if each["Type"] == "AWS::Serverless::Function"
]
PARAMETERS: Final[dict[str, dict[str, Any]]] = ORIGINAL["Parameters"]


def refer_to(value: object) -> set[str]:
    """Return the parameters that a value depends on, through conditions, too."""
    text = json.dumps(value)
    names = set(re.findall(r'"Ref": "(\w+)"|\$\{(\w+)\}', text))
    found = {name for pair in names for name in pair if name in PARAMETERS}
    for condition in re.findall(r'"Fn::If": \["(\w+)"', text):
        found |= refer_to(ORIGINAL["Conditions"][condition])
    return found


def reaching(function: str) -> set[str]:
    properties = {**ORIGINAL["Globals"]["Function"], **ORIGINAL["Resources"][function]["Properties"]}
    return refer_to({name: value for name, value in properties.items() if name not in NOT_OF_THE_FUNCTION})


def version_of(function: str, translated: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the version that `live` points to: logical id and resource."""
    alias = translated["Resources"][f"{function}Aliaslive"]["Properties"]
    name, _ = alias["FunctionVersion"]["Fn::GetAtt"]
    return name, translated["Resources"][name]


def description(function: str, values: dict[str, str]) -> str:
    """Return the version's description as CloudFormation resolves it."""
    _, version = version_of(function, translate(ORIGINAL, values))
    separator, parts = version["Properties"]["Description"]["Fn::Join"]
    texts = (values.get(part["Ref"], str(PARAMETERS[part["Ref"]]["Default"])) for part in parts)
    return str(separator).join(texts)


def longest(parameter: dict[str, Any]) -> int:
    if "AllowedValues" in parameter:
        return max(len(str(value)) for value in parameter["AllowedValues"])
    return int(parameter.get("MaxLength") or len(str(parameter["MaxValue"])))


@pytest.mark.parametrize(
    ("function", "name"), [(each, part) for each in FUNCTIONS for part in ("CommonLayer", each)]
)
def test_another_build_makes_another_version(function: str, name: str) -> None:
    before, after = (version_of(function, translate(ORIGINAL, keys={name: key}))[0] for key in ("one", "two"))

    assert before != after
    assert version_of(function, translate(ORIGINAL, keys={name: "one"}))[0] == before


@pytest.mark.parametrize("function", FUNCTIONS)
def test_another_property_makes_another_version(function: str) -> None:
    changed = json.loads(json.dumps(ORIGINAL))
    changed["Resources"][function]["Properties"]["MemorySize"] = 2048

    assert version_of(function, translate(changed))[0] != version_of(function, translate(ORIGINAL))[0]


@pytest.mark.parametrize(
    ("function", "parameter"),
    [(function, name) for function in FUNCTIONS for name in sorted(reaching(function))],
)
def test_another_value_of_a_parameter_makes_another_description(function: str, parameter: str) -> None:
    known = PARAMETERS[parameter]
    other = str(known["AllowedValues"][-1] if "AllowedValues" in known else f"{known['Default']}9"[-4:])

    assert description(function, {parameter: other}) != description(function, {})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_description_joins_exactly_the_parameters_that_reach_the_function(function: str) -> None:
    # With one too many a deployment fails: AWS makes no new version of a function that has not changed.
    _, version = version_of(function, translate(ORIGINAL))

    assert refer_to(version["Properties"]["Description"]) == reaching(function)
    assert len(version["Properties"]["Description"]["Fn::Join"][1]) == len(reaching(function))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_description_is_never_too_long_and_never_ambiguous(function: str) -> None:
    names = reaching(function)

    assert sum(longest(PARAMETERS[name]) for name in names) + len(names) - 1 <= LONGEST_DESCRIPTION
    _, version = version_of(function, translate(ORIGINAL))
    assert version["Properties"]["Description"]["Fn::Join"][0] == "|"
    for parameter in (PARAMETERS[name] for name in names if PARAMETERS[name]["Type"] == "String"):
        texts, ambiguous = parameter.get("AllowedValues", []), f"{parameter['Default'] or 'https://a'}|a"
        assert texts or not re.fullmatch(parameter["AllowedPattern"], ambiguous)
        assert not any("|" in text for text in texts)


def test_every_text_has_a_bound() -> None:
    for name, parameter in PARAMETERS.items():
        assert parameter["Type"] in {"String", "Number"}, name
        assert {"MaxLength", "AllowedValues", "MaxValue"} & set(parameter), name
        if "AllowedPattern" in parameter:
            assert re.fullmatch(parameter["AllowedPattern"], str(parameter["Default"])), name
            assert len(parameter["Default"]) <= parameter["MaxLength"], name


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_version_before_stays_for_a_rollback(function: str) -> None:
    _, version = version_of(function, translate(ORIGINAL))

    assert (version["DeletionPolicy"], version["UpdateReplacePolicy"]) == ("Retain", "Retain")
