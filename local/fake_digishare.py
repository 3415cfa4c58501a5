"""Run the fake Digishare as a process of its own: `python -m local.fake_digishare --ready-file F --tls-dir D`.

It starts without any client; `PUT /clients` of the admin API (see `local.digishare.admin`) gives it some, so that
no secret stands on a command line. It ends when its standard input does, or on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from local.digishare.admin import AdminServer
from local.digishare.server import FakeDigishare

__all__ = ["FakeDigishare", "main"]


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop; 0 unless something went wrong."""
    parser = argparse.ArgumentParser(prog="fake_digishare", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="TLS port on 127.0.0.1; 0: a free one")
    parser.add_argument("--admin-port", type=int, default=0, help="admin API's port; 0: a free one")
    parser.add_argument(
        "--ready-file", type=Path, required=True, help="JSON with the addresses, once it listens"
    )
    parser.add_argument(
        "--tls-dir", type=Path, required=True, help="where the throwaway CA's certificate goes"
    )
    parser.add_argument("--verbose", action="store_true", help="one line a request on standard error")
    options = parser.parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(name)s %(message)s",
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_wait_for_end_of_input, args=(stop,), daemon=True).start()
    with (
        FakeDigishare(port=options.port, tls_dir=options.tls_dir) as digishare,
        AdminServer(digishare, options.admin_port) as admin,
    ):
        addresses = {
            "url": digishare.url,
            "admin_url": admin.origin,
            "ca_file": str(digishare.ca_file.resolve()),
        }
        _write_whole(options.ready_file, json.dumps(addresses))
        stop.wait()
    return 0


def _wait_for_end_of_input(stop: threading.Event) -> None:
    # Not through sys.stdin: a thread that sits in its buffer's lock breaks the interpreter's exit.
    while os.read(0, 4096):
        pass
    stop.set()


def _write_whole(path: Path, text: str) -> None:
    """Write so that a reader sees either no file or all of it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main())
