"""The broker's settings, from the environment: read once, and refused unless they are complete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


_KEY_ARN = re.compile(r"arn:[\w-]+:kms:[\w-]+:([0-9]{12}):key/[\w-]+", re.ASCII)
_NUMBER = re.compile(r"\+?[0-9]{1,15}(\.[0-9]{0,15})?([eE][+-]?[0-9]{1,2})?")
_LARGEST = 10**9


class SettingsError(Exception):
    """The function is deployed with a setting missing or malformed; the text names it."""


class Settings(NamedTuple):
    """Everything that `template.yaml` configures.

    Attributes:
        token_table: name of the DynamoDB table.
        token_key_arn: KMS key that seals tokens.
        secret_prefix: connection NAME is the secret `<secret_prefix>/NAME`.
        upstream_hosts: `host` or `host:port` values that a token_url may point at.
        upstream_ca_file: CA bundle for the upstream, or None for the public roots.
        default_token_url: token endpoint of connections that name none.
        lease_seconds: longest lease.
        campaigns_role: name of the role of this stack's campaigns job.
    """

    token_table: str
    token_key_arn: str
    secret_prefix: str
    upstream_hosts: frozenset[str]
    upstream_ca_file: str | None
    default_token_url: str
    lease_seconds: int
    campaigns_role: str

    @property
    def own_account(self) -> str:
        """The broker's AWS account: its key's, because the function's ARN names another one under AWS's emulator."""
        return self.token_key_arn.split(":")[4]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Raise SettingsError naming every missing or malformed variable at once."""
        problems: list[str] = []

        def text(name: str) -> str:
            value = environment.get(name, "")
            if not value:
                problems.append(f"{name} is missing")
            return value

        def whole(name: str) -> int:
            value = text(name)
            # CloudFormation passes a Number on as it was typed: 900, 900.0 and 9e2 are the same.
            number = float(value) if _NUMBER.fullmatch(value) else 0.0
            if value and not (1 <= number <= _LARGEST and number.is_integer()):
                problems.append(f"{name} must be a whole number above 0, not {value!r}")
                return 0
            return int(number)

        def key_arn(name: str) -> str:
            value = text(name)
            if value and not _KEY_ARN.fullmatch(value):
                problems.append(f"{name} must be the ARN of a KMS key, not {value!r}")
            return value

        settings = cls(
            token_table=text("TOKEN_TABLE"),
            token_key_arn=key_arn("TOKEN_KEY_ARN"),
            secret_prefix=text("SECRET_PREFIX").rstrip("/"),
            upstream_hosts=frozenset(
                host.strip().lower() for host in text("UPSTREAM_HOSTS").split(",") if host.strip()
            ),
            upstream_ca_file=environment.get("UPSTREAM_CA_FILE") or None,
            default_token_url=text("DEFAULT_TOKEN_URL"),
            lease_seconds=whole("LEASE_SECONDS"),
            campaigns_role=text("CAMPAIGNS_ROLE"),
        )
        if problems:
            raise SettingsError("; ".join(problems))
        return settings
