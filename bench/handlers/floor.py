"""The least that a handler with a table and a key can cost: two calls over TLS, signed by hand, no error handled."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import ssl
import time
from typing import Any

_HOST = os.environ["AWS_ENDPOINT_URL"].removeprefix("https://")
_TLS = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
_tokens: dict[str, tuple[str, float]] = {}


def lambda_handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    connection = json.loads(event.get("body") or "{}").get("connection", "digishare")
    token, checked_at = _tokens.get(connection, ("", 0.0))
    if checked_at + 60 < time.time():
        token = _read(connection)
        _tokens[connection] = token, time.time()
    body = {"access_token": token, "token_type": "Bearer", "expires_in": 900, "connection": connection}
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return {"statusCode": 200, "headers": headers, "body": json.dumps(body)}


def _read(connection: str) -> str:
    key = {"connection": {"S": connection}, "record": {"S": "token"}}
    query = {"TableName": os.environ["TOKEN_TABLE"], "Key": key, "ConsistentRead": True}
    token = _call("dynamodb", "DynamoDB_20120810.GetItem", query)["Item"]["token"]["M"]
    context = {
        "connection": connection,
        "fence": token["fence"]["N"],
        "expires_at": token["expires_at_epoch_s"]["N"],
    }
    sealed = {
        "KeyId": os.environ["TOKEN_KEY_ARN"],
        "CiphertextBlob": token["sealed"]["B"],
        "EncryptionContext": context,
    }
    return base64.b64decode(_call("kms", "TrentService.Decrypt", sealed)["Plaintext"]).decode()


def _call(service: str, target: str, members: dict[str, Any]) -> Any:
    """Return the answer; signed by https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html."""
    body, stamp = json.dumps(members).encode(), time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    headers = {"host": _HOST, "x-amz-date": stamp, "x-amz-target": target}
    names = ";".join(headers)
    lines = [f"{name}:{value}" for name, value in headers.items()]
    request = "\n".join(["POST", "/", "", *lines, "", names, hashlib.sha256(body).hexdigest()])
    scope = f"{stamp[:8]}/{os.environ['AWS_REGION']}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{os.environ['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in [*scope.split("/"), text]:
        key = hmac.digest(key, part.encode(), "sha256")
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
    )
    headers["content-type"] = "application/x-amz-json-1.1"
    connection = http.client.HTTPSConnection(_HOST, context=_TLS)
    connection.request("POST", "/", body, headers)
    return json.loads(connection.getresponse().read())
