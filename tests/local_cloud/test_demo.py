"""The demo's table shows which promises are broken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from local.demo import Demo
from local.promises import Line, render


@pytest.mark.parametrize(
    ("promised", "seen", "holds"),
    [
        ("1", "1", True),
        ("1", "12", False),
        ("200 from mint", "200 from mint (812 ms)", True),
        ("200 from table", "200 from mint (812 ms)", False),
        ("403", "200 from memory (3 ms)", False),
        ("250 campaigns", "nothing", False),
    ],
)
def test_line_holds_only_if_what_was_promised_was_seen(promised: str, seen: str, *, holds: bool) -> None:
    assert Line("a call", promised, seen).holds is holds


def test_table_marks_each_line() -> None:
    table = render([Line("first", "200", "200 (1 ms)"), Line("second", "403", "200 (1 ms)")])
    marks = [row.split()[0] for row in table.splitlines()[1:]]
    assert marks == ["✓", "✗"]


def test_a_line_that_a_busy_machine_writes_after_the_answer_is_waited_for() -> None:
    reads = iter([[], [], [{"_aws": {}, "source": "table"}]])
    cloud: Any = SimpleNamespace(
        outputs={"BrokerFunctionName": "broker"}, function_reports=lambda _name: next(reads)
    )

    assert Demo(cloud)._next_source(lines_before=0) == "table"
