"""Rows of the archive back into the table, where every view and question finds them.

A piece comes back in one transaction with its state: killed, it has not come back at all.  Its files stay, and
once its time is over the chunk is dropped again without being written a second time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final

from coord import errors, limits
from coord.core.archive import Piece, Relation, in_the_way
from coord.store.archive import columns, parquet, pieces
from coord.store.archive.files import Files
from coord.store.archive.run import Done, Report, Told
from coord.store.config import ArchiveConfig
from coord.store.pool import Connection, Pool, rows_of
from coord.store.sqlstate import translated

_KEEP: Final = timedelta(days=limits.ARCHIVE_RESTORE_KEEP_DAYS)


async def candidates(pool: Pool, *, since: datetime, until: datetime, relation: Relation = "event") -> list[Piece]:
    """The cold pieces with rows stored from `since` until before `until`; what is in the table needs no restoring."""
    async with pool.acquire() as conn:
        listed = await pieces.listed(conn, relation)
    return [p for p in listed if p.state == "dropped" and p.start < until and p.end > since]


async def restore(
    pool: Pool,
    config: ArchiveConfig,
    *,
    since: datetime,
    until: datetime,
    relation: Relation = "event",
    keep: timedelta = _KEEP,
    files: Files | None = None,
    told: Told | None = None,
) -> Report:
    """Bring back every cold piece with rows of that time, whole; they stay for `keep` at least.

    Each file is verified before its rows are taken.  Raises `ArchiveCorrupted` naming the first that is not
    what was written, `ArchiveOverlap` naming a piece that is in the way: what came back before it stays.
    """
    started = time.monotonic()
    files = files if files is not None else await asyncio.to_thread(Files.open, config)
    done: list[Done] = []
    async with pieces.locked(pool):
        for piece in await candidates(pool, since=since, until=until, relation=relation):
            began = time.monotonic()
            back = await _one(pool, files, piece, keep)
            done.append(Done(step="restore", piece=back, seconds=time.monotonic() - began))
            if told is not None:
                await told(done[-1])
    return Report(done=tuple(done), problems=(), seconds=time.monotonic() - started)


async def _one(pool: Pool, files: Files, piece: Piece, keep: timedelta) -> Piece:
    async with pool.acquire() as conn:
        other = in_the_way(piece, await pieces.listed(conn, piece.relation))
        if other is not None:
            raise errors.ArchiveOverlap(
                f"the {piece} cannot come back: rows of the {other} are in the table",
                piece=piece.piece,
                other=other.piece,
            )
        known = await pieces.files_of(conn, piece)
    for file in known:
        await asyncio.to_thread(parquet.verify, files, piece.relation, file)
    async with pool.transaction(limits.ARCHIVE_STATEMENT_S) as conn:
        await pieces.patient(conn, limits.ARCHIVE_STATEMENT_S)
        back = await pieces.restored(conn, piece, await pieces.clock(conn) + keep)
        rows = 0
        for file in known:
            rows += await _copy_in(conn, files, piece.relation, file.path)
        if rows != piece.rows:
            raise errors.ArchiveError(f"{rows} rows of the {piece} came back instead of {piece.rows}")
    return back


async def _copy_in(conn: Connection, files: Files, relation: Relation, path: str) -> int:
    async def csv() -> AsyncIterator[bytes]:
        groups = parquet.groups(files, path)
        while (text := await asyncio.to_thread(_next_csv, groups)) is not None:
            yield text

    with translated("restore a chunk"):
        status: str = await conn.copy_to_table(
            relation,
            schema_name="coord",
            columns=columns.COLUMNS[relation],
            source=csv(),
            format="csv",
            timeout=limits.ARCHIVE_STATEMENT_S,
        )
    return rows_of(status)


def _next_csv(groups: Any) -> bytes | None:
    table = next(groups, None)
    return None if table is None else columns.unparse(table)
