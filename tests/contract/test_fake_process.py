"""The fake Digishare as a process of its own: steered over its admin API, ended by signals and with its input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from local.digishare.tokens import token_id
from local.waiting import wait_until
from tests.contract.conftest import PERSONAL, SECRET, connect, list_page, mint

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "local.fake_digishare", "--ready-file", str(ready)]
    with subprocess.Popen(  # noqa: S603 - the project's own program
        [*command, "--tls-dir", str(tmp_path / "tls")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert wait_until(lambda: child.poll() is not None or (ready.exists() and ready.read_text()), 20)
        yield child, json.loads(ready.read_text(encoding="utf-8"))
        child.kill()


def test_the_admin_api_steers_the_process(
    process: tuple[subprocess.Popen[bytes], dict[str, str]],
) -> None:
    child, addresses = process
    assert child.stdin is not None
    with (
        connect(addresses["url"], Path(addresses["ca_file"])) as http,
        httpx.Client(base_url=addresses["admin_url"], trust_env=False) as admin,
    ):
        assert mint(http).status_code == 401
        admin.put("/clients", json=[{"client_id": "broker", "secrets": [SECRET]}]).raise_for_status()
        admin.put("/personal-access-tokens", json=[{"token": PERSONAL}]).raise_for_status()
        admin.put("/settings", json={"token_lifetime_s": 60, "campaign_shape": "laravel"}).raise_for_status()
        fault = {"target": "token", "kind": "rate_limited", "times": 1, "retry_after_s": 9}
        state = admin.post("/faults", json=fault).raise_for_status().json()
        assert state["waiting_faults"]["token"] == ["rate_limited"]
        assert mint(http).headers["Retry-After"] == "9"
        answer = mint(http).json()
        assert answer["expires_in"] == 60
        assert "links" in list_page(http).json()
        state = admin.get("/state").json()
        assert state["mint_count"] == 1
        assert state["mints"][0]["token_id"] == token_id(answer["access_token"])
        assert state["requests_by_path"] == {"POST /v1/oauth/token": 3, "GET /v1/campaigns": 1}
        assert f"https://{state['calls'][0]['host']}" == addresses["url"]
        admin.post("/revoke", json={"token_id": state["mints"][0]["token_id"]}).raise_for_status()
        assert list_page(http, answer["access_token"]).status_code == 401
        admin.post("/faults", json={"target": "campaigns", "kind": "hang", "times": None}).raise_for_status()
        assert admin.delete("/faults").json()["waiting_faults"]["campaigns"] == []
        admin.post("/revoke", json={"all": True}).raise_for_status()
        assert list_page(http).status_code == 401
        assert admin.post("/reset").json()["mint_count"] == 0
        for path, body in (
            ("/faults", {"target": "token", "kind": "plague"}),
            ("/faults", {"target": "moon", "kind": "hang"}),
            ("/faults", {"target": "token", "kind": "hang", "colour": "red"}),
            ("/revoke", {"token_id": "0" * 16}),
            ("/revoke", []),
        ):
            assert admin.post(path, json=body).status_code == 400
        assert admin.get("/nothing").status_code == 404
    child.stdin.close()
    assert child.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_on_signals_even_with_a_client_connected(
    process: tuple[subprocess.Popen[bytes], dict[str, str]], number: signal.Signals
) -> None:
    child, addresses = process
    with connect(addresses["url"], Path(addresses["ca_file"])) as http:
        http.get("/")
        os.kill(child.pid, number)
        assert child.wait(10) == 0
    assert child.stderr is not None
    assert child.stderr.read() == b""
