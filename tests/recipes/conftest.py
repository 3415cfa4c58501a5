"""A caller of the local cloud, as a person or a service would be: it has only an environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local.sdk import ROOT, Credentials

if TYPE_CHECKING:
    from local.cloud import LocalCloud


_NAMES_OF_CA_FILES = (
    "DIGISHARE_CA_FILE",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)


def environment_of(cloud: LocalCloud, key: Credentials | None) -> dict[str, str]:
    """Return the environment of a program that calls the broker, with the tools of this environment on its path.

    Each HTTP library finds the API's private CA in its own variable.
    """
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/"),
        "AWS_EC2_METADATA_DISABLED": "true",
        **dict.fromkeys(("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"), os.devnull),
        "AWS_REGION": cloud.region,
        "AWS_ENDPOINT_URL": cloud.aws_endpoint_url,
        "TOKEN_BROKER_URL": f"{cloud.function_url}/",  # as CloudFormation gives it
        "DIGISHARE_BASE_URL": f"{cloud.digishare_url}/v1",
        **dict.fromkeys(_NAMES_OF_CA_FILES, str(cloud.ca_file)),
        "PYTHONWARNINGS": "error",
    }
    if key is not None:
        environment["AWS_ACCESS_KEY_ID"] = key.access_key_id
        environment["AWS_SECRET_ACCESS_KEY"] = key.secret_access_key
        if key.session_token:
            environment["AWS_SESSION_TOKEN"] = key.session_token
    return environment


@pytest.fixture(scope="session")
def caller(cloud: LocalCloud) -> Credentials:
    return cloud.create_caller("local-recipes", [cloud.outputs["CallerPolicyArn"]])


@pytest.fixture
def environment(cloud: LocalCloud, caller: Credentials) -> dict[str, str]:
    """The environment of a caller who may call."""
    return environment_of(cloud, caller)


@pytest.fixture
def operator_environment(cloud: LocalCloud) -> dict[str, str]:
    """The environment of an operator, who may do everything in the account but call the Function URL."""
    return environment_of(cloud, ROOT)
