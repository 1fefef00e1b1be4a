"""The history that a rebuild reads: the copy of the log, and the archive where there is one, as one log.

Both have rows as the projector made them.  What is in both (archived, and not dropped yet) is read once.  The
archive is asked anew for each slice, right after the table's cursor is open: what has left the table by then is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from coord import limits
from coord.core import rebuild
from coord.core.past import Point
from coord.core.rebuild import Range, Slice, Stretch
from coord.projector.tables import TABLES
from coord.store import shadow
from coord.store.archive import cold
from coord.store.archive.cold import Wanted
from coord.store.archive.files import Files
from coord.store.pool import Connection, Pool
from coord.store.rows import EventRow
from coord.store.shadow import Progress

KINDS: Final = tuple(TABLES)
"""Of facts that make entities; agents' rows are of facts of the kind ``agent`` too."""

_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 1, 1, tzinfo=UTC)
_IDX_MAX: Final = 2**31 - 1


class Recorded:
    """What there is of facts about entities.  One reader: not for two tasks at once."""

    def __init__(self, pool: Pool, files: Files | None = None) -> None:
        """`pool`: two connections at least where there is an archive; `files`: the archive's."""
        self._pool = pool
        self._files = files

    async def plan(self, now: Progress) -> tuple[list[Slice], datetime | None]:
        """The slices that are left of round 0, and from when on the history goes; None: there is none."""
        async with self._pool.transaction(limits.REBUILD_STATEMENT_S) as conn:
            await shadow.plan_freely(conn)
            found = await shadow.stretches(conn, KINDS, _FIRST)
            oldest = None
            if found:
                # To the moment, not to the ten minutes: what began in the same ten minutes has its beginning there.
                oldest = await shadow.oldest(conn, min(one.since for one in found))
        if self._files is not None:
            async with self._pool.acquire() as conn:
                files = await cold.listed(conn, Wanted(kinds=KINDS))
            found += [
                Stretch(
                    epoch=one.file.epoch, first=one.file.seq_first, last=one.file.seq_last, rows=one.file.rows,
                    since=one.span.start, until=one.span.end, file=one.file.path,
                )
                for one in files
            ]  # fmt: skip
            oldest = min((one.span.start for one in files), default=oldest)
        return rebuild.plan(found, rows_max=limits.REBUILD_SLICE_ROWS, after=now.place), oldest

    async def touched(self, since: Point) -> AsyncIterator[list[EventRow]]:
        """Facts of the archive that were stored from `since` on."""
        if self._files is None:
            return
        after = None if since.seq is None else (since.epoch or 1, since.seq - 1, _IDX_MAX)
        async for rows in cold.facts(self._pool, self._files, Wanted(kinds=KINDS, since=since.time, after=after)):
            yield rows

    async def rows(self, now: Progress, one: Slice, range_: Range) -> AsyncIterator[list[EventRow]]:
        """The facts of a slice, from where the round is, in batches that end with a message."""
        async with self._pool.transaction(limits.REBUILD_STATEMENT_S) as conn:
            await shadow.plan_freely(conn)
            rows = read(conn, now, one, range_)
            if self._files is not None and now.round == 0:
                first = (one.epoch, _first(now, one) - 1, _IDX_MAX)
                wanted = Wanted(kinds=KINDS, after=first, upto=(one.epoch, one.last, _IDX_MAX))
                old = cold.facts(self._pool, self._files, wanted, overlapping=True)
                rows = _merged(self._within(conn, now, range_, old), rows)
            async for batch in _by_message(rows):
                yield batch

    async def _within(
        self, conn: Connection, now: Progress, range_: Range, pages: AsyncIterator[list[EventRow]]
    ) -> AsyncIterator[list[EventRow]]:
        """What of the archive's facts belongs to the round: the table's statement sees to that itself."""
        async for page in pages:
            rows = [row for row in page if range_.above[row[4]] < row[2] <= range_.upto[row[4]]]
            if now.partial and rows:
                known = await shadow.are_touched(conn, rows)
                rows = [row for row, is_touched in zip(rows, known, strict=True) if is_touched]
            if rows:
                yield rows


async def read(conn: Connection, now: Progress, one: Slice, range_: Range) -> AsyncIterator[list[EventRow]]:
    """The facts of a slice that are in the table; inside a transaction of the caller's."""
    if one.since is None:
        return
    rows = shadow.rows(
        conn, KINDS, one.epoch, _first(now, one), one.last, one.since, one.until or _LAST,
        above=range_.above, upto=range_.upto, touched=now.partial and now.round == 0,
        batch_rows=limits.REBUILD_BATCH_ROWS,
    )  # fmt: skip
    async for batch in rows:
        yield batch


def tail(now: Progress, range_: Range) -> Slice:
    """All of a range that is in the table, from about when the round before it ended."""
    known = [at for at in now.above_times if at is not None]
    since = min(known) - timedelta(seconds=limits.REBUILD_CLOCK_S) if len(known) == len(now.above) else _FIRST
    return Slice(epoch=range_.epoch, first=0, last=rebuild.FOREVER, rows=0, since=since)


def _first(now: Progress, one: Slice) -> int:
    return max(one.first, now.place[1] + 1) if now.place[0] == one.epoch else one.first


async def _by_message(batches: AsyncIterator[list[EventRow]]) -> AsyncIterator[list[EventRow]]:
    """The same facts in batches of which none ends inside a frame: how far a rebuild is, is a sequence."""
    rest: list[EventRow] = []
    async for found in batches:
        rows = rest + found
        last = rows[-1][2]
        cut = len(rows)
        while cut and rows[cut - 1][2] == last:
            cut -= 1
        rest = rows[cut:]
        if cut:
            yield rows[:cut]
    if rest:
        yield rest


async def _merged(
    one: AsyncIterator[list[EventRow]], other: AsyncIterator[list[EventRow]]
) -> AsyncIterator[list[EventRow]]:
    """An archive and a table as one log: what is in both comes once, as the table has it."""
    # The table comes first: none of its chunks is dropped from then on, and the archive has the others.
    right = await anext(other, None)
    left = await anext(one, None)
    while left is not None and right is not None:
        upto = min(_place(left[-1]), _place(right[-1]))
        taken: dict[Any, EventRow] = {}
        rest = []
        for rows in (left, right):
            cut = _count(rows, upto)
            taken |= {_place(row): row for row in rows[:cut]}
            rest.append(rows[cut:])
        yield [taken[place] for place in sorted(taken)]
        left, right = rest[0] or await anext(one, None), rest[1] or await anext(other, None)
    for first, following in ((left, one), (right, other)):
        if first is not None:
            yield first
            async for rows in following:
                yield rows


def _count(rows: Sequence[EventRow], upto: Any) -> int:
    """How many of the first rows are at or before that place."""
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        if _place(rows[middle]) <= upto:
            low = middle + 1
        else:
            high = middle
    return low


def _place(row: EventRow) -> Any:
    return row[1:4]


async def ahead(source: AsyncIterator[list[EventRow]]) -> AsyncIterator[list[EventRow]]:
    """What a generator gives, the next of it being read meanwhile."""

    async def following() -> list[EventRow] | None:
        return await anext(source, None)

    async with aclosing(source):  # type: ignore[type-var]  # its transaction ends here
        task = asyncio.ensure_future(following())
        try:
            while (rows := await task) is not None:
                task = asyncio.ensure_future(following())
                yield rows
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
