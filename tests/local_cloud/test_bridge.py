"""Connections to a bridge's address arrive at the same port of 127.0.0.1. Other interfaces are refused."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from local.bridge import BridgeError, find_address
from local.children import Children, LocalCloudError
from local.cloud import PROJECT
from local.reaper import Reaper
from tests.raw_servers import RawServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from local.cloud import LocalCloud

BRIDGE_ADDRESS = "127.0.0.2"  # what every machine with Linux has besides 127.0.0.1
pytestmark = pytest.mark.allow_hosts(["127.0.0.1", BRIDGE_ADDRESS])
SHOWN = """[{}, {"ifname": "docker0", "addr_info": [{"family": "inet", "local": "172.17.0.1"}]},
            {"ifname": "br-down", "addr_info": []}, {}]"""


@pytest.fixture
def put_ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """PATH has no program. A test puts `ip` there, which shows the interfaces."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(script: str) -> None:
        (tmp_path / "ip").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ip").chmod(0o755)

    return put


@pytest.fixture
def children(tmp_path: Path, put_ip: Callable[[str], None]) -> Iterator[Children]:
    """Starts the program on a machine on which docker0 has that address."""
    put_ip(f"echo '{SHOWN.replace('172.17.0.1', BRIDGE_ADDRESS)}'")
    children = Children(PROJECT, tmp_path, Reaper(PROJECT))
    yield children
    children.end()


def forward(children: Children, port: int) -> None:
    command = [sys.executable, "-m", "local.bridge", "docker0", str(port)]
    assert children.start("bridge", command, os.environ) == {"address": BRIDGE_ADDRESS}


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_bytes_go_both_ways_and_each_end_is_told_of_the_others(children: Children) -> None:
    sent = bytes(range(256)) * 4_096

    def serve(connection: socket.socket) -> None:
        connection.sendall(read_all(connection)[::-1])

    with RawServer(serve) as server:
        forward(children, server.port)
        with socket.create_connection((BRIDGE_ADDRESS, server.port), 10) as caller:
            caller.sendall(sent)
            caller.shutdown(socket.SHUT_WR)
            assert read_all(caller) == sent[::-1]


def test_an_answer_arrives_while_the_caller_keeps_the_connection_open(children: Children) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"answer")

    with RawServer(serve) as server:
        forward(children, server.port)
        with socket.create_connection((BRIDGE_ADDRESS, server.port), 10) as caller:
            caller.sendall(b"question")
            assert read_all(caller) == b"answer"


def test_where_nobody_listens_the_connection_ends(children: Children) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    forward(children, port)
    with socket.create_connection((BRIDGE_ADDRESS, port), 10) as caller:
        assert caller.recv(1) == b""


def test_the_address_of_a_bridge_is_looked_up(put_ip: Callable[[str], None]) -> None:
    put_ip(f"echo '{SHOWN}'")

    assert find_address("docker0") == "172.17.0.1"


@pytest.mark.parametrize("interface", ["lo", "eth0", "br-down", "172.17.0.1", ""])
def test_what_is_no_bridge_is_refused_with_a_list(interface: str, put_ip: Callable[[str], None]) -> None:
    put_ip(f"echo '{SHOWN}'")

    with pytest.raises(BridgeError, match=r"is no bridge with an address here \(there is docker0\)"):
        find_address(interface)


@pytest.mark.parametrize("script", ["exit 1", ""], ids=["one that fails", "none"])
def test_without_the_tool_an_error_says_what_to_install(script: str, put_ip: Callable[[str], None]) -> None:
    if script:
        put_ip(script)

    with pytest.raises(BridgeError, match="install iproute2"):
        find_address("docker0")


def test_a_cloud_that_is_to_be_open_to_no_bridge_says_so(cloud: LocalCloud) -> None:
    with pytest.raises(LocalCloudError, match="lo is no bridge"):
        cloud.open_to_containers("lo")


def test_the_admin_server_is_not_forwarded(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(cloud._children, "start", lambda name, command, environment: commands.append(command))

    cloud.open_to_containers("docker0")

    (command,) = commands
    urls = (cloud.aws_endpoint_url, cloud.function_url, cloud.digishare_url)
    assert command[-4:] == ["docker0", *(url.rpartition(":")[2] for url in urls)]
    assert cloud.digishare_admin_url.rpartition(":")[2] not in command
