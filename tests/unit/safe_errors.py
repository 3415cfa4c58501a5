"""Checks that the errors of calls have no secret."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lambda_support import upstream_http
from tests.conftest import CANARY_SECRET
from token_broker import bounded_http, connector
from token_broker.bounded_http import CallError

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPT_S = 2.5  # room for a busy machine; every server here would delay a caller for far longer


def failure_of(call: Callable[[], object]) -> CallError:
    """Return what the call raises, having checked that it has no secret and came in time."""
    start = time.monotonic()
    with pytest.raises(CallError) as caught:
        call()
    assert time.monotonic() - start < PROMPT_S
    assert_has_no_secret(caught.value)
    return caught.value


def assert_has_no_secret(error: BaseException) -> None:
    assert CANARY_SECRET not in f"{error}{error!r}{error.args}{vars(error)}"
    assert error.__cause__ is None
    assert error.__context__ is None
    tests = {str(file) for file in Path(__file__).parent.glob("*.py")}
    ours = tests | {bounded_http.__file__, connector.__file__, upstream_http.__file__}
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename not in ours:
            assert CANARY_SECRET not in repr(step.tb_frame.f_locals)
        step = step.tb_next
