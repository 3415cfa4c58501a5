"""Proxy and root certificates are found where the AWS SDK finds them."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.raw_servers import ConnectProxy
from token_broker import errors
from token_broker.sdk_settings import proxy_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import botocore.session

    from tests.client.conftest import NewClient
    from tests.client.fake_broker import FakeBroker
    from token_broker.client import BrokerClient


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def tls_broker(
    broker: FakeBroker, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> FakeBroker:
    broker.speak_tls(authority.issue_cert("localhost"))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    return broker


# --- proxies ------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    with ConnectProxy() as running:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{running.port}")
        yield running


@pytest.mark.parametrize("form", ["http://{}", "{}", "//{}", "http://{}/", "http://u%40x:p%3A%20w@{}"])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_the_broker_is_reached_through_the_proxy(
    form: str, variable: str, tls_broker: FakeBroker, client: BrokerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy() as proxy:
        monkeypatch.setenv(variable, form.format(f"127.0.0.1:{proxy.port}"))
        if "@" in form:
            proxy.wanted = f"Proxy-Authorization: Basic {base64.b64encode(b'u@x:p: w').decode()}"
        assert client.token().token_id == tls_broker.token_id

    assert [head.split()[:2] for head in proxy.heads] == [["CONNECT", tls_broker.url.split("/")[2]]]
    assert "AWS4-HMAC" not in proxy.heads[0]


def test_a_proxy_may_speak_tls_itself(
    tls_broker: FakeBroker, authority: trustme.CA, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(authority.issue_cert("localhost")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{proxy.port}")
        assert new_client().token().token_id == tls_broker.token_id
    assert len(proxy.heads) == 1


def test_a_proxy_whose_certificate_is_not_trusted_gets_no_request(
    tls_broker: FakeBroker, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(trustme.CA().issue_cert("localhost")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{proxy.port}")
        with pytest.raises(errors.BrokerUnreachable, match="certificate is refused"):
            new_client().token()
    assert not proxy.heads


@pytest.mark.parametrize("hosts", ["localhost", "*", "example.com,.localhost", "localhost:{port}"])
def test_no_proxy_is_asked_for_hosts_that_need_none(
    hosts: str,
    proxy: ConnectProxy,
    tls_broker: FakeBroker,
    client: BrokerClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", hosts.format(port=tls_broker.port))
    assert client.token().token_id == tls_broker.token_id
    assert not proxy.heads


def test_plain_http_uses_no_proxy(
    proxy: ConnectProxy, broker: FakeBroker, client: BrokerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
    assert client.token().token_id == broker.token_id
    assert not proxy.heads


def test_a_proxy_that_refuses_is_named_without_its_password(
    proxy: ConnectProxy, tls_broker: FakeBroker, client: BrokerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.wanted = "another password"
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:canary-password@127.0.0.1:{proxy.port}")
    with pytest.raises(errors.BrokerUnreachable) as raised:
        client.token()
    assert f"through the proxy 127.0.0.1:{proxy.port}" in str(raised.value)
    assert "canary" not in str(raised.value)
    assert raised.value.__context__ is None


def test_stalled_proxy_times_out(proxy: ConnectProxy, tls_broker: FakeBroker, new_client: NewClient) -> None:
    proxy.stalls = True
    started_s = time.monotonic()
    with pytest.raises(errors.BrokerUnreachable):
        new_client(time_budget_s=0.3).token()
    assert time.monotonic() - started_s < 3


@pytest.mark.parametrize(
    "url",
    [
        "http://[canary",
        "http://me:canary@host:port",
        "http://me:canäry@127.0.0.1:1",
        "socks5://canary:1",
        "http://",
    ],
)
def test_a_malformed_proxy_is_named_and_not_quoted(
    url: str, tls_broker: FakeBroker, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)

    with pytest.raises(errors.NotConfigured, match="HTTPS_PROXY") as raised:
        new_client().token()
    assert "canary" not in str(raised.value)
    assert raised.value.__context__ is None


def test_a_proxy_has_no_repr_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:canary-password@proxy.example:3128")

    assert repr(proxy_for("https://broker.test/")) == "Proxy(url='http://proxy.example:3128')"


# --- root certificates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "configuration", "given session"])
@pytest.mark.parametrize("form", ["{}", "~/ca.pem"])
def test_own_roots_are_found_wherever_the_sdk_finds_them(  # noqa: PLR0917 - fixtures
    source: str,
    form: str,
    tls_broker: FakeBroker,
    aws_session: botocore.session.Session,
    client: BrokerClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = form.format(tmp_path / "ca.pem")
    (tmp_path / "config").write_text(f"[default]\nca_bundle = {path if source == 'configuration' else ''}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    if source == "given session":
        aws_session.set_config_variable("ca_bundle", path)
    elif source != "configuration":
        monkeypatch.setenv(source, path)

    assert client.token().token_id == tls_broker.token_id


@pytest.mark.parametrize("name", ["nowhere.pem", "text.pem", "."])
def test_roots_that_cannot_be_read_are_told(
    name: str, new_client: NewClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / name))

    with pytest.raises(errors.NotConfigured, match="no certificates can be read"):
        new_client("https://localhost:1/").token()
