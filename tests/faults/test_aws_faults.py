"""What AWS can do wrong between the SDK and the local cloud, over real sockets: tokens stay in service, none is lost."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import botocore.config
import pytest

from functions.broker import assembly
from functions.broker import handler as broker_handler
from functions.broker.mint_ledger import Outcome
from local.races import broker_credentials, broker_environment
from tests.faults.aws_proxy import AwsFault, AwsProxy
from tests.faults.bench import Operator, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from functions.broker.assembly import Broker
    from local.cloud import LocalCloud

pytestmark = pytest.mark.cloud

SERVICES = ("dynamodb", "kms", "secretsmanager")
READ_TIMEOUT_S = 0.4
KINDS: dict[str, dict[str, Any]] = {
    "throttled": {"kind": "error", "status": 400, "code": "ThrottlingException"},
    "500": {"kind": "error", "status": 500, "code": "InternalServerError"},
    "503": {"kind": "error", "status": 503, "code": "ServiceUnavailable"},
    "denied": {"kind": "error", "status": 400, "code": "AccessDeniedException"},
    "slow beyond the time-out": {"kind": "slow", "delay_s": 2 * READ_TIMEOUT_S},
    "reset": {"kind": "reset"},
    "closed": {"kind": "close"},
    "garbled": {"kind": "garbled"},
    "cut": {"kind": "cut"},
}
UNREADABLE = ("garbled", "cut")
"""The SDK tries again after any other fault, but takes an answer that was cut off for one without members."""
PASSING = {
    **{name: kind for name, kind in KINDS.items() if name not in {"denied", *UNREADABLE}},
    "lost": {"kind": "lost"},
}
STEPS: dict[str, dict[str, Any]] = {
    "read": {"operation": "GetItem"},
    "take the lock": {"operation": "UpdateItem", "containing": ":lock_owner"},
    "read the secret": {"operation": "GetSecretValue"},
    "seal": {"operation": "Encrypt"},
    "write the row": {"operation": "PutItem"},
    "publish": {"operation": "UpdateItem", "containing": ":sealed"},
}


class MovedTime:
    """The `time` module of the broker, moved by hand."""

    sleep = staticmethod(time.sleep)
    perf_counter = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.moved_by_s = 0.0

    def time(self) -> float:
        return time.time() + self.moved_by_s


@dataclass(frozen=True)
class Cloud:
    """Two instances that reach AWS through a proxy, and the world around them."""

    proxy: AwsProxy
    operator: Operator
    clock: MovedTime
    one: Broker
    other: Broker
    local: LocalCloud

    def mints(self) -> int:
        return int(self.local.steer_digishare("GET", "/state")["mint_count"])

    def exchanges(self) -> int:
        """Return how often the token endpoint was asked, with whatever outcome."""
        by_path = self.local.steer_digishare("GET", "/state")["requests_by_path"]
        return int(by_path.get("POST /v1/oauth/token", 0))

    def break_down(self, service: str, kind: str) -> None:
        self.proxy.fail(AwsFault(service=service, **KINDS[kind]))


@pytest.fixture(scope="module")
def whole_cloud(cloud: LocalCloud) -> Iterator[Cloud]:
    clock = MovedTime()
    variables = broker_environment(cloud, broker_credentials(cloud))
    with AwsProxy(cloud.aws_endpoint_url) as proxy, pytest.MonkeyPatch.context() as patch:
        for module in (assembly, broker_handler):
            patch.setattr(module, "time", clock)
        config = botocore.config.Config
        patch.setattr(
            botocore.config,
            "Config",
            lambda **options: config(**{**options, "read_timeout": READ_TIMEOUT_S}),
        )
        # The SDK's pauses between two tries are left out: up to a second each, for nothing that is tested here.
        patch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
        for name, value in {**variables, "AWS_ENDPOINT_URL": proxy.url}.items():
            patch.setenv(name, value)
        one, other = (assembly.assemble(os.environ, broker_handler._audit()) for _ in range(2))
        operator = Operator(
            cloud.client("dynamodb"), cloud.client("secretsmanager"), variables["TOKEN_TABLE"]
        )
        whole = Cloud(proxy, operator, clock, one, other, cloud)
        for broker in (one, other):
            assert ask(broker, operator.new_connection()).status == 200
        yield whole


@pytest.fixture
def aws(whole_cloud: Cloud) -> Iterator[Cloud]:
    yield whole_cloud
    whole_cloud.proxy.recover()
    whole_cloud.local.steer_digishare("DELETE", "/faults")
    whole_cloud.clock.moved_by_s = 0.0


# --- one call goes wrong: the SDK's second try makes up for it --------------------------------------------------------


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("step", STEPS)
def test_one_fault_in_a_mint_goes_unnoticed(aws: Cloud, step: str, kind: str) -> None:
    connection, before = aws.operator.new_connection(), aws.mints()
    aws.proxy.fail(AwsFault(times=1, **STEPS[step], **PASSING[kind]))
    answer = ask(aws.one, connection)

    assert answer.status == 200
    assert answer.took_s < 3  # a lock that is not recognised as one's own would be waited for
    assert aws.mints() == before + 1
    (row,) = aws.operator.rows(connection)
    assert (row.outcome, row.token_id, row.generation) == (Outcome.ISSUED, answer.token_id, 1)
    assert ask(aws.other, connection).token_id == answer.token_id


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("step", STEPS)
def test_one_unreadable_answer_in_a_mint_costs_no_token(aws: Cloud, step: str, kind: str) -> None:
    connection, before = aws.operator.new_connection(), aws.mints()
    aws.proxy.fail(AwsFault(times=1, **STEPS[step], **KINDS[kind]))
    first = ask(aws.one, connection)
    assert first.status == (503 if step == "read the secret" else 200)

    aws.clock.moved_by_s = 61
    answers = [ask(aws.one, connection), ask(aws.other, connection)]
    assert [answer.status for answer in answers] == [200, 200]
    (token_id,) = {answer.token_id for answer in answers}
    assert first.body.get("token_id") in {None, token_id}
    assert aws.mints() == before + 1
    (outcome,) = {row.outcome for row in aws.operator.rows(connection) if row.token_id == token_id}
    assert outcome is Outcome.ISSUED


# --- a service is away -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("service", SERVICES)
def test_a_soft_token_stays_in_service(aws: Cloud, service: str, kind: str) -> None:
    connection = aws.operator.new_connection()
    old = ask(aws.one, connection).token_id
    aws.operator.leave(connection, 170)
    before = aws.mints()
    aws.clock.moved_by_s = 61  # past the time for which memory is trusted unchecked
    aws.break_down(service, kind)
    answers = [ask(aws.one, connection) for _ in range(3)]

    assert [(answer.status, answer.token_id) for answer in answers] == [(200, old)] * 3
    assert answers[0].took_s < 2.5
    assert max(answer.took_s for answer in answers[1:]) < 0.5
    assert aws.mints() == before
    if service != "secretsmanager":
        aws.proxy.recover()
        aws.clock.moved_by_s = 125  # 45 s are left
        assert ask(aws.one, connection).token_id != old
        assert aws.mints() == before + 1


@pytest.mark.parametrize("service", ["dynamodb", "kms"])
def test_nothing_is_minted_past_a_table_or_key_that_is_only_busy(aws: Cloud, service: str) -> None:
    """A fleet that starts all at once throttles the item: it must not end with a token for every instance."""
    connection, before = aws.operator.new_connection(), aws.mints()
    aws.break_down(service, "throttled")
    answer = ask(aws.one, connection)

    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.took_s < 8
    assert aws.mints() == before

    aws.proxy.recover()
    assert ask(aws.one, connection).status == 200
    assert aws.mints() == before + 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "throttled"])
@pytest.mark.parametrize("service", ["dynamodb", "kms"])
def test_without_table_or_key_a_token_is_minted_alone_and_published_once_they_are_back(
    aws: Cloud, service: str, kind: str
) -> None:
    connection, before = aws.operator.new_connection(), aws.mints()
    aws.break_down(service, kind)
    answers = [ask(aws.one, connection) for _ in range(3)]

    assert {answer.status for answer in answers} == {200}
    (token_id,) = {answer.token_id for answer in answers}
    assert aws.mints() == before + 1
    rows = [row.token_id for row in aws.operator.rows(connection)]
    assert rows == [token_id] or (service == "dynamodb" and rows == [])

    aws.proxy.recover()
    aws.clock.moved_by_s = 61
    assert ask(aws.one, connection).token_id == token_id
    assert ask(aws.other, connection).token_id == token_id
    assert aws.mints() == before + 1
    (row,) = aws.operator.rows(connection)
    assert (row.outcome, row.token_id, row.generation) == (Outcome.ISSUED, token_id, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_secret_there_is_no_token_and_nobody_asks_the_upstream(aws: Cloud, kind: str) -> None:
    connection, before = aws.operator.new_connection(), aws.mints()
    aws.break_down("secretsmanager", kind)
    answers = [ask(aws.one, connection) for _ in range(2)]

    for answer in answers:
        assert (answer.status, answer.body["error"]) == (503, "temporarily_unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert "access_token" not in answer.body
    assert aws.mints() == before
    assert aws.operator.rows(connection) == []
    failure = aws.operator.record(connection).failure
    assert failure is not None
    assert failure.code == "secret_store_unavailable"

    aws.proxy.recover()
    aws.clock.moved_by_s = 5
    assert ask(aws.one, connection).status == 200


# --- at most one direct mint a minute and instance; none is lost -------------------------------------------------------


@pytest.mark.parametrize("service", ["dynamodb", "kms"])
def test_one_direct_mint_a_minute_and_instance(aws: Cloud, service: str) -> None:
    """Tokens live for 20 s here, so that each is soon of no use."""
    connection, before = aws.operator.new_connection(), aws.exchanges()
    body = {"token_type": "Bearer", "access_token": "opaque-token", "expires_in": 20}
    fault = {"target": "token", "kind": "json_answer", "body": body, "times": None}
    aws.local.steer_digishare("POST", "/faults", fault)
    aws.break_down(service, "500")
    for minute in range(3):
        for broker in (aws.one, aws.other):
            aws.clock.moved_by_s = 61.0 * minute
            assert ask(broker, connection).status == 200
            aws.clock.moved_by_s += 25
            refused = ask(broker, connection)
            assert (refused.status, refused.body["error"]) == (503, "temporarily_unavailable")
            assert 30 <= int(refused.headers["Retry-After"]) <= 36
        assert aws.exchanges() == before + 2 * (minute + 1)


def test_an_upstream_that_is_down_too_is_asked_once_a_minute(aws: Cloud) -> None:
    connection = aws.operator.new_connection()
    aws.break_down("dynamodb", "reset")
    aws.local.steer_digishare("POST", "/faults", {"target": "token", "kind": "status", "times": None})
    asked = []
    for minute in range(2):
        aws.clock.moved_by_s = 61.0 * minute
        before = aws.exchanges()
        answers = [ask(aws.one, connection) for _ in range(3)]
        asked.append(aws.exchanges() - before)
        assert [answer.status for answer in answers] == [503] * 3
        assert all(55 <= int(answer.headers["Retry-After"]) <= 60 for answer in answers)

    assert asked == [1, 1]


def test_a_direct_token_that_another_has_overtaken_is_an_orphan_in_the_ledger(aws: Cloud) -> None:
    connection = aws.operator.new_connection()
    aws.break_down("dynamodb", "500")
    direct = ask(aws.one, connection).token_id
    aws.proxy.recover()
    published = ask(aws.other, connection).token_id
    aws.clock.moved_by_s = 61
    assert ask(aws.one, connection).token_id == published

    rows = {row.token_id: row.outcome for row in aws.operator.rows(connection)}
    assert rows == {direct: Outcome.ORPHAN, published: Outcome.ISSUED}


def test_a_direct_mint_is_announced_before_and_after_the_exchange(
    aws: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    """Until the table is back, these lines are the only account of the token."""
    connection = aws.operator.new_connection()
    aws.break_down("dynamodb", "closed")
    token_id = ask(aws.one, connection).token_id

    announced = [record for record in caplog.records if record.message.startswith("DirectMint")]
    assert [record.message for record in announced] == ["DirectMintBegun", "DirectMint"]
    assert {vars(record)["connection"] for record in announced} == {connection}
    assert vars(announced[1])["token_id"] == token_id
