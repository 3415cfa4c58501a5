"""The command line run in this process, against brokers and AWS accounts of the tests' own."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.client.fake_api import FakeApi
from tests.client.fake_broker import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, FakeBroker
from token_broker.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Ended:
    """How one command ended, and what it wrote."""

    exit_code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The JSON value on standard output."""
        return json.loads(self.out)


Run = Callable[..., Ended]


class _Person(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs one command: `run("token", stdin=b"...")`; `typed` is what a person at a terminal types."""

    def act(*arguments: str, stdin: str | bytes = b"", typed: str | None = None) -> Ended:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        reader = io.TextIOWrapper(io.BytesIO(content), encoding="ascii") if typed is None else _Person(typed)
        monkeypatch.setattr(sys, "stdin", reader)
        capsys.readouterr()
        exit_code = main(arguments)
        told = capsys.readouterr()
        return Ended(exit_code, told.out, told.err)

    return act


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBroker]:
    """A broker that the environment names, with the keys that it knows."""
    with FakeBroker() as running:
        monkeypatch.setenv("TOKEN_BROKER_URL", running.url)
        monkeypatch.setenv("AWS_REGION", REGION)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
        yield running


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with FakeApi() as running:
        monkeypatch.setenv("DIGISHARE_BASE_URL", running.url("/v1"))
        yield running
