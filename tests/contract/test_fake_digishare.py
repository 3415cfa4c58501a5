"""The fake Digishare behaves as the real one is known to, and makes exactly the faults that it is told to."""

from __future__ import annotations

import base64
import json
import logging
import socket
import ssl
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx
import pytest

from local.digishare import faults
from local.digishare.faults import FAULTS
from local.digishare.model import Client, PersonalAccessToken
from local.digishare.server import FakeDigishare
from local.digishare.tokens import token_id
from local.waiting import wait_until
from tests.contract.conftest import (
    CLIENTS,
    CREDENTIALS,
    OLD_SECRET,
    PERSONAL,
    SECRET,
    connect,
    list_page,
    mint,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local.digishare.faults import Fault, Packing
    from tests.contract.conftest import Clock

YEAR_S = 31_536_000


# --- tokens -----------------------------------------------------------------------------------------------------


def test_a_mint_is_answered_as_documented_and_counted(digishare: FakeDigishare, http: httpx.Client) -> None:
    answer = mint(http).json()
    assert answer.keys() == {"token_type", "expires_in", "access_token"}
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", YEAR_S)
    [counted] = digishare.mints
    assert (counted.token_id, counted.client_id) == (token_id(answer["access_token"]), "broker")


def test_a_token_looks_like_the_real_one(http: httpx.Client, clock: Clock) -> None:
    token = mint(http).json()["access_token"]
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    assert 640 <= len(token) <= 1120
    assert header == {"typ": "JWT", "alg": "RS256"}
    assert all(isinstance(claims[name], float) for name in ("iat", "nbf", "exp"))
    assert claims["exp"] == clock() + YEAR_S


def test_lifetimes_of_a_year_are_off_by_a_second_now_and_then(http: httpx.Client) -> None:
    assert [mint(http).json()["expires_in"] - YEAR_S for _ in range(4)] == [0, -1, 0, -1]


def test_every_valid_secret_mints_and_no_token_ends_another(http: httpx.Client) -> None:
    tokens = [mint(http, client_secret=each).json()["access_token"] for each in (SECRET, OLD_SECRET)]
    assert [list_page(http, token).status_code for token in tokens] == [200, 200]


def test_a_secret_can_be_withdrawn(digishare: FakeDigishare, http: httpx.Client) -> None:
    digishare.set_clients([Client("broker", (SECRET,))])
    assert mint(http, client_secret=OLD_SECRET).json()["error"] == "invalid_client"
    assert mint(http).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "nobody"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": None}, 400, "unsupported_grant_type"),
        ({"client_id": None}, 400, "invalid_request"),
        ({"client_secret": ""}, 400, "invalid_request"),
        ({"scope": "campaigns.read root"}, 400, "invalid_scope"),
    ],
)
def test_refused_mints_have_the_stacks_own_errors(
    digishare: FakeDigishare, http: httpx.Client, changes: dict[str, object], status: int, error: str
) -> None:
    answer = mint(http, **changes)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["error_description"]
    assert digishare.mints == []


def test_a_form_body_is_refused(digishare: FakeDigishare, http: httpx.Client) -> None:
    answer = http.post("/v1/oauth/token", data=CREDENTIALS)
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


def test_wrong_types_fail_validation(http: httpx.Client) -> None:
    answer = mint(http, client_id=["broker"])
    assert answer.status_code == 422
    assert answer.json().keys() == {"message", "errors"}
    without_accept = http.post("/v1/oauth/token", json={"client_id": []}, headers={"Accept": "*/*"})
    assert without_accept.status_code == 302


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/oauth/token", 405), ("POST", "/oauth/token", 404)]
)
def test_other_methods_and_paths_are_refused(http: httpx.Client, method: str, path: str, status: int) -> None:
    assert http.request(method, path).status_code == status


# --- using a token ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", [None, "Bearer nonsense", f"Basic {PERSONAL}", "Bearer"])
def test_a_bad_token_is_unauthenticated(http: httpx.Client, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    answer = http.get("/v1/campaigns", headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"message": "Unauthenticated."})
    to_login = http.get("/v1/campaigns", headers={**headers, "Accept": "*/*"})
    assert (to_login.status_code, to_login.headers["Location"]) == (302, "/login")


def test_tokens_expire_and_are_revoked(digishare: FakeDigishare, http: httpx.Client, clock: Clock) -> None:
    digishare.configure(token_lifetime_s=10)
    first, second, third = (mint(http).json()["access_token"] for _ in range(3))
    assert digishare.revoke(token_id(first))
    assert not digishare.revoke(token_id(first))
    assert [list_page(http, each).status_code for each in (first, second)] == [401, 200]
    clock.now_epoch_s += 10
    assert list_page(http, second).status_code == 401
    digishare.configure(token_lifetime_s=100, refuse_younger_than_s=3)
    fourth = mint(http).json()["access_token"]
    assert list_page(http, fourth).status_code == 401
    clock.now_epoch_s += 3
    assert [list_page(http, each).status_code for each in (third, fourth, PERSONAL)] == [401, 200, 200]
    digishare.revoke_all()
    assert [list_page(http, each).status_code for each in (fourth, PERSONAL)] == [401, 401]


def test_a_missing_scope_is_forbidden(http: httpx.Client) -> None:
    tokens = [mint(http, scope=each).json()["access_token"] for each in ("campaigns.write", "campaigns.read")]
    assert [list_page(http, token).status_code for token in tokens] == [403, 200]


@pytest.mark.parametrize(
    "setting",
    [{"campaign_shape": "round"}, {"tie_order": "loose"}, {"behind_last_page": "500"}, {"largest_page": 0},
        {"colour": "red"}],
    ids=str,
)  # fmt: skip
def test_unknown_settings_or_values_are_refused(digishare: FakeDigishare, setting: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(setting))):
        digishare.configure(**setting)


# --- faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "content"),
    [
        (faults.status(500), 500, b'{"message": "Server Error"}'),
        (faults.status(503), 503, b'{"message": "Service Unavailable"}'),
        (faults.status(599), 599, b'{"message": "Server Error"}'),
        (faults.status(418, body="x"), 418, b"x"),
        (faults.json_answer({"expires_in": -1}), 200, b'{"expires_in": -1}'),
        (faults.json_answer("[verbatim", status=201), 201, b"[verbatim"),
    ],
)
def test_faulty_answers_are_given_as_told_and_nothing_is_minted(
    digishare: FakeDigishare, http: httpx.Client, fault: Fault, status: int, content: bytes
) -> None:
    digishare.fail("token", fault)
    answer = mint(http)
    assert (answer.status_code, answer.content) == (status, content)
    assert answer.headers["Content-Type"] == "application/json"
    assert digishare.mints == []


def test_rate_limits_have_every_form_of_retry_after(digishare: FakeDigishare, http: httpx.Client) -> None:
    digishare.fail("campaigns", faults.rate_limited(retry_after_s=30))
    digishare.fail("campaigns", faults.rate_limited(retry_after_s=30, as_date=True))
    digishare.fail("campaigns", faults.rate_limited())
    seconds, date, none = (list_page(http) for _ in range(3))
    assert {answer.status_code for answer in (seconds, date, none)} == {429}
    assert seconds.headers["Retry-After"] == "30"
    assert 25 < parsedate_to_datetime(date.headers["Retry-After"]).timestamp() - time.time() < 35
    assert "Retry-After" not in none.headers
    assert none.headers["X-RateLimit-Remaining"] == "0"


def test_html_and_redirects_are_no_json(digishare: FakeDigishare, http: httpx.Client) -> None:
    digishare.fail("token", faults.html())
    digishare.fail("token", faults.redirect(status=307, location="https://127.0.0.1:1/x"))
    page, redirect = mint(http), mint(http)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=UTF-8")
    assert (redirect.status_code, redirect.headers["Location"]) == (307, "https://127.0.0.1:1/x")
    assert digishare.mints == []


def test_faults_wait_in_line_until_used_up_or_cleared(digishare: FakeDigishare, http: httpx.Client) -> None:
    digishare.fail("token", faults.status(500), times=2)
    digishare.fail("token", faults.status(503), times=None)
    assert list_page(http).status_code == 200
    assert [mint(http).status_code for _ in range(4)] == [500, 500, 503, 503]
    assert digishare.waiting_faults == {"token": ["status"], "campaigns": []}
    digishare.clear_faults()
    assert mint(http).status_code == 200
    with pytest.raises(ValueError, match="times"):
        digishare.fail("token", faults.hang(), times=0)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.reset(), httpx.TransportError),
        (faults.close(), httpx.RemoteProtocolError),
        (faults.hang(cap_s=0.05), httpx.RemoteProtocolError),
        (faults.hang(processed=True), httpx.ReadTimeout),
        (faults.drip_headers(interval_ms=1, cap_s=0.05), httpx.RemoteProtocolError),
        (faults.drip_body(interval_ms=10, cap_s=0.05), httpx.RemoteProtocolError),
        (faults.cut_body(), httpx.RemoteProtocolError),
        (faults.mint_then_drop(), httpx.TransportError),
    ],
    ids=lambda each: each.name if isinstance(each, faults.Fault) else "",
)
def test_lost_answers_are_counted_as_mints_only_where_they_minted(
    digishare: FakeDigishare, fault: Fault, error: type[Exception]
) -> None:
    digishare.fail("token", fault)
    with connect(digishare.url, digishare.ca_file, timeout_s=0.3) as http, pytest.raises(error):
        mint(http)
    assert len(digishare.mints) == fault.processed
    assert digishare.requests_by_path == {"POST /v1/oauth/token": 1}


def test_spoilt_but_minted_answers_are_counted(digishare: FakeDigishare, http: httpx.Client) -> None:
    digishare.fail("token", faults.truncated_json())
    digishare.fail("token", faults.wrong_content_type())
    digishare.fail("token", faults.delay(delay_ms=120))
    digishare.fail("token", faults.drip_body(interval_ms=0))
    with pytest.raises(ValueError, match="Unterminated"):
        mint(http).json()
    mislabelled = mint(http)
    assert mislabelled.headers["Content-Type"].startswith("text/html")
    start = time.monotonic()
    assert mint(http).status_code == 200
    assert time.monotonic() - start >= 0.12
    dripped = mint(http).json()
    assert len(digishare.mints) == 4
    assert digishare.mints[-1].token_id == token_id(dripped["access_token"])


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_has_its_size(digishare: FakeDigishare, http: httpx.Client, *, chunked: bool) -> None:
    digishare.fail("token", faults.huge_body(size_bytes=2_000_000, chunked=chunked))
    answer = mint(http)
    assert ("Content-Length" in answer.headers) is not chunked
    assert len(answer.content) == 2_000_000
    assert answer.json().keys() == {"access_token"}


# --- sockets ----------------------------------------------------------------------------------------------------


def test_plain_http_fails(digishare: FakeDigishare) -> None:
    with socket.create_connection(("127.0.0.1", digishare.port), 5) as plain:
        plain.sendall(b"GET /v1/campaigns HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        received = b""
        with suppress(ConnectionResetError):
            while piece := plain.recv(4096):
                received += piece
    assert b"HTTP" not in received
    assert digishare.calls == []


@contextmanager
def _connection(digishare: FakeDigishare) -> Iterator[ssl.SSLSocket]:
    trust = ssl.create_default_context(cafile=str(digishare.ca_file))
    with (
        socket.create_connection(("127.0.0.1", digishare.port), 30) as plain,
        trust.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        yield secure


def _mint_request() -> bytes:
    """Return a mint as bytes."""
    body = json.dumps(CREDENTIALS)
    lines = [
        "POST /v1/oauth/token HTTP/1.1", "Host: 127.0.0.1", "Accept: application/json", "Connection: close",
        "Content-Type: application/json", f"Content-Length: {len(body)}",
    ]  # fmt: skip
    return "\r\n".join([*lines, "", body]).encode()


def test_a_reset_is_a_reset_and_a_close_is_not(digishare: FakeDigishare) -> None:
    def what_comes_over_tcp() -> None:
        with _connection(digishare) as secure:
            secure.sendall(_mint_request())
            while socket.socket.recv(secure, 4096):  # below TLS, which reports both as an end of file
                pass

    digishare.fail("token", faults.close())
    digishare.fail("token", faults.reset())
    what_comes_over_tcp()
    with pytest.raises(ConnectionResetError):
        what_comes_over_tcp()


def test_200_clients_at_once_are_served_while_one_delays_its_handshake(
    digishare: FakeDigishare,
) -> None:
    everyone = threading.Barrier(200)

    def call() -> bytes:
        everyone.wait(30)
        with _connection(digishare) as secure:
            secure.sendall(_mint_request())
            return secure.recv(15)

    with socket.create_connection(("127.0.0.1", digishare.port)), ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: call(), range(200)))
    assert set(answers) == {b"HTTP/1.1 200 OK"}
    assert len({each.token_id for each in digishare.mints}) == 200


def test_leaving_the_block_ends_hanging_requests_idle_connections_and_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    with FakeDigishare(clients=CLIENTS, tls_dir=tmp_path / "tls") as digishare:
        digishare.fail("token", faults.hang(), times=None)
        idle = connect(digishare.url, digishare.ca_file)
        idle.get("/v1/campaigns")
        http = connect(digishare.url, digishare.ca_file, timeout_s=0.1)
        with pytest.raises(httpx.ReadTimeout):
            mint(http)
        start = time.monotonic()
    assert time.monotonic() - start < 2
    http.close()
    idle.close()
    # A thread that has closed its socket still needs a moment to end.
    assert wait_until(lambda: threading.active_count() <= before, 2)
    assert [each.name for each in (tmp_path / "tls").iterdir()] == ["ca.pem"]


def test_nothing_secret_is_logged(
    digishare: FakeDigishare, http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "digishare")
    token = mint(http).json()["access_token"]
    list_page(http, token, q=SECRET)
    http.get(f"/v1/{SECRET}")
    digishare.fail("token", faults.mint_then_drop())
    with pytest.raises(httpx.TransportError):
        mint(http)
    text = "".join(record.getMessage() for record in caplog.records if record.name == "digishare")
    assert "POST /v1/oauth/token -> 200" in text
    assert "POST /v1/oauth/token -> mint_then_drop" in text
    assert "canary" not in text
    assert token not in text
    assert "canary" not in repr((CLIENTS, PersonalAccessToken(PERSONAL)))


# --- byte for byte ---------------------------------------------------------------------------------------------


def test_every_fault_can_be_made_by_name_alone() -> None:
    assert {make().name for name, make in FAULTS.items() if name not in {"json_answer", "rate_limited"}} == (
        FAULTS.keys() - {"json_answer", "rate_limited"}
    )


def _read_raw(digishare: FakeDigishare, fault: Fault) -> list[bytes]:
    """Return what comes for a mint, as it is received."""
    digishare.fail("token", fault)
    pieces: list[bytes] = []
    with _connection(digishare) as secure:
        secure.sendall(_mint_request())
        while piece := secure.recv(65_536):
            pieces.append(piece)
    return pieces


def test_a_raw_answer_comes_byte_by_byte_as_it_was_given(digishare: FakeDigishare) -> None:
    template = "HTTP/1.1 <length> \xe9\r\n<hex>\n\n<body><pause>and <token>"
    pieces = _read_raw(digishare, faults.raw(template, body="[<token>]", pause_ms=20))
    [counted] = digishare.mints
    token = pieces[1].removeprefix(b"and ").decode()
    assert token_id(token) == counted.token_id
    length = len(token) + 2
    assert pieces[0] == f"HTTP/1.1 {length} \xe9\r\n{length:x}\n\n[{token}]".encode("latin-1")


def test_a_raw_answer_can_be_packed_and_need_not_mint(digishare: FakeDigishare) -> None:
    wbits_of: dict[Packing, int] = {"gzip": 31, "zlib": 15, "deflate": -15}
    for packing, wbits in wbits_of.items():
        fault = faults.raw("<length> <body>", body="<token>", packing=packing, processed=False)
        length, _, body = b"".join(_read_raw(digishare, fault)).partition(b" ")
        assert (int(length), zlib.decompress(body, wbits)) == (len(body), b"<token>")
    assert digishare.mints == []
    with pytest.raises(ValueError, match="packing is one of"):
        faults.raw(packing="br")  # type: ignore[arg-type] # as it could come over HTTP
