"""What the command line shows, and where: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from token_broker.cli.outcome import CommandError

_COLOURS: Final = {"red": "31", "green": "32", "yellow": "33", "dim": "2"}

Verdict = Literal["ok", "caution", "fault", "skipped"]
_MARKS: Final[dict[Verdict, tuple[str, str, str]]] = {
    "ok": ("✔", "ok", "green"),
    "caution": ("!", "!", "yellow"),
    "fault": ("✘", "FAULT", "red"),
    "skipped": ("-", "-", "dim"),
}


@dataclass(frozen=True)
class Finding:
    """What one check found; `fix` says what to do about a fault, and may have several lines."""

    topic: str
    verdict: Verdict
    text: str
    fix: str = ""


class Terminal:
    """Standard output and error of one run.

    Args:
        as_json: whether results are for a program.
        out, err: default: the process's own, as they are now.
    """

    def __init__(self, *, as_json: bool, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    @property
    def is_interactive(self) -> bool:
        """Whether a person reads the results."""
        return self._out.isatty() and not self.as_json

    def show(self, text: str) -> None:
        """Write one result."""
        print(text, file=self._out, flush=True)

    def show_json(self, value: object) -> None:
        """Write one result for a program: one JSON value on one line."""
        self.show(json.dumps(value, ensure_ascii=False))

    def show_table(self, columns: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> None:
        """Write rows as a table; `columns` maps a member of a row to its heading. None becomes `-`."""
        cells = [list(columns.values())]
        cells += [["-" if row.get(name) is None else str(row[name]) for name in columns] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for number, row in enumerate(cells):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self.show(self._coloured(line, "dim", self._out) if number == 0 else line)

    def show_findings(self, findings: Sequence[Finding]) -> None:
        """Write a line for each finding, the fix of each fault below its line, and what was skipped without a word."""
        if self.as_json:
            self.show_json({"findings": [asdict(finding) for finding in findings]})
            return
        width = max(len(finding.topic) for finding in findings)
        is_unicode = (self._out.encoding or "").lower().replace("-", "") == "utf8"
        told = [finding for finding in findings if finding.text]
        for finding in told:
            mark, plain_mark, colour = _MARKS[finding.verdict]
            shown = self._coloured(mark if is_unicode else plain_mark, colour, self._out)
            self.show(f"{shown} {finding.topic.ljust(width)}  {finding.text}")
            for number, line in enumerate(finding.fix.splitlines()):
                self.show(f"  {'fix: ' if number == 0 else '     '}{line}")
        untold = ", ".join(finding.topic for finding in findings if not finding.text)
        if untold:
            self.show(f"- not looked at: {untold}")

    def note(self, text: str) -> None:
        """Tell the person something that is no result."""
        print(text, file=self._err, flush=True)

    def fail(self, error: CommandError) -> None:
        """Say what is wrong and what to do."""
        if self.as_json:
            told = {"error": error.code, "error_description": str(error), "fix": error.fix}
            self.show_json({**told, "exit_code": int(error.exit_code)})
        self.note(f"{self._coloured('error:', 'red', self._err)} {error}")
        if error.fix:
            self.note(f"{self._coloured('fix:', 'green', self._err)} {error.fix}")

    def _coloured(self, text: str, colour: str, stream: TextIO) -> str:
        if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"
