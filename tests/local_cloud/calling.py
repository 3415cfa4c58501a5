"""Signed calls of a stack's Function URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SigningCredentials

from local.account import REGION

if TYPE_CHECKING:
    from local.cloud import LocalCloud, Stack
    from local.sdk import Credentials


def call(
    stack: LocalCloud | Stack, caller: Credentials, path: str = "/", body: bytes = b""
) -> requests.Response:
    """Call a stack's URL, or the main stack's of a cloud."""
    return call_url(f"{stack.function_url}{path}", caller, body)


def call_url(url: str, caller: Credentials, body: bytes = b"") -> requests.Response:
    request = AWSRequest("POST", url, data=body)
    signer = SigningCredentials(caller.access_key_id, caller.secret_access_key, caller.session_token)
    SigV4Auth(signer, "lambda", REGION).add_auth(request)
    with requests.Session() as session:
        session.trust_env = False
        return session.post(url, data=body, headers=dict(request.headers), timeout=30, allow_redirects=False)


def echo(reply: requests.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    value: dict[str, Any] = reply.json()
    return value
