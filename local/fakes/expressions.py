"""DynamoDB's expressions, as far as the broker uses them: refuses what DynamoDB refuses, and what it does not know.

Conditions: `=`, `<`, AND, OR, NOT, parentheses, attribute_exists, attribute_not_exists, begins_with. Updates: SET of
a value, REMOVE. Names only as `#placeholders`, values only as `:placeholders`, top-level attributes only.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local.fakes.wire import aws_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Attribute = Mapping[str, Any]
    Item = Mapping[str, Attribute]
    Test = Callable[[Item, "Placeholders"], bool]

_TOKEN = re.compile(r"\s*([#:]\w+|\w+|[=<(),])")


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
    return _compile_condition(condition)(item, placeholders)


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


@functools.cache
def _compile_condition(condition: str) -> Test:
    tokens: list[str] = []
    at = 0
    while at < len(condition.rstrip()):
        match = _TOKEN.match(condition, at)
        if match is None:
            raise UnknownExpressionError(condition)
        tokens.append(match[1])
        at = match.end()
    reader = _ConditionReader(tokens)
    test = reader.read_or()
    if reader.tokens:
        raise UnknownExpressionError(condition)
    return test


class _ConditionReader:
    """Recursive descent: OR binds weaker than AND, AND weaker than NOT."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def read_or(self) -> Test:
        left = self.read_and()
        while self._take("OR"):
            left = _either(left, self.read_and())
        return left

    def read_and(self) -> Test:
        left = self.read_not()
        while self._take("AND"):
            left = _both(left, self.read_not())
        return left

    def read_not(self) -> Test:
        if self._take("NOT"):
            inner = self.read_not()
            return lambda item, placeholders: not inner(item, placeholders)
        if self._take("("):
            inner = self.read_or()
            self._expect(")")
            return inner
        return self._read_comparison()

    def _read_comparison(self) -> Test:
        first = self._next()
        if first in {"attribute_exists", "attribute_not_exists"}:
            self._expect("(")
            name = self._next()
            self._expect(")")
            wanted = first == "attribute_exists"
            return lambda item, placeholders: (placeholders.names[name] in item) is wanted
        if first == "begins_with":
            self._expect("(")
            left = self._next()
            self._expect(",")
            right = self._next()
            self._expect(")")
            return _comparing(left, right, _begins_with)
        operator = self._next()
        if operator not in {"=", "<"}:
            raise UnknownExpressionError(operator)
        return _comparing(first, self._next(), _equal if operator == "=" else _less)

    def _next(self) -> str:
        if not self.tokens:
            raise aws_error("ValidationException")
        return self.tokens.pop(0)

    def _take(self, token: str) -> bool:
        if self.tokens[:1] != [token]:
            return False
        self.tokens.pop(0)
        return True

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise aws_error("ValidationException")


def _either(left: Test, right: Test) -> Test:
    return lambda item, placeholders: left(item, placeholders) or right(item, placeholders)


def _both(left: Test, right: Test) -> Test:
    return lambda item, placeholders: left(item, placeholders) and right(item, placeholders)


def _comparing(left: str, right: str, compare: Callable[[Attribute, Attribute], bool]) -> Test:
    def operand(token: str, item: Item, placeholders: Placeholders) -> Attribute | None:
        if token[0] == "#":
            return item.get(placeholders.names[token])
        if token[0] == ":":
            return placeholders.values[token]
        raise UnknownExpressionError(token)

    def test(item: Item, placeholders: Placeholders) -> bool:
        a, b = operand(left, item, placeholders), operand(right, item, placeholders)
        # A missing attribute and another type make every comparison false, never an error.
        return a is not None and b is not None and set(a) == set(b) and compare(a, b)

    return test


def _equal(left: Attribute, right: Attribute) -> bool:
    return Decimal(left["N"]) == Decimal(right["N"]) if "N" in left else left == right


def _less(left: Attribute, right: Attribute) -> bool:
    ((kind, a),) = left.items()
    b = right[kind]
    if kind == "N":
        return Decimal(a) < Decimal(b)
    if kind in {"S", "B"}:
        return bool(_bytes(a) < _bytes(b))
    raise aws_error("ValidationException")


def _begins_with(left: Attribute, right: Attribute) -> bool:
    ((kind, text),) = left.items()
    return _bytes(text).startswith(_bytes(right[kind]))


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
