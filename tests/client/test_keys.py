"""Keys that AWS refuses or that no header can contain, keys that were rotated, and forks."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import UnauthorizedSSOTokenError

from tests.client.conftest import everything_of, session_with
from tests.client.fake_broker import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, FakeBroker, aws_refusal
from tests.client.forks import forks, in_child
from token_broker import errors
from token_broker.client import BrokerClient
from token_broker.credentials import CredentialSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.client.conftest import Clock, NewClient

CANARY = "canary-9d02"

# --- keys that cannot be sent -------------------------------------------------------------------------------------

KEYS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    "AWS_SESSION_TOKEN": f"{CANARY}-session-token",
}
ODD = {
    "line break": "\n",
    "carriage return": "\r",
    "header": "\r\nX-Injected: 1",
    "no ASCII": "é",
    "no latin-1": "€",
    "space": " ",
    "no-break space": "\u00a0",
    "control character": "\x1b",
}


@pytest.mark.parametrize(
    ("name", "odd"), [*product(KEYS, ["line break"]), *product(["AWS_SESSION_TOKEN"], [*ODD][1:])]
)
def test_a_malformed_key_is_named_and_never_shown(
    name: str, odd: str, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="token_broker")
    for variable, value in KEYS.items():
        # In the middle: at either end it would be hard to see.
        spoilt = value[:9] + ODD[odd] + value[9:] if variable == name else value
        monkeypatch.setenv(variable, spoilt)
    client = BrokerClient(broker.url, region=REGION)
    logger = logging.getLogger("token_broker.test")

    for ask in (client.token, client.status, lambda: client.report_rejected("0123456789abcdef")):
        try:
            ask()
            pytest.fail("it was sent")
        except errors.NoCredentials as error:
            logger.exception("failed")
            shown = everything_of(error)
        assert name in shown
        assert not [value for value in KEYS.values() if value in shown + caplog.text]
    assert not broker.calls


@pytest.mark.parametrize("source", ["shared credentials file", "given session", "process"])
def test_a_malformed_key_of_another_source_is_not_shown_either(
    source: str, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = f"{CANARY}-session€token"
    session = None
    if source == "given session":
        session = session_with(ACCESS_KEY_ID, SECRET_ACCESS_KEY, token)
    elif source == "process":
        keys = {"Version": 1, "AccessKeyId": ACCESS_KEY_ID, "SecretAccessKey": SECRET_ACCESS_KEY}
        (tmp_path / "keys").write_text(json.dumps({**keys, "SessionToken": token}))
        (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path}/keys\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    else:
        text = f"[default]\naws_access_key_id={ACCESS_KEY_ID}\naws_secret_access_key={SECRET_ACCESS_KEY}\n"
        (tmp_path / "credentials").write_text(f"{text}aws_session_token={token}\n", encoding="utf-8")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

    with pytest.raises(errors.NoCredentials) as raised:
        BrokerClient(broker.url, region=REGION, session=session).token()
    shown = everything_of(raised.value)
    assert "aws_session_token" in shown
    assert CANARY not in shown
    assert SECRET_ACCESS_KEY not in shown


@pytest.mark.parametrize("region", ["eu-west-3\r\nX: 1", "eu west 3", "région", "a/b"])
def test_a_malformed_region_does_not_show_the_signed_request(region: str, new_client: NewClient) -> None:
    with pytest.raises(errors.NotConfigured, match="region") as raised:
        new_client(region=region).token()
    assert SECRET_ACCESS_KEY not in everything_of(raised.value)
    assert "AWS4-HMAC" not in everything_of(raised.value)


# --- keys that have been rotated ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["own", "botocore", "boto3"])
@pytest.mark.parametrize("place", ["shared credentials file", "configuration file", "environment"])
@pytest.mark.parametrize(
    ("old", "error"), [("old-secret", errors.RefusedByAws), ("old\u00a0secret", errors.NoCredentials)]
)
def test_keys_that_were_corrected_are_read_again_after_the_old_ones_were_refused(
    *,
    kind: str,
    place: str,
    old: str,
    error: type[errors.TokenBrokerError],
    broker: FakeBroker,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def write(secret: str) -> None:
        text = f"[default]\naws_access_key_id={ACCESS_KEY_ID}\naws_secret_access_key={secret}\n"
        if place == "environment":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        else:
            (tmp_path / "file").write_text(text, encoding="utf-8")

    variable = "AWS_CONFIG_FILE" if place == "configuration file" else "AWS_SHARED_CREDENTIALS_FILE"
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    write(old)
    session = None if kind == "own" else pytest.importorskip(kind).session.Session()
    client = BrokerClient(broker.url, region=REGION, session=session, clock=clock)
    with pytest.raises(error):
        client.token()

    write(SECRET_ACCESS_KEY)
    assert client.token().token_id == broker.token_id
    clock.now += 900
    assert client.token().expires_at == clock.now + 900  # and the new ones stay


def test_keys_that_were_rotated_are_read_again_when_aws_calls_the_old_ones_expired(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
    broker.script.append(aws_refusal("ExpiredTokenException", "expired"))
    client = BrokerClient(broker.url, region=REGION)
    rotate = client._http._credentials.get_others_than

    def rotate_first(*given: Any) -> Any:
        monkeypatch.setenv("AWS_SESSION_TOKEN", "next")
        broker.session_token = "next"
        return rotate(*given)

    monkeypatch.setattr(client._http._credentials, "get_others_than", rotate_first)
    assert client.token().token_id == broker.token_id


def test_keys_of_a_given_session_are_not_replaced(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)

    with pytest.raises(errors.RefusedByAws):
        BrokerClient(broker.url, region=REGION, session=session_with(ACCESS_KEY_ID, "another-secret")).token()


@pytest.mark.parametrize("is_given", [True, False])
def test_a_refusal_of_the_only_keys_is_not_repeated(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, *, is_given: bool
) -> None:
    session = session_with("AKIAUNKNOWN", "x") if is_given else None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")

    with pytest.raises(errors.RefusedByAws):
        BrokerClient(broker.url, region=REGION, session=session).token()
    assert broker.refusals == 1


def test_keys_that_are_gone_after_a_refusal_are_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    source, deadline_s = CredentialSource(None), time.monotonic() + 10
    refused = source.get(deadline_s)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")

    assert source.get_others_than(refused, deadline_s) is None


# --- keys that refresh themselves ---------------------------------------------------------------------------------


def session_that_does(refresh: Callable[[], dict[str, str]]) -> botocore.session.Session:
    """Return a session whose keys have expired."""
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    session = botocore.session.Session()
    credentials = RefreshableCredentials("a", "b", "c", an_hour_ago, refresh, "test")
    vars(session)["_credentials"] = credentials  # botocore has no public way to set refreshable ones
    return session


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (UnauthorizedSSOTokenError(), errors.CredentialsExpired, "sign in again"),
        (RuntimeError("still expired"), errors.CredentialsExpired, "sign in again"),
        (RuntimeError(CANARY), errors.NoCredentials, "RuntimeError"),
    ],
    ids=["signed out", "still expired", "anything else"],
)
def test_keys_that_cannot_be_refreshed_say_why_and_only_an_expiry_says_sign_in_again(
    error: Exception, kind: type[errors.TokenBrokerError], says: str, new_client: NewClient
) -> None:
    def refresh() -> dict[str, str]:
        raise error

    with pytest.raises(kind, match=says) as raised:
        new_client(session=session_that_does(refresh)).token()
    assert CANARY not in everything_of(raised.value)


def test_rotated_credentials_are_used_by_the_next_call(
    broker: FakeBroker, new_client: NewClient, aws_session: botocore.session.Session, clock: Clock
) -> None:
    client = new_client()
    client.token()
    broker.session_token = "next"
    aws_session.set_credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY, "next")
    clock.now += 900

    assert client.token().expires_at == clock.now + 900


# --- forks --------------------------------------------------------------------------------------------------------


@forks
def test_a_child_forked_during_a_refresh_gets_its_token(broker: FakeBroker, new_client: NewClient) -> None:
    parent, is_refreshing, may_end = os.getpid(), threading.Event(), threading.Event()

    def refresh() -> dict[str, str]:
        if os.getpid() == parent:
            is_refreshing.set()
            may_end.wait(20)
        return {
            "access_key": ACCESS_KEY_ID,
            "secret_key": SECRET_ACCESS_KEY,
            "token": "",
            "expiry_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        }

    client = new_client(session=session_that_does(refresh))
    asking = threading.Thread(target=client.token)
    asking.start()
    assert is_refreshing.wait(10)

    def act() -> bool:
        client._time_budget_s = 5
        return bool(client.token().token_id == broker.token_id)

    assert in_child(act)
    may_end.set()
    asking.join(10)


def test_sources_of_a_role_get_new_locks_too() -> None:
    class Fetcher:
        def __init__(self, source: Any) -> None:
            self._source_credentials = source

        def fetch(self) -> dict[str, str]:
            raise NotImplementedError

    now = datetime.now(UTC)
    source = RefreshableCredentials("a", "b", "c", now, dict, "test")
    role = RefreshableCredentials("a", "b", "c", now, Fetcher(source).fetch, "test")
    session = botocore.session.Session()
    vars(session)["_credentials"] = role
    locks = [vars(each)["_refresh_lock"] for each in (role, source)]

    CredentialSource(session).renew_after_fork()

    assert not [each for each in (role, source) if vars(each)["_refresh_lock"] in locks]
