"""Signed calls of a stack's Function URL, and callers with policies of their own."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SigningCredentials

from local.account import REGION
from local.build import alone_with_the_build
from local.cloud import PROJECT, LocalCloud
from local.sdk import send
from tests.conftest import CANARY_CLIENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

    from local.cloud import Stack
    from local.sdk import Credentials

EVERYTHING: Final = {"Effect": "Allow", "Action": "*", "Resource": "*"}


@contextmanager
def cloud_with_a_copied_build(folder: Path) -> Iterator[LocalCloud]:
    """Start a cloud of its own, with a copy of the build below `folder` that a test may change."""
    with alone_with_the_build():
        shutil.copytree(PROJECT / ".aws-sam/build", folder / ".aws-sam/build")
    with LocalCloud(folder, say=lambda _: None) as cloud:
        cloud.steer_digishare("PUT", "/clients", [CANARY_CLIENT])
        yield cloud


def call(stack: LocalCloud | Stack, caller: Credentials, path: str = "/") -> requests.Response:
    """Call a stack's URL, or the main stack's of a cloud."""
    return call_url(f"{stack.function_url}{path}", caller)


def call_url(url: str, caller: Credentials) -> requests.Response:
    request = AWSRequest("POST", url)
    signer = SigningCredentials(caller.access_key_id, caller.secret_access_key, caller.session_token)
    SigV4Auth(signer, "lambda", REGION).add_auth(request)
    return send("POST", url, 30, headers=dict(request.headers))


def put_policy(cloud: LocalCloud, role: str, *statements: object) -> None:
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    cloud.client("iam").put_role_policy(RoleName=role, PolicyName="more", PolicyDocument=document)


def new_caller(cloud: LocalCloud, name: str, *statements: object, policy: str = "") -> Credentials:
    """Return the keys of a new role with these statements of its own, and a policy of the stack's."""
    keys = cloud.create_caller(name, [policy] if policy else [])
    if statements:
        put_policy(cloud, name, *statements)
    return keys


def echo(reply: requests.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    value: dict[str, Any] = reply.json()
    return value
