"""The exchange alone. Whatever fault one connection has, no other connection of the upstream gets its token."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker.adapters.client_secret import ClientCredentials
from functions.broker.adapters.oauth_exchange import OAuthExchange
from functions.broker.ports import MintFailedError
from functions.broker.token import FailureKind
from lambda_support import upstream_http
from local.digishare import faults
from local.digishare.model import Client
from local.waiting import wait_until
from tests.faults.upstream_cases import CASES, LEFTOVERS, ODD_WRAPPINGS, wrapped
from token_broker import bounded_http
from token_broker.issued_token import token_id_of

if TYPE_CHECKING:
    from pathlib import Path

    from urllib3.connection import HTTPConnection

    from local.fake_digishare import FakeDigishare

TIMEOUT_S = 0.4
SLACK_S = 3.0
FAULTS = {**{name: case.fault for name, case in CASES.items()}, **ODD_WRAPPINGS, **LEFTOVERS}


@pytest.fixture
def exchange(digishare: FakeDigishare) -> OAuthExchange:
    digishare.set_clients([Client("one", ("canary-one",)), Client("other", ("canary-other",))])
    host = digishare.url.removeprefix("https://")
    return OAuthExchange(frozenset({host}), str(digishare.ca_file), time.time)


def credential_of(name: str, digishare: FakeDigishare) -> ClientCredentials:
    return ClientCredentials(name, f"canary-{name}", f"{digishare.url}/v1/oauth/token")


def exchange_as(name: str, exchange: OAuthExchange, digishare: FakeDigishare, timeout_s: float = 10.0) -> str:
    """Return the token id that `name` gets, having checked that it is one of its own."""
    token_id = token_id_of(exchange.exchange(credential_of(name, digishare), timeout_s).access_token)
    assert token_id in {mint.token_id for mint in digishare.mints if mint.client_id == name}
    return token_id


def test_after_every_fault_each_gets_its_own_token(exchange: OAuthExchange, digishare: FakeDigishare) -> None:
    assert len(FAULTS) > 100
    for fault in FAULTS.values():
        for spoilt, next_one in (("one", "other"), ("other", "one")):
            digishare.fail("token", fault)
            started_s = time.monotonic()
            with suppress(MintFailedError):
                exchange_as(spoilt, exchange, digishare, TIMEOUT_S)
            assert time.monotonic() - started_s < TIMEOUT_S + SLACK_S
            exchange_as(next_one, exchange, digishare)


def test_a_reused_connection_would_be_noticed(
    exchange: OAuthExchange, digishare: FakeDigishare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: the connection goes back to a pool, for the next call."""
    made: list[_Reused] = []
    make = bounded_http._connection

    def make_or_reuse(*where: Any) -> _Reused:
        if not made:
            made.append(_Reused(make(*where)))
        return made[0]

    monkeypatch.setattr(bounded_http, "_connection", make_or_reuse)
    digishare.fail("token", LEFTOVERS["204 with an answer behind"])
    with suppress(MintFailedError):
        exchange_as("one", exchange, digishare)
    answer = exchange.exchange(credential_of("other", digishare), 2)
    # It was answered before its request was read. The fake must not read that during the next test.
    assert wait_until(lambda: len(digishare.calls) == 2)
    made.pop().connection.close()

    owners = [m.client_id for m in digishare.mints if m.token_id == token_id_of(answer.access_token)]
    assert owners == ["one"]


class _Reused:
    """A connection whose `close` leaves it open, and that asks the server to leave it open."""

    def __init__(self, connection: HTTPConnection) -> None:
        self.connection = connection

    @property
    def sock(self) -> Any:
        return self.connection.sock

    def connect(self) -> None:
        if self.connection.sock is None:
            self.connection.connect()

    def request(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> None:
        # The standard library allows for no second request before it has read the first one's answer.
        vars(self.connection)["_HTTPConnection__state"] = "Idle"
        self.connection.request(method, target, body, {**headers, "Connection": "keep-alive"})

    def close(self) -> None:
        """Leave it open."""


def test_prepare_sends_nothing_and_does_all_else(
    exchange: OAuthExchange, digishare: FakeDigishare, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.prepare(credential_of("one", digishare))
    assert digishare.calls == []
    monkeypatch.setattr(upstream_http, "new_session", None)
    exchange_as("one", exchange, digishare)
    assert len(digishare.calls) == 1


@pytest.mark.parametrize(("content", "how"), [(None, "FileNotFoundError"), ("no certificate", "SSLError")])
def test_ca_certificates_that_cannot_be_loaded_are_a_failure_like_others(
    content: str | None, how: str, digishare: FakeDigishare, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    host = digishare.url.removeprefix("https://")
    exchange = OAuthExchange(frozenset({host}), str(file), time.time)

    with pytest.raises(MintFailedError, match="ca_file_unusable") as failed:
        exchange.prepare(credential_of("a", digishare))
    assert failed.value.kind is FailureKind.NOTHING_ISSUED
    assert failed.value.problem == f"the CA certificates for the upstream cannot be loaded ({how})"


@pytest.mark.parametrize(
    ("token_url", "code"),
    [
        ("https://elsewhere.example/", "token_url_not_allowed"),
        ("http://{host}/", "token_url_not_allowed"),
        ("https://user:canary@{host}/", "token_url_not_allowed"),
        ("https://[canary", "token_url_malformed"),
        ("https://127.0.0.1:canary/", "token_url_malformed"),
        ("", "token_url_not_allowed"),
    ],
)
def test_a_token_url_that_is_not_allowed_is_refused_before_anything_else(
    token_url: str, code: str, exchange: OAuthExchange, digishare: FakeDigishare
) -> None:
    host = digishare.url.removeprefix("https://")
    credential = ClientCredentials("one", "canary-one", token_url.format(host=host))
    for call in (lambda: exchange.prepare(credential), lambda: exchange.exchange(credential, 1)):
        with pytest.raises(MintFailedError) as caught:
            call()
        assert (caught.value.code, caught.value.kind) == (code, FailureKind.NOTHING_ISSUED)
        assert caught.value.__context__ is None
    assert digishare.calls == []


ALLOWED = ["campaigns.read campaigns.write", "s" * 1024]
NOT_ALLOWED = ["s" * 1025, "a  b", " a", "a\\b", 'a"b', "a\nb", "\u00e9", "", ["a"]]


@pytest.mark.parametrize("scope", [*ALLOWED, *NOT_ALLOWED])
def test_malformed_scope_is_none(scope: object, exchange: OAuthExchange, digishare: FakeDigishare) -> None:
    body = faults.TOKEN_BODY.replace("{", f'{{"scope":{json.dumps(scope)},', 1)
    digishare.fail("token", wrapped(body=body))
    read = exchange.exchange(credential_of("one", digishare), 2).scope
    assert read == (scope if scope in ALLOWED else None)
