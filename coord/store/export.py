"""Facts out of the tables again, in the order of the log, as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import asyncpg

from coord import limits
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.reading import Reads
from coord.store.snapshots import one_moment
from coord.store.sqlstate import translated


async def events(
    reads: Pool | Reads,
    *,
    tenant: str,
    since: datetime,
    until: datetime,
    key: str | None = None,
    kind: str | None = None,
) -> AsyncIterator[asyncpg.Record]:
    """Facts of `tenant` stored from `since` until before `until`, of one snapshot of the table.

    Read through a cursor, `limits.EXPORT_ROWS` at a time.  Raises `DatabaseUnavailable`, and
    what else the database answers; the whole takes at most `limits.EXPORT_S`.
    """
    async with reads.transaction(limits.EXPORT_S) as conn:
        with translated("export"):
            await one_moment(conn)
            rows = conn.cursor(statement("export_events"), tenant, since, until, key, kind, prefetch=limits.EXPORT_ROWS)
            async for row in rows:
                yield row
