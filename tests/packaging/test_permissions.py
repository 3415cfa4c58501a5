"""Who may do what, as the translated template says it. `permissions.txt` is the reviewed text.

`python -m tests.packaging.test_permissions` prints what the template says now. A change of that file is the review.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from local.translated_template import TEMPLATE, parse, translate

if TYPE_CHECKING:
    from collections.abc import Iterator

REVIEWED: Final = Path(__file__).with_name("permissions.txt")
GIVE_PERMISSIONS: Final = r"AWS::IAM::.*|AWS::KMS::Key|AWS::Lambda::Url|.*(Policy|Permission|Grant)"
RESOURCES: Final[dict[str, Any]] = parse(TEMPLATE.read_text())["Resources"]
ROLES: Final = [name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::IAM::Role"]
SAYS_NOTHING_OF_THEM: Final = {"Description", "EnableKeyRotation"}


def permissions() -> dict[str, dict[str, Any]]:
    """Return by logical id what each resource that gives permissions says: a document's statements by its name."""
    resources = translate(parse(TEMPLATE.read_text()))["Resources"]
    return {
        name: {"Condition": resource.get("Condition"), **dict(_documents(resource["Properties"]))}
        for name, resource in sorted(resources.items())
        if re.fullmatch(GIVE_PERMISSIONS, resource["Type"])
    }


def _documents(properties: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for member, value in properties.items():
        if member == "Policies":
            yield from ((policy["PolicyName"], policy["PolicyDocument"]["Statement"]) for policy in value)
        elif member not in SAYS_NOTHING_OF_THEM:
            yield member, value["Statement"] if isinstance(value, dict) and "Statement" in value else value


def lines() -> list[str]:
    """Return the same, a statement a line."""
    return [
        f"{name} · {document} · {json.dumps(each)}"
        for name, documents in permissions().items()
        for document, value in documents.items()
        for each in (value if isinstance(value, list) else [value])
        if each is not None
    ]


def test_permissions_are_those_that_were_reviewed() -> None:
    assert lines() == REVIEWED.read_text().splitlines()


def statements_of(role: str) -> list[dict[str, Any]]:
    """Return the statements of a role's own policies, those under a condition included."""
    documents = permissions()[role].items()
    listed = [each for name, value in documents if name != "AssumeRolePolicyDocument" for each in value or ()]
    choices = [statement.get("Fn::If", [None, statement])[1:] for statement in listed]
    return [each for choice in choices for each in choice if "Action" in each]


@pytest.mark.parametrize("role", ROLES)
def test_no_role_has_a_wildcard(role: str) -> None:
    for statement in statements_of(role):
        assert statement["Resource"] != "*"
        assert "*" not in json.dumps(statement["Action"])


def test_nobody_but_the_broker_may_use_the_key_and_only_for_what_a_ciphertext_is_bound_to() -> None:
    use, manage = permissions()["TokenKey"]["KeyPolicy"]

    bound_to = ("connection", "fence", "expires_at")
    assert use["Condition"]["Null"] == {f"kms:EncryptionContext:{name}": "false" for name in bound_to}
    assert use["Condition"]["ArnEquals"] == {"aws:PrincipalArn": {"Fn::GetAtt": ["BrokerRole", "Arn"]}}
    opens_tokens = re.compile(r".*(crypt|Generate|CreateGrant|DeriveShared|Replicate|\*)")
    assert not [action for action in manage["Action"] if opens_tokens.match(action)]
    assert not [role for role in ROLES if "TokenKey" in json.dumps(permissions()[role])]


if __name__ == "__main__":
    print("\n".join(lines()))  # noqa: T201 - what it is for
