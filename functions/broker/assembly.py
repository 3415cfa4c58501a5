"""Puts the broker together, once for each instance: the only place that makes clients and reads the environment."""

from __future__ import annotations

import functools
import random
import time
import uuid
from typing import TYPE_CHECKING, NamedTuple, cast

import botocore.config
import botocore.session

from functions.broker.adapters.aws_calls import call_aws
from functions.broker.adapters.token_store import TokenStore
from functions.broker.grants import load_grants
from functions.broker.issue_token import TokenIssuer
from functions.broker.lifetime import AWS_CONNECT_TIMEOUT_S, AWS_READ_TIMEOUT_S
from functions.broker.ports import Ports
from functions.broker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from functions.broker.adapters.oauth_exchange import OAuthExchange
    from functions.broker.audit import Audit
    from functions.broker.grants import Grants
    from functions.broker.replace_token import TokenReplacer


class Broker(NamedTuple):
    """What an instance keeps from one request to the next."""

    settings: Settings
    grants: Grants
    audit: Audit
    store: TokenStore
    issuer: TokenIssuer


def new_session() -> botocore.session.Session:
    """Return an SDK session without botocore's built-in handlers, which the broker's services do not need.

    They are for other services (S3, EC2, Glacier ...), and registering them costs a start as much as its two AWS calls
    together.
    """
    return botocore.session.Session(include_builtin_handlers=False)


def assemble(
    environment: Mapping[str, str], audit: Audit, session: botocore.session.Session | None = None
) -> Broker:
    """Return the broker that the environment describes.

    Args:
        environment: as `template.yaml` sets it.
        audit: records every event.
        session: where clients come from; default: one of botocore's usual kind.

    Raises:
        SettingsError: the function is deployed with a setting missing or malformed.
        GrantsError: the grants file is broken (the build refuses one, so that this cannot be deployed).
    """
    settings = Settings.from_environment(environment)
    session = session or botocore.session.get_session()
    # The SDK repeats nothing: the policy knows what a repetition would cost, and how much time is left.
    config = botocore.config.Config(
        connect_timeout=AWS_CONNECT_TIMEOUT_S,
        read_timeout=AWS_READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 1},
    )
    # botocore's own session: boto3 would load s3transfer and multiprocessing on the cold path.
    clients = Clients(
        cast("DynamoDBClient", session.create_client("dynamodb", config=config)),
        cast("KMSClient", session.create_client("kms", config=config)),
        lambda: cast("SecretsManagerClient", session.create_client("secretsmanager", config=config)),
        lambda: _new_exchange(settings),
    )
    # SystemRandom and uuid4 draw from the operating system at each call: nothing is shared by snapshots or forks.
    ports = Ports(
        clock=time.time,
        monotonic=time.monotonic,
        sleep=time.sleep,
        randomness=random.SystemRandom().random,
        new_id=lambda: uuid.uuid4().hex,
        notice=audit.notice,
        notice_bug=audit.notice_bug,
    )
    issuer = assemble_policy(settings, clients, ports)
    grants = load_grants(settings.own_account, settings.campaigns_role)
    return Broker(settings, grants, audit, issuer.store, issuer)


class Clients(NamedTuple):
    """What calls AWS and the upstream, or replaces them in tests.

    Attributes:
        make_secretsmanager, make_exchange: called at the first exchange, because most instances never see one.
    """

    dynamodb: DynamoDBClient
    kms: KMSClient
    make_secretsmanager: Callable[[], SecretsManagerClient]
    make_exchange: Callable[[], OAuthExchange]


def assemble_policy(settings: Settings, clients: Clients, ports: Ports) -> TokenIssuer:
    """Put the policy together: the same way for the function, tests, the simulation and the benchmark."""
    store = TokenStore(
        clients.dynamodb, clients.kms, table=settings.token_table, key_arn=settings.token_key_arn
    )

    @functools.cache
    def replacer() -> TokenReplacer:
        # Only exchanges need these modules, so a start does not load them.
        from functions.broker.adapters.client_secret import ConnectionSecrets  # noqa: PLC0415
        from functions.broker.adapters.mint_ledger import MintLedger  # noqa: PLC0415
        from functions.broker.replace_token import TokenReplacer  # noqa: PLC0415

        client = call_aws(clients.make_secretsmanager)
        secrets = ConnectionSecrets(client, settings.secret_prefix, settings.default_token_url)
        ledger = MintLedger(clients.dynamodb, table=settings.token_table)
        return TokenReplacer(store, ledger, secrets, clients.make_exchange(), ports)

    return TokenIssuer(store, replacer, ports, longest_lease_s=settings.lease_seconds)


def _new_exchange(settings: Settings) -> OAuthExchange:
    from functions.broker.adapters.oauth_exchange import OAuthExchange  # noqa: PLC0415 - as above

    return OAuthExchange(settings.upstream_hosts, settings.upstream_ca_file, time.time)
