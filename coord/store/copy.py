"""Rows into the tables: COPY for the two big ones, one statement a batch for the others.

Each function works inside the caller's transaction and raises coord's errors only:
`DatabaseRefused` means that a row's content is at fault, and then nothing of the call is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from weakref import WeakKeyDictionary

from coord import errors, limits
from coord.store import statuses
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.rows import (
    EVENT_COLUMNS,
    SAMPLE_COLUMNS,
    AgentRow,
    DeadLetterRow,
    EventRow,
    SampleRow,
    coalesce_agents,
    printable,
)
from coord.store.sqlstate import translated

DIRECT_COMPRESS_ROWS_MIN: Final = 1_000
"""TimescaleDB compresses rows a thousand at a time: a smaller COPY would leave stunted batches."""


_can_compress: WeakKeyDictionary[Connection, bool] = WeakKeyDictionary()


async def events(conn: Connection, rows: Sequence[EventRow]) -> None:
    """Append facts to `coord.event`."""
    await _copy(conn, "event", EVENT_COLUMNS, rows)


async def samples(conn: Connection, rows: Sequence[SampleRow]) -> None:
    """Append samples to `coord.metric_sample`."""
    await _copy(conn, "metric_sample", SAMPLE_COLUMNS, rows)


async def prepare(conn: Connection) -> None:
    """Have `conn` learn the columns of both tables, for which its first COPY would wait; writes nothing."""
    for table, columns in (("event", EVENT_COLUMNS), ("metric_sample", SAMPLE_COLUMNS)):
        with translated(f"copy {table}"):
            await conn.copy_records_to_table(table, schema_name="coord", columns=columns, records=[])


async def upsert_agents(conn: Connection, rows: Sequence[AgentRow], schema: str = "coord") -> list[tuple[str, str]]:
    """Bring the rows of `coord.agent` up to date; what the table has from later in the log stays.

    Returns (tenant, agent) of those whose status is stale now: a change is missing.
    """
    if not rows:
        return []
    whole, stale = await statuses.folded(conn, rows, schema)
    merged = coalesce_agents(whole)
    with translated("upsert agent"):
        await conn.execute(
            statement("upsert_agents", schema),
            [r.tenant for r in merged],
            [r.agent for r in merged],
            [r.seen_first for r in merged],
            [r.seen_last for r in merged],
            [r.state for r in merged],
            [r.status for r in merged],
            [r.epoch for r in merged],
            [r.seq for r in merged],
            [r.idx for r in merged],
            [r.status_rev for r in merged],
        )
    return stale


async def dead_letters(conn: Connection, rows: Sequence[DeadLetterRow]) -> None:
    """Park letters in `coord.dead_letter`; one that is there already stays as it is.

    Never refused because of what a sender put into it: texts are escaped where needed.
    """
    for some in _pieces(rows):
        with translated("insert dead_letter"):
            await conn.execute(
                statement("insert_dead_letters"),
                [r.stream for r in some],
                [r.epoch for r in some],
                [r.seq for r in some],
                [r.idx for r in some],
                [r.partition for r in some],
                [printable(r.subject) for r in some],
                [None if r.tenant is None else printable(r.tenant) for r in some],
                [None if r.agent is None else printable(r.agent) for r in some],
                [printable(r.code) for r in some],
                [printable(r.reason) for r in some],
                [r.body[: limits.DEAD_LETTER_BODY_BYTES_MAX] for r in some],
                [r.body_bytes for r in some],
                [None if r.headers is None else printable(r.headers) for r in some],
                [r.stored_at for r in some],
            )


async def _copy(conn: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
    if not rows:
        return
    with translated(f"copy {table}"):
        if len(rows) >= DIRECT_COMPRESS_ROWS_MIN and conn.is_in_transaction():
            await _compress_directly(conn)
        try:
            await conn.copy_records_to_table(table, schema_name="coord", columns=columns, records=rows)
        except (TypeError, AttributeError) as exc:
            # A value of the wrong type is no sender's fault: what builds the rows is broken.
            # Not refused, or the projector would park every fact there is.
            raise errors.StoreError(f"copy {table}: a row is not what its columns say: {exc}") from exc


async def _compress_directly(conn: Connection) -> None:
    """Let this transaction's COPY write compressed batches, where the session and the server allow it."""
    allowed = _can_compress.get(conn)
    if allowed is None:
        allowed = _can_compress[conn] = bool(await conn.fetchval(statement("can_compress_copy")))
    if allowed:
        await conn.execute("SET LOCAL timescaledb.enable_direct_compress_copy = on")


def _pieces(rows: Sequence[DeadLetterRow]) -> Iterator[list[DeadLetterRow]]:
    """`rows` in pieces of bounded bytes, headers and reasons included: they are as long as a sender likes."""
    piece: list[DeadLetterRow] = []
    size = 0
    for row in rows:
        row_bytes = min(len(row.body), limits.DEAD_LETTER_BODY_BYTES_MAX) + len(row.headers or "") + len(row.reason)
        if piece and size + row_bytes > limits.DEAD_LETTER_STATEMENT_BYTES_MAX:
            yield piece
            piece, size = [], 0
        piece.append(row)
        size += row_bytes
    if piece:
        yield piece
