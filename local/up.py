"""`make local`: keeps a local cloud up with the stack deployed, a client secret in place and two callers.

While it is up there are, for their owner's eyes only, and gone at the end:

    .local/env          KEY=VALUE lines: `set -a; . .local/env; set +a` makes the shell the granted caller
    .local/container/   what `make invoke` and `sam local` need (local/container.py)
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from typing import TYPE_CHECKING

from local.children import LocalCloudError
from local.cloud import ENV_FILE, LocalCloud, end_in_order_on_signals
from local.container import CONTAINER_FOLDER, write_container_files, write_private

if TYPE_CHECKING:
    from local.sdk import Credentials

FUNCTIONS = ("BrokerFunction", "CampaignsFunction")


def keep_up(bridge: str | None) -> None:
    """Start everything, write the files, and wait for a signal.

    Args:
        bridge: the network interface by which containers reach the cloud, such as "docker0"; only Linux needs one.
    """
    with LocalCloud() as cloud:
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
            "AWS_REGION": cloud.region,
            "AWS_ENDPOINT_URL": cloud.aws_endpoint_url,
            **_keys(granted),
            **{f"NOT_GRANTED_{name}": value for name, value in _keys(not_granted).items()},
            "DIGISHARE_BASE_URL": f"{cloud.digishare_url}/v1",
            "DIGISHARE_ADMIN_URL": cloud.digishare_admin_url,
            "DIGISHARE_CA_FILE": str(cloud.ca_file),
        }
        lines = [f"{name}={value}" for name, value in variables.items()]
        cloud.remove_at_end(ENV_FILE)
        write_private(ENV_FILE, "\n".join(lines) + "\n")
        cloud.remove_at_end(CONTAINER_FOLDER)
        its_variables = {name: cloud.function_environment(f"{name}Name") for name in FUNCTIONS}
        write_container_files(its_variables, cloud.ca_file.read_text())
        print("\n".join(["", *lines, "", "also in .local/env; Ctrl-C ends it all"]), flush=True)
        while True:
            signal.pause()


def _keys(key: Credentials) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": key.access_key_id,
        "AWS_SECRET_ACCESS_KEY": key.secret_access_key,
        "AWS_SESSION_TOKEN": key.session_token or "",
    }


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
    return 0


if __name__ == "__main__":
    sys.exit(main())
