"""What tutorials recommend, all together: every utility of Powertools, and a DynamoDB cache without a lock.

It has the token in memory as well, which not every tutorial recommends, so that the warm call is compared at its best.
"""

from __future__ import annotations

import os
import time
from decimal import Decimal
from typing import Any

import boto3
import requests
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import LambdaFunctionUrlResolver
from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities import parameters

logger = Logger(service="conventional")
tracer = Tracer(service="conventional")
metrics = Metrics(namespace="Conventional", service="conventional")
app = LambdaFunctionUrlResolver()
table = boto3.resource("dynamodb").Table(os.environ["CACHE_TABLE"])
_tokens: dict[str, dict[str, Any]] = {}


@app.post("/token")
@tracer.capture_method(capture_response=False)
def issue_token() -> dict[str, Any]:
    connection = (app.current_event.json_body or {}).get("connection", "digishare")
    token = _tokens.get(connection)
    if not _is_good(token):
        token = table.get_item(Key={"connection": connection}).get("Item")
    if not _is_good(token):
        token = mint(connection)
        table.put_item(Item=token)
    assert token is not None  # noqa: S101 - narrows the type
    _tokens[connection] = token
    caller = app.current_event.request_context.authorizer.iam
    metrics.add_metric(name="TokensIssued", unit=MetricUnit.Count, value=1)
    logger.info(
        "token issued", extra={"connection": connection, "caller": caller.user_arn if caller else None}
    )
    return {
        "access_token": token["access_token"],
        "token_type": "Bearer",
        "expires_in": int(float(token["expires_at"]) - time.time()),
        "connection": connection,
    }


@tracer.capture_method(capture_response=False)
def mint(connection: str) -> dict[str, Any]:
    credential: Any = parameters.get_secret(f"{os.environ['SECRET_PREFIX']}/{connection}", transform="json")
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
    metrics.add_metric(name="TokensMinted", unit=MetricUnit.Count, value=1)
    return {
        "connection": connection,
        "access_token": answer["access_token"],
        "expires_at": Decimal(int(time.time() + answer["expires_in"])),
    }


def _is_good(token: dict[str, Any] | None) -> bool:
    return token is not None and float(token["expires_at"]) > time.time() + 300


@logger.inject_lambda_context(correlation_id_path=correlation_paths.LAMBDA_FUNCTION_URL)
@tracer.capture_lambda_handler(capture_response=False)
@metrics.log_metrics(capture_cold_start_metric=True)
def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return app.resolve(event, context)
