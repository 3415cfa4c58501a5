"""Who may use which connection: patterns, the first rule decides, and a broken file names its line."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.broker.grants import Caller, Grant, Grants, GrantsError, load_grants, read_caller
from tests.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Load = Callable[..., Grants]

OWN, OTHER, LOCAL = "111111111111", "222222222222", "000000000000"
BOUNDED = settings(max_examples=100, deadline=None, database=None)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Compile rules, or a whole file's text."""

    def write_and_load(*rules: dict[str, Any], text: str | bytes | None = None) -> Grants:
        file = tmp_path / "grants.json"
        content = json.dumps({"rules": list(rules)}, indent=2) if text is None else text
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_grants(OWN, "campaigns-role", file)

    return write_and_load


def rule(
    principals: str | list[str], connections: str | list[str] = "digishare", **more: Any
) -> dict[str, Any]:
    return {
        "name": "rule",
        "principals": [principals] if isinstance(principals, str) else principals,
        "connections": [connections] if isinstance(connections, str) else connections,
        **more,
    }


def role(name: str, account: str = OWN, session: str = "s") -> Caller:
    return Caller(account, "role", name, session)


def user(name: str, account: str = OWN) -> Caller:
    return Caller(account, "user", name, "")


# --- who is calling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arn", "caller"),
    [
        ("arn:aws:sts::111111111111:assumed-role/orders/session-1", Caller(OWN, "role", "orders", "session-1")),
        ("arn:aws:sts::111111111111:assumed-role/a.b+c=d,e@f-g_h/x@y.z",
            Caller(OWN, "role", "a.b+c=d,e@f-g_h", "x@y.z")),
        ("arn:aws-cn:sts::111111111111:assumed-role/orders/s", Caller(OWN, "role", "orders", "s")),
        ("arn:aws:iam::111111111111:user/ann", Caller(OWN, "user", "ann", "")),
        ("arn:aws:iam::111111111111:user/team/sub/ann", Caller(OWN, "user", "ann", "")),
        ("arn:aws:iam::111111111111:user/ann/bob", Caller(OWN, "user", "bob", "")),
    ],
)  # fmt: skip
def test_caller_is_read_from_the_arn(arn: str, caller: Caller) -> None:
    assert read_caller(arn) == caller


@pytest.mark.parametrize(
    "arn",
    [
        None, 5, [], {}, "", "orders", "arn:aws:iam::111111111111:root",
        "arn:aws:sts::111111111111:federated-user/bob",
        "arn:aws:iam::111111111111:role/orders", "arn:aws:sts::111111111111:assumed-role/orders",
        "arn:aws:sts::11:assumed-role/a/b",
        "arn:aws:sts::111111111111:assumed-role//s", "arn:aws:sts::111111111111:assumed-role/orders/",
        "arn:aws:iam::111111111111:user/", "arn:aws:iam::111111111111:user/team/",
        "arn:aws:iam::111111111111:group/g",
        "arn:aws:sts::\u066111111111111:assumed-role/orders/s", "xarn:aws:sts::111111111111:assumed-role/orders/s",
        "arn:aws:sts::111111111111:assumed-role/ord\ners/s", "arn:aws:sts::111111111111:assumed-role/a*b/s",
        "arn:aws:sts::111111111111:assumed-role/a:b/s", "arn:aws:iam::111111111111:user/an\nn",
        "arn:aws:sts::111111111111:assumed-role/rôle/s",
        "arn:aws:sts::111111111111:assumed-role/" + "a" * 65 + "/s",
    ],
)  # fmt: skip
def test_any_other_arn_is_no_caller(arn: object) -> None:
    assert read_caller(arn) is None


@BOUNDED
@given(st.text(max_size=200) | st.text(alphabet="arn:aws:sts::1/-assumed-roleuseriam", max_size=200))
def test_no_text_breaks_the_reading_of_a_caller(arn: str) -> None:
    read_caller(arn)


def test_a_long_arn_is_read_at_once() -> None:
    started_s = time.perf_counter()
    assert read_caller("arn:aws:iam::111111111111:user" + "/a" * 500_000 + "/") is None
    assert read_caller("arn:aws:sts::111111111111:assumed-role/" + "a" * 10**6) is None
    assert time.perf_counter() - started_s < 1


# --- who may do what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("principal", "caller", "granted"),
    [
        (f"{OWN}:role/orders", role("orders"), True), (f"{OWN}:role/orders", role("orders-2"), False),
        (f"{OWN}:role/orders", role("Orders"), False), (f"{OWN}:role/orders", user("orders"), False),
        (f"{OWN}:role/orders", role("orders", OTHER), False), (f"{OWN}:role/or*", role("orders"), True),
        (f"{OWN}:role/*ers", role("orders"), True), (f"{OWN}:role/o*e*s", role("orders"), True),
        (f"{OWN}:role/o*x*s", role("orders"), False), (f"{OWN}:role/**", role("orders"), True),
        (f"{OWN}:role/a.c", role("abc"), False), (f"{OWN}:role/a+", role("aa"), False),
        (f"{OWN}:role/a+", role("a+"), True),
        ("self:role/*", role("orders"), True), ("self:role/*", role("orders", OTHER), False),
        ("self:role/*", user("orders"), False), ("self:user/ann", user("ann"), True),
        ("self:user/ann", user("ann", OTHER), False), (f"{OTHER}:role/*", role("orders", OTHER), True),
    ],
)  # fmt: skip
def test_principals_are_compared_whole(load: Load, principal: str, caller: Caller, *, granted: bool) -> None:
    decision = load(rule(principal)).decide(caller, "digishare")

    assert decision == (Grant("rule", None) if granted else None)


@pytest.mark.parametrize(
    ("pattern", "connection", "granted"),
    [
        ("digishare", "digishare", True), ("digishare", "digishare2", False), ("digishare", "xdigishare", False),
        ("digi*", "digishare", True), ("*", "anything", True), ("digi.share", "digi-share", False),
        ("*-prod", "a-prod", True),
        ("*-prod", "a-prod-x", False), ("digishare", "digishare\n", False),
    ],
)  # fmt: skip
def test_patterns_match_the_whole_name(load: Load, pattern: str, connection: str, *, granted: bool) -> None:
    decision = load(rule("self:role/*", pattern)).decide(role("a"), connection)

    assert (decision is not None) == granted


def test_the_session_name_decides_nothing(load: Load) -> None:
    grants = load(rule("self:role/orders"))

    assert grants.decide(role("orders", session="admin"), "digishare")
    assert grants.decide(role("other", session="orders"), "digishare") is None
    assert grants.decide(role("other", session="x/orders"), "digishare") is None


def test_the_first_rule_that_names_both_decides(load: Load) -> None:
    grants = load(
        rule("self:role/a", "other", name="first"),
        rule("self:role/a", "digishare", name="second", max_lease_seconds=60),
        rule("self:role/*", "*", name="third"),
    )

    assert grants.decide(role("a"), "digishare") == Grant("second", 60)
    assert grants.decide(role("a"), "other") == Grant("first", None)
    assert grants.decide(role("a"), "more") == Grant("third", None)
    assert grants.decide(role("b"), "digishare") == Grant("third", None)


def test_connections_granted_by_name_are_listed(load: Load) -> None:
    grants = load(
        rule("self:role/a", ["b", "a", "x*"], name="1"),
        rule("self:role/*", ["c", "a"], name="2"),
        rule("self:role/z", "secret", name="3"),
    )

    assert grants.connections_of(role("a")) == ["a", "b", "c"]
    assert grants.connections_of(role("q")) == ["a", "c"]
    assert grants.connections_of(role("q", OTHER)) == []


@BOUNDED
@given(st.text(alphabet="ab*.", min_size=1, max_size=12), st.text(alphabet="ab.", min_size=1, max_size=12))
def test_a_star_matches_any_text_and_nothing_else_is_special(
    tmp_path_factory: pytest.TempPathFactory, pattern: str, name: str
) -> None:
    file = tmp_path_factory.mktemp("grants") / "grants.json"
    file.write_text(json.dumps({"rules": [rule(f"self:role/{pattern}")]}))
    granted = load_grants(OWN, "campaigns-role", file).decide(role(name), "digishare") is not None

    obvious = ".*".join(map(re.escape, pattern.split("*")))
    assert granted == bool(re.fullmatch(obvious, name))


def test_no_pattern_takes_long(load: Load) -> None:
    started_s = time.perf_counter()
    principals = ["self:role/" + "a*" * 50 + "b", "self:role/" + "*" * 100 + "b"]
    nasty = load(rule(principals, ["*-" * 30 + "b", "*" * 63 + "b"]))

    assert nasty.decide(role("a" * 64), "a" * 64) is None
    assert nasty.decide(role("a" * 63 + "b"), "-" * 64) is None
    assert time.perf_counter() - started_s < 0.5


# --- broken files -------------------------------------------------------------------------------------------------

GOOD = rule("self:role/a")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "grants.json:1: not JSON"),
        ('{\n "rules": [\n  {,}\n ]\n}', "grants.json:3: not JSON"),
        ("\ufeff{}", "grants.json:1: not JSON"),
        (b"\xff\xfe{}", "grants.json:1: not JSON"),
        (b'{"rules": \n"\xe9"}', "grants.json:2: not JSON"),
        ("[" * 100_000, "grants.json:1: not JSON"),
        ("[]", 'grants.json:1: must be an object with one member "rules"'),
        ("{}", 'grants.json:1: must be an object with one member "rules"'),
        ('{"rules": []}', "at least one rule"),
        ('{"rules": [1]}', "every rule must be an object with a name"),
        ('{"rules": [1, 1]}', "every rule must be an object with a name"),
        ('{"rules": [{"principals": ["self:role/a"]}]}', "every rule must be an object with a name"),
        ('{\n"rules": [],\n"rules": []}', "appears twice"),
        ('{\n"rules": [{"name": "a", "principals": ["self:role/a"],\n"principals": ["self:role/*"]}]}',
            "'principals' appears twice"),
        (json.dumps({"rules": [GOOD], "more": 1}), 'one member "rules"'),
        (json.dumps({"rules": [GOOD, GOOD]}, indent=1), "two rules have the name 'rule'"),
    ],
)  # fmt: skip
def test_a_broken_file_names_file_line_and_reason(load: Load, text: str | bytes, says: str) -> None:
    with pytest.raises(GrantsError) as broken:
        load(text=text)

    assert says in str(broken.value)
    assert str(broken.value).startswith("grants.json:")


@pytest.mark.parametrize(
    ("changes", "line", "says"),
    [
        ({"principals": []}, 5, "principals must be a list"),
        ({"principals": "self:role/a"}, 5, "principals must be a list"),
        ({"connections": None}, 8, "connections must be a list"),
        ({"principals": ["self:role/a", "*"]}, 7, "'*' in principals is not ACCOUNT:role/NAME"),
        ({"principals": ["*:role/a"]}, 6, "'*:role/a' in principals"),
        ({"principals": ["11111:role/a"]}, 6, "'11111:role/a' in principals"),
        ({"principals": ["self:group/a"]}, 6, "'self:group/a' in principals"),
        ({"principals": ["self:role/a/b"]}, 6, "'self:role/a/b' in principals"),
        ({"principals": ["self:role/"]}, 6, "'self:role/' in principals"),
        ({"principals": ["self:role/rôle"]}, 6, "in principals"),
        ({"principals": [5]}, 6, "5 in principals"),
        ({"connections": ["a/b"]}, 9, "'a/b' in connections is not a connection's name"),
        ({"connections": [""]}, 9, "'' in connections"),
        ({"max_lease_seconds": 0}, 11, "max_lease_seconds must be a whole number above 0"),
        ({"max_lease_seconds": True}, 11, "max_lease_seconds must be"),
        ({"max_lease_seconds": "60"}, 11, "max_lease_seconds must be"),
        ({"max_lease_seconds": 1.5}, 11, "max_lease_seconds must be"),
        ({"principal": ["self:role/*"]}, 11, "unknown member 'principal'"),
    ],
    ids=str,
)  # fmt: skip
def test_a_broken_rule_names_its_line(load: Load, changes: dict[str, Any], line: int, says: str) -> None:
    text = json.dumps({"rules": [GOOD | changes]}, indent=2, ensure_ascii=False)

    with pytest.raises(GrantsError) as broken:
        load(text=text)

    assert says in str(broken.value)
    found = int(str(broken.value).split(":")[1])
    assert found == line, f"{broken.value}\n{text}"


def test_the_deployed_file_is_sound() -> None:
    grants = load_grants(OWN, "campaigns-role")

    assert grants.decide(role("campaigns-role"), "digishare")
    names = ("campaigns-role-2", "orders", "local-orders")
    for stranger in (
        role("campaigns-role", OTHER), user("campaigns-role"), *map(role, names), role("local-orders", LOCAL)
    ):  # fmt: skip
        assert grants.decide(stranger, "digishare") is None
    assert grants.decide(role("campaigns-role"), "other") is None


def test_the_local_clouds_account_counts_only_where_it_is_the_brokers(tmp_path: Path) -> None:
    file = tmp_path / "grants.json"
    file.write_text(json.dumps({"rules": [rule([f"{LOCAL}:role/local-*", f"{OTHER}:role/a"])]}))
    at_home, elsewhere = (load_grants(account, "campaigns-role", file) for account in (LOCAL, OWN))

    assert at_home.decide(role("local-a", LOCAL), "digishare")
    assert elsewhere.decide(role("local-a", LOCAL), "digishare") is None
    assert elsewhere.decide(role("a", OTHER), "digishare")
    assert elsewhere.decide(role("local-a", OWN), "digishare") is None


def test_the_principal_campaigns_is_one_role_of_the_brokers_account(load: Load) -> None:
    grants = load(rule(["campaigns", "self:role/campaigns"]))

    assert grants.decide(role("campaigns-role"), "digishare")
    assert grants.decide(role("campaigns"), "digishare")
    for stranger in (role("campaigns-role", OTHER), user("campaigns-role"), role("my-campaigns-role")):
        assert grants.decide(stranger, "digishare") is None


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [(json.dumps({"rules": [GOOD]}), 0, ""), ("{", 1, "grants: grants.json:1: not JSON")],
)
def test_the_builds_check_refuses_a_broken_file(tmp_path: Path, text: str, code: int, says: str) -> None:
    file = tmp_path / "grants.json"
    file.write_text(text)

    check = run_program(sys.executable, "-m", "functions.broker.grants", file)

    assert (check.returncode, check.stderr.strip()[: len(says)]) == (code, says)
