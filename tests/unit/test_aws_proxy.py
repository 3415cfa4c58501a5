"""The proxy in front of the local AWS passes calls on as they are, counts them, and delays those of one service."""

from __future__ import annotations

import http.client
import ssl
import time
from typing import TYPE_CHECKING

import pytest
import trustme

from local.aws_proxy import AwsProxy
from local.loopback import HOST, LoopbackHandler, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Iterator

DELAY_S = 1.5


class Aws(LoopbackServer):
    """Answers each call with its own body; notes the connections, and the Host header of each call."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.connections: set[object] = set()
        self.hosts: list[str] = []


class _Handler(LoopbackHandler):
    server: Aws

    def serve(self) -> None:
        self.server.connections.add(self.client_address)
        self.server.hosts.append(self.headers["Host"])
        self.send(400, {"x-amzn-ErrorType": "Whatever"}, self.read_body())


@pytest.fixture
def aws() -> Iterator[Aws]:
    with Aws() as running:
        yield running


@pytest.fixture
def proxy(aws: Aws) -> Iterator[AwsProxy]:
    with AwsProxy(aws.origin) as running:
        yield running


def call(connection: http.client.HTTPConnection, target: str) -> tuple[int, str | None, bytes]:
    connection.request("POST", "/", b"{}", {"Host": "dynamodb.test", "X-Amz-Target": target})
    answer = connection.getresponse()
    return answer.status, answer.headers["x-amzn-ErrorType"], answer.read()


def test_calls_of_one_tls_connection_go_over_one_to_aws_and_are_counted(aws: Aws, proxy: AwsProxy) -> None:
    authority = trustme.CA()
    proxy.speak_tls(authority.issue_cert(HOST))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    connection = http.client.HTTPSConnection(HOST, proxy.port, timeout=10, context=trust)

    answers = [call(connection, "DynamoDB_20120810.GetItem") for _ in range(3)]
    connection.close()

    assert answers == [(400, "Whatever", b"{}")] * 3
    assert aws.hosts == ["dynamodb.test"] * 3
    assert len(aws.connections) == 1
    assert proxy.take_calls() == {"dynamodb.GetItem": 3}
    assert proxy.take_calls() == {}


def test_only_the_service_that_is_to_be_slow_is(proxy: AwsProxy) -> None:
    proxy.delays_s = {"kms": DELAY_S}
    connection = http.client.HTTPConnection(HOST, proxy.port, timeout=10)
    took_s = {}
    for target in ("DynamoDB_20120810.GetItem", "TrentService.Decrypt"):
        started_s = time.monotonic()
        call(connection, target)
        took_s[target] = time.monotonic() - started_s
    connection.close()

    assert took_s["TrentService.Decrypt"] >= DELAY_S
    assert took_s["DynamoDB_20120810.GetItem"] < DELAY_S
