"""A history of which a part is only in the archive is one history."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coord import errors, limits
from coord.core.past import Point
from coord.projector import rebuild
from coord.projector.rebuild import Rebuilder
from coord.store.archive import cold, run
from coord.store.archive.files import Files
from coord.store.config import ArchiveConfig, DatabaseConfig
from coord.store.pool import Pool
from tests.support import archive
from tests.support.cluster import Database
from tests.support.rebuilding import History, differing, project, tables, unequal
from tests.support.store import pool_of


def soon(folder: Path, **fields: object) -> ArchiveConfig:
    """An archive that takes and drops what is a quarter of an hour old, by the broker's clock."""
    return archive.config(folder, **({"after_days": 0.01, "drop_days": 0.01} | fields))


@pytest.fixture
async def pool(migrated_database: Database) -> AsyncIterator[Pool]:
    async with pool_of(migrated_database.url) as pool:
        yield pool


@pytest.fixture
async def rebuilder(migrated_database: Database, tmp_path: Path) -> AsyncIterator[Rebuilder]:
    async with rebuild.pools(DatabaseConfig(url=migrated_database.url)) as (writer, reader):
        yield Rebuilder(writer, reader, files=Files.open(archive.config(tmp_path)))


async def test_cold_and_hot_are_one_history(
    pool: Pool, rebuilder: Rebuilder, rng: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some is in files only, some in both, some in the table only."""
    monkeypatch.setattr(limits, "REBUILD_BATCH_ROWS", 70)
    monkeypatch.setattr(limits, "REBUILD_SLICE_ROWS", 150)
    history = History(rng)
    await project(pool, history.facts(900))
    assert not (await run.run(pool, soon(tmp_path))).problems
    await project(pool, history.facts(300))
    await run.run(pool, soon(tmp_path, drop_days=None, keep_days=None))
    await project(pool, history.facts(200))
    async with pool.acquire() as conn:
        hot = await conn.fetchval("SELECT count(*) FROM coord.event")
        cold = await conn.fetchval("SELECT count(*) FROM coord.v_archive WHERE state = 'dropped'")
    assert cold
    assert 200 < hot < 1200
    before = await tables(pool)
    await rebuilder.begin()
    made = await rebuilder.build()
    assert not made.carried
    assert not made.refused
    assert unequal(await rebuilder.compare()) == [], await differing(pool)
    await rebuilder.swap()
    assert await tables(pool) == before


async def test_chunks_that_leave_right_after_the_archive_was_listed_are_read(
    pool: Pool, rebuilder: Rebuilder, rng: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await project(pool, History(rng).facts(900))
    monkeypatch.setattr(limits, "ARCHIVE_LOCK_S", 0.2)
    listed = cold.listed
    asked = 0

    async def then_dropped(*args: Any, overlapping: bool = False, **fields: Any) -> list[cold.ColdFile]:
        nonlocal asked
        found = await listed(*args, overlapping=overlapping, **fields)
        if overlapping:
            asked += 1
            with contextlib.suppress(errors.DatabaseUnavailable):  # somebody reads a chunk: it stays
                await run.run(pool, soon(tmp_path))
        return found

    monkeypatch.setattr(cold, "listed", then_dropped)
    await rebuilder.begin()
    await rebuilder.build()
    assert asked
    assert unequal(await rebuilder.compare()) == [], await differing(pool)


async def test_only_what_was_heard_of_since_a_time_in_the_archive(
    pool: Pool, rebuilder: Rebuilder, rng: random.Random, tmp_path: Path
) -> None:
    history = History(rng, ids=60)
    await project(pool, history.facts(300))
    seq = history.seq
    await project(pool, history.facts(200))
    assert not (await run.run(pool, soon(tmp_path))).problems
    await project(pool, history.facts(30))
    async with pool.acquire() as conn:
        await conn.execute("UPDATE coord.task SET claims = 77")
        older = await conn.fetchval("SELECT count(*) FROM coord.task WHERE seq <= $1", seq)
        every = await conn.fetchval("SELECT count(*) FROM coord.task")
    assert 0 < older < every
    await rebuilder.begin(Point(seq=seq + 1))
    assert (await rebuilder.build()).carried
    (found,) = unequal(await rebuilder.compare())
    assert found.relation == "task"
    assert every - older <= found.differ < every, "what was heard of, and not believed, is among them"


async def test_a_file_that_cannot_be_read_is_named_and_nothing_is_lost(
    pool: Pool, rebuilder: Rebuilder, rng: random.Random, tmp_path: Path
) -> None:
    await project(pool, History(rng).facts(900))  # nine hours or more: a chunk is over for certain
    assert not (await run.run(pool, soon(tmp_path))).problems
    broken = max((path for path in tmp_path.rglob("*.parquet") if "task" in str(path)), key=str)
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    await rebuilder.begin()
    with pytest.raises(errors.ArchiveCorrupted, match=broken.name):
        await rebuilder.build()
    broken.write_bytes(whole)
    assert await rebuilder.begin()
    await rebuilder.build()
    assert unequal(await rebuilder.compare()) == [], await differing(pool)
