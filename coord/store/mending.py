"""Rows as the log has them beside rows as the tables have them: what is another goes, what is missing comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.rows import EVENT_COLUMNS, SAMPLE_COLUMNS, EventRow, SampleRow
from coord.store.sqlstate import translated


async def epochs_begun(conn: Connection, stream: str) -> dict[tuple[int, int], int]:
    """(partition, epoch) → behind which sequence it began, of the epochs that an operator opened."""
    with translated("epochs"):
        return {(p, epoch): seq for p, epoch, seq in await conn.fetch(statement("mend_epochs"), stream)}


async def events(conn: Connection, rows: Sequence[EventRow]) -> tuple[int, int]:
    """Make `coord.event` have these facts, which it alone may have.

    Returns at how many places something else stood, or the same twice, and at how many nothing.
    """
    return await _mended(conn, "event", EVENT_COLUMNS, rows)


async def samples(conn: Connection, rows: Sequence[SampleRow]) -> tuple[int, int]:
    """The same of `coord.metric_sample`."""
    return await _mended(conn, "metric_sample", SAMPLE_COLUMNS, rows)


async def _mended(
    conn: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> tuple[int, int]:
    if not rows:
        return 0, 0
    with translated(f"mend {table}"):
        await conn.execute("SET LOCAL enable_seqscan = on")
        await conn.execute(statement(f"mend_{table}_said"))
        await conn.copy_records_to_table(f"said_{table}", columns=columns, records=rows)
        # By place: where two copies of a row went, one comes.
        went = {tuple(row) for row in await conn.fetch(statement(f"mend_{table}_others"))}
        came = {tuple(row) for row in await conn.fetch(statement(f"mend_{table}_missing"))}
    return len(went), len(came - went)
