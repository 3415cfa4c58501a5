"""How a call is signed and sent, and which error each answer and each missing setting becomes."""

from __future__ import annotations

import json
import logging
import ssl
import threading
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
import trustme

import token_broker
from tests.client.conftest import everything_of, session_with
from tests.client.fake_broker import (
    ACCESS_KEY_ID,
    REGION,
    SECRET_ACCESS_KEY,
    Answer,
    FakeBroker,
    aws_refusal,
    failure,
)
from tests.client.forks import forks, in_child
from token_broker import bounded_http, errors
from token_broker.client import BrokerClient
from token_broker.lease import Lease
from token_broker.sdk_settings import region_of_url

if TYPE_CHECKING:
    import botocore.session

    from tests.client.conftest import Clock, NewClient

OTHER_URL = "https://broker.test/"
FUNCTION_URL = "https://abc123.lambda-url.eu-west-3.on.aws/"


# --- settings -----------------------------------------------------------------------------------------------------


def test_the_environment_has_url_and_connection(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**broker.environment, "TOKEN_BROKER_CONNECTION": "other"}.items():
        monkeypatch.setenv(name, value)

    assert token_broker.BrokerClient().token().connection == "other"
    assert broker.calls[0].body == {"connection": "other"}


def test_missing_url_says_what_to_set() -> None:
    with pytest.raises(errors.NotConfigured, match="TOKEN_BROKER_URL"):
        BrokerClient()


@pytest.mark.parametrize(
    "url",
    [
        "abc123.lambda-url.eu-west-3.on.aws",
        "ftp://abc123.lambda-url.eu-west-3.on.aws",
        "https://",
        "https://host:port/",
        "https://user:canary-password@host/",
        "https://host/?query=1",
        "https://host/#fragment",
        "http://abc123.lambda-url.eu-west-3.on.aws/",
        "http://127.0.0.1.example.com/",
        "https://a b/",
        "https://host/\n",
        "https://ho\tst/",
        "https://höst/",
    ],
)
def test_malformed_or_clear_text_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(errors.NotConfigured) as raised:
        BrokerClient(url)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://localhost:8000", "http://[::1]:8000/", "http://127.0.0.1:8000/x/"])
def test_loopback_hosts_may_do_without_tls(url: str) -> None:
    assert repr(BrokerClient(url)) == f"BrokerClient('{url.rstrip('/')}', connection='digishare')"


def test_argument_url_session_and_environment_tell_the_region_in_this_order(
    new_client: NewClient, aws_session: botocore.session.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Mock(side_effect=bounded_http.ConnectFailed)
    monkeypatch.setattr(bounded_http, "call", call)

    def signed_region(url: str, region: str | None = None) -> str:
        with pytest.raises(errors.BrokerUnreachable):
            new_client(url, region=region).token()
        return str(call.call_args.kwargs["headers"]["Authorization"].split("/")[2])

    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-south-1")
    assert signed_region(OTHER_URL) == "eu-south-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert signed_region(OTHER_URL) == "eu-west-2"
    aws_session.set_config_variable("region", "eu-west-1")
    assert signed_region(OTHER_URL) == "eu-west-1"
    assert signed_region(FUNCTION_URL) == "eu-west-3"
    assert signed_region(FUNCTION_URL, "eu-north-1") == "eu-north-1"


def test_session_of_boto3_gives_keys_and_region(broker: FakeBroker) -> None:
    boto3 = pytest.importorskip("boto3")
    session = boto3.Session(ACCESS_KEY_ID, SECRET_ACCESS_KEY, region_name=REGION)

    assert BrokerClient(broker.url, session=session).token().token_id == broker.token_id


def test_a_session_whose_profile_is_not_there_is_told(new_client: NewClient) -> None:
    session = session_with(ACCESS_KEY_ID, SECRET_ACCESS_KEY, profile="nowhere")

    with pytest.raises(errors.NotConfigured, match="AWS_PROFILE"):
        new_client(session=session, region=None).token()


def test_a_url_whose_host_can_be_read_in_two_ways_is_not_called(new_client: NewClient) -> None:
    with pytest.raises(errors.NotConfigured, match="two ways"):
        new_client("https://broker\\test/").token()


@pytest.mark.parametrize("url", ["https://[", "nonsense", ""])
def test_what_is_no_url_names_no_region(url: str) -> None:
    assert region_of_url(url) is None


def test_unknown_region_says_what_to_set(new_client: NewClient) -> None:
    with pytest.raises(errors.NotConfigured, match="AWS_REGION"):
        new_client(region=None).token()


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", errors.BY_CODE.values(), ids=lambda kind: kind.code)
def test_error_of_the_broker_is_raised_as_the_same_class(
    kind: type[errors.TokenBrokerError], broker: FakeBroker, new_client: NewClient
) -> None:
    broker.script.append(failure(kind.status, kind.code, 99))

    with pytest.raises(kind) as raised:
        new_client(time_budget_s=5).token()
    assert str(raised.value) == f"{kind.code}: said {kind.code} (request req-1)"
    assert raised.value.retry_after_s == 99


def test_wrong_secret_key_is_refused_by_aws(new_client: NewClient) -> None:
    with pytest.raises(errors.RefusedByAws, match="does not match") as raised:
        new_client(session=session_with(ACCESS_KEY_ID, "not-the-key")).token()
    assert raised.value.aws_error_type == "InvalidSignatureException"
    assert raised.value.request_id == "aws-1"


def test_missing_permission_names_both_and_what_aws_says(broker: FakeBroker, client: BrokerClient) -> None:
    broker.script.append(aws_refusal("AccessDeniedException:http://x", "Forbidden. For troubleshooting"))
    says = r"InvokeFunctionUrl.*InvokeFunction .*Forbidden\. For"

    with pytest.raises(errors.RefusedByAws, match=says) as raised:
        client.token()
    assert raised.value.aws_error_type == "AccessDeniedException"
    assert not raised.value.retryable


def test_credentials_that_have_expired_say_sign_in_again(broker: FakeBroker, client: BrokerClient) -> None:
    broker.script.append(aws_refusal("ExpiredTokenException", "The security token is expired"))

    with pytest.raises(errors.CredentialsExpired, match="sign in again"):
        client.token()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, b'{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded","message":"Rate Exceeded."}'),
        (502, b'{"message":"Internal Server Error"}'),
        (504, b"<html>"),
    ],
    ids=["throttled", "crashed", "timed out"],
)
def test_answer_in_the_place_of_the_broker_is_retried(
    status: int, body: bytes, broker: FakeBroker, client: BrokerClient, pauses: list[float]
) -> None:
    broker.script.append(Answer(status, body))

    assert client.token().token_id == broker.token_id
    assert len(pauses) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(302, b"{}", {"Location": "http://127.0.0.1:9/elsewhere"}),
        Answer(404, b'{"Message":null}'),
        Answer(200, b"<html>canary-token-1"),
        Answer(200, b'["canary-token-1"]'),
        Answer(200, b'{"access_token":"canary-token-1"}' + b" " * 70_000),
        Answer(418, b'{"error":"teapot"}'),
    ],
    ids=["redirect", "not found", "not JSON", "not an object", "too long", "unknown code"],
)
def test_answer_of_no_broker_is_unusable(answer: Answer, broker: FakeBroker, client: BrokerClient) -> None:
    broker.script.append(answer)

    with pytest.raises(errors.UnusableAnswer):
        client.token()
    assert len(broker.calls) == 1


@pytest.mark.parametrize(
    "change",
    [
        *({"access_token": odd} for odd in ("", "canary-token\r\nX-Injected: 1", None)),
        {"token_id": 5},
        {"connection": None},
        *({"expires_in": odd} for odd in (0, True, "900", float("inf"), float("nan"))),
    ],
    ids=str,
)
def test_bad_lease_is_refused(change: dict[str, object], broker: FakeBroker, client: BrokerClient) -> None:
    lease = {"access_token": "canary-token", "token_id": "1", "connection": "c", "expires_in": 900}
    broker.script.append(Answer(200, json.dumps({**lease, **change}).encode()))

    with pytest.raises(errors.UnusableAnswer):
        client.token()


@pytest.mark.parametrize("min_ttl_s", [float("nan"), float("inf"), -1.0, float("-inf")])
def test_a_malformed_min_ttl_is_refused(min_ttl_s: float, broker: FakeBroker, client: BrokerClient) -> None:
    with pytest.raises(errors.InvalidRequest, match="min_ttl_s"):
        client.token(min_ttl_s=min_ttl_s)
    assert not broker.calls


def test_status_asks_for_one_connection_or_all(broker: FakeBroker, client: BrokerClient) -> None:
    broker.script.append(Answer(502, b"Internal Server Error"))

    assert client.status() == {"connections": [{"asked": {}}]}
    assert client.status("a b/ü&c=d") == {"connections": [{"asked": {"connection": "a b/ü&c=d"}}]}


# --- TLS ----------------------------------------------------------------------------------------------------------


def test_unknown_certificate_is_not_trusted(broker: FakeBroker, new_client: NewClient) -> None:
    broker.speak_tls(trustme.CA().issue_cert("localhost"))

    with pytest.raises(errors.BrokerUnreachable, match="certificate is refused"):
        new_client().token()
    assert not broker.calls


# --- what must never be seen --------------------------------------------------------------------------------------


def test_token_is_in_no_repr_or_text(client: BrokerClient) -> None:
    lease = client.token()

    seen = [lease, client, client._fetched, client._http]
    assert "canary-token" not in f"{seen} {lease} {client}"
    assert isinstance(lease, Lease)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b'{"access_token":"canary-token-1"'),
        Answer(200, b'{"access_token":"canary-token-1","expires_in":-1}'),
        Answer(200, b"", raw=b'HTTP/1.1 200 OK\r\n\r\n{"access_token":"canary-token-1"'),
        Answer(200, b'"canary-token-1"'),
        Answer(403, b'{"access_token":"canary-token-1"}'),
        Answer(500, b'{"access_token":"canary-token-1"}'),
        failure(503, "temporarily_unavailable", 60),
    ],
)
def test_no_error_and_no_log_record_has_token_or_key(
    answer: Answer, broker: FakeBroker, new_client: NewClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="token_broker")
    caplog.set_level(logging.DEBUG, logger="urllib3")
    client = new_client(time_budget_s=5)
    client.token()
    broker.script.extend([answer] * 5)

    clock.now += 800
    client.token()
    clock.now += 900
    with pytest.raises(errors.TokenBrokerError) as raised:
        client.token()

    seen = everything_of(raised.value) + caplog.text + repr([vars(record) for record in caplog.records])
    assert "stays in use" in seen
    assert "canary-token" not in seen
    assert SECRET_ACCESS_KEY not in seen


# --- forks --------------------------------------------------------------------------------------------------------


@forks
def test_child_has_the_lease_and_asks_itself(broker: FakeBroker, client: BrokerClient, clock: Clock) -> None:
    lease = client.token()
    client._http._tls = ssl.create_default_context()  # its locks are OpenSSL's, which does not know of forks

    def act() -> bool:
        is_same = client.token() is lease and client._http._tls is None
        clock.now += 900
        return is_same and client.token().expires_at == clock.now + 900

    assert in_child(act)
    assert len(broker.calls) == 2
    assert client.token() is lease


@forks
def test_child_works_although_another_thread_held_the_lock_and_was_asking_at_the_fork(
    broker: FakeBroker, client: BrokerClient
) -> None:
    broker.may_answer.clear()
    leader = threading.Thread(target=client.token)
    leader.start()
    assert broker.was_asked.wait(10)

    with client._lock:
        assert in_child(lambda: client.token().token_id == broker.token_id, broker.may_answer.set)
    leader.join(10)
    assert len(broker.calls) == 2
