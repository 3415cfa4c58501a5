"""`make local`: keeps a local cloud up with the stack deployed, a client secret in place and two callers.

While it is up there are two files, for their owner's eyes only, gone at the end:

    .local/env        KEY=VALUE lines: `set -a; . .local/env; set +a` makes the shell the granted caller
    .local/env.json   each function's own environment, in the shape of `sam local invoke --env-vars`
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from typing import TYPE_CHECKING

from local.children import LocalCloudError
from local.cloud import ENV_FILE, PROJECT, LocalCloud, end_in_order_on_signals

if TYPE_CHECKING:
    from pathlib import Path

    from local.sdk import Credentials

FUNCTIONS_FILE = PROJECT / ".local/env.json"


def keep_up() -> None:
    """Start everything, write the two files, and wait for a signal."""
    with LocalCloud() as cloud:
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
        _write_private(cloud, ENV_FILE, "\n".join(lines) + "\n")
        environments = {
            name: cloud.function_environment(f"{name}Name")
            for name in ("BrokerFunction", "CampaignsFunction")
        }
        _write_private(cloud, FUNCTIONS_FILE, json.dumps(environments, indent=2))
        print("\n".join(["", *lines, "", "also in .local/env; Ctrl-C ends it all"]), flush=True)
        while True:
            signal.pause()


def _keys(key: Credentials) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": key.access_key_id,
        "AWS_SECRET_ACCESS_KEY": key.secret_access_key,
        "AWS_SESSION_TOKEN": key.session_token or "",
    }


def _write_private(cloud: LocalCloud, path: Path, text: str) -> None:
    """Write a file that only its owner can read and that goes with the cloud."""
    cloud.remove_at_end(path)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def main() -> int:
    end_in_order_on_signals()
    try:
        keep_up()
    except LocalCloudError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
