"""SDK sessions and HTTP requests for the local cloud, without any of the host's settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.session
import requests
from botocore.config import Config


@dataclass(frozen=True)
class Credentials:
    """An access key of the local AWS; temporary ones have a session token."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that give the SDKs this key, and no session token of another one."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_SESSION_TOKEN": self.session_token or "",
        }


ROOT = Credentials("test", "test")
"""ministack's root: the operator who deploys. What it does is not checked, and the Function URL refuses it."""


def new_session(credentials: Credentials, region: str) -> boto3.Session:
    """Return a session with exactly these credentials; no profile or file of the host is read."""
    nowhere = (None, None, os.devnull, None)
    settings = {"profile": (None, None, None, None), "config_file": nowhere, "credentials_file": nowhere}
    return boto3.Session(
        botocore_session=botocore.session.Session(session_vars=settings),
        aws_access_key_id=credentials.access_key_id,
        aws_secret_access_key=credentials.secret_access_key,
        aws_session_token=credentials.session_token,
        region_name=region,
    )


def new_client(service: str, credentials: Credentials, region: str, endpoint_url: str) -> Any:
    """Return a client of one service that goes to `endpoint_url`, past any proxy."""
    session: Any = new_session(credentials, region)  # the stubs know services only as literals
    return session.client(
        service,
        endpoint_url=endpoint_url,
        config=Config(proxies={}, connect_timeout=5, read_timeout=60, retries={"max_attempts": 1}),
    )


def send(verb: str, url: str, timeout_s: float = 10.0, **options: Any) -> requests.Response:
    """Send one request, past any proxy, with these options of `requests`; a redirect is not followed."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(verb, url, timeout=timeout_s, allow_redirects=False, **options)
