"""Rollups as files: sql/rollups/NAME.sql is one SELECT, and every edition's tables and views follow from it.

::

    -- Facts by author: how much the fleet says.
    SELECT
      s.tenant, -- Whose fleet.
      count(*)::bigint AS facts -- sum: How many facts.
    FROM coord.event AS s

One line a column: an expression over a row `s` of the source, its name where it is not the column's own, and what it
is.  A column whose explanation begins with ``sum:``, ``min:`` or ``max:`` is a measure: that is how two rows of it
are put together, and its expression ends with its type.  Every other column is one of those it is grouped by.  Rows
are counted into buckets of the source's `stored_at`, of a minute; minutes make hours, hours days.

Nothing but what adds can be said: no averages, no percentiles.  A file with a mistake is refused as a whole, and
its line named.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from coord.errors import MigrationFailed

Source = Literal["event", "metric_sample", "outcome"]
Level = Literal["1m", "1h", "1d"]
Merge = Literal["sum", "min", "max"]

LEVELS: Final[tuple[Level, ...]] = get_args(Level)
WIDTHS: Final[dict[Level, str]] = {"1m": "1 minute", "1h": "1 hour", "1d": "1 day"}
"""Of a bucket, as PostgreSQL reads it."""

STREAMS: Final[dict[Source, str]] = {"event": "EVENTS", "outcome": "EVENTS", "metric_sample": "TELEMETRY"}
"""The stream whose checkpoints say up to when the source is complete."""

_ITEM: Final = re.compile(r"  (?P<expression>\S.*?)(?: AS (?P<name>\w+))?(?P<comma>,?) -- (?P<doc>\S.*)")
_MERGE: Final = re.compile(r"(?P<merge>sum|min|max): (?P<doc>\S.*)")
_TYPE: Final = re.compile(r"::(?P<type>bigint|numeric|double precision)$")
_FROM: Final = re.compile(r"FROM coord\.(?P<source>\w+) AS s")


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a rollup."""

    name: str
    expression: str
    """Over a row `s` of the source."""
    doc: str
    merge: Merge | None = None
    """How rows are put together; None: it is grouped by."""
    type: str = ""
    """Of a measure."""


class Rollup(msgspec.Struct, frozen=True, kw_only=True):
    """One file of sql/rollups/."""

    name: str
    title: str
    source: Source
    columns: tuple[Column, ...]
    where: str = ""
    """Which rows of the source are counted; empty: all."""

    @property
    def groups(self) -> tuple[Column, ...]:
        """What it is grouped by, beside the bucket."""
        return tuple(c for c in self.columns if c.merge is None)

    @property
    def measures(self) -> tuple[Column, ...]:
        """What is counted."""
        return tuple(c for c in self.columns if c.merge is not None)

    def table(self, level: Level) -> str:
        """The table, or continuous aggregate, of one width, without its schema."""
        return f"{self.name}_{level}"


def load(folder: Path) -> list[Rollup]:
    """The rollups of a folder by name.  Raises `MigrationFailed` naming the file and the line of a mistake."""
    return [parse(path.stem, path.read_text("utf-8")) for path in sorted(folder.glob("*.sql"))]


def parse(name: str, text: str) -> Rollup:
    """A rollup from the text of its file.  Raises `MigrationFailed` naming the line of a mistake."""
    lines = text.rstrip("\n").split("\n")

    def refuse(number: int, why: str) -> MigrationFailed:
        return MigrationFailed(f"rollups/{name}.sql, line {number}: {why}")

    if re.fullmatch(r"[a-z][a-z_]*", name) is None:
        raise refuse(1, "a rollup's name is of small letters and _")
    if not lines[0].startswith("-- ") or not lines[0].endswith("."):
        raise refuse(1, "it must open with a comment: one sentence on what it counts")
    at = 1
    while at < len(lines) and lines[at].startswith("--"):
        at += 1
    if at >= len(lines) or lines[at] != "SELECT":
        raise refuse(at + 1, "after the comment comes SELECT, on a line of its own")
    columns: list[Column] = []
    more = True
    while more:
        at += 1
        match = _ITEM.fullmatch(lines[at]) if at < len(lines) else None
        if match is None:
            raise refuse(at + 1, "expected a column: two spaces, expression [AS name][,] -- what it is")
        try:
            columns.append(_column(match))
        except ValueError as exc:
            raise refuse(at + 1, str(exc)) from None
        if columns[-1].name in {"bucket", *(c.name for c in columns[:-1])}:
            raise refuse(at + 1, f"there are two columns {columns[-1].name}")
        more = bool(match["comma"])
    match = _FROM.fullmatch(lines[at + 1]) if at + 1 < len(lines) else None
    if match is None or match["source"] not in STREAMS:
        raise refuse(at + 2, f"expected FROM coord.SOURCE AS s, of {', '.join(STREAMS)}")
    rest = lines[at + 2 :]
    if rest and (len(rest) > 1 or not rest[0].startswith("WHERE ")):
        raise refuse(at + 3, "after FROM comes at most one line: WHERE …")
    if columns[0].name != "tenant" or columns[0].merge is not None:
        raise refuse(at - len(columns) + 2, "the first column is s.tenant: whoever reads is let see a tenant's rows")
    if not any(c.merge for c in columns):
        raise refuse(at + 1, "it counts nothing: at least one column says sum:, min: or max:")
    source: Source = match["source"]
    return Rollup(
        name=name, title=lines[0].removeprefix("-- "), source=source, columns=tuple(columns),
        where=rest[0].removeprefix("WHERE ") if rest else "",
    )  # fmt: skip


def _column(match: re.Match[str]) -> Column:
    expression, doc = match["expression"], match["doc"]
    name = match["name"] or (expression.removeprefix("s.") if re.fullmatch(r"s\.\w+", expression) else "")
    if not name:
        raise ValueError("an expression needs a name: AS name")
    merged = _MERGE.fullmatch(doc)
    if merged is None:
        if re.search(r"\b(count|sum|min|max|avg)\(", expression):
            raise ValueError("it counts: its explanation begins with sum:, min: or max:, how two rows are put together")
        return Column(name=name, expression=expression, doc=doc)
    typed = _TYPE.search(expression)
    if typed is None:
        raise ValueError("a measure ends with its type: ::bigint, ::numeric or ::double precision")
    merge: Merge = merged["merge"]  # type: ignore[assignment]  # by the pattern
    return Column(name=name, expression=expression, doc=merged["doc"], merge=merge, type=typed["type"])
