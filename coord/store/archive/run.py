"""Archiving: whatever is due for each chunk, step by step, until nothing is.

Killed at any moment it leaves every row in the table or in files that were verified, and the next run goes on
where it was.  What is wrong with one chunk does not keep the others: it is told at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final

import msgspec

from coord import errors, limits
from coord.core.archive import (
    RELATIONS,
    Action,
    Due,
    File,
    Manifest,
    Piece,
    Relation,
    Step,
    aside,
    manifest_path,
    next_step,
    plan,
    purgeable,
)
from coord.store.archive import parquet, pieces
from coord.store.archive.export import Source, exported
from coord.store.archive.files import Files
from coord.store.config import ArchiveConfig
from coord.store.pool import Pool

_WITH_OTHERS: Final = frozenset({"writing", "verified", "restored"})
"""States in which it matters what else was restored into the chunk."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """One step that was taken with one piece."""

    step: Step
    piece: Piece
    """As it is after it."""
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did."""

    done: tuple[Done, ...]
    problems: tuple[errors.CoordError, ...]
    """What is wrong with single pieces; they stay as they are, and their rows in the table."""
    seconds: float

    def rows(self, step: Step) -> int:
        """Rows of the pieces with which a step was taken."""
        return sum(d.piece.rows or 0 for d in self.done if d.step == step)


Told = Callable[[Done], Awaitable[None]]


def due(config: ArchiveConfig) -> Due:
    """The ages of the settings."""
    days = [None if d is None else timedelta(days=d) for d in (config.drop_days, config.keep_days)]
    return Due(after=timedelta(days=config.after_days), drop=days[0], keep=days[1])


async def planned(pool: Pool, config: ArchiveConfig, relation: Relation) -> list[Action]:
    """What a run would do first with each chunk of a table; changes nothing."""
    async with pool.acquire() as conn:
        now = await pieces.clock(conn)
        return plan(
            relation,
            await pieces.spans(conn, relation),
            await pieces.listed(conn, relation),
            now=now,
            due=due(config),
        )


async def run(
    pool: Pool,
    config: ArchiveConfig,
    *,
    files: Files | None = None,
    relations: Sequence[Relation] = RELATIONS,
    told: Told | None = None,
    at_once: int = 1,
) -> Report:
    """Write, verify and drop what is due.  `told` is awaited after each step.

    Takes a connection of `pool` for the whole run and, beside the pool, one for each chunk that is worked on `at_once`:
    with two the server sorts the next chunk while this one is read back.  Raises `ArchiveBusy` when another
    process is at it, `ArchiveUnavailable` or `DatabaseUnavailable` when nothing can be done now.
    """
    async with _working(pool, config, files, told) as work:
        for relation in relations:
            await work.perform_all(await planned(pool, config, relation), at_once)
    return work.report()


async def purge(pool: Pool, config: ArchiveConfig, *, files: Files | None = None, told: Told | None = None) -> Report:
    """Remove the files of chunks that were dropped and are older than `keep_days`."""
    async with _working(pool, config, files, told) as work:
        for piece in await purged_next(pool, config):
            await work.purge(piece)
    return work.report()


async def purged_next(pool: Pool, config: ArchiveConfig) -> list[Piece]:
    """The pieces that `purge` would remove now; changes nothing."""
    async with pool.acquire() as conn:
        return purgeable(await pieces.listed(conn), now=await pieces.clock(conn), due=due(config))


async def verify(pool: Pool, config: ArchiveConfig, *, files: Files | None = None, told: Told | None = None) -> Report:
    """Read back every file of the archive; `problems` names each that is not what was written.  Changes nothing."""
    started = time.monotonic()
    files = files if files is not None else Files.open(config)
    done: list[Done] = []
    problems: list[errors.CoordError] = []
    async with pool.acquire() as conn:
        listed = [p for p in await pieces.listed(conn) if p.state in {"verified", "dropped", "restored"}]
    for piece in listed:
        began = time.monotonic()
        async with pool.acquire() as conn:
            known = await pieces.files_of(conn, piece)
        found = [e for file in known if (e := await asyncio.to_thread(_fault, files, piece.relation, file)) is not None]
        problems += found
        if not found:
            done.append(Done(step="verify", piece=piece, seconds=time.monotonic() - began))
            if told is not None:
                await told(done[-1])
    return Report(done=tuple(done), problems=tuple(problems), seconds=time.monotonic() - started)


def _fault(files: Files, relation: Relation, file: File) -> errors.CoordError | None:
    try:
        parquet.verify(files, relation, file)
    except errors.ArchiveCorrupted as exc:
        return exc
    return None


@contextlib.asynccontextmanager
async def _working(pool: Pool, config: ArchiveConfig, files: Files | None, told: Told | None) -> AsyncIterator[_Run]:
    """A run, alone on this database."""
    config.validate()
    if files is None:
        files = await asyncio.to_thread(Files.open, config)
    source = Source(pool.config)
    try:
        async with pieces.locked(pool):
            yield _Run(pool, source, config, files, told)
    finally:
        await asyncio.to_thread(source.close)


class _Run:
    """One run: the steps, each of which may be repeated after a crash in the middle of it."""

    def __init__(self, pool: Pool, source: Source, config: ArchiveConfig, files: Files, told: Told | None) -> None:
        self._pool = pool
        self._source = source
        self._config = config
        self._files = files
        self._told = told
        self._done: list[Done] = []
        self._problems: list[errors.CoordError] = []
        self._started = time.monotonic()

    def report(self) -> Report:
        """What was done so far."""
        return Report(done=tuple(self._done), problems=tuple(self._problems), seconds=time.monotonic() - self._started)

    async def perform_all(self, actions: Sequence[Action], at_once: int) -> None:
        """Go through what is due, the oldest first; pieces of one span one after the other."""
        spans = iter([list(same) for _, same in itertools.groupby(actions, key=lambda action: action.span)])

        async def work() -> None:
            for same in spans:  # whoever is free takes the next one
                for action in same:
                    await self.perform(action)

        workers = [asyncio.ensure_future(work()) for _ in range(at_once)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)

    async def perform(self, action: Action) -> None:
        """Take a piece as far as it can go now."""
        try:
            async with self._pool.acquire() as conn:
                if action.piece is None:
                    piece = await pieces.begin(conn, action.relation, action.span)
                else:
                    piece = await pieces.read(conn, action.piece)  # what was done with others may have moved it
            await self._forward(piece)
        except (errors.ArchiveCorrupted, errors.ArchiveMismatch) as exc:
            self._problems.append(exc)

    async def _forward(self, piece: Piece) -> None:
        last_attempt = piece.attempt + limits.ARCHIVE_ATTEMPTS_MAX
        while (step := await self._next(piece)) is not None:
            began = time.monotonic()
            try:
                after = await self._step(step, piece)
            except errors.ArchiveCorrupted:
                if step == "drop" or piece.attempt >= last_attempt:
                    raise
                after = await self._again(piece)
            else:
                if after.state != "writing":  # late rows: it was not dropped, it is written again
                    await self._note(step, after, began)
            piece = after

    async def _next(self, piece: Piece) -> Step | None:
        async with self._pool.acquire() as conn:
            now = await pieces.clock(conn)
            others = await pieces.listed(conn, piece.relation) if piece.state in _WITH_OTHERS else []
        return next_step(piece, others, now=now, due=due(self._config))

    async def _step(self, step: Step, piece: Piece) -> Piece:
        steps: dict[Step, Callable[[Piece], Awaitable[Piece]]] = {
            "write": self._write,
            "publish": self._publish,
            "verify": self._verify,
            "drop": self._drop,
            "purge": self._remove,
        }
        return await steps[step](piece)

    # --- the steps -----------------------------------------------------------------------

    async def _write(self, piece: Piece) -> Piece:
        """Export the chunk into files aside.  What an attempt before left is removed first."""
        await self._clear(piece)
        files, seq_sum = await export(self._source, self._files, piece)
        if files:
            return await pieces.written(self._pool, piece, files, seq_sum, await self._within(piece, files))
        # Nothing in it: the empty chunk goes, and there is no piece.
        async with self._pool.acquire() as conn:
            piece = await pieces.advance(conn, piece, "purged")
        await pieces.drop(self._pool, piece.relation, piece.span)
        return piece

    async def _within(self, piece: Piece, files: Sequence[File]) -> list[Piece]:
        """Other pieces that were restored into the chunk while this one was not written yet: a part of it now."""
        async with self._pool.acquire() as conn:
            listed = await pieces.listed(conn, piece.relation)
        others = [p for p in listed if p.piece != piece.piece and p.state == "restored" and p.span == piece.span]
        rows, restored = sum(file.rows for file in files), sum(p.rows or 0 for p in others)
        if rows < restored:  # their files are all that is left of some
            raise errors.ArchiveMismatch(
                f"the {piece} has {rows} rows, and {restored} were restored into its chunk", piece=piece.piece
            )
        return others

    async def _publish(self, piece: Piece) -> Piece:
        """Give the files their names, then write the manifest beside them."""
        known = await self._known(piece)
        await asyncio.to_thread(self._publish_files, piece, known)
        async with self._pool.acquire() as conn:
            return await pieces.advance(conn, piece, "published")

    def _publish_files(self, piece: Piece, known: Sequence[File]) -> None:
        for file in known:
            if self._files.size(file.path) == file.bytes:
                continue  # by whoever crashed here
            source = parquet.aside_path(piece, file.number)
            if self._files.size(source) != file.bytes:
                raise errors.ArchiveCorrupted(f"{source} is not as it was written", path=source)
            self._files.move(source, file.path)
        self._files.sync_names(file.path for file in known)
        manifest = Manifest(
            relation=piece.relation,
            piece=piece.piece,
            start=piece.start,
            end=piece.end,
            rows=sum(file.rows for file in known),
            files=tuple(known),
        )
        with self._files.create(manifest_path(piece)) as sink:
            sink.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        self._files.remove_folder(aside(piece))

    async def _verify(self, piece: Piece) -> Piece:
        """Read all of it back."""
        for file in await self._known(piece):
            await asyncio.to_thread(parquet.verify, self._files, piece.relation, file)
        async with self._pool.acquire() as conn:
            return await pieces.advance(conn, piece, "verified")

    async def _drop(self, piece: Piece) -> Piece:
        """Drop the chunk, if the files are there and it has no other rows than they."""
        known = await self._known(piece)
        await asyncio.to_thread(self._still_there, known)
        verdict, difference = await pieces.drop(self._pool, piece.relation, piece.span)
        if verdict == "same":
            return msgspec.structs.replace(piece, state="dropped", restored_until=None)
        if verdict == "late":
            return await self._again(piece)
        raise errors.ArchiveMismatch(f"the {piece} has other rows than were archived: {difference}", piece=piece.piece)

    def _still_there(self, known: Sequence[File]) -> None:
        for file in known:
            if self._files.size(file.path) != file.bytes:
                raise errors.ArchiveCorrupted(f"{file.path} is not there any more as it was verified", path=file.path)

    async def _again(self, piece: Piece) -> Piece:
        """Write the whole chunk anew; other pieces that were restored into it are a part of it then."""
        async with self._pool.transaction(limits.ARCHIVE_DROP_S) as conn:
            fresh = await pieces.again(conn, piece)
            for other in await pieces.listed(conn, piece.relation):
                if other.piece != piece.piece and other.state == "restored" and other.span == piece.span:
                    await pieces.advance(conn, other, "purging")
        return fresh

    async def purge(self, piece: Piece) -> None:
        """Remove a dropped piece's files."""
        async with self._pool.acquire() as conn:
            piece = await pieces.advance(conn, piece, "purging")
        began = time.monotonic()
        await self._note("purge", await self._remove(piece), began)

    async def _remove(self, piece: Piece) -> Piece:
        await self._clear(piece)
        async with self._pool.acquire() as conn:
            return await pieces.advance(conn, piece, "purged")

    async def _clear(self, piece: Piece) -> None:
        """Remove the files that are known and what lies aside; the manifest first, which would promise them."""
        known = await self._known(piece)
        await asyncio.to_thread(self._remove_files, piece, known)
        if known:
            async with self._pool.acquire() as conn:
                await pieces.forget_files(conn, piece)

    def _remove_files(self, piece: Piece, known: Sequence[File]) -> None:
        self._files.remove(manifest_path(piece))
        for file in known:
            self._files.remove(file.path)
        self._files.remove_folder(aside(piece))

    async def _known(self, piece: Piece) -> list[File]:
        async with self._pool.acquire() as conn:
            return await pieces.files_of(conn, piece)

    async def _note(self, step: Step, piece: Piece, began: float) -> None:
        done = Done(step=step, piece=piece, seconds=time.monotonic() - began)
        self._done.append(done)
        if self._told is not None:
            await self._told(done)


async def export(source: Source, files: Files, piece: Piece) -> tuple[list[File], int]:
    """The rows of a piece's span into files aside; the files, and the sum of seq."""
    return await exported(source, piece, lambda batches: parquet.write(files, piece, batches))
