"""DynamoDB's expressions, as far as the broker uses them; refuses what DynamoDB refuses, and what this does not know.

Conditions: `=`, `<`, AND, OR, NOT, parentheses, attribute_exists, attribute_not_exists, begins_with. Updates: SET of
a value, REMOVE. Names only as `#placeholders`, values only as `:placeholders`, top-level attributes only.
"""

from __future__ import annotations

import ast
import functools
import operator
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local.fakes.wire import aws_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import CodeType

    Attribute = Mapping[str, Any]
    Item = Mapping[str, Attribute]


class UnknownExpressionError(NotImplementedError):
    """DynamoDB may understand this; the fake does not."""


@dataclass(frozen=True, slots=True)
class Placeholders:
    """ExpressionAttributeNames and ExpressionAttributeValues of one call."""

    names: Mapping[str, str]
    values: Item

    def check(self, *expressions: str) -> None:
        """Raise ValidationException unless every placeholder is defined and every definition is used."""
        used = {token for text in expressions for token in re.findall(r"[#:]\w+", text)}
        if used != {*self.names, *self.values}:
            raise aws_error("ValidationException")


def holds(condition: str, item: Item, placeholders: Placeholders) -> bool:
    """Return whether a condition holds for an item; `{}` stands for no item."""
    operands = {_variable(name): _Operand(item.get(real)) for name, real in placeholders.names.items()}
    operands |= {_variable(name): _Operand(value) for name, value in placeholders.values.items()}
    return bool(eval(_compile_condition(condition), {**_FUNCTIONS, **operands}))  # noqa: S307 - of nodes that are known


def updated(expression: str, item: Item, placeholders: Placeholders) -> dict[str, Attribute]:
    """Return the item as an UpdateExpression leaves it.

    Raises:
        ClientError: ValidationException, where one attribute is named twice.
    """
    assigned, removed = _compile_update(expression)
    touched = [placeholders.names[name] for name in (*assigned, *removed)]
    if len(set(touched)) != len(touched):
        raise aws_error("ValidationException")
    after = dict(item)
    for name, value in assigned.items():
        after[placeholders.names[name]] = placeholders.values[value]
    for name in removed:
        after.pop(placeholders.names[name], None)
    return after


@functools.cache
def _compile_update(expression: str) -> tuple[dict[str, str], tuple[str, ...]]:
    clauses = r"\s*(?:SET (?P<set>[^A-Z]+?))?(?:\s*REMOVE (?P<remove>[^A-Z]+))?"
    match = re.fullmatch(clauses, expression)
    if match is None or not expression.strip():
        raise UnknownExpressionError(expression)
    assigned: dict[str, str] = {}
    for part in match["set"].split(",") if match["set"] else ():
        assignment = re.fullmatch(r"\s*(#\w+)\s*=\s*(:\w+)\s*", part)
        if assignment is None:
            raise UnknownExpressionError(part)
        if assignment[1] in assigned:
            raise aws_error("ValidationException")
        assigned[assignment[1]] = assignment[2]
    removed = tuple(part.strip() for part in match["remove"].split(",")) if match["remove"] else ()
    return assigned, removed


# DynamoDB's conditions have Python's grammar and precedence, with other words.
_WORDS = {"AND": "and", "OR": "or", "NOT": "not", "=": "=="}
_KNOWN = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Compare, ast.Eq, ast.Lt, ast.Call, ast.Name, ast.Load,
)  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., bool]] = {
    "attribute_exists": lambda operand: operand.value is not None,
    "attribute_not_exists": lambda operand: operand.value is None,
    "begins_with": lambda operand, start: operand.compare(start, bytes.startswith),
}


@dataclass(slots=True, eq=False)
class _Operand:
    """An attribute or a value, None where the item has none; no comparison of different types is true."""

    value: Attribute | None
    __hash__ = None  # type: ignore[assignment] # compared only

    def compare(self, other: _Operand, compare: Callable[[Any, Any], bool]) -> bool:
        if self.value is None or other.value is None or set(self.value) != set(other.value):
            return False
        return compare(_comparable(self.value), _comparable(other.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Operand) and self.compare(other, operator.eq)

    def __lt__(self, other: _Operand) -> bool:
        return self.compare(other, operator.lt)


def _comparable(value: Attribute) -> Any:
    ((kind, content),) = value.items()
    match kind:
        case "N":
            return Decimal(content)
        case "S":
            return content.encode()
    return content


@functools.cache
def _compile_condition(condition: str) -> CodeType:
    text = re.sub(r"[#:]?\w+|=", lambda word: _WORDS.get(word[0], _variable(word[0])), condition)
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError:
        raise UnknownExpressionError(condition) from None
    for node in ast.walk(tree):
        is_chain = isinstance(node, ast.Compare) and len(node.ops) > 1
        is_unknown_name = (
            isinstance(node, ast.Name) and node.id[:2] not in {"n_", "v_"} and node.id not in _FUNCTIONS
        )
        if not isinstance(node, _KNOWN) or is_chain or is_unknown_name:
            raise UnknownExpressionError(condition)
    return compile(tree, condition, "eval")


def _variable(placeholder: str) -> str:
    return placeholder.replace("#", "n_").replace(":", "v_")
