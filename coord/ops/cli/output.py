"""What a command says: data on stdout, talk on stderr.

Data is plain records (dicts of builtin types, datetimes allowed).  As ``table`` it is aligned
columns for a person, as ``json`` one document, as ``jsonl`` one record a line, for pipes, as ``csv`` a
header and one record a line (what is no text or number as JSON, nothing as an empty field).
Colour only on a terminal and without NO_COLOR.  Nothing here imports rich: a command that
prints three rows starts as fast as `ls`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TextIO

import msgspec

Record = Mapping[str, Any]

_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_DURATIONS: Final = (
    (1e-3, 1e6, "µs"),
    (1, 1e3, "ms"),
    (120, 1, "s"),
    (7_200, 1 / 60, "min"),
    (172_800, 1 / 3_600, "h"),
    (math.inf, 1 / 86_400, "d"),
)
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
# A name from the log may hold anything: it must not move the cursor of whoever reads it.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Styled(str):
    """Text with our own colours in it; any other escape sequence is made harmless."""

    __slots__ = ()


class Format(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


class Output:
    """The two streams of one command."""

    def __init__(
        self,
        form: Format = Format.TABLE,
        *,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        colour: bool | None = None,
    ) -> None:
        """`colour`: default for a terminal, if NO_COLOR is not set; see `wants_colour`."""
        self.form = form
        self._stdout = stdout
        self._stderr = stderr
        self._colour = colour
        self._csv_columns: list[str] | None = None
        """Once its header was written."""
        self.about = ""
        """What is said behind it where there is nothing: where that was looked for."""

    @property
    def stdout(self) -> TextIO:
        """Where data goes."""
        return self._stdout or sys.stdout

    @property
    def stderr(self) -> TextIO:
        """Where talk goes."""
        return self._stderr or sys.stderr

    # --- data ---

    def rows(self, rows: Iterable[Record], columns: Sequence[str] | None = None, *, empty: str = "") -> None:
        """Print many records; as a table in `columns` (default: the first record's keys).

        `empty` is said, on stderr, when a table has no rows.
        """
        if self.form is Format.JSONL:
            for row in rows:
                self.line(row)
            return
        listed = list(rows)
        if self.form is Format.CSV:
            self._csv_columns = None
            if not listed and columns:
                self._csv_header(list(columns))
            elif not listed and empty:
                self.say(f"{empty}{self.about}")
            for row in listed:
                self._csv_line(row)
            return
        if self.form is Format.JSON:
            self._write(to_json(listed, indent=True))
        elif listed:
            self._write(table(listed, columns or list(listed[0]), style=self.style))
        elif empty:
            self.say(f"{empty}{self.about}")

    def record(self, record: Record) -> None:
        """Print one record; as a table: one field a line."""
        if self.form is Format.TABLE:
            width = max((len(k) for k in record), default=0)
            for key, value in record.items():
                self._write(f"{self.style(key.ljust(width), 'dim')}  {cell(value, key)}")
        elif self.form is Format.CSV:
            self._csv_line(record)
        else:
            self._write(to_json(record, indent=self.form is Format.JSON))

    def line(self, record: Record) -> None:
        """Print one record of a stream of them, at once, on one line: JSON, or CSV where that is wanted."""
        if self.form is Format.CSV:
            self._csv_line(record)
        else:
            self._write(to_json(record))
        self.stdout.flush()

    def _csv_line(self, record: Record) -> None:
        """The first record's keys are the columns, in a header above it."""
        if self._csv_columns is None:
            self._csv_header(list(record))
        self._csv_write([csv_field(record.get(column)) for column in self._csv_columns or ()])

    def _csv_header(self, columns: list[str]) -> None:
        self._csv_columns = columns
        self._csv_write(columns)

    def _csv_write(self, fields: Sequence[str]) -> None:
        import csv

        csv.writer(self.stdout, lineterminator="\n").writerow(fields)

    def text(self, text: str = "") -> None:
        """Print text that is data (a rendered file, a human-readable line)."""
        self._write(text)

    @property
    def is_table(self) -> bool:
        """Whether a person reads it."""
        return self.form is Format.TABLE

    def entity(
        self, state: Record, history: Sequence[Record], columns: Sequence[str] = ("stored_at", "seq", "event", "agent"),
        **more: Any,
    ) -> None:  # fmt: skip
        """What something is, and the facts that made it so; for a pipe one record, with `more` in it."""
        if self.is_table:
            self.record(state)
            self.text()
            self.rows(history, columns)
        else:
            self.record({**state, "history": history, **more})

    # --- talk ---

    def told(self, record: Record, text: str) -> None:
        """What a command has done: `text` is said to a person, `record` is data for a pipe."""
        if self.is_table:
            self.say(text)
        else:
            self.record(record)

    def say(self, text: str) -> None:
        """Tell the person at the terminal something that is no data."""
        print(text, file=self.stderr, flush=True)

    def style(self, text: str, *styles: str) -> str:
        """`text` in colour where that is wanted; "bold", "dim", "red", "green", "yellow", "cyan"."""
        if not styles or not self.colour:
            return text
        return Styled(f"\x1b[{';'.join(_STYLES[s] for s in styles)}m{printable(text)}\x1b[0m")

    @property
    def colour(self) -> bool:
        """Whether stdout takes colours."""
        if self._colour is None:
            self._colour = wants_colour(self.stdout)
        return self._colour

    def _write(self, text: str) -> None:
        print(text, file=self.stdout)


def wants_colour(stream: TextIO) -> bool:
    """A terminal, and neither NO_COLOR nor TERM=dumb (https://no-color.org)."""
    from coord.ops import environment

    environ = environment.variables()
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def to_json(value: Any, *, indent: bool = False) -> str:
    """JSON as the CLI writes it: UTC times with Z, everything else by its own encoding."""
    raw = msgspec.json.encode(value, enc_hook=str)
    return (msgspec.json.format(raw, indent=2) if indent else raw).decode()


def csv_field(value: Any) -> str:
    """One value as CSV has it: texts as they are, nothing as nothing, everything else as JSON has it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", value)  # it may go to a terminal all the same
    return to_json(value).strip('"')


# --- tables --------------------------------------------------------------------------------


def table(rows: Sequence[Record], columns: Sequence[str], *, style: Any = lambda text, *_: text) -> str:
    """Aligned columns under their names; numbers to the right."""
    cells = [[cell(row.get(column), column) for column in columns] for row in rows]
    right = [all(_is_number(row.get(column)) for row in rows) for column in columns]
    heads = [column.replace("_", " ").upper() for column in columns]
    widths = [max(len(heads[i]), *(len(_ANSI.sub("", line[i])) for line in cells)) for i in range(len(columns))]

    def align(texts: Sequence[str]) -> str:
        padded = []
        for i, text in enumerate(texts):
            space = " " * (widths[i] - len(_ANSI.sub("", text)))
            padded.append(space + text if right[i] else text + space)
        return "  ".join(padded).rstrip()

    return "\n".join([style(align(heads), "bold"), *(align(line) for line in cells)])


def cell(value: Any, name: str = "") -> str:
    """One value for a person; `name` gives the unit: ``…_bytes``, ``…_s``, ``…_seconds``, ``…_at``."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, (int, float)) and (name == "bytes" or name.endswith("_bytes")):
        return size(value)
    if isinstance(value, (int, float)) and name.endswith(("_s", "_seconds")):
        return duration(value)
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 or value == 0 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return ", ".join(map(printable, value))
    return printable(to_json(value))


def printable(text: str) -> str:
    """`text` on one line, without what a terminal would obey; what `Output.style` made stays."""
    if isinstance(text, Styled):
        return text
    return _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", text).replace("\n", "\\n").replace("\t", " ")


def brief(text: str, chars: int) -> str:
    """`text` as `printable` has it, cut to so many characters."""
    text = printable(text)
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def size(count: float) -> str:
    """Bytes in binary units: ``1.5 MiB``."""
    if count < 0:
        return "unlimited"
    amount, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while amount >= 1024 and (larger := next(units, None)) is not None:
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds as ``210 µs``, ``3.2 ms``, ``4.1 s``, ``12 min``, ``5 h``, ``3 d``."""
    if math.isnan(seconds) or math.isinf(seconds):
        return "-"
    if seconds == 0:
        return "0 s"
    factor, unit = next((factor, unit) for below, factor, unit in _DURATIONS if abs(seconds) < below)
    amount = seconds * factor
    return f"{amount:,.0f} {unit}" if abs(amount) >= 100 else f"{amount:.3g} {unit}"


def moment(value: datetime) -> str:
    """A point in time in UTC, to the millisecond: ``2026-11-21 04:29:00.123``."""
    if value.tzinfo is not None:
        value = value.astimezone(UTC)
    return value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03d}"


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
