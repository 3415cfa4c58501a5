"""Lets containers reach the local cloud on Linux: forwards ports of a bridge's address to the same ports on loopback.

The one exception to "loopback only", and only where it is asked for: `make local BRIDGE=docker0`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import subprocess
import sys
from pathlib import Path

_CHUNK_BYTES = 65_536


class BridgeError(Exception):
    """The interface cannot be used; the text says what to do."""


def find_address(interface: str) -> str:
    """Return the IPv4 address of a bridge of this machine.

    Raises:
        BridgeError: there is no such interface, it is no bridge, or it has no address.
    """
    command = ["ip", "-json", "-4", "address", "show", "type", "bridge"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BridgeError(
            f"`{' '.join(command)}` failed ({type(error).__name__}): install iproute2"
        ) from None
    # Interfaces that the filter leaves out are shown as empty objects.
    addresses = {
        bridge["ifname"]: address["local"]
        for bridge in json.loads(shown or "[]")
        for address in bridge.get("addr_info", ())
    }
    if interface not in addresses:
        there = f"there is {', '.join(sorted(addresses))}" if addresses else "there is none"
        raise BridgeError(
            f"{interface} is no bridge with an address here ({there}): is the container engine running?"
        )
    return str(addresses[interface])


async def forward(address: str, ports: list[int]) -> list[asyncio.Server]:
    """Listen on these ports of `address`, and forward every connection to the same port of 127.0.0.1.

    Raises:
        OSError: one of them is taken.
    """
    return [await asyncio.start_server(functools.partial(_connect, port), address, port) for port in ports]


async def _connect(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        cloud_reader, cloud_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.close()  # the caller sees what it would see without this bridge: nobody answers
        return
    try:
        await asyncio.gather(_copy(reader, cloud_writer), _copy(cloud_reader, writer))
    finally:
        cloud_writer.close()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # one side has closed; the close that follows tells the other
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


async def _serve(address: str, ports: list[int], ready_file: Path) -> None:
    await forward(address, ports)
    await asyncio.to_thread(ready_file.write_text, json.dumps({"address": address}))
    await asyncio.to_thread(sys.stdin.read)  # the end of the supervisor ends it


def main() -> None:
    parser = argparse.ArgumentParser(prog="local.bridge", description=__doc__.partition("\n")[0])
    parser.add_argument("interface", help="such as docker0")
    parser.add_argument("ports", type=int, nargs="+")
    parser.add_argument("--ready-file", type=Path, required=True, help="is written when all ports listen")
    options = parser.parse_args()
    try:
        asyncio.run(_serve(find_address(options.interface), options.ports, options.ready_file))
    except (BridgeError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
