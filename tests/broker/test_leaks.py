"""A canary secret and canary tokens go through every path, the failing ones included; nothing may show them."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any

import pytest

from functions.broker.adapters.client_secret import ClientCredentials, PersonalAccessToken, StoredCredential
from functions.broker.attempt import Candidate
from functions.broker.audit import Audit
from functions.broker.issue_token import Issued
from functions.broker.token import SealedToken, TokenRecord
from local.digishare import faults
from tests.conftest import CANARY_SECRET, LambdaContext
from token_broker.issued_token import ClearToken, Token, TokenAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.digishare.faults import Fault
    from local.fake_digishare import FakeDigishare
    from tests.broker.conftest import Output
    from tests.conftest import Account, Invoke

TOKEN = Token("0123456789abcdef", 0.0, None, None, None, "v1")
CANARY_PAT = "canary-personal-access-token-90b7"
ONE_OR_TWO_ATTEMPTS_MS = 15_500
"""Enough for one exchange, even if a busy machine begins it two seconds late, but not for many back-offs."""
UNUSABLE = "canary token with spaces\nand a line"

FAULTS: dict[str, Callable[[], Fault]] = {
    "server error": faults.status,
    "rate limited": faults.rate_limited,
    "html": faults.html,
    "redirect": faults.redirect,
    "redirect that would post the secret again": lambda: faults.redirect(status=307),
    "truncated": faults.truncated_json,
    "cut": faults.cut_body,
    "reset": faults.reset,
    "minted, then dropped": faults.mint_then_drop,
    "a token of another kind": lambda: faults.raw(body='{"token_type":"mac","access_token":"<token>"}'),
    "a token in a header line that is none": lambda: faults.raw(
        "HTTP/1.1 500 <token>\r\n<token>\r\n\r\n<body>"
    ),
    "a token where HTTP should be": lambda: faults.raw("<body>"),
    "the secret echoed": lambda: faults.json_answer({"error": CANARY_SECRET}, status=400),
    "a token that is none": lambda: faults.json_answer({"access_token": UNUSABLE}),
    "token in an error": lambda: faults.json_answer({"error": "invalid_client", "x": CANARY_PAT}, status=401),
}


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> None:
    """All loggers are at DEBUG; the broker must silence the SDK's all the same."""
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("fault", FAULTS)
def test_no_failure_of_the_upstream_shows_the_secret_or_a_token(
    fault: str, invoke: Invoke, digishare: FakeDigishare, output: Output
) -> None:
    digishare.fail("token", FAULTS[fault](), times=None)

    answer = invoke(context=LambdaContext(remaining_ms=ONE_OR_TWO_ATTEMPTS_MS))

    assert answer["statusCode"] in {502, 503}
    assert digishare.calls, "the upstream was asked"
    shown = output(answer)
    assert CANARY_SECRET not in shown
    assert "canary" not in shown
    assert "eyJ" not in shown


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("canary-not-json", ("secret_malformed", "it is not JSON text")),
        ('"canary-text"', ("secret_malformed", "it is not a JSON object")),
        ("canary\0", ("secret_malformed", "it has NUL characters, as UTF-16 has: save it as UTF-8")),
        ({"type": "canary"}, ("secret_malformed", "`type` must be client_credentials or personal_access_token")),
        ({"client_id": "x", "client_secret": ["canary"]},
            ("secret_malformed", "`client_secret` must be printable ASCII text")),
        ({"type": "personal_access_token", "access_token": "canary\nline"},
            ("secret_malformed", "`access_token` must be printable ASCII text")),
        ({"client_id": "canary", "client_secret": "canary", "token_url": "http://canary.example/"},
            ("token_url_not_allowed", "")),
        ({"client_id": "canary", "client_secret": "canary", "token_url": "https://canary@[bad"},
            ("token_url_malformed", "")),
    ],
)  # fmt: skip
def test_a_malformed_secret_is_not_shown_but_its_mistake_is(
    secret: object,
    said: tuple[str, str],
    invoke: Invoke,
    account: Account,
    caplog: pytest.LogCaptureFixture,
    output: Output,
) -> None:
    account.put_secret("digishare", secret)

    answer = invoke()

    assert answer["statusCode"] == 502
    (record,) = [vars(record) for record in caplog.records if record.message == "MintFailed"]
    assert (record["error"], record["problem"]) == said
    assert "canary" not in output(answer)


def test_the_brokers_memory_shows_no_token(
    invoke: Invoke, new_broker: Callable[[], Invoke], account: Account, output: Output
) -> None:
    account.put_secret("digishare", {"type": "personal_access_token", "access_token": CANARY_PAT})

    answers: list[dict[str, Any]] = [invoke(), invoke(), new_broker()()]
    cells = [cell.cell_contents for cell in invoke.__closure__ or ()]
    remembered = [(cell.issuer, cell.issuer.known) for cell in cells if hasattr(cell, "issuer")]

    assert all(CANARY_PAT in answer["body"] for answer in answers)
    assert remembered
    assert CANARY_PAT not in output(remembered, cells)
    assert CANARY_PAT not in repr(account.item())


@pytest.mark.parametrize(
    "made",
    [
        ClientCredentials("c", "canary", "https://x"),
        PersonalAccessToken("canary"),
        StoredCredential("v1", "AWSCURRENT", ClientCredentials("c", "canary", "https://x")),
        TokenAnswer("canary", 3600, None),
        ClearToken(TOKEN, "canary"),
        SealedToken(TOKEN, b"canary", 1),
        Issued(ClearToken(TOKEN, "canary"), 1, "mint"),
        Candidate(StoredCredential("v1", "AWSCURRENT", PersonalAccessToken("canary")), (), is_last=True),
        TokenRecord("digishare", SealedToken(TOKEN, b"canary", 1)),
    ],
    ids=lambda made: type(made).__name__,
)
def test_no_repr_shows_a_secret_or_a_token(made: object) -> None:
    assert "canary" not in f"{made} {made!r}"


def test_a_log_line_that_cannot_be_written_does_not_show_the_error_that_is_being_handled(
    fresh_log: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit()
    closed = io.StringIO()
    closed.close()
    (handler,) = audit._logger.handlers
    monkeypatch.setattr(handler, "stream", closed)
    try:
        int(CANARY_SECRET)
    except ValueError as error:  # its text has what could not be converted
        audit.notice_bug(error)

    assert CANARY_SECRET not in "".join(capfd.readouterr())


def test_the_callers_own_credentials_are_not_logged(invoke: Invoke, output: Output) -> None:
    for path in ("/token", "/nowhere"):
        invoke(path=path)

    shown = output()
    assert "EXAMPLE-session-token-of-the-caller" not in shown
    assert "Signature=" not in shown


def test_the_check_sees_a_leak(invoke: Invoke, caplog: pytest.LogCaptureFixture, output: Output) -> None:
    """If the SDK's loggers are not silenced, `output` has the secret that the SDK logs."""
    for silenced in ("botocore", "urllib3"):
        caplog.set_level(logging.DEBUG, silenced)
    invoke()

    assert CANARY_SECRET in output()
