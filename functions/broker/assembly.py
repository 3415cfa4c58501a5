"""Puts the broker together, once for each instance: the only place that makes clients and reads the environment."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import botocore.config
import botocore.session

from functions.broker.adapters.oauth_exchange import OAuthExchange
from functions.broker.client_secret import ConnectionSecrets
from functions.broker.grants import load_grants
from functions.broker.issue_token import TokenIssuer
from functions.broker.mint_ledger import MintLedger
from functions.broker.mint_token import Minter
from functions.broker.replace_token import TokenReplacer
from functions.broker.settings import Settings
from functions.broker.surroundings import Surroundings
from functions.broker.token_store import TokenStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from functions.broker.audit import Audit
    from functions.broker.grants import Grants


@dataclass(frozen=True, slots=True)
class Broker:
    """What an instance keeps from one request to the next."""

    settings: Settings
    grants: Grants
    audit: Audit
    store: TokenStore
    issuer: TokenIssuer


def new_session() -> botocore.session.Session:
    """Return an SDK session for JSON services that need no special treatment, which is all that the broker calls.

    Without the handlers for other services' oddities (S3, EC2, Glacier ...): registering them costs a start as much as
    its two AWS calls together.
    """
    return botocore.session.Session(include_builtin_handlers=False)


def assemble(
    environment: Mapping[str, str], audit: Audit, session: botocore.session.Session | None = None
) -> Broker:
    """Return the broker that the environment describes; `audit` hears of what happens in it.

    Args:
        environment: as `template.yaml` sets it.
        audit: the ear.
        session: where clients come from; default: one of botocore's usual kind.

    Raises:
        SettingsError: the function is deployed with a setting missing or malformed.
        GrantsError: the grants file is broken (the build refuses one, so that this cannot be deployed).
    """
    settings = Settings.from_environment(environment)
    session = session or botocore.session.get_session()
    # Short, and one attempt more than one: a call is cut off rather than left to eat up the lock's time.
    config = botocore.config.Config(
        connect_timeout=1.0, read_timeout=1.5, retries={"mode": "standard", "total_max_attempts": 2}
    )
    # botocore's own session: boto3 would load s3transfer and multiprocessing on the cold path.
    dynamodb = cast("DynamoDBClient", session.create_client("dynamodb", config=config))
    store = TokenStore(
        dynamodb,
        cast("KMSClient", session.create_client("kms", config=config)),
        table=settings.token_table,
        key_arn=settings.token_key_arn,
    )
    # SystemRandom and uuid4 draw from the operating system at each call: nothing is shared by snapshots or forks.
    surroundings = Surroundings(
        clock=time.time,
        sleep=time.sleep,
        randomness=random.SystemRandom().random,
        new_id=lambda: uuid.uuid4().hex,
        notice=audit.notice,
    )
    secrets = ConnectionSecrets(
        # Made at the first mint: most instances never see one.
        lambda: cast("SecretsManagerClient", session.create_client("secretsmanager", config=config)),
        settings.secret_prefix,
        settings.default_token_url,
    )
    exchange = OAuthExchange(settings.upstream_hosts, settings.upstream_ca_file, time.time)
    replacer = TokenReplacer(
        store,
        MintLedger(dynamodb, table=settings.token_table),
        Minter(secrets, exchange, time.time),
        surroundings,
    )
    issuer = TokenIssuer(
        store,
        replacer,
        surroundings,
        longest_lease_s=settings.lease_seconds,
        daily_mint_ceiling=settings.daily_mint_ceiling,
    )
    return Broker(settings, load_grants(), audit, store, issuer)
