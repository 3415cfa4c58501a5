"""The demo's table tells a kept promise from a broken one."""

from __future__ import annotations

import pytest

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
