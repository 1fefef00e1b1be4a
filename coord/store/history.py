"""One key's facts out of the event copy, in the order of the log, and up to where that goes.

Works inside the caller's transaction, so that facts and checkpoint are of one moment: what the log has
behind the checkpoint follows what is read here, without a hole and without a fact twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from coord import limits
from coord.core.checkpoint import Checkpoint
from coord.core.past import Point
from coord.store import checkpoints
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.rows import EventRow
from coord.store.snapshots import one_moment
from coord.store.sqlstate import translated
from coord.wire import subjects


async def begin(conn: Connection) -> None:
    """Make the transaction that has just begun one snapshot, and patient with a reader that takes its time."""
    await one_moment(conn)
    with translated("history"):
        await conn.execute(statement("patient"), str(round(limits.HISTORY_IDLE_S * 1000)))


async def checkpoint(conn: Connection, key: str) -> Checkpoint | None:
    """Up to where the facts of `key` are in the tables; None: nothing was ever projected."""
    return await checkpoints.read(conn, subjects.EVENTS, subjects.partition(key))


async def oldest(conn: Connection) -> datetime | None:
    """When the oldest facts in the copy can be from, at the earliest; None: it has none."""
    with translated("history"):
        found: datetime | None = await conn.fetchval(statement("history_oldest"))
    return found


async def lost(conn: Connection, key: str) -> dict[int, datetime]:
    """Epochs that began with another log, which held nothing of the one before, and when an operator opened them."""
    with translated("history"):
        rows = await conn.fetch(statement("history_lost"), subjects.partition(key))
    return {row["epoch"]: row["opened_at"] for row in rows}


async def facts(
    conn: Connection,
    tenant: str,
    key: str,
    *,
    kind: str | None = None,
    id: str | None = None,  # noqa: A002 - what the entity's id is called, everywhere
    until: datetime | None = None,
    events: Sequence[str] | None = None,
) -> AsyncIterator[EventRow]:
    """Those of `key` stored at or before `until`, in the order of the log; what is None matches all.

    Read through a cursor, `limits.EXPORT_ROWS` at a time: the caller's transaction has to be open meanwhile.
    """
    given = None if events is None else list(events)
    with translated("history"):
        rows = conn.cursor(statement("history_facts"), tenant, key, kind, id, until, given, prefetch=limits.EXPORT_ROWS)
        async for row in rows:
            yield tuple(row)


async def statuses(conn: Connection, tenant: str, agent: str, point: Point, *, rows_max: int) -> list[EventRow]:
    """The newest `rows_max` facts up to `point` by which an agent said its status, in the order of the log.

    A point by sequence names its epoch.
    """
    assert point.seq is None or point.epoch is not None, "named by `Point.within`"
    with translated("history of a status"):
        rows = await conn.fetch(
            statement("history_status"), tenant, agent, point.time, rows_max, point.seq, point.epoch
        )
    return [tuple(row) for row in reversed(rows)]
