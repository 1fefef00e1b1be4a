"""Retention where the server has no policy for it: one bounded step after the other.

The anchors of the audit's chain (`coord.core.chain`) are removed on every edition.

The steps are coord.maintain() in the database, the same call on every edition; in
`community` it has nothing to do.  Between steps ingest gets its turn.

Entities (tasks, workflows, handoffs, …) have plain tables, one row each, on every edition:
`remove_ended` removes the rows of those that ended (docs/adr/0081).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import msgspec

from coord import errors, limits
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated

PAUSE_S: Final = 0.05
"""Between two steps: as long as a step of 10,000 rows takes, so that half the time is ingest's."""


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What a run removed from one table."""

    relation: str
    unit: str
    """"chunks" or "rows"."""
    removed: int
    more: bool
    """Whether the run ended before everything old was gone."""


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
        count = int(status.rpartition(" ")[2])
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
    return [Removed(relation=name, unit="rows", removed=n, more=name in more) for name, n in total.items()]


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
                done = msgspec.structs.replace(done, removed=before.removed + done.removed)
            total[done.relation] = done
        if not any(row["more"] for row in rows):
            break
    return list(total.values())
