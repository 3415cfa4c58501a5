"""Tables and bars in Markdown, and their places in a page: `<!-- bench:NAME -->` to `<!-- /bench:NAME -->`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LONGEST_BAR: Final = 48


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *body])


def bars(values: Mapping[str, float], unit: str) -> str:
    """Return a bar of block characters for each value, as a block of code, which every viewer of the page can show."""
    width, most = max(map(len, values)), max(values.values())
    lines = [
        f"{name:{width}}  {'█' * round(_LONGEST_BAR * value / most)} {value:,.0f} {unit}"
        for name, value in values.items()
    ]
    return "\n".join(["```text", *lines, "```"])


def filled(page: str, tables: Mapping[str, str]) -> str:
    """Return the page with these tables in their places; its own text does not change."""
    for name, text in tables.items():
        block = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", re.DOTALL)
        page = block.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
    return page
