"""What to do about each fault that the doctor finds, with the policy statement to copy."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Final

from token_broker.cli.deployment import statement, to_text
from token_broker.cli.identity import Identity, find_missing_actions
from token_broker.cli.outcome import GET_IDENTITY, CommandError
from token_broker.cli.terminal import Finding

if TYPE_CHECKING:
    from token_broker.cli.deployment import Deployment

SET_URL: Final = """\
export TOKEN_BROKER_URL=… with the stack's output BrokerFunctionUrl; ask an operator for it, or AWS:
aws cloudformation describe-stacks --stack-name {stack} \\
  --query "Stacks[0].Outputs[?OutputKey=='BrokerFunctionUrl'].OutputValue" --output text"""
_RENEWALS: Final = {
    "env": "set a new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or unset all three: they come before "
    "every profile, also before one that is signed in",
    "shared-credentials-file": "put a new key into the profile in ~/.aws/credentials, or set AWS_PROFILE to another one",
    "config-file": "put a new key into the profile in ~/.aws/config, or set AWS_PROFILE to another one",
    "sso": "sign in again: aws sso login, with --profile if AWS_PROFILE is not set",
    "login": "sign in again: aws login, with --profile if AWS_PROFILE is not set",
    "container-role": "the container's platform brings them: see that the role is still attached, then start it again",
    "iam-role": "the instance's role brings them: see that the role is still attached to the instance",
    "assume-role": "the profile assumes a role: aws sts get-caller-identity says why that does not work",
    "assume-role-with-web-identity": "a token file brings them: see that AWS_WEB_IDENTITY_TOKEN_FILE and the role's trust "
    "policy are right",
    "custom-process": "run the profile's credential_process by itself, and see what it says",
}
"""What to do about credentials that do not work, by where botocore's chain found them."""
REACH_URL: Final = "check TOKEN_BROKER_URL letter by letter (its region is part of the host), then DNS and the network's access to port 443"
CORRECT_SETTING: Final = "correct the setting that this names"
SET_REGION: Final = "set AWS_REGION (or --region) to the region that the broker is deployed in"
SET_CLOCK: Final = "set the clock of this machine (of its host, for a container), and keep it set: on Linux, timedatectl set-ntp true"
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


def caller_statements(function_arn: str) -> list[dict[str, object]]:
    """Return the statements of the stack's CallerPolicy, which a caller needs, for the alias that the URL belongs to."""
    function = function_arn.rpartition(":")[0]
    return [
        statement(
            "CallBrokerUrl",
            [INVOKE_URL],
            function_arn,
            StringEquals={"lambda:FunctionUrlAuthType": "AWS_IAM"},
        ),
        statement("OnlyThroughItsUrl", [INVOKE], function_arn, Bool={"lambda:InvokedViaFunctionUrl": "true"}),
        {
            "Sid": "NeverDirectly",
            "Effect": "Deny",
            "Action": [INVOKE, "lambda:InvokeAsync"],
            "Resource": [function, f"{function}:*"],
            "Condition": {"BoolIfExists": {"lambda:InvokedViaFunctionUrl": "false"}},
        },
    ]


def working_credentials(deployment: Deployment) -> str:
    """Return how to replace the credentials that do not work, where they come from."""
    return _RENEWALS.get(deployment.credential_source, GET_IDENTITY)


def missing_permissions(identity: Identity, deployment: Deployment, stack: str) -> Finding:
    """Find out which of the two permissions is missing, if AWS says it, and write the statement to add."""
    if identity.cannot_be_granted:
        return _ungrantable("permissions", "AWS refused the call")
    policy_arn, function_arn = _output(deployment, "CallerPolicyArn"), _function_arn(identity, deployment)
    where = function_arn or (
        f"arn:{deployment.partition}:lambda:{deployment.region or 'REGION'}:ACCOUNT:function:BROKER:live"
    )
    missing = find_missing_actions(identity, deployment, _NEEDED, function_arn) if function_arn else None
    if missing is None:
        text = f"AWS refused the call: {INVOKE_URL} or {INVOKE} is missing, and it does not say which"
        missing = list(_NEEDED)
    elif missing:
        text = f"AWS refused the call: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    else:
        text = "AWS refused the call, though the identity's own policies allow it"
        fix = "an administrator of the account looks for what denies it: permission boundary, SCP, session policy"
        return Finding("permissions", "fault", text, fix)
    statements = [
        each for each in caller_statements(where) if each["Effect"] == "Deny" or each["Action"] in missing
    ]
    fix = "\n".join([*_how_to_allow(identity, policy_arn, stack), to_text(statements)])
    return Finding("permissions", "fault", text, fix)


def _how_to_allow(identity: Identity, policy_arn: str | None, stack: str) -> list[str]:
    """Return lines that say how this principal gets permissions; the statements to add follow them."""
    kind, name = identity.kind, identity.name
    elsewhere = "from another account, the broker's operator must also set OtherAccounts or OrganizationId"
    if identity.permission_set:
        policy = (policy_arn or "").rpartition("/")[
            2
        ] or f"in the output CallerPolicyArn of the stack {stack}"
        return [
            f"IAM Identity Center made the role {name}, and alone can change it;",
            f"ask its administrator to change the permission set {identity.permission_set}:",
            f"attach the customer managed policy {policy}",
            f"or add to its inline policy{'' if policy_arn else f' ({elsewhere})'}:",
        ]
    if name.startswith("AWSServiceRoleFor"):
        return [
            f"{name} is a service-linked role, which nobody can change: call as another role,",
            f"which is allowed this ({elsewhere}):",
        ]
    if policy_arn and kind:  # it can be read only in the broker's own account
        return [
            f"attach the stack's CallerPolicy to the {kind} {name}:",
            f"aws iam attach-{kind}-policy --{kind}-name {name} --policy-arn {shlex.quote(policy_arn)}",
            "or add to a policy of it:",
        ]
    return [
        f"attach the stack's CallerPolicy to the {f'{kind} {name}' if name else 'role that calls'}, in the broker's own account:",
        f"its ARN is the output CallerPolicyArn of the stack {stack}",
        f"or add to a policy of it ({elsewhere}):",
    ]


def missing_grant(identity: Identity, connection: str, said: str) -> Finding:
    """Write the line to ask for."""
    if identity.cannot_be_granted:
        return _ungrantable("grant", f"{connection}: {said}")
    rule = {
        "name": identity.permission_set or identity.name or "NAME",
        "principals": [identity.grant_principal],
        "connections": [connection],
    }
    fix = (
        "ask an operator for this line in functions/broker/grants.json, and a deployment, if the connection exists "
        f"(token-broker connection list tells an operator):\n{json.dumps(rule)}"
    )
    return Finding("grant", "fault", f"{connection}: {said}", fix)


def _ungrantable(topic: str, text: str) -> Finding:
    fix = "call as a role or as an IAM user: the broker serves nobody else, neither the root user nor federated users"
    return Finding(topic, "fault", text, fix)


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
