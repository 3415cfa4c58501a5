"""Every call to the broker ends at its deadline, whatever the network does; an answer that was cut off is retried."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from tests.client.fake_broker import Answer, FakeBroker
from tests.raw_servers import RawTlsServer, drips_for_ever
from token_broker import errors

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.client.conftest import Clock, NewClient
    from token_broker.client import BrokerClient

    Script = Callable[[Any], None]

BUDGET_S = 0.3
PROMPT_S = 2.5
"""Room for a busy machine; every server here would delay a caller for far longer."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def stalls(start: bytes = b"") -> Script:
    def script(connection: ssl.SSLSocket) -> None:
        connection.sendall(start)
        connection.recv(1)  # until the client has gone

    return script


def resets(start: bytes = b"") -> Script:
    def script(connection: Any) -> None:
        connection.sendall(start)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionError

    return script


def failure_in_time(client: BrokerClient) -> str:
    started_s = time.monotonic()
    with pytest.raises(errors.BrokerUnreachable) as raised:
        client.token()
    assert time.monotonic() - started_s < PROMPT_S
    return str(raised.value)


STAGES = {
    "no answer": b"",
    "status line": b"HTTP/1.1 2",
    "head": HEAD + b"X-Long: ",
    "body of a length": HEAD + b"Content-Length: 500\r\n\r\n{",
    "body of no length": HEAD + b"\r\n{",
    "chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{",
    "interim answer": b"HTTP/1.1 103 Early Hints\r\nX: ",
}


@pytest.mark.parametrize(
    ("fault", "stage"),
    [*product([drips_for_ever, resets], STAGES), *product([stalls], ["no answer", "body of a length"])],
    ids=lambda row: getattr(row, "__name__", row),
)
def test_an_answer_that_does_not_come_times_out(
    fault: Callable[[bytes], Script],
    stage: str,
    new_client: NewClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RawTlsServer(fault(STAGES[stage]), tmp_path) as server:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(server.ca_file))
        said = failure_in_time(new_client(server.url, time_budget_s=BUDGET_S))
    # A cut answer is none, even where it looks whole.
    assert "while waiting for the answer" in said or ("cut off" in said and fault is resets)


@contextmanager
def dead_addresses(count: int) -> Iterator[list[tuple[str, int]]]:
    """Yield addresses that take no connection and refuse none: their queues are full."""
    with ExitStack() as open_ones:
        listeners = [
            open_ones.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0)) for _ in range(count)
        ]
        for listener in listeners * 4:
            waiting = open_ones.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        yield [listener.getsockname() for listener in listeners]


def test_dead_addresses_share_one_deadline(new_client: NewClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with dead_addresses(8) as addresses:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
        left = addresses.copy()
        look_up, connect = socket.getaddrinfo, socket.create_connection

        def find(host: str, *port: Any, **kind: Any) -> list[Any]:
            return found if host == "broker.test" else look_up(host, *port, **kind)

        def note(_: tuple[str, int], timeout_s: float) -> socket.socket:
            return connect(
                left.pop(), timeout_s
            )  # a name has one port, but these addresses differ by their ports only

        monkeypatch.setattr(socket, "getaddrinfo", find)
        monkeypatch.setattr(socket, "create_connection", note)
        client = new_client("https://broker.test/", time_budget_s=1)
        said = failure_in_time(client)
    assert "timed out while connecting" in said
    assert not left


def test_a_slow_name_server_times_out(new_client: NewClient, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    look_ups: list[threading.Thread] = []

    def slow(*_: object, **__: object) -> list[Any]:
        look_ups.append(threading.current_thread())
        may_end.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    said = failure_in_time(new_client("https://broker.test/", time_budget_s=BUDGET_S))
    assert "timed out while looking up the host's name" in said
    assert look_ups[0].daemon
    may_end.set()
    look_ups[0].join(10)


def test_an_answer_may_take_longer_than_a_connection(broker: FakeBroker, new_client: NewClient) -> None:
    broker.may_answer.clear()
    threading.Timer(0.5, broker.may_answer.set).start()

    assert new_client(connect_timeout_s=0.2).token().token_id == broker.token_id
    assert len(broker.calls) == 1


def test_asking_ahead_of_a_dripping_broker_costs_three_seconds_at_most(
    broker: FakeBroker, client: BrokerClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_broker.client._ASK_AHEAD_TIMEOUT_S", 0.2)
    lease = client.token()
    clock.now += 800
    broker.script.append(Answer(200, b" " * 3000, drips=True))

    started_s = time.monotonic()
    assert client.token() is lease
    assert time.monotonic() - started_s < PROMPT_S


# --- cut off ------------------------------------------------------------------------------------------------------

LEASE = {"access_token": "canary-token-7", "token_id": "7", "connection": "c", "expires_in": 900}
BODY = json.dumps(LEASE).encode()
PACKED = gzip.compress(BODY, mtime=0)
CUT = {
    "in the status line": b"HTTP/1.1 20",
    "before a body of no length": HEAD + b"\r\n",
    "in a body of no length": HEAD + b"\r\n" + BODY[:30],
    "in a body of no type": b"HTTP/1.1 200 OK\r\n\r\n" + BODY[:30],
    "in a body of a length": HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY[:30],
    "packed, of no length": HEAD + b"Content-Encoding: gzip\r\n\r\n" + PACKED[:40],
    "in AWS's refusal": b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\r\n" + b'{"Mess',
}


@pytest.mark.parametrize("raw", CUT.values(), ids=CUT)
def test_an_answer_that_was_cut_off_is_asked_for_again_and_at_last_blames_the_connection(
    raw: bytes, broker: FakeBroker, new_client: NewClient, pauses: list[float]
) -> None:
    cut_off = Answer(200, b"", raw=raw)
    broker.script.append(cut_off)
    assert new_client().token().token_id == broker.token_id
    assert len(pauses) == 1

    broker.script.extend([cut_off] * 4)
    with pytest.raises(errors.BrokerUnreachable) as raised:
        new_client().token()
    assert "is the URL the broker's" not in str(raised.value)
    assert len(broker.calls) == 6


def test_a_whole_answer_needs_no_declared_length(broker: FakeBroker, new_client: NewClient) -> None:
    broker.script.append(Answer(200, b"", raw=HEAD + b"\r\n" + BODY))
    broker.script.append(Answer(200, b"", raw=HEAD + b"Content-Encoding: gzip\r\n\r\n" + PACKED))

    for _ in range(2):
        assert new_client().token().access_token == "canary-token-7"


def test_a_page_of_no_length_is_not_taken_for_a_cut_answer(broker: FakeBroker, client: BrokerClient) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>Sign in</html>"
    broker.script.append(Answer(200, b"", raw=page))

    with pytest.raises(errors.UnusableAnswer):
        client.token()
    assert len(broker.calls) == 1


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("0.2", 1), ("9" * 300, 86_400), ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400), ("soon", None)],
)
def test_retry_after_of_any_kind_is_read_as_for_the_upstream(
    retry_after: str, seconds: int | None, broker: FakeBroker, new_client: NewClient
) -> None:
    broker.script.extend([Answer(503, b"{}", {"Retry-After": retry_after})] * 4)

    with pytest.raises(errors.BrokerUnreachable) as raised:
        new_client(time_budget_s=5).token()
    assert raised.value.retry_after_s == seconds
