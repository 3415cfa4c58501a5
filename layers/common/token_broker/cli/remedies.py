"""What to do about each fault that the doctor finds, down to the statement to copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from token_broker.cli.deployment import statement, to_text
from token_broker.cli.identity import Identity, find_missing_actions
from token_broker.cli.outcome import CommandError
from token_broker.cli.terminal import Finding

if TYPE_CHECKING:
    from token_broker.cli.deployment import Deployment

SET_URL: Final = """\
export TOKEN_BROKER_URL=… with the stack's output BrokerFunctionUrl:
aws cloudformation describe-stacks --stack-name {stack} \\
  --query "Stacks[0].Outputs[?OutputKey=='BrokerFunctionUrl'].OutputValue" --output text"""
SIGN_IN: Final = "sign in (aws sso login), set AWS_PROFILE, or run where a role is attached"
REACH_URL: Final = "check TOKEN_BROKER_URL letter by letter (its region is part of the host), then DNS and the way out to port 443"
SET_REGION: Final = "set AWS_REGION (or --region) to the region that the broker is deployed in"
SET_CLOCK: Final = "set this machine's clock, and keep it set: timedatectl set-ntp true"
STORE_CREDENTIAL: Final = """\
an operator stores a good credential; the broker tries it within a minute:
token-broker connection put {name}
token-broker connection check {name} --mint"""

INVOKE_URL: Final = "lambda:InvokeFunctionUrl"
INVOKE: Final = "lambda:InvokeFunction"
_NEEDED: Final = {
    INVOKE_URL: ("lambda:FunctionUrlAuthType", "string", "AWS_IAM"),
    INVOKE: ("lambda:InvokedViaFunctionUrl", "boolean", "true"),
}


def caller_statements(function_arn: str) -> dict[str, dict[str, object]]:
    """Return by action the two statements that a caller needs, as the stack's CallerPolicy has them."""
    return {
        INVOKE_URL: statement(
            "CallBrokerUrl",
            [INVOKE_URL],
            function_arn,
            StringEquals={"lambda:FunctionUrlAuthType": "AWS_IAM"},
        ),
        INVOKE: statement(
            "OnlyThroughItsUrl", [INVOKE], function_arn, Bool={"lambda:InvokedViaFunctionUrl": "true"}
        ),
    }


def missing_permissions(identity: Identity, deployment: Deployment, stack: str) -> Finding:
    """Find out which of the two permissions is missing, where AWS may be asked, and write the statement to add."""
    whose = f"{identity.kind} {identity.name}" if identity.name else "caller's role"
    policy_arn, function_arn = _output(deployment, "CallerPolicyArn"), _function_arn(identity, deployment)
    where = function_arn or f"arn:aws:lambda:{deployment.region or 'REGION'}:ACCOUNT:function:BROKER:live"
    missing = find_missing_actions(identity, deployment, _NEEDED, function_arn) if function_arn else None
    if missing is None:
        text = f"AWS refused the call: {INVOKE_URL} or {INVOKE} is missing, and it does not say which"
        missing = list(_NEEDED)
    elif missing:
        text = f"AWS refused the call: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    else:
        text = "AWS refused the call, though the identity's own policies allow it"
        return Finding(
            "permissions", "fault", text, "look for a denial: permission boundary, SCP, session policy"
        )
    statements = [each for action, each in caller_statements(where).items() if action in missing]
    fix = [f"attach the stack's CallerPolicy to the {whose}:"]
    if policy_arn and identity.kind:
        flag = f"--{identity.kind}-name {identity.name}"
        fix.append(f"aws iam attach-{identity.kind}-policy {flag} --policy-arn {policy_arn}")
    else:
        fix.append(f"its ARN is the output CallerPolicyArn of the stack {stack}")
    fix.append(
        f"or add to a policy of it (from another account, both there and on the function):\n{to_text(statements)}"
    )
    return Finding("permissions", "fault", text, "\n".join(fix))


def missing_grant(identity: Identity, connection: str, said: str) -> Finding:
    """Write the rule to ask for."""
    rule = {
        "name": identity.name or "NAME",
        "principals": [identity.grant_principal],
        "connections": [connection],
    }
    fix = (
        "if the connection exists (token-broker connection list), ask for this rule in functions/broker/grants.json,"
        f" and a deployment:\n{to_text(rule)}"
    )
    return Finding("grant", "fault", f"{connection}: {said}", fix)


def _function_arn(identity: Identity, deployment: Deployment) -> str | None:
    name = _output(deployment, "BrokerFunctionName")
    if name is None or not identity.account:
        return None
    return f"arn:{identity.partition}:lambda:{deployment.region}:{identity.account}:function:{name}:live"


def _output(deployment: Deployment, name: str) -> str | None:
    try:
        return deployment.output(name, "")
    except CommandError:
        return None
