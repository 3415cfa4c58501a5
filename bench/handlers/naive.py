"""A simple first version: reads the secret and mints at every cold start, and stores the token in a dictionary."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import boto3
import requests

_tokens: dict[str, dict[str, Any]] = {}


def lambda_handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    connection = json.loads(event.get("body") or "{}").get("connection", "digishare")
    token = _tokens.get(connection)
    if token is None or token["expires_at"] < time.time() + 300:
        token = _tokens[connection] = _mint(connection)
    print(json.dumps({"message": "token issued", "connection": connection}))
    body = {
        "access_token": token["access_token"],
        "token_type": "Bearer",
        "expires_in": int(token["expires_at"] - time.time()),
    }
    return {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json", "Cache-Control": "no-store"},
        "body": json.dumps(body),
    }


def _mint(connection: str) -> dict[str, Any]:
    secret = boto3.client("secretsmanager").get_secret_value(
        SecretId=f"{os.environ['SECRET_PREFIX']}/{connection}"
    )
    credential = json.loads(secret["SecretString"])
    response = requests.post(
        os.environ["DEFAULT_TOKEN_URL"],
        json={
            "grant_type": "client_credentials",
            "client_id": credential["client_id"],
            "client_secret": credential["client_secret"],
        },
        timeout=10,
    )
    response.raise_for_status()
    answer = response.json()
    return {"access_token": answer["access_token"], "expires_at": time.time() + answer["expires_in"]}
