"""`token`, `exec`, `get` and `status`, against a broker and an API of the tests' own."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from tests.cli.conftest import PROGRAM
from tests.client.fake_broker import Answer, token_id

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.client.fake_api import FakeApi
    from tests.client.fake_broker import FakeBroker
    from tests.conftest import Account


def test_header_is_what_curl_reads(run: Run, broker: FakeBroker) -> None:
    assert run("token", "--header").out == f"Authorization: Bearer {broker.token}\n"


def test_json_has_all_that_is_known_of_a_lease(run: Run, broker: FakeBroker) -> None:
    lease = run("token", "--json", "--connection", "marketing").value

    assert lease["access_token"] == broker.token
    assert lease["token_id"] == token_id(broker.token)
    assert lease["connection"] == "marketing"
    assert 895 <= lease["expires_in"] <= 900
    assert lease["expires_at"].endswith("+00:00")


def test_a_rejection_is_passed_on(run: Run, broker: FakeBroker) -> None:
    first = broker.token_id
    ended = run("token", "--rejected", first, "--json")

    assert broker.calls[0].body["rejected_token_id"] == first
    assert ended.value["token_id"] != first
    assert ended.err == ""


def test_a_token_that_is_too_young_to_be_replaced_is_given_with_a_note(run: Run, broker: FakeBroker) -> None:
    broker.replaces_rejected = False

    ended = run("token", "--rejected", broker.token_id)

    assert ended.out == f"{broker.token}\n"
    assert "too young" in ended.err


def test_exec_becomes_the_command(broker: FakeBroker) -> None:
    command = [*PROGRAM, "exec", "--", "sh", "-c", "echo $$"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:  # noqa: S603 - our own program
        assert int(running.communicate(timeout=30)[0]) == running.pid


def test_exec_runs_nothing_without_a_token(run: Run, broker: FakeBroker, tmp_path: Path) -> None:
    broker.script.append(Answer(403, b'{"error":"access_denied"}'))

    assert run("exec", "--", "touch", str(tmp_path / "ran")).exit_code == 3
    assert not (tmp_path / "ran").exists()


def test_status_is_a_table_for_people_and_the_answer_for_programs(run: Run, broker: FakeBroker) -> None:
    row = {"connection": "digishare", "state": "fresh", "token_id": "0123456789abcdef", "exchanges_left": 22}
    answer = Answer(200, json.dumps({"connections": [row]}).encode())
    broker.script.extend([answer, answer])

    heading, line = run("status").out.splitlines()
    assert heading.split()[:2] == ["CONNECTION", "STATE"]
    assert line.split()[:3] == ["digishare", "fresh", "0123456789abcdef"]
    assert line.split()[-1] == "22"
    assert run("status", "--json").value == {"connections": [row]}


def test_status_asks_for_one_connection_only_if_told(run: Run, broker: FakeBroker) -> None:
    run("status")
    run("status", "--connection", "marketing")

    assert [call.query for call in broker.calls] == [{}, {"connection": "marketing"}]


def test_the_doctor_warns_of_a_secret_that_the_upstream_refuses_although_there_is_a_token(
    run: Run, account: Account, broker: FakeBroker
) -> None:
    lease = {"access_token": broker.token, "token_type": "Bearer", "expires_in": 900}
    lease |= {"token_id": broker.token_id, "connection": "digishare"}
    row = {"connection": "digishare", "state": "fresh", "last_error": "current_secret_refused"}
    broker.script.extend(Answer(200, json.dumps(told).encode()) for told in (lease, {"connections": [row]}))

    findings = run("doctor", "--json").value["findings"]

    (upstream,) = (finding for finding in findings if finding["topic"] == "upstream")
    assert upstream["verdict"] == "caution"
    assert "the upstream refuses the current secret" in upstream["text"]
    assert "its token is fresh" in upstream["text"]


def test_get_prints_the_apis_answer(run: Run, broker: FakeBroker, api: FakeApi) -> None:
    ended = run("get", "/campaigns?page=2")

    assert (ended.exit_code, ended.value) == (0, {"status": 200})
    assert [(seen.path, seen.bearer) for seen in api.seen] == [("/v1/campaigns?page=2", broker.token)]


def test_get_reports_a_refused_token_and_repeats_once(run: Run, broker: FakeBroker, api: FakeApi) -> None:
    old, old_id = broker.token, broker.token_id
    api.refused.add(old)

    ended = run("get", "campaigns")

    assert (ended.exit_code, ended.value) == (0, {"status": 200})
    assert broker.calls[1].body["rejected_token_id"] == old_id
    assert [seen.bearer for seen in api.seen] == [old, broker.token]
    assert old_id in ended.err


def test_get_does_not_repeat_with_the_same_token(run: Run, broker: FakeBroker, api: FakeApi) -> None:
    broker.replaces_rejected = False
    api.refused.add(broker.token)

    ended = run("get", "/campaigns")

    assert ended.exit_code == 5
    assert len(api.seen) == 1


def test_get_reports_no_token_at_403(run: Run, broker: FakeBroker, api: FakeApi) -> None:
    ended = run("get", "/forbidden", "--base-url", api.url(""))

    assert (ended.exit_code, len(broker.calls)) == (3, 1)
    assert ended.value == {"status": 403}


def test_get_follows_no_redirect(run: Run, broker: FakeBroker, api: FakeApi) -> None:
    elsewhere = api.url("/stolen", host="127.0.0.1").replace("/", "%2F")

    ended = run("get", f"/redirect/302/{elsewhere}", "--base-url", api.url(""))

    assert ended.exit_code == 1
    assert [seen.path.split("/")[1] for seen in api.seen] == ["redirect"]


def test_get_says_when_the_api_cannot_be_reached(run: Run, broker: FakeBroker) -> None:
    ended = run("get", "/campaigns", "--base-url", "http://127.0.0.1:9")

    assert ended.exit_code == 4
    assert "failed while connecting" in ended.err
    assert broker.token not in ended.err
