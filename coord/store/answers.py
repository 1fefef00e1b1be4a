"""Answers to named questions as they come: batches from a cursor, of any size in bounded memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec

from coord import errors, limits
from coord.store import queries
from coord.store.pool import Connection, Pool
from coord.store.queries import Query
from coord.store.reading import Reads
from coord.store.sqlstate import translated

Row: TypeAlias = Mapping[str, Any]
"""Of an answer: column → value."""

_FIRST_ROWS = 100
_JSON: Final = frozenset({"json", "jsonb"})


class Column(msgspec.Struct, frozen=True):
    """One column of an answer."""

    name: str
    type: str
    """PostgreSQL's name of it: int8, text, timestamptz, jsonb, …; of an array, of its elements."""
    is_array: bool = False


class Answer:
    """An answer that is read once, from first to last."""

    def __init__(self, query: Query, columns: Sequence[Column], cursor: Any, rows_about: int | None) -> None:
        self.query = query
        self.columns = tuple(columns)
        self.rows_about = rows_about
        """How many rows the database expects; None: it was not asked."""
        self._cursor = cursor

    async def skip(self, rows: int) -> None:
        """Leave out so many of the rows that come next."""
        with _asking(self.query.name):
            await self._cursor.forward(rows, timeout=limits.EXPORT_S)

    async def batches(self, first: int = _FIRST_ROWS) -> AsyncIterator[list[asyncpg.Record]]:
        """The rows, `limits.EXPORT_ROWS` at a time or as many as take about `limits.EXPORT_BATCH_BYTES`.

        `first`: how many at first, before it is known how large they are.
        """
        rows_next = first
        while True:
            with _asking(self.query.name):
                rows = await self._cursor.fetch(rows_next, timeout=limits.EXPORT_S)
            if not rows:
                return
            yield rows
            size = max(1, sum(len(v) for row in rows for v in row.values() if isinstance(v, str | bytes)))
            fitting = len(rows) * limits.EXPORT_BATCH_BYTES // size
            rows_next = max(1, min(limits.EXPORT_ROWS, fitting, 4 * rows_next))


@contextlib.asynccontextmanager
async def answer(
    pool: Pool | Reads, query: Query, parameters: Mapping[str, object], *, estimate: bool = False
) -> AsyncIterator[Answer]:
    """Ask `query`; the answer can be read while the block lasts, from one snapshot, read-only.

    `estimate`: ask also how many rows are expected.  The whole takes at most `limits.EXPORT_S`.

    Raises `QueryError` for an unknown parameter or a value that PostgreSQL cannot read as what the
    question takes it for, `DatabaseUnavailable` where the database goes away.
    """
    values = list(query.bind(parameters).values())
    async with pool.transaction(limits.EXPORT_S) as conn:
        with _asking(query.name):
            await conn.execute("SET TRANSACTION READ ONLY")
            await conn.execute(f"SET LOCAL statement_timeout = {limits.EXPORT_S * 1000:.0f}")
            query = await queries.for_login(conn, query)
            expected = await _expected(conn, query, values) if estimate else None
        yield await ask(conn, query, values, expected)


async def ask(conn: Connection, query: Query, values: Sequence[str], expected: int | None = None) -> Answer:
    """Ask `query` in the transaction that `conn` is in; `values` as `Query.bind` orders them.

    Raises `QueryError` for a value that PostgreSQL cannot read as what the question takes it for.
    """
    with _asking(query.name):
        prepared = await conn.prepare(query.for_asyncpg)
        cursor = await prepared.cursor(*values)
    columns = [_column(a.name, a.type.name, a.type.kind) for a in prepared.get_attributes()]
    return Answer(query, columns, cursor, expected)


def _column(name: str, type_: str, kind: str) -> Column:
    is_array = kind == "array"
    return Column(name, type_.removeprefix("_").removesuffix("[]") if is_array else type_, is_array)


async def _expected(conn: Connection, query: Query, values: list[str]) -> int:
    text = await conn.fetchval(f"EXPLAIN (FORMAT json) {query.for_asyncpg}", *values)
    return int(json.loads(text)[0]["Plan"]["Plan Rows"])


# --- rows as JSON has them -----------------------------------------------------------------


def number(value: Any) -> Any:
    """`numeric` as a number of Python's: whole ones stay whole."""
    if not isinstance(value, Decimal):
        return value
    return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)


def plain(row: Row) -> dict[str, Any]:
    """As a dict, `numeric` as numbers."""
    return {name: number(value) for name, value in row.items()}


def json_columns(columns: Sequence[Column]) -> list[str]:
    """Those that are JSON themselves, which comes as text."""
    return [c.name for c in columns if c.type in _JSON and not c.is_array]


def nesting(columns: Sequence[Column]) -> Callable[[Row | asyncpg.Record], dict[str, Any]]:
    """`nested` for rows of these columns: their types say which values have to be looked at."""
    raw = json_columns(columns)
    numbers = [c.name for c in columns if c.type == "numeric" and not c.is_array]

    def nest(row: Row | asyncpg.Record) -> dict[str, Any]:
        record = dict(row)
        for name in numbers:
            record[name] = number(record[name])
        return _with_json(record, raw)

    return nest


def nested(row: Row, raw: Sequence[str]) -> dict[str, Any]:
    """With the JSON of these columns in place of its text."""
    return _with_json(plain(row), raw)


def _with_json(record: dict[str, Any], raw: Sequence[str]) -> dict[str, Any]:
    for name in raw:
        if record[name] is not None:
            record[name] = msgspec.Raw(record[name].encode())
    return record


@contextlib.contextmanager
def _asking(name: str) -> Iterator[None]:
    try:
        with translated(f"query {name}"):
            yield
    except errors.DatabaseRefused as exc:
        raise errors.QueryError(f"{name}: {exc.message}") from exc
