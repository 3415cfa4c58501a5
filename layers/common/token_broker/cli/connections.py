"""`token-broker connection put|list|check`: the upstream credentials, with the operator's own AWS permissions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from token_broker.cli.credentials import checked_text, host_of, read_credential
from token_broker.cli.deployment import THE_STACK, Deployment, call_aws, statement
from token_broker.cli.outcome import CommandError, Exit, from_broker_error
from token_broker.cli.terminal import Finding
from token_broker.cli.tokens import THE_BROKER, connections_in, trouble_in
from token_broker.client import BrokerClient
from token_broker.errors import NotConfigured, TokenBrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from token_broker.cli.outcome import Options
    from token_broker.cli.terminal import Terminal

_SECRETS_MANAGER: Final = "AWS Secrets Manager"
_ACTIONS: Final = {
    "put": ["secretsmanager:PutSecretValue", "secretsmanager:CreateSecret"],
    "list": ["secretsmanager:ListSecrets"],
    "check": ["secretsmanager:GetSecretValue"],
}


def run(options: Options, terminal: Terminal, _clock: Callable[[], float]) -> int:
    """Run the action that was asked for."""
    actions = {"put": _put, "list": _list, "check": _check}
    deployment = Deployment(options)
    # Before the credential is asked for, so that nobody types it in vain.
    with terminal.waiting(THE_STACK):
        prefix = (options.prefix or deployment.output("SecretPrefix", "--prefix")).rstrip("/")
    return actions[str(options.action)](options, terminal, deployment, prefix)


def _put(options: Options, terminal: Terminal, deployment: Deployment, prefix: str) -> int:
    secrets_manager = deployment.client("secretsmanager")
    secret_id = f"{prefix}/{options.name}"
    text = json.dumps(read_credential(options, terminal))
    with terminal.waiting(_SECRETS_MANAGER):
        key_arn = None if options.prefix else deployment.parameter("ConnectionSecretsKeyArn")
        created, version = call_aws(
            lambda: _store(secrets_manager, secret_id, text, key_arn),
            f"storing the secret {secret_id}",
            _needed("put", deployment, prefix),
        )
    if terminal.as_json:
        terminal.show_json(
            {"connection": options.name, "secret": secret_id, "version": version, "created": created}
        )
    else:
        terminal.show(f"{'created' if created else 'rotated'} {secret_id}, version {version}")
        terminal.note(
            "the broker reads it at its next exchange, within a minute where the last credential was refused; "
            f"test it: token-broker connection check {options.name} --mint"
        )
    return Exit.OK


def _store(secrets_manager: Any, secret_id: str, text: str, key_arn: str | None) -> tuple[bool, str]:
    """Return whether the secret is new, and the VersionId. A new one is encrypted with this key, or with the account's."""
    try:
        answer = secrets_manager.put_secret_value(SecretId=secret_id, SecretString=text)
        return False, answer["VersionId"]
    except secrets_manager.exceptions.ResourceNotFoundException:
        answer = secrets_manager.create_secret(
            Name=secret_id,
            SecretString=text,
            Description="Upstream credential of the token broker",
            **({"KmsKeyId": key_arn} if key_arn else {}),
        )
        return True, answer["VersionId"]
    except secrets_manager.exceptions.InvalidRequestException:
        raise CommandError(
            f"the secret {secret_id} cannot be written; it is probably marked for deletion",
            fix=f"aws secretsmanager restore-secret --secret-id {secret_id}",
        ) from None


def _list(_options: Options, terminal: Terminal, deployment: Deployment, prefix: str) -> int:
    secrets_manager = deployment.client("secretsmanager")
    pages = secrets_manager.get_paginator("list_secrets")
    with terminal.waiting(_SECRETS_MANAGER):
        secrets = call_aws(
            lambda: [
                secret
                for page in pages.paginate(Filters=[{"Key": "name", "Values": [f"{prefix}/"]}])
                for secret in page["SecretList"]
            ],
            "listing the secrets",
            _needed("list", deployment, prefix),
        )
    rows = [
        {
            "connection": secret["Name"].removeprefix(f"{prefix}/"),
            "changed_at": _iso(secret.get("LastChangedDate")),
            "version": next(
                (
                    v
                    for v, stages in secret.get("SecretVersionsToStages", {}).items()
                    if "AWSCURRENT" in stages
                ),
                None,
            ),
        }
        for secret in secrets
        if secret["Name"].startswith(f"{prefix}/")
    ]
    rows.sort(key=lambda row: str(row["connection"]))
    if terminal.as_json:
        terminal.show_json({"prefix": prefix, "connections": rows})
    elif rows:
        terminal.show_table({"connection": "CONNECTION", "changed_at": "CHANGED", "version": "VERSION"}, rows)
    else:
        terminal.note(f"no secrets {prefix}/…; store one: token-broker connection put digishare")
    return Exit.OK


def _check(options: Options, terminal: Terminal, deployment: Deployment, prefix: str) -> int:
    with terminal.waiting(_SECRETS_MANAGER):
        findings = [*_check_secret(options, deployment, prefix)]
    if findings[-1].verdict == "fault":
        skipped = "not looked at, because the credential is not good"
        findings += [Finding("broker", "skipped", skipped), Finding("token", "skipped", skipped)]
    else:
        with terminal.waiting(THE_BROKER):
            findings += _check_broker(options)
    terminal.show_findings(findings)
    return Exit.FAILURE if any(finding.verdict == "fault" for finding in findings) else Exit.OK


def _check_secret(options: Options, deployment: Deployment, prefix: str) -> list[Finding]:
    secrets_manager = deployment.client("secretsmanager")
    secret_id = f"{prefix}/{options.name}"

    def read() -> dict[str, Any] | None:
        try:
            return dict(secrets_manager.get_secret_value(SecretId=secret_id))
        except (
            secrets_manager.exceptions.ResourceNotFoundException,
            secrets_manager.exceptions.InvalidRequestException,
        ):
            return None

    found = call_aws(read, f"reading the secret {secret_id}", _needed("check", deployment, prefix))
    fix = f"token-broker connection put {options.name}"
    if found is None:
        return [Finding("secret", "fault", f"there is no {secret_id}, or it is marked for deletion", fix)]
    there = Finding(
        "secret", "ok", f"{secret_id}, version {found['VersionId']}, of {_iso(found.get('CreatedDate'))}"
    )
    if "SecretString" not in found:
        return [there, Finding("shape", "fault", "the secret is binary: it must be text (SecretString)", fix)]
    try:
        credential = checked_text(found["SecretString"])
    except CommandError as error:
        return [there, Finding("shape", "fault", str(error).partition("; ")[0], fix)]
    members = ", ".join(name for name in credential if name != "type")
    findings = [there, Finding("shape", "ok", f"{credential['type']} with {members}")]
    if "token_url" in credential:
        findings.append(_check_host(host_of(credential["token_url"]), deployment))
    return findings


def _check_host(host: str | None, deployment: Deployment) -> Finding:
    allowed = deployment.parameter("UpstreamHosts")
    if allowed is None:
        return Finding(
            "token_url", "skipped", "not compared with the stack's UpstreamHosts: it cannot be read"
        )
    if host in {name.strip().lower() for name in allowed.split(",")}:
        return Finding("token_url", "ok", f"{host} is one of the stack's UpstreamHosts")
    fix = f"deploy the stack with UpstreamHosts={allowed},{host}, or correct the token_url"
    return Finding("token_url", "fault", f"{host} is none of the stack's UpstreamHosts", fix)


def _check_broker(options: Options) -> list[Finding]:
    """Return what the broker says of the connection and, with --mint, of a request for a token."""
    try:
        client = BrokerClient(options.url, connection=options.name, region=options.region)
        rows = connections_in(client.status(options.name))
    except NotConfigured as error:
        return [Finding("broker", "skipped", f"not asked: {error.description}"), _not_minted()]
    except TokenBrokerError as error:
        return [_fault("broker", error), _not_minted()]
    row = rows[0] if rows else {}
    trouble = trouble_in(row)
    said = [
        f"state {row.get('state')}, generation {row.get('generation')}, expires {row.get('expires_at')}",
        *trouble,
    ]
    findings = [Finding("broker", "caution" if trouble else "ok", "; ".join(said))]
    if not options.mint:
        return [*findings, _not_minted()]
    try:
        lease = client.token()
    except TokenBrokerError as error:
        return [*findings, _fault("token", error)]
    return [*findings, Finding("token", "ok", f"{lease.token_id}, leased for {lease.expires_in_s():.0f} s")]


def _fault(topic: str, error: TokenBrokerError) -> Finding:
    told = from_broker_error(error)
    return Finding(topic, "fault", f"{error.code}: {told}", told.fix)


def _not_minted() -> Finding:
    return Finding("token", "skipped", "not asked for; --mint does")


def _needed(action: str, deployment: Deployment, prefix: str) -> dict[str, object]:
    secrets = f"arn:{deployment.partition}:secretsmanager:*:*:secret:{prefix}/*"
    resource = "*" if action == "list" else secrets
    return statement("ManageConnections", _ACTIONS[action], resource)


def _iso(moment: Any) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None
