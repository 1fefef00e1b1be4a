"""Jobs that one process at a time does for a database: whoever has the job's advisory lock.

It can only be held by who reaches the database that is worked on, it ends with its session, and it needs no clocks
that agree, as a lease elsewhere would.  Should the session be lost, another process may begin while this one is still
at it: what each of them writes has to tell them apart, or to be harmless twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final, Literal, TypeAlias

from coord.store.pool import Connection, Pool
from coord.store.queries import statement
from coord.store.sqlstate import driver_errors, translated

Job: TypeAlias = Literal["migration", "maintenance", "archive"]

NUMBERS: Final[Mapping[Job, int]] = {
    "migration": 0x636F6F7264,  # "coord"
    "maintenance": 0x636F6F7264 + 1,
    "archive": 0x636F6F7264_61,  # "coorda"
}
"""Of the locks, in the database that is worked on."""


@contextlib.asynccontextmanager
async def alone(pool: Pool, job: Job) -> AsyncIterator[Connection | None]:
    """For the length of the block, the connection by which this process alone does the job; None: another is at it."""
    async with pool.acquire() as conn:
        with translated(f"lock {job}"):
            mine = await conn.fetchval(statement("job_begin"), NUMBERS[job])
        try:
            yield conn if mine else None
        finally:
            if mine:
                try:
                    await conn.execute(statement("job_end"), NUMBERS[job])
                except driver_errors():
                    conn.terminate()  # which frees it, too
