"""Asks the broker where the log's window ends soon: see `coord.core.edge`."""

from __future__ import annotations

from datetime import UTC, datetime

from coord import errors
from coord.bus.connection import Connection
from coord.bus.direct import DirectReader
from coord.core import edge
from coord.server.trimmer import window_of
from coord.wire import subjects, times


async def near(conn: Connection, oldest: int) -> int:
    """Open work from below this sequence is to be stated again; 0: none.  `oldest`: the oldest it came from.

    Raises what `Connection.api` raises.
    """
    window = window_of(await conn.api(f"STREAM.INFO.{subjects.EVENTS}"))
    found = edge.by_fill(window)
    stored_us = await _stored_us(conn, oldest)
    horizon_us = None if stored_us is None else edge.horizon_us(window, stored_us)
    if horizon_us is not None:
        found = max(found, await _first_since(conn, horizon_us, window.last_seq + 1))
    return found if found > oldest else 0


async def _stored_us(conn: Connection, seq: int) -> int | None:
    try:
        answer = await conn.api(f"STREAM.MSG.GET.{subjects.EVENTS}", {"seq": seq})
    except errors.ApiNotFound:
        return 0  # it has left the log already
    return times.to_unix_us(times.parse_time(answer["message"]["time"]))


async def _first_since(conn: Connection, unix_us: int, otherwise: int) -> int:
    """The first sequence stored at or after a time; `otherwise` when there is none."""
    reader = DirectReader(conn)
    try:
        since = datetime.fromtimestamp(unix_us / 1e6, UTC)
        batch = await reader.batch(subjects.EVENTS, subjects.LOG_ALL, from_time=since, messages_max=1)
    finally:
        await reader.close()
    return batch.messages[0].seq if batch.messages else otherwise
