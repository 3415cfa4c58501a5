from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Output = Callable[..., str]


@pytest.fixture
def output(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Output:
    """Return what has been written since the last look, all records of the log, and these values."""

    def read(*values: object) -> str:
        records = (f"{record.getMessage()} {vars(record)}" for record in caplog.records)
        return "\n".join([*capfd.readouterr(), *records, *map(repr, values)])

    return read
