"""Recorded arrivals of requests: CSV with a header, ``TIMESTAMP`` and whatever else.

One ``request.{run id}-{row}.arrived`` a row, its own key, stated by the agent ``arrivals``; the body
has the columns under their names, numbers as numbers, and the row, from 1.  Times without
a zone are UTC.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from coord.ops.replay.recording import Item, Problem, Statement
from coord.ops.replay.source import Line, Source
from coord.wire.records import Fact

NAME: Final = "arrivals"
TITLE: Final = "CSV of arrivals: TIMESTAMP and further columns"

AGENT: Final = "arrivals"
COLUMN: Final = "TIMESTAMP"

_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}")


def sniff(head: str) -> bool:
    """A first line whose first column is TIMESTAMP."""
    return _cells(head.split("\n", 1)[0].rstrip("\r"))[0].strip().upper() == COLUMN


def read(source: Source, run: str) -> Iterator[Item]:
    """One statement a row."""
    columns: list[str] | None = None
    row = 0
    for line in source.lines():
        if isinstance(line, Problem):
            yield line
        elif columns is None:
            columns = [name.strip() for name in _cells(line.text)]
            if (problem := _bad_header(columns)) is not None:
                yield Problem(line.number, problem)
                return
        else:
            row += 1
            yield _arrival(line, columns, run, row)


def _bad_header(columns: list[str]) -> str | None:
    if columns[0].upper() != COLUMN:
        return f"the first column is {columns[0]!r}, not {COLUMN}"
    if "" in columns or len(set(columns)) != len(columns) or "row" in columns:
        return "columns need different names, none of them empty or 'row'"
    return None


def _arrival(line: Line, columns: list[str], run: str, row: int) -> Item:
    cells = _cells(line.text)
    if len(cells) != len(columns):
        return Problem(line.number, f"{len(cells)} cells under {len(columns)} columns")
    at = _time(cells[0])
    if at is None:
        return Problem(line.number, f"{cells[0]!r} is no time such as 2026-11-21 04:00:00.123")
    data: dict[str, Any] = {name: _value(cell) for name, cell in zip(columns, cells, strict=True)}
    fact = Fact(kind="request", id=f"{run}-{row}", event="arrived", data={"row": row, **data})
    return Statement(line=line.number, agent=AGENT, fact=fact, at=at)


def _cells(text: str) -> list[str]:
    """The row; one empty cell for a line that is no CSV (a cell beyond the module's 128 KiB)."""
    try:
        return next(csv.reader([text]), [""]) or [""]
    except csv.Error:
        return [""]


def _time(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def _value(cell: str) -> int | float | str | None:
    cell = cell.strip()
    if _INTEGER.fullmatch(cell):
        return int(cell)
    if _NUMBER.fullmatch(cell):
        return float(cell)
    return cell or None
