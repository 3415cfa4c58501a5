"""`make local`: runs a local cloud with the stack deployed, a client secret stored and two callers.

While it runs, there are these files, which only their owner can read, and which are removed at the end:

    .local/env          KEY=VALUE lines: `set -a; . .local/env; set +a` makes the shell the granted caller
    .local/container/   what `make invoke` and `sam local` need (local/container.py)

Both belong to one cloud: a second `make local` of the same checkout is refused. It ends when the process that has
started it ends, or when a part of it ends.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from typing import NoReturn

from local.children import LocalCloudError
from local.cloud import ENV_FILE, LocalCloud, end_in_order_on_signals
from local.container import CONTAINER_FOLDER, FUNCTIONS, write_container_files, write_private
from local.sdk import ROOT, Credentials


def keep_up(bridge: str | None) -> NoReturn:
    """Start everything, write the files, and wait for a signal.

    Args:
        bridge: the network interface by which containers reach the cloud, such as "docker0"; only Linux needs one.

    Raises:
        LocalCloudError: this checkout has one already, or a part of it did not start, or has ended.
    """
    with LocalCloud(name="make-local") as cloud:
        if bridge:
            cloud.open_to_containers(bridge)
        cloud.build()
        cloud.deploy()
        client_secret = secrets.token_urlsafe(32)
        cloud.steer_digishare("PUT", "/clients", [{"client_id": "local", "secrets": [client_secret]}])
        connection = {"type": "client_credentials", "client_id": "local", "client_secret": client_secret}
        cloud.put_connection("digishare", connection)
        granted = cloud.create_caller("local-granted", [cloud.outputs["CallerPolicyArn"]])
        not_granted = cloud.create_caller("local-not-granted")
        variables = {
            "TOKEN_BROKER_URL": cloud.function_url,
            **cloud.environment,
            **granted.environment,
            **_prefixed("NOT_GRANTED_", not_granted),
            **_prefixed("OPERATOR_", ROOT),
            "DIGISHARE_BASE_URL": f"{cloud.digishare_url}/v1",
            "DIGISHARE_ADMIN_URL": cloud.digishare_admin_url,
            "DIGISHARE_CA_FILE": str(cloud.ca_file),
        }
        lines = [f"{name}={value}" for name, value in variables.items()]
        cloud.remove_at_end(ENV_FILE)
        write_private(ENV_FILE, "\n".join(lines) + "\n")
        cloud.remove_at_end(CONTAINER_FOLDER)
        its_variables = {name: cloud.function_environment(f"{name}Name") for name in FUNCTIONS.values()}
        write_container_files(its_variables, cloud.ca_file.read_text())
        print("\n".join(["", *lines, "", "also in .local/env; Ctrl-C ends it all"]), flush=True)
        cloud.wait_for_an_end()


def _prefixed(prefix: str, key: Credentials) -> dict[str, str]:
    return {f"{prefix}{name}": value for name, value in key.environment.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="local.up", description=__doc__.partition("\n")[0])
    parser.add_argument("--bridge", help="let containers reach the cloud by this interface, such as docker0")
    options = parser.parse_args()
    end_in_order_on_signals()
    try:
        keep_up(options.bridge)
    except LocalCloudError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
