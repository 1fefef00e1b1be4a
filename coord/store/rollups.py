"""Rollups where the server keeps none (apache, plain): moved on step by step, each step exactly once.

::

    event ──1m──▶ fact_rate_1m ──▶ fact_rate_1h ──▶ fact_rate_1d        so with every file of sql/rollups
                       │                │
             progress ─┴─ shown ────────┴─ …     one row a rollup in coord.rollup, moved with the rows

*progress*: everything stored before is counted.  *shown*: the buckets before are whole, and views read them; what
is after it they count as they are asked.  A step adds what its source has of a time [progress, until) to what there
is, and moves progress, in one transaction that holds the rollup's row locked: a step that fails, or that two do, is
done once or not at all.

`until` is never beyond what is complete: a first level waits for the slowest partition's checkpoint, a further one
for the level below.  So no row can come later to a time that was counted, with two exceptions:

* rows that an operator puts back: `forget`;
* a broker's clock that was set back.  Whoever writes such rows moves *shown* of the first levels back, in the same
  transaction (`late`): from there on buckets are not whole any more, though *progress* is beyond.  The next step
  takes all levels of that rollup back to there, and counts again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from coord import limits
from coord.core import upkeep
from coord.runtime.assets import sql_dir
from coord.store import rollup_files, rollup_sql
from coord.store.pool import Connection, Pool
from coord.store.queries import statement
from coord.store.rollup_files import LEVELS, STREAMS, Level, Rollup
from coord.store.sqlstate import translated

WIDTH_S: Final[dict[Level, float]] = {"1m": 60.0, "1h": 3_600.0, "1d": upkeep.DAY_S}
"""Of a bucket."""

_ORIGIN: Final = datetime(2000, 1, 3, tzinfo=UTC)


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """How far one rollup was moved."""

    relation: str
    rows: int
    """Rows of its source that were added to it."""
    steps: int
    progress: datetime | None
    """Where it is now; None: nowhere, its source has no rows."""
    more: bool
    """Whether the run ended before it had come as far as it may."""
    width_s: float
    """How much time a step covers by now: where the next run may begin."""
    again: datetime | None = None
    """From when on it was counted again, with the levels above, because facts came late; None: none did."""


def load() -> list[Rollup]:
    """The rollups of this release."""
    return rollup_files.load(sql_dir() / "rollups")


async def advance_all(
    pool: Pool, rollups: Sequence[Rollup] | None = None, *, steps_max: int = limits.MAINTAIN_STEPS_MAX,
    pause_s: float = limits.MAINTAIN_PAUSE_S,
) -> list[Advance]:  # fmt: skip
    """Move every rollup as far as it may be moved: one transaction of about 10,000 rows a step, with pauses between.

    `pause_s`: at least; as long as the step took, if that was longer.  May be cancelled at any time.
    """
    return [
        await advance(pool, rollup, level, steps_max=steps_max, pause_s=pause_s)
        for rollup in (load() if rollups is None else rollups)
        for level in LEVELS
    ]


async def advance(
    pool: Pool, rollup: Rollup, level: Level, *, steps_max: int = limits.MAINTAIN_STEPS_MAX,
    pause_s: float = limits.MAINTAIN_PAUSE_S, settle_s: float = limits.ROLLUP_SETTLE_S,
    width_s: float | None = None, batch_rows: int = limits.MAINTAIN_BATCH_ROWS,
) -> Advance:  # fmt: skip
    """Move one rollup on, at most `steps_max` steps.

    `settle_s`: of a first level, how far behind what is complete it stays.  `width_s`: of the first step, as the run
    before left it; a wrong one costs a count of rows.  `batch_rows`: what a step aims at.
    """
    least_s = limits.ROLLUP_WIDTH_MIN_S if level == "1m" else WIDTH_S[rollup_sql.level_below(level)]
    width_s = max(least_s, WIDTH_S[level] / 6 if width_s is None else width_s)
    rows = steps = 0
    goal: datetime | None = None
    again: datetime | None = None
    while True:
        began = time.monotonic()
        async with pool.transaction() as conn:
            with translated(f"roll {rollup.table(level)}"):
                if level == "1m":
                    again = await _counted_again(conn, rollup) or again
                progress, complete = await _span(conn, rollup, level, settle_s)
                # As far as it was when the run began: where facts come all the time it would never end.
                goal = complete if goal is None or complete is None else min(goal, complete)
                until = None if goal is None or progress is None else min(goal, progress + timedelta(seconds=width_s))
                if progress is None or until is None or until <= progress or steps >= steps_max:
                    more = progress is not None and until is not None and until > progress
                    return Advance(
                        relation=rollup.table(level), rows=rows, steps=steps, progress=progress, more=more,
                        width_s=width_s, again=again,
                    )  # fmt: skip
                found = await _bounded(conn, rollup, level, progress, until, 4 * batch_rows)
                if found is None:
                    # Far denser than the step before: the same again, of less.
                    width_s = upkeep.next_width_s(width_s, 4 * batch_rows, least_s=least_s, batch_rows=batch_rows)
                    continue
                shown = _floor(until, WIDTH_S[level])
                await conn.execute(statement("rollup_move"), rollup.table(level), until, shown, found)
        rows, steps = rows + found, steps + 1
        if until < progress + timedelta(seconds=width_s):
            width_s = max(least_s, (until - progress).total_seconds())  # it found that in less
        width_s = upkeep.next_width_s(width_s, found, least_s=least_s, batch_rows=batch_rows)
        await asyncio.sleep(upkeep.pause_s(time.monotonic() - began, pause_s) if pause_s else 0)


async def ready(pool: Pool) -> int:
    """Have the index that finds the newest rows know them; how many of its ranges were new.

    For where facts come fast: by itself the server does it some minutes late, and every view that counts up to now
    reads all rows that the index does not know.
    """
    async with pool.transaction() as conn:
        with translated("ready the index of time"):
            # Beside a vacuum of the table it would wait; then the next time is soon enough.
            await conn.execute("SELECT set_config('lock_timeout', $1, true)", f"{limits.ROLLUP_LOCK_S * 1000:.0f}")
            tables = [rollup_sql.qualified(source) for source in STREAMS]
            return int(await conn.fetchval(statement("brin_summarize"), tables))


async def uncounted(conn: Connection, source: str, cutoff: datetime) -> tuple[bool, datetime | None]:
    """Whether a table has rows stored before `cutoff` that views still count from it, and how far its rollups are."""
    made_of = [r for r in load() if r.source == source]
    with translated("read rollups"):
        found = await conn.fetch(statement("rollups_shown"), [r.table("1m") for r in made_of])
        shown = min((row[0] for row in found), default=None) if len(found) == len(made_of) else None
        exists = await conn.fetchval(rollup_sql.has_rows(made_of[0]), shown or _ORIGIN, cutoff)
    return bool(exists), shown


async def expire(
    pool: Pool, rollup: Rollup, level: Level, keep: timedelta, *, batch_rows: int = limits.MAINTAIN_BATCH_ROWS,
    steps_max: int = limits.MAINTAIN_STEPS_MAX, pause_s: float = limits.MAINTAIN_PAUSE_S,
) -> tuple[int, int]:  # fmt: skip
    """Remove buckets that began more than `keep` ago and that the next level has counted; rows and steps."""
    assert level != LEVELS[-1], "days are kept"
    table = rollup.table(level)
    rows = 0
    for step in range(1, steps_max + 1):
        began = time.monotonic()
        async with pool.transaction() as conn:
            with translated(f"expire {table}"):
                status = await conn.execute(rollup_sql.expire(rollup, level), keep, batch_rows)
        count = int(status.rpartition(" ")[2])
        rows += count
        if count < batch_rows:
            return rows, step
        await asyncio.sleep(upkeep.pause_s(time.monotonic() - began, pause_s) if pause_s else 0)
    return rows, steps_max


async def forget(conn: Connection, since: datetime, rollups: Sequence[Rollup] | None = None) -> None:
    """Take back what was counted of everything stored from `since` on, to be counted again.  In a transaction.

    Only for times of which the facts are still there.  In `community` nothing: the server notices changed rows itself.
    """
    day = _floor(since, WIDTH_S["1d"])
    with translated("forget rollups"):
        for rollup in load() if rollups is None else rollups:
            for level in LEVELS:
                name = rollup.table(level)
                if await conn.fetchval(statement("is_table"), rollup_sql.qualified(name)):
                    await _take_back(conn, rollup, level, day)


async def late(conn: Connection, since: datetime) -> None:
    """Facts stored from `since` on come to a time that may have been counted.  In the transaction that writes them."""
    width_s = WIDTH_S["1m"]
    names = [rollup.table("1m") for rollup in load()]
    with translated("late facts"):
        # A bucket further back, or the mark would say nothing where they belong to the one that is open.
        await conn.execute(statement("rollup_late"), names, since, _floor(since, width_s) - timedelta(seconds=width_s))


# --- one step ----------------------------------------------------------------------------------


async def _span(
    conn: Connection, rollup: Rollup, level: Level, settle_s: float
) -> tuple[datetime | None, datetime | None]:
    """Where the rollup is, and how far it may go.  Locks its row."""
    name = rollup.table(level)
    mark = await conn.fetchrow(statement("rollup_mark"), name)
    until = await _complete(conn, rollup, level, settle_s)
    if mark is None:
        # Asked after what is complete: a partition that is behind still brings rows that are older than any there is.
        begin = _as_time(await conn.fetchval(rollup_sql.oldest(rollup, level)))
        if begin is None or until is None:
            return None, None
        # There is nothing to lock before there is a row: who comes second waits here, and finds it.
        await conn.execute(statement("rollup_begin"), name, _floor(min(begin, until), WIDTH_S[level]))
        mark = await conn.fetchrow(statement("rollup_mark"), name)
    assert mark is not None, "it was begun"
    return mark["progress"], until


async def _counted_again(conn: Connection, rollup: Rollup) -> datetime | None:
    """Take back what was counted of a time to which facts came late; from when on, None: none did.

    Each level from the beginning of its bucket on, as far as the one below, which it is made of, is still there since
    then; otherwise all from the beginning of the day, to be made of facts.
    """
    mark = await conn.fetchrow(statement("rollup_mark"), rollup.table("1m"))
    if mark is None or mark["shown"] >= _floor(mark["progress"], WIDTH_S["1m"]):
        return None
    since = _as_time(mark["shown"])
    assert since is not None
    begins = {level: _floor(since, WIDTH_S[level]) for level in LEVELS}
    for level in LEVELS[1:]:
        oldest = _as_time(await conn.fetchval(rollup_sql.oldest(rollup, level)))
        if oldest is None or oldest > begins[level]:
            begins = dict.fromkeys(LEVELS, _floor(since, WIDTH_S["1d"]))
            break
    for level, begin in begins.items():
        await _take_back(conn, rollup, level, begin)
    return since


async def _take_back(conn: Connection, rollup: Rollup, level: Level, since: datetime) -> None:
    await conn.execute(statement("rollup_take_back"), rollup.table(level), since)
    await conn.execute(rollup_sql.take_back(rollup, level), since)


async def _complete(conn: Connection, rollup: Rollup, level: Level, settle_s: float) -> datetime | None:
    if level != "1m":
        below = rollup.table(rollup_sql.level_below(level))
        found = await conn.fetchval("SELECT shown FROM coord.rollup WHERE name = $1", below)
        return _as_time(found)
    stream = STREAMS[rollup.source]
    return _as_time(await conn.fetchval(statement("rollup_complete"), stream, limits.PARTITIONS, settle_s))


async def _bounded(
    conn: Connection, rollup: Rollup, level: Level, since: datetime, until: datetime, most: int
) -> int | None:
    """Do the step; None when it would be more than `most` rows, and could be less."""
    least_s = limits.ROLLUP_WIDTH_MIN_S if level == "1m" else WIDTH_S[rollup_sql.level_below(level)]
    if (until - since).total_seconds() > least_s:
        count = await conn.fetchval(rollup_sql.count(rollup, level), since, until, most + 1)
        if count > most:
            return None
    return int(await conn.fetchval(rollup_sql.step(rollup, level), since, until))


def _floor(at: datetime, width_s: float) -> datetime:
    return at - (at - _ORIGIN) % timedelta(seconds=width_s)


def _as_time(found: Any) -> datetime | None:
    assert found is None or isinstance(found, datetime)
    return found
