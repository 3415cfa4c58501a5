"""The fenced blocks of a page, by default of `docs/calling-the-broker.md`.

A block's info string says what it is for: `recipe=NAME` is run, `output=NAME` is compared with what the doctor says,
`event=NAME` is an event that the campaigns job publishes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "calling-the-broker.md"
_FENCE = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block; `use` is "recipe", "output", "event" or "" where its info string names none."""

    language: str
    use: str
    name: str
    text: str


def read_blocks(page: Path = PAGE) -> list[Block]:
    """Return all blocks of the page, in its order."""
    blocks = []
    for match in _FENCE.finditer(page.read_text()):
        language, _, mark = match["info"].partition(" ")
        use, _, name = mark.partition("=")
        blocks.append(Block(language, use, name, match["text"]))
    return blocks


def texts(use: str, page: Path = PAGE) -> dict[str, str]:
    """Return by name the texts of the blocks for this use."""
    return {block.name: block.text for block in read_blocks(page) if block.use == use}


def replace_output(name: str, text: str) -> None:
    """Replace a block's text."""
    page, mark = PAGE.read_text(), f"```text output={name}\n"
    start = page.index(mark) + len(mark)
    end = page.index("```\n", start)
    PAGE.write_text(page[:start] + text + page[end:])
