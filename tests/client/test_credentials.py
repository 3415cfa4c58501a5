"""Every failure of botocore's chain becomes an error of the client: of the right class, in time, without a secret."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from local.loopback import LoopbackHandler, LoopbackServer
from tests.client.conftest import everything_of
from tests.client.fake_broker import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, FakeBroker
from tests.programs import run_program
from token_broker import errors
from token_broker.client import BrokerClient
from token_broker.credentials import CredentialSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.client.conftest import Clock

CANARY = "canary-9d02"
SOURCE_KEYS = f"aws_access_key_id = AKIASOURCE\naws_secret_access_key = {CANARY}-source\n"
ROLE = "arn:aws:iam::123456789012:role/worker"


@pytest.fixture(autouse=True)
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The AWS configuration file, which is not there yet."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path / "config"


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


@dataclass(frozen=True)
class Case:
    """A way in which the chain fails; `{here}` and `{endpoint}` stand for a folder and a server's URL."""

    kind: type[errors.TokenBrokerError]
    says: str
    config: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    status: int = 200
    answer: str = ""


PROFILE = {"AWS_PROFILE": "a"}
CONTAINER = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{endpoint}/x"}
ASSUME = f"[profile a]\nrole_arn = {ROLE}\nsource_profile = b\n[profile b]\n{SOURCE_KEYS}"
STS = {**PROFILE, "AWS_ENDPOINT_URL_STS": "{endpoint}", "AWS_MAX_ATTEMPTS": "1"}
SSO = (
    "[profile a]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n"
    "[sso-session s]\nsso_region = eu-west-3\nsso_start_url = https://x.awsapps.com/start\n"
)
NONE, EXPIRED, UNAVAILABLE = errors.NoCredentials, errors.CredentialsExpired, errors.CredentialsUnavailable


def sts(kind: type[errors.TokenBrokerError], status: int, code: str, says: str = "") -> Case:
    error = f"<Error><Code>{code}</Code><Message>{CANARY} said {code}</Message></Error>"
    said = f"AssumeRole failed, AWS says {says or code}"
    return Case(kind, said, ASSUME, STS, status, f"<ErrorResponse>{error}</ErrorResponse>")


def process(says: str, command: str) -> Case:
    return Case(NONE, says, f"[profile a]\ncredential_process = {command}\n", PROFILE)


def environment(says: str, **variables: str) -> Case:
    return Case(NONE, says, environment=variables)


CASES = {
    "AssumeRole denied": sts(NONE, 403, "AccessDenied"),
    "AssumeRole throttled": sts(UNAVAILABLE, 400, "Throttling"),
    "STS broken": sts(UNAVAILABLE, 503, "ServiceUnavailable"),
    "source keys expired": sts(EXPIRED, 403, "ExpiredToken"),
    "STS says nonsense": sts(NONE, 400, f"{CANARY} {CANARY}", "an unknown error"),
    "STS not there": Case(
        UNAVAILABLE, "does not answer", ASSUME, {**STS, "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1"}
    ),
    "process missing": process("no-such-program", "no-such-program-x"),
    "process fails": process(
        "(CredentialRetrievalError): the profile's credential_process failed",
        f"sh -c 'echo {CANARY} >&2; echo {CANARY}; exit 1'",
    ),
    "process prints no JSON": process("printed no JSON", f"echo {CANARY}"),
    "process prints half of it": process(
        "credential_process failed", f"""echo '{{"Version": 1, "AccessKeyId": "{CANARY}"}}'"""
    ),
    "process prints a list": process("could not be loaded", f"echo '[\"{CANARY}\"]'"),
    "web identity's token file missing": environment(
        "gone.jwt", AWS_WEB_IDENTITY_TOKEN_FILE="{here}/gone.jwt", AWS_ROLE_ARN=ROLE
    ),
    "pod's token file missing": environment(
        "gone.token", AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE="{here}/gone.token", **CONTAINER
    ),
    "container's host not allowed": environment(
        "check the AWS_ variables", AWS_CONTAINER_CREDENTIALS_FULL_URI=f"http://{CANARY}.example.com/x"
    ),
    "container answers no JSON": Case(UNAVAILABLE, "does not answer", environment=CONTAINER, answer=CANARY),
    "container lacks a member": Case(
        NONE, "KeyError", environment=CONTAINER, answer=json.dumps({"AccessKeyId": CANARY})
    ),
    "SSO never signed in": Case(EXPIRED, "aws sso login", SSO, PROFILE),
    "profile unknown": environment("nowhere", AWS_PROFILE="nowhere"),
    "half a key": environment("AWS_SECRET_ACCESS_KEY", AWS_ACCESS_KEY_ID=f"{CANARY}-id"),
    "no keys at all": Case(NONE, "aws sso login"),
    "configuration broken": Case(NONE, "ConfigParseError", f"no section\n{CANARY}\n"),
    "timeout no number": environment(
        "AWS_METADATA_SERVICE_TIMEOUT", AWS_METADATA_SERVICE_TIMEOUT=CANARY, AWS_EC2_METADATA_DISABLED="false"
    ),
    "no region for STS": Case(NONE, "set AWS_DEFAULT_REGION", ASSUME, {**STS, "AWS_DEFAULT_REGION": ""}),
    "bad region": Case(NONE, "InvalidRegionError", ASSUME, {**PROFILE, "AWS_DEFAULT_REGION": f"{CANARY} x"}),
}


@pytest.fixture
def case(name: str, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Case]:
    """The environment in which the chain fails."""
    failing = CASES[name]
    config.write_text(failing.config)
    monkeypatch.setenv("HOME", str(tmp_path))  # where SSO's tokens are
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0.01)
    monkeypatch.setattr("token_broker.client._MAX_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with endpoint(failing.status, failing.answer) as url:
        for variable, value in failing.environment.items():
            monkeypatch.setenv(variable, value.format(here=tmp_path, endpoint=url))
            if not value:
                monkeypatch.delenv(variable)
        yield failing


@pytest.mark.parametrize("name", CASES)
def test_a_valid_lease_is_served_and_then_the_error_is_of_the_right_kind_names_the_cause_and_shows_nothing(
    case: Case, broker: FakeBroker, client: BrokerClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="token_broker")
    lease = client.token()
    client._http._credentials = CredentialSource(None)

    clock.now += 800
    assert client.token() is lease
    assert "stays in use" in caplog.text
    clock.now += 900
    for ask in (client.token, client.status):
        with pytest.raises(errors.TokenBrokerError) as raised:
            ask()
        assert type(raised.value) is case.kind
        assert case.says in str(raised.value)
        assert CANARY not in everything_of(raised.value) + caplog.text
    assert len(broker.calls) == 1


def test_a_role_that_needs_an_mfa_code_says_so_without_a_terminal(broker: FakeBroker, config: Path) -> None:
    mfa = f"role_arn = {ROLE}\nmfa_serial = arn:aws:iam::123456789012:mfa/me\n"
    config.write_text(ASSUME.replace(f"role_arn = {ROLE}\n", mfa))
    program = (
        "from token_broker import BrokerClient, TokenBrokerError\n"
        "try:\n    BrokerClient().token()\nexcept TokenBrokerError as error:\n    print(error)\n"
    )
    environment = {"AWS_PROFILE": "a", "AWS_REGION": REGION, "TOKEN_BROKER_URL": broker.url}
    options: Any = {"env": {**os.environ, **environment}, "stdin": subprocess.DEVNULL}
    done = run_program(sys.executable, "-c", program, start_new_session=True, **options)

    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "no_credentials")
    assert "MFA code" in done.stdout
    assert CANARY not in done.stdout + done.stderr


# --- a chain that hangs -------------------------------------------------------------------------------------------


@pytest.fixture
def hanging(config: Path, tmp_path: Path) -> Path:
    """A chain that takes two seconds; each time that it is asked, a line is added to this file."""
    starts = tmp_path / "starts"
    starts.touch()
    config.write_text(f"[default]\ncredential_process = sh -c 'echo >> {starts}; exec sleep 2'\n")
    return starts


def failures(count: int, ask: Callable[[], object]) -> list[errors.TokenBrokerError]:
    """Ask in `count` threads at once."""

    def fail(_: int) -> errors.TokenBrokerError:
        with pytest.raises(errors.TokenBrokerError) as raised:
            ask()
        return raised.value

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(fail, range(count)))


def test_every_caller_keeps_its_own_budget_where_the_chain_hangs(broker: FakeBroker, hanging: Path) -> None:
    client = BrokerClient(broker.url, region=REGION, time_budget_s=0.8)

    started_s = time.monotonic()
    seen = failures(8, client.status)  # unlike `token`, each for itself
    assert time.monotonic() - started_s < 1.8
    assert {type(error) for error in seen} == {errors.CredentialsUnavailable}
    assert len(hanging.read_text().splitlines()) == 1


def test_callers_that_wait_for_one_search_get_errors_of_their_own(config: Path) -> None:
    config.write_text("[default]\ncredential_process = sh -c 'sleep 0.3; exit 1'\n")
    source = CredentialSource(None)

    seen = failures(4, lambda: source.get(time.monotonic() + 10))
    assert {type(error) for error in seen} == {errors.NoCredentials}
    assert len({id(error) for error in seen}) == 4  # because a raise writes into it


def test_asking_ahead_keeps_its_own_limit_where_the_chain_hangs(
    hanging: Path, client: BrokerClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_broker.client._ASK_AHEAD_TIMEOUT_S", 0.2)
    lease = client.token()
    client._http._credentials = CredentialSource(None)
    clock.now += 800

    started_s = time.monotonic()
    assert client.token() is lease
    assert time.monotonic() - started_s < 1.5


def test_late_credentials_serve_the_next_caller(broker: FakeBroker, config: Path, tmp_path: Path) -> None:
    keys = {"Version": 1, "AccessKeyId": ACCESS_KEY_ID, "SecretAccessKey": SECRET_ACCESS_KEY}
    (tmp_path / "keys").write_text(json.dumps(keys))
    config.write_text(f"[default]\ncredential_process = sh -c 'sleep 0.5; cat {tmp_path}/keys'\n")
    client = BrokerClient(broker.url, region=REGION, time_budget_s=0.2)

    with pytest.raises(errors.CredentialsUnavailable, match="does not answer in time"):
        client.token()
    client._time_budget_s = 10
    assert client.token().token_id == broker.token_id


def test_keys_behind_a_role_that_were_rotated_are_read_again_after_sts_has_refused_the_old_ones(
    broker: FakeBroker, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.session_token = "of-the-role"
    answer = (
        "<AssumeRoleResponse><AssumeRoleResult><Credentials>"
        f"<AccessKeyId>{ACCESS_KEY_ID}</AccessKeyId><SecretAccessKey>{SECRET_ACCESS_KEY}</SecretAccessKey>"
        "<SessionToken>of-the-role</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
        "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
    config.write_text(ASSUME)
    monkeypatch.setenv("AWS_PROFILE", "a")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with endpoint(200, answer, accepts="Credential=AKIANEW/") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        client = BrokerClient(broker.url, region=REGION)
        with pytest.raises(errors.NoCredentials, match="AssumeRole failed"):
            client.token()
        config.write_text(ASSUME.replace("AKIASOURCE", "AKIANEW"))
        assert client.token().token_id == broker.token_id


def test_what_botocore_logs_for_others_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    error = KeyError("of-another-client")
    logging.getLogger("botocore.credentials").warning("it failed", exc_info=error)

    assert "of-another-client" in caplog.text
