"""The environment in which all handlers are measured: one local cloud, the same tokens in the same tables, over TLS."""

from __future__ import annotations

import secrets
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import certifi
import trustme

from bench.instances import Instance, Stage
from bench.stages import PROJECT, Artefacts
from local.account import REGION
from local.aws_proxy import AwsProxy
from local.cloud import LocalCloud
from local.loopback import HOST
from local.sdk import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENT: Final = (PROJECT / "events/token-default.json").read_bytes()
_CACHE_TABLE: Final = "conventional-cache"


class World:
    """A context manager. On entry both tables have a token already, minted by each handler that stores one.

    Attributes:
        cloud: the local cloud.
        front: the proxy that the handlers call in place of AWS.
        artefacts: what the handlers are loaded from.
        ours, bare, floor, conventional, naive: the handlers.
    """

    def __init__(self, python: Path) -> None:
        """Take the interpreter that runs the handlers."""
        self._python = python
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="token-broker-bench-")))
            self.artefacts = Artefacts(folder / "artefacts", self._python)
            self.cloud = stack.enter_context(LocalCloud(say=lambda _: None))
            self.cloud.deploy()
            self._authority = trustme.CA()
            self.front = stack.enter_context(AwsProxy(self.cloud.aws_endpoint_url))
            self.front.speak_tls(self._authority.issue_cert(HOST))
            self._ca_bundle = folder / "roots.pem"
            # As many root certificates as a real process loads, and our two.
            self._ca_bundle.write_bytes(
                Path(certifi.where()).read_bytes()
                + self._authority.cert_pem.bytes()
                + self.cloud.ca_file.read_bytes()
            )
            self._make_stages()
            self._put_tokens_in_place()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    @property
    def references(self) -> tuple[Stage, ...]:
        return self.bare, self.floor, self.conventional, self.naive

    def with_all_roots(self, stage: Stage) -> Stage:
        """Return the stage with every public root certificate for its SDK."""
        environment = {**stage.environment, "AWS_CA_BUNDLE": str(self._ca_bundle)}
        return replace(stage, environment=environment)

    def watched(self, stage: Stage) -> Stage:
        """Return the stage behind `bench/handlers/watched.py`."""
        return replace(
            stage,
            handler="bench.handlers.watched.lambda_handler",
            path=(*stage.path, self.artefacts.references),
            environment={**stage.environment, "WATCHED_HANDLER": stage.handler},
        )

    def count_mints(self) -> int:
        """Return how many tokens the upstream has issued so far."""
        count: int = self.cloud.steer_digishare("GET", "/state")["mint_count"]
        return count

    def forget_tokens(self) -> None:
        """Empty both tables, so that the next call finds no token."""
        dynamodb = self.cloud.client("dynamodb")
        for table, names in (
            (self.cloud.outputs["TokenTableName"], ("connection", "record")),
            (_CACHE_TABLE, ("connection",)),
        ):
            for item in dynamodb.scan(TableName=table)["Items"]:
                dynamodb.delete_item(TableName=table, Key={name: item[name] for name in names})

    def _make_stages(self) -> None:
        parts = self.artefacts
        aws_lambda = self.cloud.client("lambda")
        configuration = aws_lambda.get_function_configuration(
            FunctionName=self.cloud.outputs["BrokerFunctionName"]
        )
        configured: Mapping[str, str] = configuration["Environment"]["Variables"]
        variables = {
            **configured,
            "UPSTREAM_CA_FILE": str(self._ca_bundle),
            "REQUESTS_CA_BUNDLE": str(self._ca_bundle),
            "AWS_CA_BUNDLE": str(self._ca_bundle),
            "AWS_ENDPOINT_URL": self.front.origin,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ROOT.access_key_id,
            "AWS_SECRET_ACCESS_KEY": ROOT.secret_access_key,
            "CACHE_TABLE": _CACHE_TABLE,
        }
        reference_path = (parts.references, parts.runtime)
        few_roots = {**variables, "AWS_CA_BUNDLE": str(self._sdk_bundle(configured.get("AWS_CA_BUNDLE")))}
        self.ours = Stage(
            "ours",
            "functions.broker.handler.lambda_handler",
            (parts.function, parts.layer, parts.runtime),
            parts.python,
            few_roots,
        )
        self.bare, self.conventional, self.naive = (
            Stage(name, f"bench.handlers.{name}.lambda_handler", reference_path, parts.python, variables)
            for name in ("bare", "conventional", "naive")
        )
        self.floor = replace(
            self.bare, name="floor", handler="bench.handlers.floor.lambda_handler", environment=few_roots
        )

    def _sdk_bundle(self, configured: str | None) -> Path:
        """Return the root certificates that the deployed broker's SDK loads, and that of the local AWS."""
        if configured is None:
            return self._ca_bundle
        deployed = self.artefacts.layer / Path(configured).relative_to("/opt/python")
        bundle = self._ca_bundle.with_name("sdk-roots.pem")
        bundle.write_bytes(deployed.read_bytes() + self._authority.cert_pem.bytes())
        return bundle

    def _put_tokens_in_place(self) -> None:
        client_secret = secrets.token_urlsafe(32)
        self.cloud.steer_digishare("PUT", "/clients", [{"client_id": "bench", "secrets": [client_secret]}])
        self.cloud.put_connection("digishare", {"client_id": "bench", "client_secret": client_secret})
        self.cloud.client("dynamodb").create_table(
            TableName=_CACHE_TABLE,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "connection", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "connection", "KeyType": "HASH"}],
        )
        for stage in (self.ours, self.conventional):
            with Instance(stage) as instance:
                instance.invoke(EVENT)
