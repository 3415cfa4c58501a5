"""Whose AWS credentials these are, as far as AWS says it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from token_broker.cli.reachability import ahead_s

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from token_broker.cli.deployment import Deployment

_ARN: Final = re.compile(
    r"arn:(?P<partition>[\w-]+):(?:sts|iam)::(?P<account>\d{12}):(?P<kind>assumed-role|user)/(?P<rest>[\w+=,.@/-]+)",
    re.ASCII,
)
_PERMISSION_SET_ROLE: Final = re.compile(r"AWSReservedSSO_(?P<permission_set>.+)_[0-9a-f]{16}")


@dataclass(frozen=True)
class Identity:
    """The principal of the credentials; empty texts where AWS does not say it.

    Attributes:
        arn: as STS says it: of the session, for a role.
        account: twelve digits.
        kind: role or user.
        name: without path and session.
        clock_difference_s: as `reachability.ahead_s` returns it.
    """

    arn: str = ""
    partition: str = ""
    account: str = ""
    kind: str = ""
    name: str = ""
    clock_difference_s: float | None = None

    @property
    def text(self) -> str:
        return self.arn or "found (AWS STS does not say whose)"

    @property
    def permission_set(self) -> str:
        """The permission set of IAM Identity Center that the role was made for; "" for other principals."""
        match = _PERMISSION_SET_ROLE.fullmatch(self.name) if self.kind == "role" else None
        return match["permission_set"] if match else ""

    @property
    def cannot_be_granted(self) -> bool:
        """Whether it is certain that no grant can name this principal: the root user, a federated user."""
        return bool(self.arn) and not self.kind

    @property
    def grant_principal(self) -> str:
        """The principal as grants.json names it."""
        if not self.name:
            return "ACCOUNT:role/ROLE"
        # A permission set that is assigned again gets a role with other hex digits.
        name = f"AWSReservedSSO_{self.permission_set}_*" if self.permission_set else self.name
        return f"{self.account}:{self.kind}/{name}"


def look_up_identity(deployment: Deployment, clock: Callable[[], float]) -> Identity:
    """Ask STS, which needs no permission; return an identity without texts where it does not answer. Blocks."""
    try:
        answer = deployment.client("sts").get_caller_identity()
    except ClientError as error:
        return Identity(clock_difference_s=_clock_difference_s(error.response, clock))
    except Exception:  # noqa: BLE001 - the SDK's credential chain raises anything; the broker's client has a better text
        return Identity()
    arn, difference_s = answer["Arn"], _clock_difference_s(answer, clock)
    match = _ARN.fullmatch(arn)
    if match is None:
        return Identity(arn, clock_difference_s=difference_s)
    parts = match["rest"].split("/")
    kind, name = ("role", parts[0]) if match["kind"] == "assumed-role" else ("user", parts[-1])
    return Identity(arn, match["partition"], match["account"], kind, name, difference_s)


def _clock_difference_s(answer: Mapping[str, Any], clock: Callable[[], float]) -> float | None:
    return ahead_s(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date"), clock)


def find_missing_actions(
    identity: Identity, deployment: Deployment, needed: dict[str, tuple[str, str, str]], resource: str
) -> list[str] | None:
    """Return those of the needed actions that the identity's own policies do not allow.

    Args:
        identity: whose policies.
        deployment: where to ask.
        needed: action to the condition key, its type and its value in the call.
        resource: ARN of the resource.

    Returns:
        None where this identity may not ask (iam:SimulatePrincipalPolicy).
    """
    iam = deployment.client("iam")
    missing = []
    try:
        source_arn = _source_arn(iam, identity)
        for action, (key, kind, value) in needed.items():
            answer = iam.simulate_principal_policy(
                PolicySourceArn=source_arn,
                ActionNames=[action],
                ResourceArns=[resource],
                ContextEntries=[{"ContextKeyName": key, "ContextKeyType": kind, "ContextKeyValues": [value]}],
            )
            if answer["EvaluationResults"][0]["EvalDecision"] != "allowed":
                missing.append(action)
    except (ClientError, BotoCoreError, LookupError):
        return None
    return missing


def _source_arn(iam: object, identity: Identity) -> str:
    """Return the ARN with its path, which a session's ARN lacks; without it where this identity may not read it."""
    get = getattr(iam, f"get_{identity.kind}")
    try:
        arn: str = get(**{f"{identity.kind.title()}Name": identity.name})[identity.kind.title()]["Arn"]
    except ClientError:
        return f"arn:{identity.partition}:iam::{identity.account}:{identity.kind}/{identity.name}"
    return arn
