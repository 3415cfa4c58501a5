"""The client secret goes to the upstream and nowhere else: no redirect is followed, no other host is called."""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import requests

from functions.broker.token import MOST_EXCHANGES_AT_ONCE
from lambda_support import upstream_http
from local.digishare import faults
from local.fake_digishare import FakeDigishare
from tests.faults.instances import ONE_ATTEMPT_S, ask
from token_broker import bounded_http
from token_broker.ledger_row import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.instances import Instances

pytestmark = pytest.mark.usefixtures("short_exchange")


@pytest.fixture
def elsewhere() -> Iterator[socket.socket]:
    """A listener that must never be contacted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def host_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def was_contacted(listener: socket.socket) -> bool:
    return select.select([listener], [], [], 0)[0] == [listener]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(
    status: int, instances: Instances, digishare: FakeDigishare, elsewhere: socket.socket
) -> None:
    """307 and 308 would repeat the body, and with it the client secret."""
    connection = instances.operator.new_connection()
    location = f"https://{host_of(elsewhere)}/v1/oauth/token"
    digishare.fail("token", faults.redirect(status=status, location=location))
    answer = ask(instances.one, connection, ONE_ATTEMPT_S)

    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert not was_contacted(elsewhere)
    (row,) = instances.operator.rows(connection)
    assert (row.outcome, row.error) == (Outcome.FAILED, f"upstream_{status}")


def test_a_followed_redirect_would_be_noticed(
    instances: Instances, digishare: FakeDigishare, elsewhere: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: an exchange that follows redirects, as `requests` does by default."""

    def exchange_carelessly(_session: object, method: str, url: str, **options: Any) -> object:
        body, ca_file = options["json_body"], str(digishare.ca_file)
        with suppress(requests.RequestException):
            requests.request(method, url, json=body, timeout=0.5, verify=ca_file)
        raise bounded_http.NoAnswer("whatever it was")

    monkeypatch.setattr(upstream_http, "exchange_json", exchange_carelessly)
    location = f"https://{host_of(elsewhere)}/v1/oauth/token"
    digishare.fail("token", faults.redirect(status=307, location=location))
    ask(instances.one, instances.operator.new_connection(), ONE_ATTEMPT_S)

    assert was_contacted(elsewhere)


@pytest.mark.parametrize("form", ["https://{}/x", "http://{}/x", "https://user:password@{}/x"])
def test_no_other_token_url_is_contacted(form: str, instances: Instances, elsewhere: socket.socket) -> None:
    connection = instances.operator.new_connection(token_url=form.format(host_of(elsewhere)))
    answer = ask(instances.one, connection, ONE_ATTEMPT_S)

    assert (answer.status, answer.body["error"]) == (502, "upstream_rejected")
    assert not was_contacted(elsewhere)


def test_an_upstream_with_unknown_certificate_gets_no_request(instances: Instances, tmp_path: Path) -> None:
    with FakeDigishare(tls_dir=tmp_path) as impostor:
        broker = instances.start(
            UPSTREAM_HOSTS=f"{instances.environment['UPSTREAM_HOSTS']},{impostor.url.removeprefix('https://')}"
        )
        connection = instances.operator.new_connection(token_url=f"{impostor.url}/v1/oauth/token")
        answer = ask(broker, connection, ONE_ATTEMPT_S)

        assert impostor.calls == []
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    _assert_nothing_was_minted(instances, connection, "upstream_certificate_refused")


def test_an_upstream_that_does_not_listen_has_minted_nothing(instances: Instances) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = host_of(listener)
    broker = instances.start(UPSTREAM_HOSTS=f"{instances.environment['UPSTREAM_HOSTS']},{host}")
    connection = instances.operator.new_connection(token_url=f"https://{host}/v1/oauth/token")
    answer = ask(broker, connection, ONE_ATTEMPT_S)

    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    _assert_nothing_was_minted(instances, connection, "upstream_unreachable")


def _assert_nothing_was_minted(instances: Instances, connection: str, code: str) -> None:
    (row,) = instances.operator.rows(connection)
    assert (row.outcome, row.error) == (Outcome.FAILED, code)
    assert instances.operator.record(connection).exchanges_left(time.time()) == MOST_EXCHANGES_AT_ONCE
