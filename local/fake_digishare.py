"""Run the fake Digishare as a process of its own: `python -m local.fake_digishare --ready-file F --tls-dir D`.

It starts without any client; `PUT /clients` of the admin API (see `local.digishare.admin`) adds them, so that no secret
is on a command line. It ends at the end of its standard input, or on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from local.digishare.admin import AdminServer
from local.digishare.server import FakeDigishare

__all__ = ["FakeDigishare", "main"]


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop; 0 unless something went wrong."""
    parser = argparse.ArgumentParser(prog="fake_digishare", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--ready-file", type=Path, required=True, help="JSON with the addresses, once it listens"
    )
    parser.add_argument(
        "--tls-dir", type=Path, required=True, help="where the throwaway CA's certificate goes"
    )
    options = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())
    with FakeDigishare(tls_dir=options.tls_dir) as digishare, AdminServer(digishare) as admin:
        addresses = {
            "url": digishare.url,
            "admin_url": admin.origin,
            "ca_file": str(digishare.ca_file.resolve()),
        }
        options.ready_file.write_text(json.dumps(addresses))
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
