"""One run of the job: a signed call to a broker, all pages, one line, and a failure that reveals nothing."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from functions.campaigns import handler
from functions.campaigns.handler import RunFailed, lambda_handler
from lambda_support.telemetry import new_logger
from local.digishare import faults
from local.digishare.model import PersonalAccessToken
from local.digishare.tokens import token_id
from tests.client.fake_broker import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, FakeBroker, failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.fake_digishare import FakeDigishare

EVENT = {"schedule": "stack-campaigns", "scheduled_time": "2026-07-06T12:00:00Z"}
FIRST, SECOND = "canary-token-1", "canary-token-2"


class Context:
    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as running:
        yield running


@pytest.fixture
def run(
    broker: FakeBroker,
    digishare: FakeDigishare,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., dict[str, Any]]]:
    digishare.set_personal_access_tokens([PersonalAccessToken(FIRST), PersonalAccessToken(SECOND)])
    for name, value in {
        "TOKEN_BROKER_URL": broker.url,
        "DIGISHARE_BASE_URL": f"{digishare.url}/v1/",
        "UPSTREAM_CA_FILE": str(digishare.ca_file),
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    }.items():
        monkeypatch.setenv(name, value)
    handler._job.cache_clear()

    def run_once(event: object = EVENT) -> dict[str, Any]:
        for output in new_logger(handler.SERVICE).handlers:
            monkeypatch.setattr(
                output, "stream", sys.stdout
            )  # this test's: loggers live as long as the process
        return lambda_handler(event, Context())  # type: ignore[arg-type] # all that the handler reads

    yield run_once
    handler._job.cache_clear()


def test_run_writes_one_line_and_returns_the_same(
    run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    report = run()

    assert (report["campaigns"], report["pages"], report["is_complete"]) == (250, 3, True)
    assert report["by_status"] == {"planned": 100, "running": 50, "done": 50, "cancelled": 50}
    assert report["by_channel"] == {"mail": 25, "sms": 75, "telegram": 75, "whatsapp": 75}
    assert report["token_id"] == token_id(FIRST)
    assert (report["request_id"], report["scheduled_time"]) == ("request-1", "2026-07-06T12:00:00Z")
    assert report["schedule"] == "stack-campaigns"
    assert json.loads(json.dumps(report)) == report
    [line] = capsys.readouterr().out.splitlines()
    written = json.loads(line)
    assert {name: written[name] for name in report} == report
    assert (written["Campaigns"], written["Pages"], written["IncompleteRuns"]) == ([250], [3], [0])
    assert written["Duration"] == [report["duration_ms"]]
    assert (written["Status.planned"], written["Channel.sms"]) == ([100], [75])
    assert "canary" not in line


def test_what_the_upstream_sends_does_not_become_any_number_of_metrics(
    run: Callable[..., dict[str, Any]],
    digishare: FakeDigishare,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = [*(f"status_{chr(97 + n)}" for n in range(15)), "with space", "x" * 40]
    page = {"data": [{"status": label, "channel": "sms"} for label in labels]}
    digishare.fail("campaigns", faults.json_answer(page))

    report = run()

    written = json.loads(capsys.readouterr().out)
    names = [name for name in written if name.startswith("Status.")]
    assert len(names) == 10
    assert not any(" " in name for name in names)
    assert len(report["by_status"]) == len(labels)


def test_second_run_uses_the_same_lease(run: Callable[..., dict[str, Any]], broker: FakeBroker) -> None:
    run()
    run()

    assert len(broker.calls) == 1


def test_token_that_the_api_refuses_is_reported_to_the_broker(
    run: Callable[..., dict[str, Any]], broker: FakeBroker, digishare: FakeDigishare
) -> None:
    digishare.revoke(token_id(FIRST))

    assert run()["token_id"] == token_id(SECOND)
    assert [call.body.get("rejected_token_id") for call in broker.calls] == [None, token_id(FIRST)]


@pytest.mark.parametrize(
    "event", [{}, None, [], {"scheduled_time": 5}, {"detail": {"secret": "canary"}}], ids=str
)
def test_any_event_starts_a_run(event: object, run: Callable[..., dict[str, Any]]) -> None:
    report = run(event)

    assert (report["campaigns"], report["scheduled_time"]) == (250, None)


def _fail_broker(broker: FakeBroker, _: FakeDigishare) -> None:
    broker.script.append(failure(502, "upstream_rejected"))


def _fail_api(_: FakeBroker, digishare: FakeDigishare) -> None:
    digishare.fail("campaigns", faults.json_answer({"message": "canary-token-1"}, status=422))


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (_fail_broker, "upstream_rejected: said upstream_rejected (request req-1)"),
        (_fail_api, "unexpected_answer: campaigns page 1: HTTP 422"),
    ],
)
def test_failure_logs_one_line_and_raises_the_same_safe_text(
    fail: Callable[[FakeBroker, FakeDigishare], None],
    expected: str,
    run: Callable[..., dict[str, Any]],
    broker: FakeBroker,
    digishare: FakeDigishare,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail(broker, digishare)

    with pytest.raises(RunFailed) as raised:
        run()

    assert str(raised.value) == expected
    assert raised.value.__context__ is None
    [line] = capsys.readouterr().out.splitlines()
    logged = json.loads(line)
    assert (logged["level"], logged["reason"]) == ("ERROR", expected)
    assert (logged["request_id"], logged["scheduled_time"]) == ("request-1", "2026-07-06T12:00:00Z")
    assert "canary" not in line


def test_bug_reveals_its_place_and_not_its_text(
    run: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("canary-token-1")

    monkeypatch.setattr(handler, "new_session", broken)
    with pytest.raises(RunFailed, match=r"^internal_error: ValueError at test_campaigns_handler\.py:\d+$"):
        run()
    assert "canary" not in capsys.readouterr().out


def test_missing_setting_is_named(
    run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOKEN_BROKER_URL")

    with pytest.raises(RunFailed, match="TOKEN_BROKER_URL"):
        run()
