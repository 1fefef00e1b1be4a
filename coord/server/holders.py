"""Who needs what of the log: the trimmer asks each holder before anything leaves early.

A holder is anything that reads the log and is not done with it: the projector's checkpoints
today; deciders' checkpoints and open work are holders of the same kind.  It answers with the
oldest sequence it still needs, or raises; then nothing leaves.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Protocol

from coord import errors, limits
from coord.core.trim import Need
from coord.store import checkpoints
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated

_DURABLE_LOOK_S = 0.05


class Holder(Protocol):
    """Something that must not lose what it has not read."""

    async def needs(self, stream: str, created: datetime) -> list[Need]:
        """What it needs of the stream that was created then.

        Whatever may happen to the holder from now on, it must never need anything older than
        it says here: an answer that a crash could take back is none.  Raises `CoordError` when
        it cannot say; an empty list means that it needs nothing.
        """
        ...


class ProjectorCheckpoints:
    """The projector's holder: everything behind a partition's checkpoint."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def needs(self, stream: str, created: datetime) -> list[Need]:
        """One per partition; a partition without a checkpoint on this stream needs all of it.

        The projector commits with synchronous_commit=off: a crash of the database takes the
        last commits back, checkpoints and rows together.  While a backlog is projected these
        may be many hours of the log.  So an answer is given only once it is on disk.
        """
        async with self._pool.acquire() as conn:
            marks = await checkpoints.read_all(conn, stream)
            with translated("wal"):
                lsn = (await conn.fetch(statement("wal_written")))[0]["lsn"]
                deadline = asyncio.get_running_loop().time() + limits.TRIM_DURABLE_S
                while not (await conn.fetch(statement("wal_durable"), lsn))[0]["durable"]:
                    if asyncio.get_running_loop().time() >= deadline:
                        raise errors.DatabaseUnavailable("the checkpoints are not on the database's disk yet")
                    await asyncio.sleep(_DURABLE_LOOK_S)
        known = {mark.partition: mark.seq for mark in marks if mark.stream_created == created}
        return [Need(f"projector-{p}", known.get(p, 0) + 1) for p in range(limits.PARTITIONS)]
