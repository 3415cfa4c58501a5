"""The broker is assembled from its settings, with clients that time out soon and repeat nothing."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore.exceptions import DataNotFoundError

from functions.broker.adapters.token_store import TokenStore
from functions.broker.assembly import Clients, assemble, assemble_policy, new_session
from functions.broker.audit import Audit
from functions.broker.decide import TokenWanted
from functions.broker.ports import Ports
from functions.broker.settings import Settings, SettingsError
from functions.broker.token import Lock, TokenRecord
from local.fakes.aws import FakeKMS
from local.fakes.dynamodb import FakeDynamoDB
from token_broker.issued_token import Token, token_id_of

if TYPE_CHECKING:
    from functions.broker.assembly import Broker
    from functions.broker.issue_token import TokenIssuer

KEY_ARN = "arn:aws:kms:eu-west-3:123456789012:key/1"
ENVIRONMENT = {
    "TOKEN_TABLE": "the-table",
    "TOKEN_KEY_ARN": KEY_ARN,
    "SECRET_PREFIX": "the/prefix",
    "UPSTREAM_HOSTS": "api.digishare.ma",
    "UPSTREAM_CA_FILE": "/opt/ca.pem",
    "DEFAULT_TOKEN_URL": "https://api.digishare.ma/v1/oauth/token",
    "LEASE_SECONDS": "600",
    "CAMPAIGNS_ROLE": "campaigns-role",
}


class WatchedSession:
    """A session of the broker's own kind that remembers the clients it has made."""

    def __init__(self) -> None:
        self._session = new_session()
        self.clients: dict[str, Any] = {}

    def create_client(self, name: str, **options: Any) -> Any:
        self.clients[name] = self._session.create_client(name, **options)
        return self.clients[name]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> WatchedSession:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    return WatchedSession()


@pytest.fixture
def audit() -> Audit:
    return Audit()


@pytest.fixture
def broker(session: WatchedSession, audit: Audit) -> Broker:
    return assemble(ENVIRONMENT, audit, session)  # type: ignore[arg-type] # makes clients, as a session does


def test_a_start_makes_the_clients_of_table_and_key_alone(broker: Broker, session: WatchedSession) -> None:
    assert set(session.clients) == {"dynamodb", "kms"}


def test_every_client_gives_up_in_time_and_repeats_nothing(broker: Broker, session: WatchedSession) -> None:
    broker.issuer.replacer()

    assert set(session.clients) == {"dynamodb", "kms", "secretsmanager"}
    for client in session.clients.values():
        config = client.meta.config
        assert (config.connect_timeout, config.read_timeout) == (1.0, 1.5)
        assert config.retries["total_max_attempts"] == 1


def test_what_the_environment_says_reaches_the_part_that_needs_it(broker: Broker) -> None:
    replacer = broker.issuer.replacer()
    store, ledger, secrets, exchange = broker.store, replacer.ledger, replacer.secrets, replacer.exchange

    assert (store._table, store._key_arn, ledger._table) == ("the-table", KEY_ARN, "the-table")
    assert (secrets._prefix, secrets._default_token_url) == ("the/prefix", ENVIRONMENT["DEFAULT_TOKEN_URL"])
    assert exchange._allowed_hosts == {"api.digishare.ma"}
    assert (exchange._ca_file, exchange._clock) == ("/opt/ca.pem", time.time)
    assert broker.issuer.longest_lease_s == broker.settings.lease_seconds == 600


def test_policy_and_handler_share_one_store_and_one_replacer_with_the_same_ports(broker: Broker) -> None:
    issuer = broker.issuer

    assert issuer.store is issuer.replacer().store is broker.store
    assert issuer.replacer() is issuer.replacer()
    assert issuer.ports is issuer.replacer().ports


def test_time_chance_and_events_are_the_real_ones(broker: Broker, audit: Audit) -> None:
    ports = broker.issuer.ports

    assert (ports.clock, ports.monotonic, ports.sleep) == (time.time, time.monotonic, time.sleep)
    assert ports.notice == audit.notice
    assert len({ports.new_id() for _ in range(1000)}) == 1000
    # A generator with its own state would give all instances of one snapshot the same numbers.
    assert isinstance(getattr(ports.randomness, "__self__", None), random.SystemRandom)


def test_without_a_session_the_sdks_usual_one_is_used(monkeypatch: pytest.MonkeyPatch, audit: Audit) -> None:
    made = WatchedSession()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    monkeypatch.setattr(botocore.session, "get_session", lambda: made)

    assemble(ENVIRONMENT, audit)

    assert set(made.clients) == {"dynamodb", "kms"}


def test_incomplete_settings_make_no_client(session: WatchedSession, audit: Audit) -> None:
    with pytest.raises(SettingsError):
        assemble({}, audit, session)  # type: ignore[arg-type] # as above
    assert not session.clients


def test_the_loggers_that_print_secrets_are_silent_before_the_first_line_is_logged() -> None:
    loggers = [logging.getLogger(name) for name in ("boto3", "botocore", "urllib3", "requests")]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)

    Audit()

    assert [logger.level for logger in loggers] == [logging.WARNING] * 4


def issuer_that_fails(
    dynamodb: Any, kms: Any, audit: Audit, error: Exception
) -> tuple[TokenIssuer, list[Exception]]:
    """Return a policy that cannot get what an exchange needs, and the list of the errors it got."""
    made: list[Exception] = []

    def make() -> Any:
        made.append(error)
        raise error

    means = (time.time, time.monotonic, time.sleep, random.random, lambda: "me")
    ports = Ports(*means, audit.notice, audit.notice_bug)
    clients = Clients(dynamodb, kms, make, make)
    return assemble_policy(Settings.from_environment(ENVIRONMENT), clients, ports), made


@pytest.mark.parametrize(
    ("error", "event"),
    [(DataNotFoundError(data_path="secretsmanager"), "AwsRefused"), (RuntimeError("canary-secret"), "Bug")],
)
def test_whatever_fails_before_an_exchange_leaves_a_due_token_in_service(
    error: Exception, event: str, audit: Audit, fresh_log: None, capsys: pytest.CaptureFixture[str]
) -> None:
    dynamodb: Any = FakeDynamoDB(table="the-table")
    kms: Any = FakeKMS(key_arn=KEY_ARN)
    store, now = TokenStore(dynamodb, kms, table="the-table", key_arn=KEY_ARN), time.time()
    token = Token(token_id_of("T1"), now - 1_000, now + 10, 1_010.0, None, "v1")
    seen = TokenRecord("digishare")
    locked = store.write(seen, seen._replace(fence=1, lock=Lock("somebody", now)))
    assert locked
    store.write(locked, TokenRecord("digishare", store.seal("digishare", 1, token, "T1"), 1, 1))
    issuer, made = issuer_that_fails(dynamodb, kms, audit, error)

    answers = [issuer.issue(TokenWanted("digishare"), now + 30.4) for _ in range(3)]
    assert [(issued.clear.access_token, issued.source) for issued in answers] == [
        ("T1", "table"), ("T1", "memory"), ("T1", "memory")
    ]  # fmt: skip
    assert made == [error]  # for a minute it is not tried again
    out = "".join(capsys.readouterr())
    assert f'"{event}"' in out
    assert "canary" not in out


def test_an_unforeseen_error_without_a_usable_token_is_one_of_the_request(audit: Audit) -> None:
    fakes = (FakeDynamoDB(table="the-table"), FakeKMS(key_arn=KEY_ARN))
    issuer, _ = issuer_that_fails(*fakes, audit, RuntimeError())

    with pytest.raises(RuntimeError):
        issuer.issue(TokenWanted("digishare"), time.time() + 30.4)
