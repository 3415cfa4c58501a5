"""Who may use which connection: `grants.json`, deployed with the function and reviewed like code.

A rule names principals as `ACCOUNT:role/NAME` or `ACCOUNT:user/NAME`, where ACCOUNT is twelve digits or `self` (the
broker's own account) and NAME may contain `*`. `campaigns` is the role of this stack's campaigns job. Account and role
(or user) name are compared; the session name is not, because the caller chooses it, and the path is not, because an
assumed role's ARN does not contain it. The first rule that names both the principal and the connection decides.
Principals of account 000000000000, the local cloud's, match nobody unless it is the broker's own account.

`python -m functions.broker.grants FILE` checks a file. The build runs it, so that a broken file cannot be deployed.
"""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

GRANTS_FILE = Path(__file__).with_name("grants.json")
CONNECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_LOCAL_ACCOUNT = "000000000000"
_PRINCIPAL = re.compile(r"campaigns|(self|\d{12}):(role|user)/([\w+=,.@*-]{1,128})", re.ASCII)
_CONNECTION_PATTERN = re.compile(r"[A-Za-z0-9_.*-]{1,64}")
_RULE_MEMBERS = {"name", "comment", "principals", "connections", "max_lease_seconds"}
_USER_ARN = re.compile(
    r"arn:[\w-]+:(?:sts::(\d{12}):assumed-role/([\w+=,.@-]{1,64})/(.+)"
    r"|iam::(\d{12}):user/(?:.*/)?([\w+=,.@-]{1,64}))",
    re.ASCII,
)


class GrantsError(Exception):
    """The grants file is broken; the text names file, line and reason."""


class Caller(NamedTuple):
    """Who signed the request, as the Function URL attests it."""

    account: str
    kind: str
    name: str
    session: str

    def __str__(self) -> str:
        return f"{self.account}:{self.kind}/{self.name}"


class Grant(NamedTuple):
    """A decision: the rule that allowed it, and the longest lease in seconds if the rule limits it."""

    rule: str
    max_lease_seconds: int | None


class _Rule(NamedTuple):
    grant: Grant
    principals: re.Pattern[str]
    connections: re.Pattern[str]
    connection_names: tuple[str, ...]


class Grants:
    """The compiled rules."""

    def __init__(self, rules: tuple[_Rule, ...]) -> None:
        self._rules = rules

    def decide(self, caller: Caller, connection: str) -> Grant | None:
        """Return the grant of the first rule that names both, or None."""
        for rule in self._rules_for(caller):
            if rule.connections.fullmatch(connection):
                return rule.grant
        return None

    def connections_of(self, caller: Caller) -> list[str]:
        """Return the connections granted by name; those granted by a pattern cannot be listed."""
        names = {name for rule in self._rules_for(caller) for name in rule.connection_names}
        return sorted(names)

    def _rules_for(self, caller: Caller) -> Iterator[_Rule]:
        principal = str(caller)
        return (rule for rule in self._rules if rule.principals.fullmatch(principal))


def read_caller(user_arn: object) -> Caller | None:
    """Return who a `requestContext.authorizer.iam.userArn` is; None for root, federated users and anything else."""
    match = _USER_ARN.fullmatch(user_arn) if isinstance(user_arn, str) else None
    if match is None:
        return None
    role_account, role, session, user_account, user = match.groups()
    return Caller(role_account, "role", role, session) if role else Caller(user_account, "user", user, "")


def load_grants(own_account: str, campaigns_role: str, file: Path = GRANTS_FILE) -> Grants:
    """Read and compile a grants file.

    Args:
        own_account: twelve digits, which the rules call `self`.
        campaigns_role: name of the role that they call `campaigns`.
        file: what to read.

    Raises:
        GrantsError: it is broken.
    """
    content = file.read_bytes()
    text = content.decode(errors="replace")

    def fail(reason: str, *near: str, line: int | None = None) -> GrantsError:
        return GrantsError(f"{file.name}:{line or _line_of(text, near)}: {reason}")

    value = _parse(content, fail)
    rules = value["rules"] if isinstance(value, dict) and set(value) == {"rules"} else None
    if not isinstance(rules, list) or not rules:
        raise fail('must be an object with one member "rules", a list with at least one rule')
    stack = _Stack(own_account, campaigns_role)
    compiled = tuple(_compile(rule, stack, fail) for rule in rules)
    names = [rule.grant.rule for rule in compiled]
    for name in names:
        if names.count(name) > 1:
            raise fail(f"two rules have the name {name!r}", _quoted(name))
    return Grants(compiled)


def _parse(content: bytes, fail: Any) -> object:
    """Return the value of the file; `fail` as in `_compile`."""

    def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:  # the parser would silently drop all but the last
                raise fail(f"{name!r} appears twice in one object", _quoted(name))
        return dict(pairs)

    try:
        return json.loads(content.decode(), object_pairs_hook=no_duplicates)
    except json.JSONDecodeError as error:
        raise fail(f"not JSON: {error.msg}", line=error.lineno) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise fail("not JSON: not UTF-8", line=line) from None
    except RecursionError:
        raise fail("not JSON: nested too deeply", line=1) from None


class _Stack(NamedTuple):
    """What `self` and `campaigns` stand for in the rules of this deployment."""

    own_account: str
    campaigns_role: str

    def principals(self, texts: list[str]) -> list[str]:
        """Return those of these principals that exist here, each as `ACCOUNT:KIND/NAME`."""
        named = (f"self:role/{self.campaigns_role}" if text == "campaigns" else text for text in texts)
        full = (re.sub("^self:", f"{self.own_account}:", text) for text in named)
        nobody = f"{_LOCAL_ACCOUNT}:" if self.own_account != _LOCAL_ACCOUNT else "-"
        return [text for text in full if not text.startswith(nobody)]


def _compile(rule: Any, stack: _Stack, fail: Any) -> _Rule:
    """Compile one rule; `fail(reason, *near)` makes the error, with the line on which the texts in `near` are."""
    if not isinstance(rule, dict) or not isinstance(rule.get("name"), str) or not rule["name"]:
        raise fail("every rule must be an object with a name")
    name = rule["name"]
    for member in sorted(set(rule) - _RULE_MEMBERS):
        raise fail(f"rule {name!r}: unknown member {member!r}", _quoted(name), _quoted(member))
    principals = _texts(
        rule, "principals", _PRINCIPAL, "ACCOUNT:role/NAME, ACCOUNT:user/NAME or campaigns", fail
    )
    connections = _texts(rule, "connections", _CONNECTION_PATTERN, "a connection's name or a pattern", fail)
    lease = rule.get("max_lease_seconds")
    if lease is not None and (isinstance(lease, bool) or not isinstance(lease, int) or lease < 1):
        raise fail(
            f"rule {name!r}: max_lease_seconds must be a whole number above 0",
            _quoted(name),
            _quoted("max_lease_seconds"),
        )
    return _Rule(
        Grant(name, lease),
        _pattern(stack.principals(principals)),
        _pattern(connections),
        tuple(connection for connection in connections if "*" not in connection),
    )


def _texts(rule: dict[str, Any], member: str, form: re.Pattern[str], meaning: str, fail: Any) -> list[str]:
    values = rule.get(member)
    near = _quoted(rule["name"]), _quoted(member)
    if not isinstance(values, list) or not values:
        raise fail(f"rule {rule['name']!r}: {member} must be a list with at least one entry", *near)
    for text in values:
        if not isinstance(text, str) or not form.fullmatch(text):
            raise fail(f"rule {rule['name']!r}: {text!r} in {member} is not {meaning}", *near, _quoted(text))
    return values


def _pattern(texts: list[str]) -> re.Pattern[str]:
    # fnmatch knows more wildcards than `*`, but the patterns above allow none of them. Its expression never tries a star
    # twice, whereas `.*` for each star would take exponential time for a name that does not match.
    return re.compile("|".join(fnmatch.translate(text) for text in texts), re.ASCII)


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _line_of(text: str, near: tuple[str, ...]) -> int:
    """Return the line of the last of the texts; each is searched for after the one before."""
    at = 0
    for part in near:
        at = max(at, text.find(part, at))
    return text.count("\n", 0, at) + 1


if __name__ == "__main__":
    try:
        load_grants("", "", Path(sys.argv[1]))
    except (GrantsError, OSError, IndexError) as problem:
        sys.exit(f"grants: {problem}")
