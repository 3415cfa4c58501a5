"""A table of what was done, what was promised and what was seen: how `make demo` and `make verify-deployment` end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One promise and what was seen; the promise holds if what was seen begins with its words."""

    what: str
    promised: str
    seen: str

    @property
    def holds(self) -> bool:
        return f"{self.seen} ".startswith(f"{self.promised} ")


def render(lines: list[Line]) -> str:
    """Return the table."""
    rows = [
        ("", "", "promised", "seen"),
        *(("✓" if x.holds else "✗", x.what, x.promised, x.seen) for x in lines),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)  # fmt: skip


def verdict(lines: list[Line]) -> str:
    """Return the sentence below the table."""
    broken = sum(not line.holds for line in lines)
    return f"{broken} of {len(lines)} are not as promised" if broken else "every line is as promised"
