"""What the handler makes of requests and of the policy's answers. Fake issuer and store note what they are asked."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from functions.broker import handler
from functions.broker.assembly import Broker
from functions.broker.audit import Audit
from functions.broker.grants import load_grants
from functions.broker.issue_token import Issued
from functions.broker.lifetime import ANSWER_S
from functions.broker.ports import AwsBusyError, AwsRefusedError, AwsUnavailableError
from functions.broker.settings import Settings
from functions.broker.token import Failure, FailureKind, TokenRecord
from tests.conftest import ACCOUNT, LambdaContext, new_event
from tests.unit.odd_events import (
    BODIES,
    BOUNDED,
    JSON_VALUES,
    LONGEST_ANSWER_S,
    PATHS,
    USER_ARN,
    changed,
    event_of,
)
from token_broker.errors import SlowDown, TemporarilyUnavailable, UpstreamRejected
from token_broker.issued_token import ClearToken, Token

if TYPE_CHECKING:
    from pathlib import Path

    from functions.broker.adapters.token_store import TokenStore
    from functions.broker.decide import TokenWanted
    from functions.broker.issue_token import TokenIssuer

NOW = 1_800_000_000.0
TOKEN = Token("0123456789abcdef", NOW - 100, NOW + 10_000, 10_100.0, "read write", "v1")
RULES = [
    {"name": "all", "principals": ["self:role/orders"], "connections": ["digishare", "second"]},
    {"name": "short", "principals": ["self:role/billing"], "connections": ["digishare"], "max_lease_seconds": 120},
    {"name": "long", "principals": ["self:role/reports"], "connections": ["digishare"], "max_lease_seconds": 5000},
    {"name": "pattern", "principals": [f"{ACCOUNT}:user/*"], "connections": ["team-*", "digishare"]},
]  # fmt: skip


@dataclass
class World:
    """What the handler uses, and what it asked for.

    Attributes:
        token: that the issuer has.
        error: that issuer and store raise instead.
        takes_s: how long the issuer takes.
        asked: what the issuer was asked for, with the deadline.
        read: connections that were read from the store.
    """

    now: float = NOW
    token: Token = TOKEN
    error: Exception | None = None
    takes_s: float = 0.0
    asked: list[tuple[TokenWanted, float]] = field(default_factory=list)
    read_names: list[str] = field(default_factory=list)

    def issue(self, wanted: TokenWanted, deadline_epoch_s: float) -> Issued:
        self.asked.append((wanted, deadline_epoch_s))
        self.now += self.takes_s
        if self.error:
            raise self.error
        return Issued(ClearToken(self.token, "T1"), 7, "table")

    def read(self, connection: str) -> TokenRecord:
        self.read_names.append(connection)
        if self.error:
            raise self.error
        failure = Failure("upstream_500", FailureKind.MAY_HAVE_ISSUED, 1, self.now + 60)
        return TokenRecord(connection, failure=failure)


@pytest.fixture
def world(fresh_log: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    world = World()
    file = tmp_path / "grants.json"
    file.write_text(json.dumps({"rules": RULES}))
    settings = Settings("t", "k", "p", frozenset({"h"}), None, "https://h/", 900, "campaigns-role")
    audit = Audit()
    broker = Broker(
        settings,
        load_grants(ACCOUNT, "campaigns-role", file),
        audit,
        cast("TokenStore", world),
        cast("TokenIssuer", world),
    )
    monkeypatch.setattr(handler, "_audit", lambda: audit)
    monkeypatch.setattr(handler, "_broker", lambda: broker)
    monkeypatch.setattr(time, "time", lambda: world.now)
    return world


def ask(context: LambdaContext | None = None, *, role: str = "orders", **changes: Any) -> dict[str, Any]:
    """Return the body of an answer, with its status and `Retry-After`."""
    changes.setdefault("user_arn", f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/session-9")
    answer = handler.lambda_handler(new_event(**changes), cast("Any", context or LambdaContext()))
    body: dict[str, Any] = json.loads(answer["body"])
    return body | {"status": answer["statusCode"], "retry_after": answer["headers"].get("Retry-After")}


def status(connection: str | None = None, **changes: Any) -> dict[str, Any]:
    query = None if connection is None else {"connection": connection}
    return ask(path="/status", method="GET", query=query, **changes)


def audited(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (line,) = [line for line in lines if "_aws" in line]
    return cast("dict[str, Any]", line)


# --- what the policy is asked for -------------------------------------------------------------------------------------


def test_the_policy_is_told_what_the_caller_asked_for_and_who_it_is(world: World) -> None:
    rejected = "fedcba9876543210"

    ask(body={"connection": "second", "min_ttl": 77, "rejected_token_id": rejected})

    ((wanted, _),) = world.asked
    assert (wanted.connection, wanted.min_ttl_s, wanted.rejected_token_id) == ("second", 77, rejected)
    # Account and role: a caller must not get a new share by choosing another session name.
    assert wanted.caller == f"{ACCOUNT}:role/orders"


@pytest.mark.parametrize("remaining_ms", [31_000, 9_000])
def test_the_deadline_leaves_time_to_answer(world: World, remaining_ms: int) -> None:
    ask(LambdaContext(remaining_ms=remaining_ms))

    ((_, deadline_epoch_s),) = world.asked
    assert deadline_epoch_s - NOW == pytest.approx(remaining_ms / 1000 - ANSWER_S, abs=1e-3)
    assert ANSWER_S > 0


# --- the lease ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "left_s", "lease_s"),
    [
        ("orders", 10_000, 900), ("billing", 10_000, 120), ("reports", 10_000, 900), ("orders", 300.9, 300),
        ("billing", 300, 120), ("billing", 60, 60), ("orders", None, 900), ("billing", None, 120),
        ("orders", 1.0, 1),
    ],
)  # fmt: skip
def test_a_lease_is_the_shortest_of_setting_grant_and_what_is_left_of_the_token(
    world: World, role: str, left_s: float | None, lease_s: int
) -> None:
    world.token = TOKEN._replace(expires_at_epoch_s=None if left_s is None else NOW + left_s)

    assert ask(role=role)["expires_in"] == lease_s


def test_a_lease_is_counted_from_the_answer(world: World) -> None:
    world.token, world.takes_s = TOKEN._replace(expires_at_epoch_s=NOW + 100), 12

    assert ask()["expires_in"] == 88


@pytest.mark.parametrize("left_s", [0.999, 0.0, -5.0])
def test_a_lease_of_less_than_a_second_is_none(world: World, left_s: float) -> None:
    world.token = TOKEN._replace(expires_at_epoch_s=NOW + left_s)

    answer = ask()

    assert (answer["status"], answer["error"], answer["retry_after"]) == (503, "temporarily_unavailable", "1")
    assert "T1" not in json.dumps(answer)


def test_an_answer_has_exactly_these_members(world: World) -> None:
    expected = {
        "access_token": "T1", "token_type": "Bearer", "expires_in": 900, "token_id": "0123456789abcdef",
        "connection": "second", "scope": "read write", "status": 200, "retry_after": None,
    }  # fmt: skip
    assert ask(body={"connection": "second"}) == expected
    world.token = TOKEN._replace(scope=None)
    del expected["scope"]
    assert ask(body={"connection": "second"}) == expected


@pytest.mark.parametrize(
    ("scope", "known", "status"),
    [
        ("read", "read write", 200), ("write read", "read write", 200), ("  ", "read write", 200),
        ("read admin", "read write", 400),
        ("rea", "read write", 400), ("READ", "read write", 400), ("\ud800", "read write", 400),
        ("read", None, 400),
    ],
)  # fmt: skip
def test_a_scope_must_be_part_of_the_tokens(world: World, scope: str, known: str | None, status: int) -> None:
    world.token = TOKEN._replace(scope=known)

    answer = ask(body={"scope": scope})

    assert answer["status"] == status
    assert "access_token" in answer or answer["error"] == "invalid_scope"


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connection", ["second", "team-a", "missing"])
def test_a_connection_without_a_grant_is_refused_before_any_call(world: World, connection: str) -> None:
    for answer in (ask(role="billing", body={"connection": connection}), status(connection, role="billing")):
        assert (answer["status"], answer["error"], answer["retry_after"]) == (403, "access_denied", None)
    assert not world.asked
    assert not world.read_names


@pytest.mark.parametrize(
    "user_arn", [None, "", f"arn:aws:iam::{ACCOUNT}:root", f"arn:aws:sts::{ACCOUNT}:federated-user/x"]
)
def test_one_who_is_no_role_or_user_is_refused(world: World, user_arn: str | None) -> None:
    for answer in (ask(user_arn=user_arn), status(user_arn=user_arn)):
        assert (answer["status"], answer["error"]) == (403, "access_denied")
    assert not world.asked
    assert not world.read_names


def test_self_is_not_the_callers_account(world: World) -> None:
    foreign = "arn:aws:sts::999999999999:assumed-role/orders/session"

    assert ask(user_arn=foreign)["status"] == 403
    assert status(user_arn=foreign)["connections"] == []


# --- status -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connection", "role", "names"),
    [(None, "orders", ["digishare", "second"]), ("second", "orders", ["second"]), (None, "billing", ["digishare"]),
        (None, "nobody", [])],
)  # fmt: skip
def test_the_status_lists_what_is_granted_by_name_or_the_one_asked_for(
    world: World, connection: str | None, role: str, names: list[str]
) -> None:
    answer = status(connection, role=role)

    assert [one["connection"] for one in answer["connections"]] == names == world.read_names


def test_a_connection_granted_by_a_pattern_is_listed_when_asked_for(world: World) -> None:
    user = f"arn:aws:iam::{ACCOUNT}:user/path/ana"

    assert [one["connection"] for one in status(user_arn=user)["connections"]] == ["digishare"]
    assert [one["connection"] for one in status("team-a", user_arn=user)["connections"]] == ["team-a"]


def test_the_status_is_that_of_the_moment(world: World) -> None:
    (described,) = status("second")["connections"]

    assert described["next_attempt_at"] == "2027-01-15T08:01:00+00:00"


@pytest.mark.parametrize(
    ("error", "event", "retry_after"),
    [
        (AwsUnavailableError("ReadTimeoutError"), "AwsUnavailable", "1"),
        (AwsBusyError("ThrottlingException"), "AwsBusy", "1"),
        (AwsRefusedError("AccessDeniedException"), "AwsRefused", "60"),
    ],
)
def test_an_unreadable_status_is_an_event_and_a_503(
    world: World,
    error: Exception,
    event: str,
    retry_after: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    world.error = error

    answer = status("second")

    assert (answer["status"], answer["error"]) == (503, "temporarily_unavailable")
    assert answer["retry_after"] == retry_after
    assert audited(capsys)[event] == [1]
    (record,) = [vars(record) for record in caplog.records]
    assert (record["message"], record["error"], record["request_id"]) == (event, str(error), "request-1")


# --- errors and the account of an answer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (SlowDown("slower", retry_after_s=900), 429, "slow_down", "900"),
        (UpstreamRejected("refused"), 502, "upstream_rejected", None),
        (TemporarilyUnavailable("later", retry_after_s=5), 503, "temporarily_unavailable", "5"),
    ],
)
def test_the_policys_errors_are_told_as_they_are(
    world: World,
    error: Exception,
    status: int,
    code: str,
    retry_after: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world.error = error

    answer = ask()

    assert (answer["status"], answer["error"], answer["retry_after"]) == (status, code, retry_after)
    assert answer["request_id"] == "request-1"
    line = audited(capsys)
    assert (line["outcome"], line["status"], line["source"]) == (code, status, "none")


@pytest.mark.parametrize(
    "error", [AwsUnavailableError("a bug: the policy handles these"), KeyError("canary"), RecursionError()]
)
def test_any_other_error_is_a_bug_with_an_event_and_a_retry_after(
    world: World, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    world.error = error

    answer = ask()

    assert (answer["status"], answer["error"], answer["retry_after"]) == (503, "temporarily_unavailable", "5")
    assert answer["request_id"] == "request-1"
    assert "canary" not in json.dumps(answer)
    line = audited(capsys)
    assert (line["outcome"], line["status"], line["Bug"]) == ("bug", 503, [1])


def test_an_answer_is_accounted_for_by_caller_rule_connection_token_and_lease(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(role="billing")

    line = audited(capsys)
    assert {name: line[name] for name in line if name not in {"_aws", "Duration"}} == {
        "Answers": [1], "outcome": "ok", "source": "table", "service": "broker", "status": 200,
        "request_id": "request-1",
        "caller_account": ACCOUNT, "caller_kind": "role", "caller_name": "billing", "caller_session": "session-9",
        "connection": "digishare", "rule": "short", "token_id": "0123456789abcdef", "generation": 7,
        "lease_seconds": 120,
    }  # fmt: skip
    assert 0 <= line["Duration"][0] < 10_000


def test_an_answer_is_not_accounted_for_with_the_facts_and_events_of_the_one_before(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.error = KeyError("once")
    ask(LambdaContext(aws_request_id="request-1"))
    capsys.readouterr()
    world.error = None

    answer = ask(LambdaContext(aws_request_id="request-2"), path="/nowhere")

    line = audited(capsys)
    assert answer["request_id"] == line["request_id"] == "request-2"
    assert {"Bug", "connection", "caller_name", "token_id"}.isdisjoint(line)
    assert line["outcome"] == "not_found"


def test_a_caller_that_is_refused_is_accounted_for_with_its_name_and_connection(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(role="billing", body={"connection": "second"})

    line = audited(capsys)
    assert (line["caller_name"], line["connection"]) == ("billing", "second")
    assert line["outcome"] == "access_denied"
    assert "rule" not in line


# --- bad input ----------------------------------------------------------------------------------------------------

ODD = settings(BOUNDED, suppress_health_check=[HealthCheck.function_scoped_fixture])
NO_CALLERS = [
    None, [], [1], "text", 5, {}, {"authorizer": [1]}, {"authorizer": {"iam": "x"}},
    {"authorizer": {"iam": {"userArn": 5}}}
]  # fmt: skip


def answer_to(event: object) -> int:
    """Return the status of an answer, having checked that it is one, prompt and short, and no 5xx."""
    started_s = time.perf_counter()
    answer = handler.lambda_handler(cast("dict[str, Any]", event), cast("Any", LambdaContext()))
    assert time.perf_counter() - started_s < LONGEST_ANSWER_S
    assert answer["headers"]["Cache-Control"] == "no-store"
    assert isinstance(json.loads(answer["body"]), dict)
    status = int(answer["statusCode"])
    assert status == 200 or (400 <= status < 500 and len(answer["body"]) < 400), answer
    return status


@pytest.mark.parametrize("value", NO_CALLERS)
@pytest.mark.parametrize(("path", "method"), [("/token", "POST"), ("/status", "GET")])
def test_an_event_without_a_caller_gets_a_4xx(world: World, path: str, method: str, value: Any) -> None:
    event = event_of(path=path, method=method)
    context = {"http": event["requestContext"]["http"], **value} if isinstance(value, dict) else value

    assert answer_to(event | {"requestContext": context}) in {403, 405}


@pytest.mark.parametrize(
    "event", [None, [], "text", 5, {}, {"requestContext": None}, {"rawPath": "/token", "requestContext": [1]}]
)
def test_what_is_no_event_gets_a_4xx(world: World, event: object) -> None:
    assert answer_to(event) >= 400


@ODD
@given(
    changes=st.lists(st.tuples(st.sampled_from(PATHS), JSON_VALUES, st.booleans()), max_size=3),
    body=BODIES,
    content_type=st.sampled_from(
        ["application/json", "application/x-www-form-urlencoded", None, "text/plain"]
    ),
    encoded=st.booleans(),
    path=st.sampled_from(["/token", "/status"]),
)
@example(
    changes=[(("requestContext", "authorizer"), [1], False)],
    body="{}",
    content_type=None,
    encoded=False,
    path="/token",
)
@example(
    changes=[(USER_ARN, f"arn:aws:sts::{ACCOUNT}:assumed-role/orders/\ud800\n", False)],
    body="{}",
    content_type=None,
    encoded=False,
    path="/token",
)
def test_no_event_makes_the_handler_raise_or_answer_5xx(
    world: World,
    changes: list[tuple[tuple[str, ...], object, bool]],
    body: str,
    content_type: str | None,
    path: str,
    *,
    encoded: bool,
) -> None:
    method = "GET" if path == "/status" else "POST"
    event = event_of(body, content_type=content_type, isBase64Encoded=encoded, path=path, method=method)
    for member, value, drop in changes:
        event = changed(event, member, value, drop=drop)

    answer_to(event)


@ODD
@given(JSON_VALUES)
def test_the_handler_answers_anything_at_all(world: World, event: object) -> None:
    assert answer_to(event) >= 400
