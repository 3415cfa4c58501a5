"""The broker's stack, read with the AWS permissions of an operator or a caller, and not through the broker."""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    UnknownRegionError,
)

from token_broker.cli.outcome import GET_IDENTITY, RENEW_IDENTITY, CommandError, Exit
from token_broker.cli.terminal import safe
from token_broker.errors import NotConfigured
from token_broker.sdk_settings import region_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from token_broker.cli.outcome import Options

    _T = TypeVar("_T")

THE_STACK: Final = "AWS CloudFormation"
"""What `Terminal.waiting` names while an output of the stack is read."""
_UNKNOWN_PARTITION: Final = "PARTITION"
_ACCESS_DENIED: Final = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
_CHECK_SETTINGS: Final = (
    "correct AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL or the files in ~/.aws; `aws sts get-caller-identity` shows "
    "whether the AWS identity works"
)
_WRONG_CREDENTIALS: Final = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


def statement(
    sid: str, actions: Sequence[str], resource: str, **condition: Mapping[str, object]
) -> dict[str, object]:
    """Return an IAM policy statement that allows `actions`."""
    action = actions[0] if len(actions) == 1 else list(actions)
    allowed: dict[str, object] = {"Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource}
    return {**allowed, "Condition": condition} if condition else allowed


def to_text(document: object) -> str:
    """Return JSON for a person to copy."""
    return json.dumps(document, indent=2)


class Deployment:
    """AWS clients of one region, and the outputs of the broker's stack. Every call blocks for some seconds at most."""

    def __init__(self, options: Options) -> None:
        self._options = options

    @property
    def region(self) -> str | None:
        """The region that calls go to; None where none is known, or the profile is not there."""
        try:
            region: str | None = self._session.region_name
        except CommandError:
            return None
        return region

    @property
    def partition(self) -> str:
        """The second part of this region's ARNs, such as aws or aws-us-gov; PARTITION where the SDK does not know it."""
        region = self.region
        try:
            return str(self._session.get_partition_for_region(region)) if region else _UNKNOWN_PARTITION
        except UnknownRegionError:
            return _UNKNOWN_PARTITION

    def client(self, service: str) -> Any:
        """Return a client of this service.

        Raises:
            CommandError: no region is known, or the SDK's own settings are not good.
        """
        session: Any = self._session  # the stubs know services only as literals
        config = Config(
            connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3}
        )
        try:
            return session.client(service, config=config)
        except NoRegionError:
            raise _not_configured("the AWS region is not known", "pass --region, or set AWS_REGION") from None
        except Exception as error:  # noqa: BLE001 - making a client loads credentials: the chain raises anything
            # The class only: the text can contain what a credential process printed.
            kind = type(error).__name__
            raise _not_configured(f"the AWS SDK cannot be set up ({kind})", _CHECK_SETTINGS) from None

    @functools.cached_property
    def _session(self) -> Any:
        try:
            return boto3.Session(region_name=_region(self._options))
        except ProfileNotFound as error:
            raise _not_configured(f"the AWS SDK cannot be set up: {error}", _CHECK_SETTINGS) from None

    @property
    def credential_source(self) -> str:
        """Botocore's name for where the credentials come from, such as `env` or `iam-role`; "" where there are none."""
        try:
            return str(getattr(self._session.get_credentials(), "method", ""))
        except Exception:  # noqa: BLE001 - as in `client`
            return ""

    def token_table(self) -> str:
        """Return the name of the token table: the option, the variable, or the stack's output. Raises as `output`."""
        return (
            self._options.table
            or os.environ.get("TOKEN_BROKER_TABLE")
            or self.output("TokenTableName", "--table")
        )

    def output(self, name: str, instead: str) -> str:
        """Return an output of the stack; `instead` is the option that replaces it.

        Raises:
            CommandError: no such stack or output, or it may not be read.
        """
        value = self._outputs(instead).get(name)
        if value is None:
            raise CommandError(f"the stack {self._options.stack} has no output {name}", fix=f"pass {instead}")
        return value

    def parameter(self, name: str) -> str | None:
        """Return a parameter of the stack; None where there is none, or it may not be read."""
        try:
            return self._stack()[1].get(name)
        except Exception:  # noqa: BLE001 - as in `client`; `output` says why
            return None

    def _outputs(self, instead: str) -> dict[str, str]:
        name = self._options.stack
        try:
            return self._stack()[0]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationError":
                raise CommandError(
                    f"there is no stack {name} in {self.region}",
                    fix=f"pass --stack or --region, or do without it: {instead}",
                    exit_code=Exit.USAGE,
                    code="not_configured",
                ) from None
            needed = statement(
                "ReadBrokerStack",
                ["cloudformation:DescribeStacks"],
                f"arn:{self.partition}:cloudformation:*:*:stack/{name}/*",
            )
            told = _from_aws(error, f"reading the stack {name}", needed)
            raise CommandError(
                str(told), fix=f"pass {instead}; or {told.fix}", exit_code=told.exit_code, code=told.code
            ) from None
        except CommandError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `client`
            raise _from_sdk(error, f"reading the stack {name}") from None

    @functools.cached_property
    def _stacks(self) -> list[dict[str, Any]]:
        answer = self.client("cloudformation").describe_stacks(StackName=self._options.stack)
        return list(answer["Stacks"])

    def _stack(self) -> tuple[dict[str, str], dict[str, str]]:
        stack = self._stacks[0]
        # Made safe here, because they go into texts of several lines, which a person copies.
        return (
            {output["OutputKey"]: safe(output["OutputValue"]) for output in stack.get("Outputs", [])},
            {
                parameter["ParameterKey"]: safe(parameter["ParameterValue"])
                for parameter in stack.get("Parameters", [])
            },
        )


def _not_configured(text: str, fix: str) -> CommandError:
    return CommandError(text, fix=fix, exit_code=Exit.USAGE, code="not_configured")


def call_aws(call: Callable[[], _T], what: str, needed: Mapping[str, object]) -> _T:
    """Return `call()`.

    Args:
        call: one or more calls of an AWS client.
        what: what they do, for the error's text, such as "reading the table".
        needed: the policy statement that allows them.

    Raises:
        CommandError: AWS refused or did not answer. The text contains AWS's error code and nothing of its message,
            which can quote what was sent.
    """
    try:
        return call()
    except ClientError as error:
        raise _from_aws(error, what, needed) from None
    except CommandError:
        raise
    except Exception as error:  # noqa: BLE001 - credentials are loaded and renewed here, and their chain raises anything
        raise _from_sdk(error, what) from None


def _from_aws(error: ClientError, what: str, needed: Mapping[str, object]) -> CommandError:
    code = error.response["Error"]["Code"]
    text = f"{what} failed: AWS says {code}"
    if code in _ACCESS_DENIED:
        return CommandError(
            text,
            fix=f"this AWS identity needs the statement\n{to_text(needed)}",
            exit_code=Exit.ACCESS_DENIED,
            code="access_denied",
        )
    if code in _WRONG_CREDENTIALS:
        return CommandError(
            text,
            fix=RENEW_IDENTITY,
            exit_code=Exit.ACCESS_DENIED,
            code="credentials_refused",
        )
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code.startswith("Throttl") or status >= 500:  # noqa: PLR2004 - HTTP's own number
        return CommandError(text, fix="try again later", exit_code=Exit.TEMPORARY, code="aws_unavailable")
    return CommandError(text, code="aws_refused")


def _from_sdk(error: Exception, what: str) -> CommandError:
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return CommandError(
            "no AWS credentials found to sign with",
            fix=GET_IDENTITY,
            exit_code=Exit.ACCESS_DENIED,
            code="no_credentials",
        )
    if isinstance(error, SSOError):
        return CommandError(
            "the sign-in of the AWS profile has expired",
            fix=RENEW_IDENTITY,
            exit_code=Exit.ACCESS_DENIED,
            code="credentials_expired",
        )
    return CommandError(
        f"{what} failed ({type(error).__name__})",
        fix="check the network and the AWS identity: aws sts get-caller-identity",
        exit_code=Exit.TEMPORARY,
        code="aws_unavailable",
    )


def _region(options: Options) -> str | None:
    try:
        return region_for(options.url or os.environ.get("TOKEN_BROKER_URL") or "", options.region, None)
    except NotConfigured as error:
        raise _not_configured(error.description, "correct --region or AWS_REGION") from None
