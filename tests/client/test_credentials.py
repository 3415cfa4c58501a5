"""Whatever botocore's chain does, it is an error of the client's: of the right kind, in time, and without a secret."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore.credentials import RefreshableCredentials

from local.loopback import LoopbackHandler, LoopbackServer
from tests.client.conftest import everything_of
from tests.client.fake_broker import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, Answer, FakeBroker
from token_broker import errors
from token_broker.client import BrokerClient
from token_broker.credentials import CredentialSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.client.conftest import Clock

    NewClient = Callable[..., BrokerClient]

CANARY = "canary-9d02"
SOURCE_KEYS = f"aws_access_key_id = AKIASOURCE\naws_secret_access_key = {CANARY}-source\n"
ROLE = "arn:aws:iam::123456789012:role/worker"


@contextmanager
def endpoint(status: int, answer: str, accepts: str = "") -> Iterator[str]:
    """Answer like STS, or like a container's endpoint for credentials."""

    class Handler(LoopbackHandler):
        def serve(self) -> None:
            self.read_body()
            is_accepted = accepts in self.headers.get("Authorization", "")
            self.send(status if is_accepted else 403, {"Content-Type": "text/xml"}, answer.encode())

    with LoopbackServer(Handler) as server:
        yield server.origin


def of_sts(code: str) -> str:
    return f"<ErrorResponse><Error><Code>{code}</Code><Message>{CANARY} said {code}</Message></Error></ErrorResponse>"


@dataclass(frozen=True)
class Case:
    """A way in which the chain fails; `{here}` and `{endpoint}` stand for a folder and a server's URL."""

    kind: type[errors.TokenBrokerError]
    says: str
    config: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    status: int = 200
    answer: str = ""


ASSUME = f"[profile a]\nrole_arn = {ROLE}\nsource_profile = b\n[profile b]\n{SOURCE_KEYS}"
STS = {"AWS_PROFILE": "a", "AWS_ENDPOINT_URL_STS": "{endpoint}", "AWS_MAX_ATTEMPTS": "1"}
SSO = (
    "[profile a]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n"
    "[sso-session s]\nsso_region = eu-west-3\nsso_start_url = https://x.awsapps.com/start\n"
)


def process(command: str) -> str:
    return f"[profile a]\ncredential_process = {command}\n"


CASES = {
    "AssumeRole denied": Case(
        errors.NoCredentials,
        "AssumeRole failed, AWS says AccessDenied",
        ASSUME,
        STS,
        403,
        of_sts("AccessDenied"),
    ),
    "AssumeRole throttled": Case(
        errors.CredentialsUnavailable, "AWS says Throttling", ASSUME, STS, 400, of_sts("Throttling")
    ),
    "STS broken": Case(
        errors.CredentialsUnavailable, "AWS says", ASSUME, STS, 503, of_sts("ServiceUnavailable")
    ),
    "source keys expired": Case(
        errors.CredentialsExpired, "AWS says ExpiredToken", ASSUME, STS, 403, of_sts("ExpiredToken")
    ),
    "STS says nonsense": Case(
        errors.NoCredentials, "AWS says an unknown error", ASSUME, STS, 400, of_sts(f"{CANARY} {CANARY}")
    ),
    "STS not there": Case(
        errors.CredentialsUnavailable,
        "does not answer",
        ASSUME,
        {**STS, "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1"},
    ),
    "process missing": Case(
        errors.NoCredentials, "no-such-program", process("no-such-program-x"), {"AWS_PROFILE": "a"}
    ),
    "process fails": Case(
        errors.NoCredentials,
        "credential_process failed",
        process(f"sh -c 'echo {CANARY} >&2; echo {CANARY}; exit 1'"),
        {"AWS_PROFILE": "a"},
    ),
    "process prints no JSON": Case(
        errors.NoCredentials, "printed no JSON", process(f"echo {CANARY}"), {"AWS_PROFILE": "a"}
    ),
    "process prints half of it": Case(
        errors.NoCredentials,
        "credential_process failed",
        process(f"""echo '{{"Version": 1, "AccessKeyId": "{CANARY}"}}'"""),
        {"AWS_PROFILE": "a"},
    ),
    "process prints a list": Case(
        errors.NoCredentials, "could not be loaded", process(f"echo '[\"{CANARY}\"]'"), {"AWS_PROFILE": "a"}
    ),
    "web identity's token file missing": Case(
        errors.NoCredentials,
        "gone.jwt",
        environment={"AWS_WEB_IDENTITY_TOKEN_FILE": "{here}/gone.jwt", "AWS_ROLE_ARN": ROLE},
    ),
    "pod's token file missing": Case(
        errors.NoCredentials,
        "gone.token",
        environment={
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "{endpoint}/x",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{here}/gone.token",
        },
    ),
    "container's host not allowed": Case(
        errors.NoCredentials,
        "check the AWS_ variables",
        environment={"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{CANARY}.example.com/x"},
    ),
    "container answers no JSON": Case(
        errors.CredentialsUnavailable,
        "does not answer",
        environment={"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{endpoint}/x"},
        answer=CANARY,
    ),
    "container lacks a member": Case(
        errors.NoCredentials,
        "KeyError",
        environment={"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{endpoint}/x"},
        answer=json.dumps({"AccessKeyId": CANARY}),
    ),
    "SSO never signed in": Case(errors.CredentialsExpired, "aws sso login", SSO, {"AWS_PROFILE": "a"}),
    "profile unknown": Case(errors.NoCredentials, "nowhere", environment={"AWS_PROFILE": "nowhere"}),
    "half a key": Case(
        errors.NoCredentials, "AWS_SECRET_ACCESS_KEY", environment={"AWS_ACCESS_KEY_ID": f"{CANARY}-id"}
    ),
    "no keys at all": Case(errors.NoCredentials, "aws sso login"),
    "configuration broken": Case(errors.NoCredentials, "ConfigParseError", f"no section\n{CANARY}\n"),
    "timeout no number": Case(
        errors.NoCredentials,
        "AWS_METADATA_SERVICE_TIMEOUT",
        environment={"AWS_METADATA_SERVICE_TIMEOUT": CANARY, "AWS_EC2_METADATA_DISABLED": "false"},
    ),
    "no region for STS": Case(
        errors.NoCredentials, "set AWS_DEFAULT_REGION", ASSUME, {**STS, "AWS_DEFAULT_REGION": ""}
    ),
    "region malformed": Case(
        errors.NoCredentials,
        "InvalidRegionError",
        ASSUME,
        {"AWS_PROFILE": "a", "AWS_DEFAULT_REGION": f"{CANARY} x"},
    ),
}


@pytest.fixture
def case(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Case]:
    """The environment in which the chain fails."""
    failing = CASES[name]
    (tmp_path / "config").write_text(failing.config)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))  # where SSO's tokens are
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0.01)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with endpoint(failing.status, failing.answer) as url:
        for variable, value in failing.environment.items():
            monkeypatch.setenv(variable, value.format(here=tmp_path, endpoint=url))
            if not value:
                monkeypatch.delenv(variable)
        yield failing


@pytest.mark.parametrize("name", CASES)
def test_the_error_is_of_the_right_kind_names_the_cause_and_shows_nothing(
    case: Case, broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="token_broker")
    client = BrokerClient(broker.url, region=REGION, time_budget_s=20, sleep=lambda _: None)

    for ask in (client.token, client.status):
        with pytest.raises(errors.TokenBrokerError) as raised:
            ask()
        assert type(raised.value) is case.kind
        assert case.says in str(raised.value)
        assert CANARY not in everything_of(raised.value) + caplog.text
    assert not broker.calls


@pytest.mark.parametrize("name", CASES)
def test_a_valid_lease_is_served_whatever_the_chain_does(
    case: Case, broker: FakeBroker, new_client: NewClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    client = new_client()
    lease = client.token()
    client._http._credentials = CredentialSource(None)

    clock.now += 800
    assert client.token() is lease
    assert client.token(min_ttl_s=500) is lease
    assert "stays in use" in caplog.text
    assert CANARY not in caplog.text


MFA = f"[profile a]\nrole_arn = {ROLE}\nmfa_serial = arn:aws:iam::123456789012:mfa/me\nsource_profile = b\n[profile b]\n{SOURCE_KEYS}"


def test_a_role_that_wants_an_mfa_code_says_so_where_there_is_no_terminal(
    broker: FakeBroker, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(MFA)
    program = (
        "from token_broker import BrokerClient, TokenBrokerError\n"
        "try:\n    BrokerClient().token()\nexcept TokenBrokerError as error:\n    print(error)\n"
    )
    environment = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "a", "AWS_REGION": REGION}
    done = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, "-c", program],
        env={**os.environ, **environment, "TOKEN_BROKER_URL": broker.url},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert done.stdout.startswith("no_credentials: ")
    assert "MFA code" in done.stdout
    assert CANARY not in done.stdout + done.stderr


# --- a chain that hangs -------------------------------------------------------------------------------------------


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A chain that takes two seconds; each time that it is asked, a line is added to this file."""
    starts = tmp_path / "starts"
    starts.touch()
    (tmp_path / "config").write_text(
        f"[default]\ncredential_process = sh -c 'echo >> {starts}; exec sleep 2'\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return starts


def test_every_caller_keeps_to_its_own_budget_where_the_chain_hangs(
    broker: FakeBroker, hanging: Path
) -> None:
    client = BrokerClient(broker.url, region=REGION, time_budget_s=0.3)
    ended_s: list[float] = []
    seen: list[BaseException] = []

    def ask() -> None:
        with pytest.raises(errors.CredentialsUnavailable) as raised:
            client.status()  # unlike `token`, each for itself
        seen.append(raised.value)
        ended_s.append(time.monotonic())

    started_s = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(ended_s) == 8
    assert max(ended_s) - started_s < 1.5
    assert len(hanging.read_text().splitlines()) == 1


def test_callers_that_wait_for_one_search_get_errors_of_their_own(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\ncredential_process = sh -c 'sleep 0.5; exit 1'\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    source = CredentialSource(None)
    seen: list[errors.TokenBrokerError] = []

    def ask() -> None:
        with pytest.raises(errors.NoCredentials) as raised:
            source.get(time.monotonic() + 10)
        seen.append(raised.value)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len({id(error) for error in seen}) == 4  # because a raise writes into it


def test_asking_ahead_keeps_its_own_limit_where_the_chain_hangs(
    broker: FakeBroker, hanging: Path, new_client: NewClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_broker.client._ASK_AHEAD_TIMEOUT_S", 0.2)
    client = new_client()
    lease = client.token()
    client._http._credentials = CredentialSource(None)
    clock.now += 800

    started_s = time.monotonic()
    assert client.token() is lease
    assert time.monotonic() - started_s < 1.5


def test_credentials_that_come_late_are_there_for_the_next_caller(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = {"Version": 1, "AccessKeyId": ACCESS_KEY_ID, "SecretAccessKey": SECRET_ACCESS_KEY}
    (tmp_path / "keys").write_text(json.dumps(keys))
    (tmp_path / "config").write_text(
        f"[default]\ncredential_process = sh -c 'sleep 0.5; cat {tmp_path}/keys'\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    client = BrokerClient(broker.url, region=REGION, time_budget_s=0.2)

    with pytest.raises(errors.CredentialsUnavailable, match="does not answer in time"):
        client.token()
    client._time_budget_s = 10
    assert client.token().token_id == broker.token_id


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


def assert_tells_the_variable_only(shown: str, name: str) -> None:
    assert name in shown
    for value in KEYS.values():
        assert value not in shown


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("name", KEYS)
def test_a_malformed_key_is_named_and_never_shown(
    name: str, odd: str, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="token_broker")
    for variable, value in KEYS.items():
        # In the middle, because botocore strips nothing, and at neither end would it be seen.
        spoilt = value[:9] + odd + value[9:] if variable == name else value
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
        assert_tells_the_variable_only(shown + caplog.text, name)
    assert not broker.calls


@pytest.mark.parametrize("source", ["shared credentials file", "given session", "process"])
def test_a_malformed_key_of_another_source_is_not_shown_either(
    source: str, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = f"{CANARY}-session€token"
    session = None
    if source == "given session":
        session = botocore.session.Session()
        session.set_credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY, token)
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
    session: Any = None
    if kind != "own":
        session = pytest.importorskip(kind).session.Session()
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
    broker.script.append(
        Answer(403, b'{"Message": "expired"}', {"x-amzn-ErrorType": "ExpiredTokenException"})
    )
    client = BrokerClient(broker.url, region=REGION)
    rotate = client._http._credentials.get_others_than

    def rotate_first(*given: Any) -> Any:
        monkeypatch.setenv("AWS_SESSION_TOKEN", "next")
        broker.session_token = "next"
        return rotate(*given)

    monkeypatch.setattr(client._http._credentials, "get_others_than", rotate_first)
    assert client.token().token_id == broker.token_id


def test_keys_behind_a_role_that_were_rotated_are_read_again_after_sts_has_refused_the_old_ones(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broker.session_token = "of-the-role"
    answer = (
        "<AssumeRoleResponse><AssumeRoleResult><Credentials>"
        f"<AccessKeyId>{ACCESS_KEY_ID}</AccessKeyId><SecretAccessKey>{SECRET_ACCESS_KEY}</SecretAccessKey>"
        "<SessionToken>of-the-role</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
        "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
    (tmp_path / "config").write_text(ASSUME)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "a")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with endpoint(200, answer, accepts="Credential=AKIANEW/") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        client = BrokerClient(broker.url, region=REGION)
        with pytest.raises(errors.NoCredentials, match="AssumeRole failed"):
            client.token()
        (tmp_path / "config").write_text(ASSUME.replace("AKIASOURCE", "AKIANEW"))
        assert client.token().token_id == broker.token_id


def test_keys_that_somebody_put_into_a_session_are_not_replaced_by_others(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
    session = botocore.session.Session()
    session.set_credentials(ACCESS_KEY_ID, "another-secret")

    with pytest.raises(errors.RefusedByAws):
        BrokerClient(broker.url, region=REGION, session=session).token()


@pytest.mark.parametrize("is_given", [True, False])
def test_a_refusal_of_the_only_keys_is_not_repeated(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, *, is_given: bool
) -> None:
    session = botocore.session.Session() if is_given else None
    if session:
        session.set_credentials("AKIAUNKNOWN", "x")
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


def test_what_botocore_logs_for_others_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    error = KeyError("of-another-client")
    logging.getLogger("botocore.credentials").warning("it failed", exc_info=error)

    assert "of-another-client" in caplog.text


# --- forks --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_that_is_forked_during_a_refresh_of_a_given_session_gets_its_token(
    broker: FakeBroker, new_client: NewClient
) -> None:
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

    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    session = botocore.session.Session()
    credentials = RefreshableCredentials("a", "b", "c", an_hour_ago, refresh, "test")
    vars(session)["_credentials"] = credentials  # botocore has no public way to set refreshable ones
    client = new_client(session=session)
    asking = threading.Thread(target=client.token)
    asking.start()
    assert is_refreshing.wait(10)

    child = os.fork()
    if child == 0:
        try:
            signal.alarm(10)  # ends a child that waits for ever
            client._time_budget_s = 5
            os._exit(0 if client.token().token_id == broker.token_id else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
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
