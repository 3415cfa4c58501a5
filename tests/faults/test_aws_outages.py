"""AWS unavailable, busy, or refusing, service by service: a usable token is served, and without one nothing is minted.

Each case has an instance of its own. Time-outs, pauses and sockets are real. All cases run at the same time::

    case        all well          | outage                                               | all well again
    token due   got, read as due  | ask, ask again, ask with a report (the token is old) |
    no token                      | ask                                                  | ask
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker.lifetime import ANSWER_S, FUNCTION_TIMEOUT_S
from local.aws_proxy import AwsFault, AwsProxy
from local.instances import Nursery
from tests.faults.instances import ONE_ATTEMPT_S
from tests.races.racing import minted_token_ids, new_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from local.cloud import LocalCloud
    from local.instances import Answer, Instance
    from tests.operator import Operator

pytestmark = pytest.mark.cloud

DEADLINE_S = FUNCTION_TIMEOUT_S - ANSWER_S
BUSY: dict[str, dict[str, Any]] = {
    "throttled": {"kind": "error", "status": 400, "code": "ThrottlingException"}
}
UNAVAILABLE: dict[str, dict[str, Any]] = {
    "500": {"kind": "error", "status": 500, "code": "InternalServerError"},
    "503": {"kind": "error", "status": 503, "code": "ServiceUnavailable"},
    **{kind: {"kind": kind} for kind in ("silent", "reset", "close", "garbled", "cut", "lost")},
}
TAKING_EFFECT = {"garbled", "cut", "lost"}
REFUSED: dict[str, dict[str, Any]] = {
    "denied": {"kind": "error", "status": 400, "code": "AccessDeniedException"},
    "disabled": {"kind": "error", "status": 400, "code": "DisabledException"},
}
KINDS = {**BUSY, **UNAVAILABLE, **REFUSED}
EVENTS = {
    **dict.fromkeys(BUSY, "AwsBusy"),
    **dict.fromkeys(UNAVAILABLE, "AwsUnavailable"),
    **dict.fromkeys(REFUSED, "AwsRefused"),
}
TARGETS: dict[str, dict[str, Any]] = {
    **{service: {"service": service} for service in ("dynamodb", "kms", "secretsmanager")},
    "reads of the item": {"operation": "GetItem"},
    "writes of the item": {"operation": "UpdateItem"},
    "writes of rows": {"operation": "PutItem"},
}
WRITTEN = {("writes of rows", kind) for kind in ("garbled", "cut")}
"""No outage: the row is there, and the status says so. Nothing else is read."""
CASES = [(target, kind) for target in TARGETS for kind in KINDS if (target, kind) not in WRITTEN]
_REFRESH_IN_S = 3.0
_SEVERAL_ATTEMPTS_S = ONE_ATTEMPT_S + 8
"""Instead of the function's 31 s, which would only bring more attempts."""


@dataclass
class Case:
    """An instance, the proxy between it and AWS, and what its callers were answered.

    Attributes:
        with_token, without: connections; the token of the first is due, and `old` its id.
        due: answers to two callers one after the other.
        reported: answer to one that reports that token.
        none, after: answers where there is no token, in the outage and after it.
        spoilt_for_second, spoilt_for_none: calls that went wrong for the second of `due`, and for `none`.
    """

    fault: AwsFault
    instance: Instance
    proxy: AwsProxy
    with_token: str
    without: str
    old: str = ""
    due: list[Answer] = field(default_factory=list)
    spoilt_for_second: int = 0
    reported: Answer | None = None
    none: Answer | None = None
    spoilt_for_none: int = 0
    after: Answer | None = None

    def ask(self, connection: str, rejected_token_id: str | None = None) -> None:
        event = new_event(connection, rejected_token_id=rejected_token_id)
        self.instance.send(event, run_time_s=_SEVERAL_ATTEMPTS_S)

    def prepare(self, operator: Operator) -> None:
        """Make the token that the instance serves due soon, and make the instance read that."""
        self.old = self.instance.receive().body["token_id"]
        operator.leave(self.with_token, 170, _REFRESH_IN_S)
        # A report of some other token is what makes a warm instance look at the table at once.
        self.ask(self.with_token, rejected_token_id="0" * 16)

    def ask_twice(self) -> None:
        self.due.append(self.instance.receive())
        before = self.proxy.spoilt
        self.ask(self.with_token)
        self.due.append(self.instance.receive())
        self.spoilt_for_second = self.proxy.spoilt - before
        self.ask(self.with_token, rejected_token_id=self.old)

    def ask_without(self) -> None:
        self.reported = self.instance.receive()
        self.spoilt_for_none = -self.proxy.spoilt
        self.ask(self.without)

    def recover(self) -> None:
        self.none = self.instance.receive()
        self.spoilt_for_none += self.proxy.spoilt
        self.proxy.recover()


@dataclass(frozen=True)
class Outages:
    """All cases, the ids of the tokens that were minted in the outage, and the events by connection."""

    cases: dict[tuple[str, str], Case]
    minted: list[str]
    events: dict[str, set[str]]


@pytest.fixture(scope="module")
def outages(cloud: LocalCloud, nursery: Nursery, operator: Operator) -> Iterator[Outages]:
    with ExitStack() as cleanup:
        cases = {}
        for target, kind in CASES:
            proxy = cleanup.enter_context(AwsProxy(cloud.aws_endpoint_url))
            (instance,) = nursery.start(1, AWS_ENDPOINT_URL=proxy.origin)
            connections = (operator.new_connection(), operator.new_connection())
            if target == "reads of the item":
                # The answer for no item is `{}`: too short to tell that half of it is missing.
                operator.leave_nothing(connections[1])
            fault = AwsFault(**TARGETS[target], **KINDS[kind])
            cases[target, kind] = Case(fault, instance, proxy, *connections)
            cases[target, kind].ask(connections[0])
        _each(cases, lambda case: case.prepare(operator))
        _each(cases, lambda case: case.instance.receive())
        time.sleep(_REFRESH_IN_S)
        minted_before = minted_token_ids(cloud)
        _each(cases, lambda case: case.proxy.fail(case.fault))
        _each(cases, lambda case: case.ask(case.with_token))
        _each(cases, Case.ask_twice)
        _each(cases, Case.ask_without)
        _each(cases, Case.recover)
        minted = minted_token_ids(cloud)[len(minted_before) :]
        _each(cases, lambda case: case.ask(case.without))
        for case in cases.values():
            case.after = case.instance.receive()
        events: dict[str, set[str]] = {}
        for line in nursery.log_lines():
            events.setdefault(str(line.get("connection")), set()).add(str(line.get("message")))
        yield Outages(cases, minted, events)


def _each(cases: dict[tuple[str, str], Case], step: Callable[[Case], object]) -> None:
    """Take one step in all cases before the next one, so that they wait at the same time."""
    for case in cases.values():
        step(case)


def test_nothing_is_minted_in_any_outage(outages: Outages) -> None:
    assert outages.minted == []


@pytest.mark.parametrize(("target", "kind"), CASES)
def test_a_due_token_is_served_and_slows_one_caller_only(outages: Outages, target: str, kind: str) -> None:
    case = outages.cases[target, kind]

    assert [(answer.status, answer.body["token_id"]) for answer in case.due] == [(200, case.old)] * 2
    assert case.due[0].took_s < DEADLINE_S
    assert case.spoilt_for_second == 0


@pytest.mark.parametrize(("target", "kind"), CASES)
def test_without_a_token_the_caller_is_told_when_to_return(outages: Outages, target: str, kind: str) -> None:
    case = outages.cases[target, kind]
    for answer in (case.reported, case.none):
        assert answer
        assert (answer.status, answer.body["error"]) == (503, "temporarily_unavailable")
        retry_after_s = int(answer.headers["Retry-After"])
        if kind in REFUSED:
            assert retry_after_s == 60
        elif target == "writes of the item" and kind in TAKING_EFFECT:
            assert 1 <= retry_after_s <= 4  # every lost lock is a failure in the item
        else:
            assert retry_after_s == 1
        assert answer.took_s < DEADLINE_S
    assert EVENTS[kind] in outages.events[case.without]


@pytest.mark.parametrize(("target", "kind"), CASES)
def test_a_call_is_repeated_unless_aws_refuses_it(outages: Outages, target: str, kind: str) -> None:
    # A row that could not be written is written once more, as failed: it may be there all the same.
    once = 2 if target == "writes of rows" else 1
    spoilt = outages.cases[target, kind].spoilt_for_none

    assert spoilt == once if kind in REFUSED else spoilt > once


@pytest.mark.parametrize(("target", "kind"), CASES)
def test_one_exchange_follows_recovery(outages: Outages, operator: Operator, target: str, kind: str) -> None:
    case = outages.cases[target, kind]

    assert case.after
    assert case.after.status == 200
    assert operator.issued(case.without) == [case.after.body["token_id"]]


def test_an_exchange_without_its_row_is_noticed(
    cloud: LocalCloud, instance_environment: dict[str, str], operator: Operator, tmp_path: Path
) -> None:
    planted = "tests.races.sabotage:exchange_without_a_row"
    minted_before = minted_token_ids(cloud)
    with (
        AwsProxy(cloud.aws_endpoint_url) as proxy,
        Nursery(instance_environment, tmp_path / "log", sabotage=planted) as careless,
    ):
        proxy.fail(AwsFault(**TARGETS["writes of rows"], **REFUSED["denied"]))
        (instance,) = careless.start(1, AWS_ENDPOINT_URL=proxy.origin)
        instance.send(new_event(operator.new_connection()), run_time_s=ONE_ATTEMPT_S + 1)
        instance.receive()

    assert len(minted_token_ids(cloud)) > len(minted_before)
