"""One invocation: a signed call to a broker, all pages, events, one line; and failures that reveal nothing."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from functions.campaigns import handler
from functions.campaigns.handler import RunFailed, lambda_handler
from lambda_support.telemetry import new_logger
from local.digishare import faults
from local.digishare.contacts import CANARY_NAME, CANARY_PHONE_PREFIX
from local.digishare.model import PersonalAccessToken, Request
from local.digishare.tokens import token_id
from local.fakes.aws import FakeEventBridge
from local.fakes.dynamodb import FakeDynamoDB
from local.fakes.wire import no_connection
from local.samples import ANSWERS, EVENTS, describe
from tests.campaigns.conftest import NEXT_TOKEN, TOKEN, assert_shows_no_canary
from tests.client.conftest import everything_of
from tests.client.fake_broker import REGION, FakeBroker, failure
from tests.conftest import LambdaContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from local.digishare.faults import Fault
    from local.fake_digishare import FakeDigishare

EVENT = {"schedule": "stack-campaigns", "scheduled_time": "2026-07-06T12:00:00Z"}


@dataclass
class World:
    """One instance of the function and what it speaks to."""

    broker: FakeBroker
    digishare: FakeDigishare
    dynamodb: FakeDynamoDB
    eventbridge: FakeEventBridge
    monkeypatch: pytest.MonkeyPatch

    def run(self, event: object = EVENT) -> dict[str, Any]:
        for output in new_logger(handler.SERVICE).handlers:
            # Loggers live as long as the process: this makes them write to this test's output.
            self.monkeypatch.setattr(output, "stream", sys.stdout)
        return lambda_handler(event, LambdaContext(60_000))  # type: ignore[arg-type] # all that the handler reads


@pytest.fixture
def world(digishare: FakeDigishare, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    digishare.set_personal_access_tokens([PersonalAccessToken(TOKEN), PersonalAccessToken(NEXT_TOKEN)])
    monkeypatch.setattr("functions.campaigns.adapters.campaigns_api._FIRST_PAUSE_S", 0.01)
    with FakeBroker() as broker:
        for name, value in {
            **broker.environment,
            "DIGISHARE_BASE_URL": f"{digishare.url}/v1/",
            "UPSTREAM_CA_FILE": str(digishare.ca_file),
            "CAMPAIGNS_TABLE": "campaigns",
            "CAMPAIGNS_EVENT_BUS": "default",
            "AWS_DEFAULT_REGION": REGION,
        }.items():
            monkeypatch.setenv(name, value)
        dynamodb, eventbridge = FakeDynamoDB(table="campaigns", keys=("part",)), FakeEventBridge()
        fakes: dict[str, Any] = {"dynamodb": dynamodb, "events": eventbridge}
        build = handler._job.__wrapped__
        monkeypatch.setattr(handler, "_job", cache(lambda: replace(build(), **fakes)))
        yield World(broker, digishare, dynamodb, eventbridge, monkeypatch)


def test_a_run_writes_one_line_and_returns_the_same(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    report = world.run()

    statuses = list(world.digishare.campaign_statuses.values())
    assert (report["campaigns"], report["total"]) == (250, 250)
    assert (report["is_complete"], report["reason"]) == (True, "")
    assert report["by_status"] == {status: statuses.count(status) for status in set(statuses)}
    assert (report["passes"], report["is_new_snapshot"], report["events"]) == (2, True, 1)
    assert report["token_id"] == token_id(TOKEN)
    assert (report["request_id"], report["schedule"]) == ("request-1", "stack-campaigns")
    assert report["scheduled_time"] == "2026-07-06T12:00:00Z"
    assert json.loads(json.dumps(report)) == report
    [line] = capsys.readouterr().out.splitlines()
    written = json.loads(line)
    assert {name: written[name] for name in report} == report
    assert (written["Campaigns"], written["IncompleteRuns"], written["Changes"]) == ([250], [0], [0])
    assert written["Duration"] == [report["duration_ms"]]
    assert written["Status.planned"] == [statuses.count("planned")]
    assert "canary" not in line


def test_the_number_of_status_metrics_is_bounded(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [*(f"status_{chr(97 + n)}" for n in range(15)), "with space", "x" * 40]
    rows = [{"id": f"id{number}", "status": label} for number, label in enumerate(labels)]
    world.digishare.fail("campaigns", faults.json_answer({"data": rows, "meta": {"total": len(rows)}}))

    report = world.run()

    written = json.loads(capsys.readouterr().out)
    names = [name for name in written if name.startswith("Status.")]
    assert len(names) == 10
    assert not any(" " in name for name in names)
    assert len(report["by_status"]) == len(labels)


def test_a_second_run_uses_the_same_lease(world: World) -> None:
    world.run()
    world.run()

    assert len(world.broker.calls) == 1


def test_a_token_that_the_api_refuses_twice_is_reported_to_the_broker(world: World) -> None:
    world.digishare.revoke(token_id(TOKEN))

    assert world.run()["token_id"] == token_id(NEXT_TOKEN)
    assert [call.body.get("rejected_token_id") for call in world.broker.calls] == [None, token_id(TOKEN)]


def test_one_token_is_replaced_in_a_run_and_no_more(world: World) -> None:
    world.digishare.revoke_all()

    with pytest.raises(RunFailed, match="unauthorized: campaigns page 1: HTTP 401"):
        world.run()
    assert [call.body.get("rejected_token_id") for call in world.broker.calls] == [None, token_id(TOKEN)]


# --- the event ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(EVENTS.glob("campaigns-*.json")), ids=lambda file: file.stem)
def test_every_sample_event_starts_a_run(file: Path, world: World) -> None:
    event = json.loads(file.read_text())

    report = world.run(event)

    assert (report["campaigns"], describe(report)) == (250, ANSWERS[file.stem])
    assert report["schedule"] == event.get("schedule", "by hand")
    assert report["scheduled_time"] == event.get("scheduled_time", report["scheduled_time"])


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (None, "a JSON object is expected"),
        ([], "a JSON object is expected"),
        ({"detail": {"secret": "canary"}}, "'detail' is none of accept_missing, schedule, scheduled_time"),
        ({"accept_mising": True}, "'accept_mising' is none of"),
        ({"accept_missing": "yes"}, "accept_missing must be true or false"),
        ({"schedule": ""}, "schedule must be a name"),
        ({"schedule": 5}, "schedule must be a name"),
        ({"schedule": "x" * 201}, "schedule must be a name"),
        ({"scheduled_time": 5}, "scheduled_time must be a time like"),
        ({"scheduled_time": "<aws.scheduler.scheduled-time>"}, "scheduled_time must be a time like"),
        ({"scheduled_time": "2026-13-01T00:00:00Z"}, "scheduled_time must be a time like"),
        ({"scheduled_time": "2026-07-06T12:00:00+01:00"}, "scheduled_time must be a time like"),
        ({"scheduled_time": "2099-01-01T00:00:00Z"}, "not in the future"),
    ],
    ids=str,
)
def test_a_malformed_event_is_refused_before_any_call(event: object, says: str, world: World) -> None:
    with pytest.raises(RunFailed, match=f"^invalid_event: .*{says}"):
        world.run(event)
    assert not world.digishare.calls
    assert not world.dynamodb.items


def test_a_foreign_list_alarms_until_accepted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    world.digishare.replace_campaigns(40)
    capsys.readouterr()

    with pytest.raises(RunFailed, match="other_campaigns: 250 of 250 campaigns are missing"):
        world.run()
    counted, logged = map(json.loads, capsys.readouterr().out.splitlines())
    assert counted["OtherCampaigns"] == [1]
    assert counted["_aws"]["CloudWatchMetrics"][-1]["Dimensions"] == [["service"]]
    assert (logged["level"], "accept_missing" in logged["reason"]) == ("ERROR", True)

    assert world.run({**EVENT, "accept_missing": True})["missing"] == 250
    assert world.run()["missing"] == 250


# --- failures -----------------------------------------------------------------------------------------------------


def _fail_broker(world: World) -> None:
    world.broker.script.append(failure(502, "upstream_rejected"))


def _fail_api(world: World) -> None:
    world.digishare.fail("campaigns", faults.json_answer({"message": "canary-token-1"}, status=422))


def _fail_table(world: World) -> None:
    world.dynamodb._wire.before = Mock(side_effect=no_connection())


def _be_down(world: World) -> None:
    world.digishare.fail("campaigns", faults.status(503), times=None)
    world.monkeypatch.setattr(handler, "_TIME_TO_WRITE_S", 59.9)


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (_fail_broker, "upstream_rejected: said upstream_rejected (request req-1)"),
        (_fail_api, "unexpected_answer: campaigns page 1: HTTP 422"),
        (_fail_table, "the snapshot could not be read: EndpointConnectionError"),
        (_be_down, "nothing could be read: upstream_unavailable: HTTP 503, and"),
    ],
)
def test_a_failure_logs_one_line_and_raises_the_same_safe_text(
    fail: Callable[[World], None], expected: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(world)

    with pytest.raises(RunFailed) as raised:
        world.run()

    assert str(raised.value).startswith(expected)
    assert raised.value.__context__ is None
    [line] = capsys.readouterr().out.splitlines()
    logged = json.loads(line)
    assert (logged["level"], logged["reason"]) == ("ERROR", str(raised.value))
    assert (logged["request_id"], logged["scheduled_time"]) == ("request-1", "2026-07-06T12:00:00Z")
    assert "canary" not in line
    assert not world.dynamodb.items


def test_unsent_events_fail_a_run_after_its_report(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.eventbridge.refuse = lambda: "InternalFailure"

    with pytest.raises(RunFailed, match="events_not_sent: InternalFailure; the next run"):
        world.run()
    report, logged = map(json.loads, capsys.readouterr().out.splitlines())
    assert (report["campaigns"], report["events"], report["problem"]) == (250, 0, "InternalFailure")
    assert logged["level"] == "ERROR"


def test_a_bug_reveals_its_place_and_not_its_text(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise ValueError("canary-token-1")

    world.monkeypatch.setattr(handler, "new_session", broken)
    with pytest.raises(RunFailed, match=r"^internal_error: ValueError at test_handler\.py:\d+$"):
        world.run()
    assert "canary" not in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["TOKEN_BROKER_URL", "CAMPAIGNS_TABLE", "CAMPAIGNS_EVENT_BUS"])
def test_a_missing_setting_is_named(setting: str, world: World) -> None:
    world.monkeypatch.delenv(setting)

    with pytest.raises(RunFailed, match=setting):
        world.run()


# --- leaks --------------------------------------------------------------------------------------------------------

LEAKY: dict[str, Callable[[], Fault] | None] = {
    "nothing": None,
    "cut": faults.cut_body,
    "truncated": faults.truncated_json,
    "wrong type": faults.wrong_content_type,
    "an error that quotes people": lambda: faults.json_answer(
        {"message": f"{CANARY_PHONE_PREFIX}1234", "errors": {CANARY_NAME: [TOKEN]}}, status=422
    ),
    "people in the wrong places": lambda: faults.json_answer(
        {
            "data": [
                {"id": f"{CANARY_PHONE_PREFIX} 12", "status": {"name": CANARY_NAME}},
                {"id": "a", "title": CANARY_NAME, "contacts_and_data": [CANARY_PHONE_PREFIX]},
            ],
            "meta": {"total": f"{CANARY_PHONE_PREFIX}", "next_cursor": CANARY_NAME},
        }
    ),
    "headers with a token": lambda: faults.status(500, headers={"Retry-After": TOKEN, "X-Name": CANARY_NAME}),
}


@pytest.mark.parametrize("kind", LEAKY)
def test_nothing_of_people_or_tokens_is_logged_stored_told_or_raised(
    kind: str, world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    world.digishare.configure(contacts_per_campaign=20)
    # The API's real answer has these canaries, so that a leak would be seen.
    headers = {"authorization": f"Bearer {TOKEN}", "accept": "application/json"}
    served = world.digishare.answer(Request("GET", "/v1/campaigns", headers, b"")).body.decode()
    assert CANARY_PHONE_PREFIX in served
    assert CANARY_NAME in served
    if fault := LEAKY[kind]:
        world.digishare.fail("campaigns", fault(), times=2)
    raised = ""
    try:
        world.run()
        world.digishare.change_campaigns(change={next(iter(world.digishare.campaign_statuses)): "paused"})
        world.run()
    except RunFailed as error:
        raised = everything_of(error)

    out, err = capfd.readouterr()
    records = [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    stored_and_told = [repr(world.dynamodb.items), repr(world.eventbridge.events)]
    assert_shows_no_canary("\n".join([out, err, raised, *records, *stored_and_told]))
