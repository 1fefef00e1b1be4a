"""Who needs what of the log: the trimmer asks each holder before anything leaves early.

A holder is anything that reads the log and is not done with it: the projector's checkpoints,
the deciders' snapshots and the oldest open work.  It answers with the
oldest sequence it still needs, or raises; then nothing leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from coord import errors, limits
from coord.bus.connection import Connection
from coord.core.trim import Need
from coord.server import snapshots
from coord.store import checkpoints
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated
from coord.wire import subjects, times

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


class DeciderSnapshots:
    """The deciders' holder: everything behind a partition's snapshot, and what its open work came from.

    Open work that nears the end of the window is stated again, so it never holds the log for long.
    """

    def __init__(self, conn: Callable[[], Connection | None]) -> None:
        """`conn`: the caller's connection, once it has one."""
        self._conn = conn

    async def needs(self, stream: str, created: datetime) -> list[Need]:
        """One per partition that deciders have read, or have something to read of."""
        conn = self._conn()
        if conn is None:
            raise errors.NotConnected
        if stream != subjects.EVENTS:
            return []
        found = [await self._need(conn, p, created) for p in range(limits.PARTITIONS)]
        return [need for need in found if need is not None]

    async def _need(self, conn: Connection, p: int, created: datetime) -> Need | None:
        name = f"decider-{p}"
        try:
            stored = await snapshots.read_head(conn, p)
        except errors.ApiNotFound:
            stored = None  # no such stream: what streams/ had before there were deciders
        head = None if stored is None else stored[1]
        if head is not None and times.parse_time(head.created) == created:
            return Need(name, head.needs)
        try:
            info = await conn.api(f"CONSUMER.INFO.{subjects.EVENTS}.{name}")
        except errors.ApiNotFound:
            return None
        # Nothing of what deciders read is in this partition: there is nothing that one would miss.
        return Need(name, 1) if info["num_pending"] or info["delivered"]["consumer_seq"] else None
