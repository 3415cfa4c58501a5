"""What the command line shows, and where: results on standard output, everything else on standard error.

Text of others (the API, the broker, AWS) is always written through `safe`.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import re
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from token_broker.cli import prompts
from token_broker.cli.outcome import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_COLOURS: Final = {"red": "31", "green": "32", "yellow": "33", "dim": "2"}
_PATIENCE_S: Final = 1.0
_UNSAFE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
"""Characters that control a terminal, end a line or change the direction of writing, and what is no character."""

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


class ReaderGoneError(Exception):
    """The reader of standard output has closed it."""


class Terminal:
    """Standard streams of one run.

    Every method that writes a result raises `ReaderGoneError` where nobody reads it any more, and CommandError where it
    cannot be written for another reason. What cannot be written to standard error is dropped.

    Args:
        as_json: whether results are for a program.
        out, err: default: the process's own, as they are now.
    """

    def __init__(self, *, as_json: bool, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def show(self, text: str) -> None:
        """Write a line of a result."""
        self._write_line(self._out, text)

    def show_json(self, value: object) -> None:
        """Write one result for a program: one JSON value on one line, in ASCII, which every encoding has."""
        self.show(json.dumps(_finite(value), allow_nan=False))

    def show_body(self, content: bytes) -> None:
        """Write what others wrote: unchanged into a file or pipe, readable and harmless on a terminal."""
        if self._out.isatty():
            for line in _readable(content).split("\n"):
                self.show(line.removesuffix("\r").expandtabs())
        else:
            self._write(self._out, content)

    def show_table(self, columns: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> None:
        """Write rows as a table; `columns` maps a member of a row to its heading. None becomes `-`."""
        cells = [list(columns.values())]
        cells += [
            ["-" if row.get(name) is None else safe(str(row[name])) for name in columns] for row in rows
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for number, row in enumerate(cells):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            if number == 0:
                self._write_line(self._out, "", mark=line, colour="dim")
            else:
                self.show(line)

    def show_findings(self, findings: Sequence[Finding]) -> None:
        """Write a line for each finding, the fix of each fault below its line, and the topics without a text last."""
        if self.as_json:
            self.show_json({"findings": [asdict(finding) for finding in findings]})
            return
        width = max(len(finding.topic) for finding in findings)
        is_unicode = (self._out.encoding or "").lower().replace("-", "") == "utf8"
        told = [finding for finding in findings if finding.text]
        for finding in told:
            mark, plain_mark, colour = _MARKS[finding.verdict]
            text = f" {finding.topic.ljust(width)}  {finding.text}"
            self._write_line(self._out, text, mark=mark if is_unicode else plain_mark, colour=colour)
            for number, line in enumerate(finding.fix.splitlines()):
                self.show(f"  {'fix: ' if number == 0 else '     '}{line}")
        untold = ", ".join(finding.topic for finding in findings if not finding.text)
        if untold:
            self.show(f"- not looked at: {untold}")

    def note(self, text: str) -> None:
        """Write a line for the person that is not a result."""
        self._write_line(self._err, text)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Write after a second what is being waited for; nothing is written after the end of the block."""

        def say() -> None:
            if not prompts.is_open():  # then the program waits for the person
                self.note(f"waiting for {what} …")

        timer = threading.Timer(_PATIENCE_S, say)
        timer.daemon = True
        if self._err.isatty():
            timer.start()
        try:
            yield
        finally:
            timer.cancel()
            if timer.ident is not None:
                timer.join()

    def ask(self, question: str) -> str:
        """Return what a person types, "" for nothing (Ctrl-D). Blocks."""
        self._write(self._err, question)
        with suppress(OSError, UnicodeDecodeError):
            return sys.stdin.readline().strip()
        return ""

    def ask_hidden(self, question: str) -> str:
        """Return what a person types without echo, "" for nothing (Ctrl-D). Blocks."""
        # The decoder's error contains what was typed.
        with suppress(EOFError, OSError, UnicodeDecodeError):
            return getpass.getpass(question)
        return ""

    def fail(self, error: CommandError) -> None:
        """Say what is wrong and what to do."""
        if self.as_json:
            told = {"error": error.code, "error_description": str(error), "fix": error.fix}
            with suppress(CommandError, ReaderGoneError):  # the lines on standard error say the same
                self.show_json({**told, **error.details, "exit_code": int(error.exit_code)})
        self._write_line(self._err, f" {error}", mark="error:", colour="red")
        first, *others = error.fix.splitlines() or [""]
        if first:
            self._write_line(self._err, f" {first}", mark="fix:", colour="green")
        for line in others:
            self.note(line)

    def _write_line(self, stream: TextIO, text: str, *, mark: str = "", colour: str = "") -> None:
        """Write a line; `mark` is this program's own text before it."""
        self._write(stream, f"{self._coloured(mark, colour, stream)}{safe(text)}\n")

    def _write(self, stream: TextIO, content: str | bytes) -> None:
        try:
            if isinstance(content, bytes):
                stream.flush()
                stream.buffer.write(content)
            else:
                stream.write(content)
            stream.flush()
        except OSError as error:
            _drop_what_is_left(stream)
            if stream is self._err:
                return
            if isinstance(error, BrokenPipeError):
                raise ReaderGoneError from None
            raise CommandError(
                f"standard output cannot be written: {error.strerror or type(error).__name__}",
                fix="check where it goes: a full disk, or a stream that is closed or not open for writing",
                code="output_failed",
            ) from None

    def _coloured(self, text: str, colour: str, stream: TextIO) -> str:
        if not (text and stream.isatty()) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def safe(text: str) -> str:
    """Return a text that stays on its line and cannot control a terminal: unsafe characters become JSON's escapes."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _readable(content: bytes) -> str:
    try:
        return json.dumps(json.loads(content), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return content.decode(errors="replace").removesuffix("\n")


def _finite(value: Any) -> Any:
    """Return a value without NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _drop_what_is_left(stream: TextIO) -> None:
    """Discard what a stream could not write; else the interpreter tries again at its end, and prints an error."""
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a constant, not a given path
        os.dup2(nowhere.fileno(), stream.fileno())
