"""What maintenance does in the database, and what it knows of what was done.

Retention where the server has no policy for it: one bounded step after the other.  The anchors of the audit's
chain (`coord.core.chain`) are removed on every edition.

The steps are coord.maintain() in the database, the same call on every edition; in
`community` it has nothing to do.  Between steps ingest gets its turn.

Entities (tasks, workflows, handoffs, …) have plain tables, one row each, on every edition:
`remove_ended` removes the rows of those that ended (docs/adr/0081).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from coord import errors, limits
from coord.store.pool import Connection, Pool, rows_of
from coord.store.queries import statement
from coord.store.sqlstate import translated

PAUSE_S: Final = limits.MAINTAIN_PAUSE_S
"""Between two steps: as long as a step of 10,000 rows takes, so that half the time is ingest's."""

Result = Literal["done", "more", "held", "refused", "failed"]


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What a run removed from one table."""

    relation: str
    unit: str
    """"chunks" or "rows"."""
    removed: int
    more: bool
    """Whether the run ended before everything old was gone."""
    batches: int = 1
    """Transactions it took."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to one table, or why it was not."""

    job: str
    """rollup, retention, archive, ended, anchors, expire, steps, hold or night."""
    relation: str
    """Which table; empty: not one alone."""
    unit: str = "rows"
    rows: int = 0
    """Or chunks: rolled, removed, written."""
    batches: int = 0
    """Transactions it took."""
    seconds: float = 0.0
    bytes_before: int | None = None
    bytes_after: int | None = None
    result: Result = "done"
    """more: the run ended before all was done, the next goes on."""
    reason: str | None = None
    """Why it was held, refused or failed."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A step as the database remembers it."""

    id: int
    started_at: datetime
    ended_at: datetime
    job: str
    relation: str
    unit: str
    rows: int
    batches: int
    bytes_before: int | None
    bytes_after: int | None
    result: str
    reason: str | None


async def behind_s(conn: Connection) -> tuple[float, float]:
    """How many seconds the tables are behind the log: by the age of what waits, and by how long nobody projects."""
    with translated("read lag"):
        row = await conn.fetchrow(statement("projection_behind"))
    assert row is not None, "one row, always"
    return row["waiting_s"], row["silent_s"]


async def night(conn: Connection) -> tuple[datetime, datetime | None, datetime | None]:
    """What time it is for the database, when the nightly work that was last done was begun, and when it was tried."""
    with translated("read maintenance"):
        row = await conn.fetchrow(statement("night_last"))
    assert row is not None, "one row, always"
    return row["now"], row["last"], row["tried"]


async def hold(conn: Connection, held: bool) -> int:  # noqa: FBT001 - it is the state that is wanted
    """Have the server's jobs that compress and drop wait, or go on; how many that changed."""
    with translated("hold jobs"):
        return int(await conn.fetchval("SELECT coord.hold($1)", held))


async def size_of(conn: Connection, relation: str) -> int | None:
    """Bytes of a table with its indexes and chunks; None: there is none of that name."""
    with translated("read sizes"):
        size: int | None = await conn.fetchval("SELECT coord.size_of($1)", relation)
    return size


async def record(conn: Connection, step: Step) -> int:
    """Remember a step; its number."""
    with translated("record maintenance"):
        return int(
            await conn.fetchval(
                statement("step_record"), step.seconds, step.job, step.relation, step.unit, step.rows, step.batches,
                step.bytes_before, step.bytes_after, step.result, step.reason,
            )
        )  # fmt: skip


async def unstated(conn: Connection, most: int = limits.MAINTENANCE_STATED_MAX) -> list[Recorded]:
    """Steps that the log has no fact of, the oldest first."""
    with translated("read maintenance"):
        rows = await conn.fetch(statement("steps_unstated"), most)
    return [Recorded(**dict(row)) for row in rows]


async def stated(conn: Connection, ids: Sequence[int]) -> None:
    """The log has the facts of these steps."""
    with translated("record maintenance"):
        await conn.execute(statement("steps_stated"), list(ids))


async def forget_steps(pool: Pool, keep: timedelta, *, batch_rows: int = limits.MAINTAIN_BATCH_ROWS) -> int:
    """Forget steps that ended more than `keep` ago, but for the newest of each job and table; how many."""
    async with pool.transaction() as conn:
        with translated("forget maintenance"):
            status = await conn.execute(statement("steps_forget"), keep, batch_rows)
    return rows_of(status)


async def policies(conn: Connection) -> list[dict[str, Any]]:
    """Every policy of this database: who runs it, job, relation, how often, next run, last success, state, sizes."""
    with translated("read policies"):
        return [dict(row) for row in await conn.fetch(statement("policies"))]


async def remove_anchors(
    pool: Pool,
    keep: timedelta = timedelta(seconds=limits.ANCHORS_KEEP_S),
    *,
    batch_rows: int = limits.ANCHORS_REMOVED_MAX,
    pause_s: float = PAUSE_S,
) -> int:
    """Remove anchors of the audit's chain that were written more than `keep` ago; how many.

    The newest of each partition and epoch that is so old stays: the segment behind it begins there.
    """
    removed = 0
    while True:
        async with pool.transaction() as conn:
            with translated("remove anchors"):
                status = await conn.execute(statement("remove_anchors"), keep, batch_rows)
        count = rows_of(status)
        removed += count
        if count < batch_rows:
            return removed
        await asyncio.sleep(pause_s)


async def remove_ended(
    pool: Pool,
    keep: timedelta,
    *,
    batch_rows: int = limits.MAINTAIN_BATCH_ROWS,
    pause_s: float = PAUSE_S,
    steps_max: int = limits.MAINTAIN_STEPS_MAX,
) -> list[Removed]:
    """Remove the rows of entities that ended, or are unused, and were not heard of for `keep`; a row a table.

    Open tasks, workflows and handoffs stay, however old, and agents that are there, however silent.  `keep` has
    to be longer than the log's window: a fact in the log about an entity that has no row begins it anew.
    """
    if keep <= timedelta(0):
        raise errors.SettingsError("keep must be positive")
    total: dict[str, int] = {}
    more: set[str] = set()
    for step in range(steps_max):
        if step:
            await asyncio.sleep(pause_s)
        async with pool.transaction() as conn:
            with translated("remove what ended"):
                rows = await conn.fetch(statement("remove_ended"), keep, batch_rows)
        for row in rows:
            total[row["relation"]] = total.get(row["relation"], 0) + row["removed"]
        more = {row["relation"] for row in rows if row["removed"] >= batch_rows}
        if not more:
            break
    return [
        Removed(relation=name, unit="rows", removed=n, more=name in more, batches=step + 1) for name, n in total.items()
    ]


async def maintain(
    pool: Pool,
    retain: timedelta,
    *,
    batch_rows: int = limits.MAINTAIN_BATCH_ROWS,
    pause_s: float = PAUSE_S,
    steps_max: int = limits.MAINTAIN_STEPS_MAX,
) -> list[Removed]:
    """Remove what was stored more than `retain` ago; what was removed, a row a table.

    At most `steps_max` steps, each one transaction; running it again goes on.  May be
    cancelled between or during steps.
    """
    if retain <= timedelta(0):
        raise errors.SettingsError("retain must be positive")
    total: dict[str, Removed] = {}
    for step in range(steps_max):
        if step:
            await asyncio.sleep(pause_s)
        async with pool.transaction() as conn:
            with translated("maintain"):
                rows = await conn.fetch(statement("maintain"), retain, batch_rows)
        for row in rows:
            done = Removed(**dict(row))
            before = total.get(done.relation)
            if before is not None:
                done = msgspec.structs.replace(done, removed=before.removed + done.removed, batches=step + 1)
            total[done.relation] = done
        if not any(row["more"] for row in rows):
            break
    return list(total.values())
