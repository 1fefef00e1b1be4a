"""The archive's rows in the database: pieces, their states and their files.

Every change of state names the state and the attempt that it is from; when no row answers, another process has
gone on with the piece, and this one leaves it alone (`ArchiveBusy`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from coord import errors, limits
from coord.core.archive import LEADS_TO, File, Piece, Relation, Span, State, Verdict, compare
from coord.store.alone import alone
from coord.store.pool import Connection, Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated


@contextlib.asynccontextmanager
async def locked(pool: Pool) -> AsyncIterator[None]:
    """Work on the archive alone; `ArchiveBusy` when another process is at it.

    Where two are all the same, changes of state tell them apart.
    """
    async with alone(pool, "archive") as conn:
        if conn is None:
            raise errors.ArchiveBusy
        yield


async def listed(conn: Connection, relation: Relation | None = None) -> list[Piece]:
    """All pieces that were not purged, the oldest first."""
    with translated("list the archive"):
        rows = await conn.fetch(statement("archive_pieces"), relation)
    return [Piece(**dict(row)) for row in rows]


async def read(conn: Connection, piece: Piece) -> Piece:
    """The piece as it is now."""
    with translated("read a piece"):
        row = await conn.fetchrow(statement("archive_piece"), piece.piece)
    assert row is not None, "rows of coord.archive are never removed"
    return Piece(**dict(row))


async def spans(conn: Connection, relation: Relation) -> list[Span]:
    """The spans of a table that there are now, the oldest first."""
    with translated("list spans"):
        return [Span(row["start"], row["end"]) for row in await conn.fetch(statement("archive_spans"), relation)]


async def clock(conn: Connection) -> datetime:
    """What time it is for the archive: the earlier of the database's clock and the broker's."""
    with translated("ask the time"):
        now: datetime = await conn.fetchval(statement("archive_now"))
    return now


async def files_of(conn: Connection, piece: Piece) -> list[File]:
    """The files of a piece."""
    with translated("list files"):
        rows = await conn.fetch(statement("archive_files"), piece.piece)
    return [File(**dict(row)) for row in rows]


async def begin(conn: Connection, relation: Relation, span: Span) -> Piece:
    """A new piece for a span."""
    with translated("begin a piece"):
        number = await conn.fetchval(statement("archive_begin"), relation, span.start, span.end)
    return Piece(piece=number, relation=relation, start=span.start, end=span.end, state="writing", attempt=1)


async def advance(conn: Connection, piece: Piece, state: State) -> Piece:
    """The piece in its next state."""
    assert state in LEADS_TO[piece.state], f"{piece.state} does not lead to {state}"
    with translated("advance a piece"):
        _mine(await conn.fetchval(statement("archive_advance"), piece.piece, piece.attempt, piece.state, state), piece)
    return msgspec.structs.replace(piece, state=state)


async def written(pool: Pool, piece: Piece, files: Sequence[File], seq_sum: int, within: Sequence[Piece]) -> Piece:
    """The piece's files are written, aside: from now on they are known; `within`: pieces that are a part of it now."""
    rows, size = sum(f.rows for f in files), sum(f.bytes for f in files)
    async with pool.transaction(limits.ARCHIVE_DROP_S) as conn:
        with translated("note a piece's files"):
            number = await conn.fetchval(statement("archive_written"), piece.piece, piece.attempt, rows, seq_sum, size)
            _mine(number, piece)
            await conn.execute(statement("archive_insert_files"), piece.piece, *_columns(files))
        for other in within:
            await advance(conn, other, "purging")
    return msgspec.structs.replace(piece, state="written", rows=rows, bytes=size)


async def again(conn: Connection, piece: Piece) -> Piece:
    """The piece is to be written anew."""
    assert "writing" in LEADS_TO[piece.state], f"{piece.state} does not lead to writing"
    with translated("begin a piece again"):
        attempt = await conn.fetchval(statement("archive_again"), piece.piece, piece.attempt, piece.state)
    _mine(attempt, piece)
    return msgspec.structs.replace(piece, state="writing", attempt=attempt, restored_until=None, verified_at=None)


async def forget_files(conn: Connection, piece: Piece) -> None:
    """The piece's files were removed."""
    with translated("forget files"):
        await conn.execute(statement("archive_forget_files"), piece.piece)


async def restored(conn: Connection, piece: Piece, until: datetime) -> Piece:
    """The piece's rows are in the table again, by the transaction that this is a part of."""
    with translated("restore a piece"):
        _mine(await conn.fetchval(statement("archive_restored"), piece.piece, piece.attempt, until), piece)
    return msgspec.structs.replace(piece, state="restored", restored_until=until)


async def drop(pool: Pool, relation: Relation, span: Span) -> tuple[Verdict, str]:
    """Drop a span if its rows are those that are verified; otherwise what is different, and in words."""
    async with pool.transaction(limits.ARCHIVE_DROP_S) as conn:
        await patient(conn, limits.ARCHIVE_DROP_S)
        with translated("drop a chunk"):
            row = await conn.fetchrow(statement("archive_drop"), relation, span.start, span.end)
    assert row is not None, "one row, always"
    if row["dropped"]:
        return "same", ""
    archived, found = (row["archived_rows"], int(row["archived_sum"])), (row["found_rows"], int(row["found_sum"]))
    return compare(archived=archived, found=found), f"{found[0]} rows in the table, {archived[0]} in the archive"


async def patient(conn: Connection, statement_s: float) -> None:
    """Let this transaction's statements take so long, sort in memory for a while, and not wait for a lock for ever."""
    for name, value in patience(statement_s).items():
        await conn.execute("SELECT set_config($1, $2, true)", name, value)


def patience(statement_s: float) -> dict[str, str]:
    """The settings that let it."""
    return {
        "statement_timeout": f"{statement_s * 1000:.0f}",
        "lock_timeout": f"{limits.ARCHIVE_LOCK_S * 1000:.0f}",
        "work_mem": f"{limits.ARCHIVE_SORT_KIB}kB",
        "enable_seqscan": "on",
        "datestyle": "ISO",
    }


def _columns(files: Sequence[File]) -> list[list[Any]]:
    names = ("number", "path", "tenant", "day", "kind", "epoch", "seq_first", "seq_last", "rows", "bytes")
    return [[getattr(file, name) for file in files] for name in (*names, "sha256", "content")]


def _mine(answer: object, piece: Piece) -> None:
    if answer is None:
        raise errors.ArchiveBusy(f"another process has gone on with the {piece}", piece=piece.piece)
