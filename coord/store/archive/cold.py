"""Reading the archive: which files there are, their rows, and facts in the order of the log.

A row is cold while its piece is `dropped`: then it is in the files only.  Whoever reads the table as well, in
another transaction, asks with `overlapping`: pieces whose rows are (or a moment ago were) in the table, too, come
with them, so that nothing is missed when a chunk is dropped in between; what comes twice has the same
(epoch, seq, idx).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import msgspec

from coord import errors, limits
from coord.core.archive import File, Relation, Span
from coord.store.archive.files import Files, arrow, translated
from coord.store.pool import Connection, Pool
from coord.store.queries import statement
from coord.store.rows import EVENT_COLUMNS, EventRow
from coord.store.sqlstate import translated as translated_sql

Position: TypeAlias = tuple[int, int, int]
"""(epoch, seq, idx): a row's place in the log."""

_Open: TypeAlias = tuple[Position, int, EventRow, Iterator[EventRow]]
"""A file that is being read: its next row and where that stands, the file's number, the rows after it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PLACE: Final = ("epoch", "seq", "idx")


class ColdFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to read: its rows are of one tenant, kind, day and epoch, in the order of (seq, idx)."""

    relation: Relation
    piece: int
    span: Span
    file: File


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows; None: all.  `after` and `upto` are places in the log: beyond the first, up to and with the second."""

    tenant: str | None = None
    kinds: tuple[str, ...] | None = None
    key: str | None = None
    id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Stored from `since`, until before `until`."""
    after: Position | None = None
    upto: Position | None = None


async def listed(
    conn: Connection, wanted: Wanted | None = None, *, relation: Relation = "event", overlapping: bool = False
) -> list[ColdFile]:
    """The files that may have rows that are wanted, in the order of the log; see the module for `overlapping`."""
    wanted = wanted if wanted is not None else Wanted()
    kinds = None if wanted.kinds is None else list(wanted.kinds)
    with translated_sql("list cold files"):
        rows = await conn.fetch(
            statement("archive_cold_files"), relation, wanted.tenant, kinds, wanted.since, wanted.until, overlapping
        )
    found = []
    for row in rows:
        values = dict(row)
        span = Span(values.pop("start"), values.pop("end"))
        found.append(ColdFile(relation=relation, piece=values.pop("piece"), span=span, file=File(**values)))
    return [cold for cold in found if _may_hold(cold.file, wanted)]


def batches(
    files: Files, cold: ColdFile, wanted: Wanted | None = None, *, columns: Sequence[str] | None = None
) -> Iterator[Any]:
    """Record batches of a file with the rows that are wanted, in the order of (seq, idx); blocks.

    `columns`: which, in which order; None: all.  A row group is read whole only when its statistics and its keys
    do not rule it out.  Raises `ArchiveUnavailable`, or `ArchiveCorrupted` naming the file.
    """
    pa = arrow()
    wanted = wanted if wanted is not None else Wanted()
    path = cold.file.path
    with translated("read", path), files.read(path) as source:
        try:
            parquet = pa.parquet.ParquetFile(source, page_checksum_verification=True)
            for group in range(parquet.num_row_groups):
                if _rules_out(parquet.metadata.row_group(group), wanted):
                    continue
                if wanted.key is not None and not _has_key(parquet, group, wanted.key):
                    continue
                for batch in parquet.iter_batches(
                    batch_size=limits.ARCHIVE_READ_ROWS, row_groups=[group], use_threads=False
                ):
                    kept = _only(batch, wanted)
                    if kept.num_rows:
                        yield kept if columns is None else kept.select(list(columns))
        except pa.ArrowInvalid as exc:
            raise errors.ArchiveCorrupted(f"{path} cannot be read: {exc}", path=path) from exc


async def facts(
    pool: Pool, files: Files, wanted: Wanted | None = None, *, overlapping: bool = False
) -> AsyncIterator[list[EventRow]]:
    """Facts of the archive in the order of (epoch, seq, idx), as rows of `coord.event`, some thousand at a time."""
    async with pool.acquire() as conn:
        todo = await listed(conn, wanted, overlapping=overlapping)
    async for page in pages(files, todo, wanted):
        yield page


async def pages(files: Files, todo: Iterable[ColdFile], wanted: Wanted | None = None) -> AsyncIterator[list[EventRow]]:
    """The rows of several files in the order of the log, some thousand at a time.

    Files are read in a thread and opened when it is their turn: at a time as many as have facts of
    the same part of the log, which is one for each tenant and kind that is wanted.
    """
    rows = _in_order(files, todo, wanted)
    while page := await asyncio.to_thread(_page, rows):
        yield page


def _in_order(files: Files, todo: Iterable[ColdFile], wanted: Wanted | None = None) -> Iterator[EventRow]:
    """The rows of several files in the order of the log; `todo` is in the order of their first rows.  Blocks."""
    open_ones: list[_Open] = []
    coming = iter(enumerate(todo))
    following = next(coming, None)
    while open_ones or following is not None:
        # Open every file whose first row may be the next one.
        while following is not None and (not open_ones or _first(following[1].file) <= open_ones[0][0]):
            number, cold = following
            _push(open_ones, number, _rows(files, cold, wanted))
            following = next(coming, None)
        if open_ones:
            _, number, row, rest = heapq.heappop(open_ones)
            yield row
            _push(open_ones, number, rest)


def _push(heap: list[_Open], number: int, rows: Iterator[EventRow]) -> None:
    row = next(rows, None)
    if row is not None:
        _, epoch, seq, idx, *_ = row
        heapq.heappush(heap, ((epoch, seq, idx), number, row, rows))


def _rows(files: Files, cold: ColdFile, wanted: Wanted | None) -> Iterator[EventRow]:
    pa = arrow()
    for batch in batches(files, cold, wanted, columns=EVENT_COLUMNS):
        lists = [
            _times(pa, column) if pa.types.is_timestamp(column.type) else column.to_pylist() for column in batch.columns
        ]
        yield from zip(*lists, strict=True)


def _times(pa: Any, column: Any) -> list[datetime]:
    # Six times faster than to_pylist, which looks a zone up for each.
    return [_EPOCH + timedelta(microseconds=us) for us in column.cast(pa.int64()).to_pylist()]


def _page(rows: Iterator[EventRow]) -> list[EventRow]:
    return list(itertools.islice(rows, limits.ARCHIVE_READ_ROWS))


def _first(file: File) -> Position:
    return (file.epoch, file.seq_first, 0)


def _may_hold(file: File, wanted: Wanted) -> bool:
    if wanted.after is not None and (file.epoch, file.seq_last) < wanted.after[:2]:
        return False
    if wanted.upto is not None and (file.epoch, file.seq_first) > wanted.upto[:2]:
        return False
    if wanted.since is not None and file.day < wanted.since.astimezone(UTC).date():
        return False
    return wanted.until is None or file.day <= wanted.until.astimezone(UTC).date()


def _rules_out(group: Any, wanted: Wanted) -> bool:
    """Whether a row group's statistics say that no row of it is wanted."""
    known = {}
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema in {"epoch", "seq", "stored_at", "key", "id"} and column.is_stats_set:
            statistics = column.statistics
            if statistics.has_min_max:
                known[column.path_in_schema] = (statistics.min, statistics.max)
    place = known.get("epoch"), known.get("seq")
    if place[0] is not None and place[1] is not None:
        if wanted.after is not None and (place[0][1], place[1][1]) < wanted.after[:2]:
            return True
        if wanted.upto is not None and (place[0][0], place[1][0]) > wanted.upto[:2]:
            return True
    return any(
        name in known and value is not None and not known[name][0] <= value <= known[name][1]
        for name, value in (("key", wanted.key), ("id", wanted.id))
    )


def _has_key(parquet: Any, group: int, key: str) -> bool:
    """Whether a row group has a row of that key: one column is a tenth of the work of all."""
    pa = arrow()
    table = parquet.read_row_group(group, columns=["key"], use_threads=False)
    return bool(pa.compute.any(pa.compute.equal(table.column("key"), key)).as_py())


def _only(batch: Any, wanted: Wanted) -> Any:
    """The rows of a batch that are wanted."""
    pc = arrow().compute
    tests = [
        pc.equal(batch.column(name), value)
        for name, value in (("tenant", wanted.tenant), ("key", wanted.key), ("id", wanted.id))
        if value is not None
    ]
    if wanted.kinds is not None:
        tests.append(pc.is_in(batch.column("kind"), value_set=arrow().array(wanted.kinds, arrow().string())))
    if wanted.since is not None:
        tests.append(pc.greater_equal(batch.column("stored_at"), wanted.since))
    if wanted.until is not None:
        tests.append(pc.less(batch.column("stored_at"), wanted.until))
    if wanted.after is not None:
        tests.append(_beyond(batch, wanted.after))
    if wanted.upto is not None:
        tests.append(pc.invert(_beyond(batch, wanted.upto)))
    if not tests:
        return batch
    mask = tests[0]
    for test in tests[1:]:
        mask = pc.and_(mask, test)
    return batch.filter(mask)


def _beyond(batch: Any, place: Position) -> Any:
    """Whether each row is beyond a place in the log."""
    pc = arrow().compute
    epoch, seq, idx = (batch.column(name) for name in _PLACE)
    same_seq = pc.and_(pc.equal(seq, place[1]), pc.greater(idx, place[2]))
    same_epoch = pc.and_(pc.equal(epoch, place[0]), pc.or_(pc.greater(seq, place[1]), same_seq))
    return pc.or_(pc.greater(epoch, place[0]), same_epoch)
