"""`make demo`: the main job on a local cloud, every promise checked, a table at the end.

Exits with 1 when a line is not as promised.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SigningCredentials

from local.children import LocalCloudError
from local.cloud import LocalCloud, end_in_order_on_signals
from local.promises import Line, render, verdict
from local.sdk import Credentials, send
from local.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

CAMPAIGNS = 250
CAMPAIGNS_TIMEOUT_S = 45.0
LOG_TIMEOUT_S = 10.0
_CALL_TIMEOUT_S = 40.0


@dataclass(frozen=True)
class Reply:
    """What the broker answered; `source` is where its audit line says that the token came from."""

    status: int
    body: dict[str, Any]
    text: str
    source: str
    duration_ms: int

    @property
    def token(self) -> str:
        return str(self.body.get("access_token", ""))

    def __str__(self) -> str:
        error = f" {self.body['error']}" if "error" in self.body else ""
        return f"{self.status}{error}{self.source}"


class Demo:
    """The steps of the demo, in the order of the table."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud
        self._broker = cloud.outputs["BrokerFunctionName"]
        self._client_secret = secrets.token_urlsafe(32)
        self._wrong_client_secret = secrets.token_urlsafe(32)
        self._personal_access_token = secrets.token_urlsafe(48)
        self._tokens: list[str] = []
        self.lines: list[Line] = []

    def run(self) -> None:
        self._store_connections()
        policy = [self._cloud.outputs["CallerPolicyArn"]]
        self._caller = self._cloud.create_caller("local-caller", policy)
        self._show_the_life_of_a_token()
        self._show_who_is_refused(policy)
        self._show_other_credentials()
        self._show_the_campaigns_job()
        self._show_that_nothing_leaked()

    def _store_connections(self) -> None:
        cloud = self._cloud
        cloud.steer_digishare("PUT", "/clients", [{"client_id": "demo", "secrets": [self._client_secret]}])
        cloud.steer_digishare("PUT", "/personal-access-tokens", [{"token": self._personal_access_token}])
        client = {"type": "client_credentials", "client_id": "demo"}
        cloud.put_connection("digishare", client | {"client_secret": self._client_secret})
        cloud.put_connection("wrong-secret", client | {"client_secret": self._wrong_client_secret})
        cloud.put_connection(
            "dashboard", {"type": "personal_access_token", "access_token": self._personal_access_token}
        )

    def _show_the_life_of_a_token(self) -> None:
        first = self._call(self._caller)
        self._note("first call", "200 from mint", first)
        self._note("second call", "200 from memory", self._call(self._caller))
        self._cloud.retire_instances(self._broker)
        self._note("call to a fresh instance", "200 from table", self._call(self._caller))
        self._note("exchanges at Digishare so far", "1", self._count_mints())
        self._note("Digishare takes the token", "200", self._status_at_digishare(first.token))

    def _show_who_is_refused(self, policy: list[str]) -> None:
        self._note("unsigned call", "403", self._call(None))
        wrong_key = Credentials(self._caller.access_key_id, "x" * 40, self._caller.session_token)
        self._note("call signed with a wrong secret key", "403", self._call(wrong_key))
        stranger = self._cloud.create_caller("stranger")
        self._note("caller without the caller policy", "403", self._call(stranger))
        visitor = self._cloud.create_caller("visitor", policy)
        self._note("caller without a grant", "403 access_denied", self._call(visitor, "dashboard"))

    def _show_other_credentials(self) -> None:
        self._note("wrong client secret", "502 upstream_rejected", self._call(self._caller, "wrong-secret"))
        own = self._call(self._caller, "dashboard")
        self._note("personal access token connection", "200 from mint", own)
        self._note("Digishare takes that token, too", "200", self._status_at_digishare(own.token))

    def _show_the_campaigns_job(self) -> None:
        self._note(
            "campaigns job, run by its schedule",
            f"{CAMPAIGNS} campaigns, complete",
            self._run_campaigns_job(),
        )
        statuses = self._cloud.steer_digishare("GET", "/campaigns")["statuses"]
        self._cloud.steer_digishare("POST", "/campaigns", {"change": {next(iter(statuses)): "paused"}})
        line = self._cloud.run_campaigns_job(CAMPAIGNS_TIMEOUT_S)
        self._note("its next run, after one campaign has changed", "1 event", f"{line.get('events')} event")
        self._note("exchanges at Digishare in the end", "1", self._count_mints())

    def _show_that_nothing_leaked(self) -> None:
        secret_texts = [
            self._client_secret,
            self._wrong_client_secret,
            self._personal_access_token,
            str(self._caller.session_token),
            *self._tokens,
        ]
        functions = (self._broker, self._cloud.outputs["CampaignsFunctionName"])
        log = "\n".join(line for name in functions for line in self._cloud.function_logs(name))
        leaks = sum(text in log for text in secret_texts)
        self._note(f"secrets and tokens in {log.count(chr(10))} log lines", "0", leaks)

    def _call(self, caller: Credentials | None, connection: str = "digishare") -> Reply:
        """Ask the broker for a token; a refusal must not contain anything secret."""
        url, body = f"{self._cloud.function_url}/token", json.dumps({"connection": connection})
        request = AWSRequest("POST", url, headers={"content-type": "application/json"}, data=body)
        if caller is not None:
            key = SigningCredentials(caller.access_key_id, caller.secret_access_key, caller.session_token)
            SigV4Auth(key, "lambda", self._cloud.region).add_auth(request)
        lines_before = len(self._audit_lines())
        started_s = time.monotonic()
        answer = send("POST", url, _CALL_TIMEOUT_S, headers=dict(request.headers), data=body)
        duration_ms = round(1000 * (time.monotonic() - started_s))
        is_the_brokers_own = "Message" not in answer.json()  # and not AWS's
        source = self._next_source(lines_before) if is_the_brokers_own else "none"
        reply = Reply(
            answer.status_code,
            answer.json(),
            f"{answer.headers} {answer.text}",
            "" if source == "none" else f" from {source}",
            duration_ms,
        )
        if reply.token:
            self._tokens.append(reply.token)
        elif any(text in reply.text for text in (self._wrong_client_secret, self._client_secret)):
            raise LocalCloudError("an error answer contains a client secret")
        return reply

    def _next_source(self, lines_before: int) -> str:
        """Return what the next line of the log says; on a busy machine it comes after the answer."""
        if audit := wait_until(lambda: self._audit_lines()[lines_before:], LOG_TIMEOUT_S):
            return str(audit[-1].get("source", "none"))
        raise LocalCloudError(f"no line of the last answer in the log within {LOG_TIMEOUT_S:.0f} s")

    def _audit_lines(self) -> list[dict[str, Any]]:
        return [line for line in self._cloud.function_reports(self._broker) if "_aws" in line]

    def _count_mints(self) -> int:
        return int(self._cloud.steer_digishare("GET", "/state")["mint_count"])

    def _status_at_digishare(self, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        url = f"{self._cloud.digishare_url}/v1/campaigns?limit=1"
        return send("GET", url, headers=headers, verify=str(self._cloud.ca_file)).status_code

    def _run_campaigns_job(self) -> str:
        line = self._cloud.run_campaigns_job(CAMPAIGNS_TIMEOUT_S)
        if "campaigns" not in line:
            return str(line.get("reason"))
        return f"{line['campaigns']} campaigns, {'complete' if line['is_complete'] else line['reason']}"

    def _note(self, what: str, promised: str, seen: object) -> None:
        text = f"{seen} ({seen.duration_ms} ms)" if isinstance(seen, Reply) else str(seen)
        line = Line(what, promised, text)
        print(f"  {'✓' if line.holds else '✗'} {what}: {text}", flush=True)
        self.lines.append(line)


def main(show: Callable[[str], None] = print) -> int:
    started_s = time.monotonic()
    end_in_order_on_signals()
    try:
        with LocalCloud(say=show) as cloud:
            cloud.build()
            cloud.deploy()
            show("· calling")
            demo = Demo(cloud)
            demo.run()
    except LocalCloudError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(f"\n{render(demo.lines)}\n")
    show(f"{verdict(demo.lines)}; {time.monotonic() - started_s:.0f} s")
    return 0 if all(line.holds for line in demo.lines) else 1


if __name__ == "__main__":
    sys.exit(main())
