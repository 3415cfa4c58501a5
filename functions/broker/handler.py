"""One request: read it, check the grant, issue the token, answer it, and write its audit record."""

# ruff: noqa: E402 - garbage collection is off while the modules below are loaded
from __future__ import annotations

import functools
import gc
import os
import time
from typing import TYPE_CHECKING, Any

# What a start loads is never freed: a garbage collection, now or later, would search it for nothing.
gc.disable()

from functions.broker.assembly import Broker, assemble, new_session
from functions.broker.audit import Audit
from functions.broker.decide import TokenWanted
from functions.broker.grants import Caller, read_caller
from functions.broker.http_api import StatusRequest, TokenRequest, failure, object_at, read_request, success
from functions.broker.lifetime import ANSWER_S
from functions.broker.ports import AwsError
from functions.broker.status import describe
from lambda_support.initialization import build_early
from token_broker.errors import AccessDenied, InvalidScope, TemporarilyUnavailable, TokenBrokerError

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from functions.broker.grants import Grant

_BUG_RETRY_AFTER_S = 5


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer one Function URL request (payload format 2.0); never raises, never logs the event."""
    started_s = time.perf_counter()
    audit = _audit()
    audit.begin(context.aws_request_id)
    try:
        answer = success(_answer(_broker(), event, context))
        outcome = "ok"
    except TokenBrokerError as error:
        answer, outcome = failure(error, context.aws_request_id), error.code
    except Exception as error:  # noqa: BLE001 - logged; the caller never gets a stack trace
        audit.notice_bug(error)
        unforeseen = TemporarilyUnavailable("the broker failed", retry_after_s=_BUG_RETRY_AFTER_S)
        answer, outcome = failure(unforeseen, context.aws_request_id), "bug"
    audit.write(outcome, answer["statusCode"], 1000 * (time.perf_counter() - started_s))
    return answer


@functools.cache
def _audit() -> Audit:
    return Audit()


@functools.cache
def _broker() -> Broker:
    return assemble(os.environ, _audit(), new_session())


def _answer(broker: Broker, event: dict[str, Any], context: LambdaContext) -> dict[str, object]:
    request = read_request(event)
    caller = _caller(event)
    broker.audit.add_caller(caller)
    if isinstance(request, StatusRequest):
        return _report_status(broker, request, caller)
    broker.audit.add(connection=request.connection)
    grant = _require_grant(broker, caller, request.connection)
    return _lease(broker, request, caller, grant, context)


def _lease(
    broker: Broker, request: TokenRequest, caller: Caller, grant: Grant, context: LambdaContext
) -> dict[str, object]:
    wanted = TokenWanted(request.connection, request.min_ttl_s, request.rejected_token_id, str(caller))
    deadline_epoch_s = time.time() + context.get_remaining_time_in_millis() / 1000 - ANSWER_S
    issued = broker.issuer.issue(wanted, deadline_epoch_s)
    token = issued.clear.token
    if request.scope and not set(request.scope.split()) <= set((token.scope or "").split()):
        known = f"has the scope {token.scope!r}" if token.scope else "has no scope that is known"
        raise InvalidScope(f"this connection {known}: leave `scope` out")
    lease_s = min(broker.settings.lease_seconds, grant.max_lease_seconds or broker.settings.lease_seconds)
    if token.expires_at_epoch_s is not None:
        lease_s = min(lease_s, int(token.left_s(time.time())))
    if lease_s < 1:
        raise TemporarilyUnavailable("the token expires within a second: ask again", retry_after_s=1)
    broker.audit.add(
        source=issued.source, token_id=token.token_id, generation=issued.generation, lease_seconds=lease_s
    )
    answer: dict[str, object] = {
        "access_token": issued.clear.access_token,
        "token_type": "Bearer",
        "expires_in": lease_s,
        "token_id": token.token_id,
        "connection": request.connection,
    }
    return answer | {"scope": token.scope} if token.scope else answer


def _report_status(broker: Broker, request: StatusRequest, caller: Caller) -> dict[str, object]:
    if request.connection is None:
        names = broker.grants.connections_of(caller)
    else:
        _require_grant(broker, caller, request.connection)
        names = [request.connection]
    try:
        records = [broker.store.read(name) for name in names]
    except AwsError as error:
        broker.audit.notice(error.event, {"error": str(error)})
        problem = f"the token table cannot be read ({error}): ask again"
        raise TemporarilyUnavailable(problem, retry_after_s=error.retry_after_s) from None
    return {"connections": [describe(record, time.time()) for record in records]}


def _caller(event: dict[str, Any]) -> Caller:
    # The Function URL writes this. A caller that invokes the function directly could forge it, so the caller policy
    # forbids direct invocation (template.yaml).
    caller = read_caller(object_at(event, "requestContext", "authorizer", "iam").get("userArn"))
    if caller is None:
        raise AccessDenied("call the Function URL as an IAM role or user")
    return caller


def _require_grant(broker: Broker, caller: Caller, connection: str) -> Grant:
    grant = broker.grants.decide(caller, connection)
    if grant is None:
        raise AccessDenied("no grant for this connection, or no such connection")
    broker.audit.add(rule=grant.rule)
    return grant


build_early(_broker)
gc.freeze()
gc.enable()
