"""The archive on real databases: what is in Parquet equals the table, and no crash loses or doubles a row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from coord import errors, limits
from coord.core.archive import Manifest, Piece
from coord.store import copy, migrations
from coord.store.archive import cold, files, pieces, restore, run
from coord.store.archive.cold import Wanted
from coord.store.archive.files import Files
from coord.store.config import AgesConfig, ArchiveConfig, DatabaseConfig
from coord.store.pool import Pool
from tests.support import archive
from tests.support.archive import BEGIN, Full, Killed, Mortal, config
from tests.support.cluster import Database
from tests.support.store import event, pool_of


@pytest.fixture
async def pool(either_database: Database) -> AsyncIterator[Pool]:
    async with pool_of(either_database.url) as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path) -> Files:
    return Files.open(config(tmp_path))


async def states(pool: Pool) -> list[str]:
    async with pool.acquire() as conn:
        return [piece.state for piece in await pieces.listed(conn)]


async def listed(pool: Pool) -> list[Piece]:
    async with pool.acquire() as conn:
        return await pieces.listed(conn)


async def test_every_row_leaves_as_it_was_and_comes_back_as_it_was(pool: Pool, tmp_path: Path, home: Files) -> None:
    facts = archive.rows(120)
    await archive.fill(pool, facts, samples=50)
    before = await archive.everything(pool)

    report = await run.run(pool, config(tmp_path))

    assert report.problems == ()
    assert set(await states(pool)) == {"dropped"}
    assert report.rows("verify") == report.rows("drop") == 170
    assert await archive.everything(pool) == []
    assert await archive.cold_rows(pool, home) == facts == sorted(facts, key=lambda row: row[1:4])
    assert (await run.run(pool, config(tmp_path))).done == ()

    back = await restore.restore(
        pool, config(tmp_path), since=BEGIN, until=BEGIN + timedelta(days=9), keep=timedelta(days=1)
    )
    assert back.rows("restore") == 120
    assert await archive.everything(pool) == before
    assert await archive.cold_rows(pool, home) == []
    # They stay, and leave again without being written a second time.
    assert (await run.run(pool, config(tmp_path))).done == ()
    async with pool.acquire() as conn:
        await conn.execute(
            "UPDATE coord.archive SET restored_until = now() - interval '1 second' WHERE state = 'restored'"
        )
    again = await run.run(pool, config(tmp_path))
    assert {done.step for done in again.done} == {"drop"}
    assert await archive.cold_rows(pool, home) == facts


async def test_duckdb_and_pyarrow_read_it_as_it_is(pool: Pool, tmp_path: Path) -> None:
    facts = archive.rows(120)
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path))

    expected = [(row[5], row[0].date(), row[8], *row[1:4]) for row in facts]
    assert archive.seen_by_duckdb(tmp_path) == expected

    parts = ds.partitioning(
        pa.schema([("tenant", pa.string()), ("day", pa.date32()), ("kind", pa.string())]), flavor="hive"
    )
    table = (
        ds.dataset(tmp_path / "event", partitioning=parts)
        .to_table()
        .sort_by([("epoch", "ascending"), ("seq", "ascending"), ("idx", "ascending")])
    )
    assert table.select(["tenant", "day", "kind", "epoch", "seq", "idx"]).to_pylist() == [
        dict(zip(("tenant", "day", "kind", "epoch", "seq", "idx"), row, strict=True)) for row in expected
    ]
    assert table.column("data").to_pylist() == [row[-1] for row in facts]
    # And without a word about folders, too.
    assert ds.dataset(tmp_path / "event", partitioning="hive").count_rows() == len(facts)


async def test_the_manifest_beside_the_files_says_what_the_database_says(pool: Pool, tmp_path: Path) -> None:
    import msgspec

    await archive.fill(pool, archive.rows(40))
    await run.run(pool, config(tmp_path))
    for piece in await listed(pool):
        async with pool.acquire() as conn:
            files = await pieces.files_of(conn, piece)
        [path] = tmp_path.glob(f"event/_manifest/*-{piece.piece}.json")
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        assert manifest.files == tuple(files)
        assert manifest.rows == piece.rows == sum(file.rows for file in files)
        for file in files:
            assert home_of(tmp_path).sha256(file.path) == file.sha256
            assert (tmp_path / file.path).stat().st_size == file.bytes


def home_of(folder: Path) -> Files:
    return Files.open(config(folder))


async def test_what_is_not_old_enough_stays(pool: Pool, tmp_path: Path) -> None:
    await archive.fill(pool, archive.rows(40))
    assert (await run.run(pool, config(tmp_path, after_days=90_000, drop_days=None, keep_days=None))).done == ()
    assert await states(pool) == []
    # Written and verified, but not old enough to be dropped.
    report = await run.run(pool, config(tmp_path, drop_days=90_000))
    assert {done.step for done in report.done} == {"write", "publish", "verify"}
    assert set(await states(pool)) == {"verified"}
    assert len(await archive.everything(pool)) == 40
    assert await archive.cold_rows(pool, home_of(tmp_path)) == []


async def test_old_is_what_both_clocks_call_old(pool: Pool, tmp_path: Path) -> None:
    """The database's clock is years ahead of the broker's: nothing is old by the broker's."""
    await archive.fill(pool, archive.rows(40))
    async with pool.acquire() as conn:
        await conn.execute(
            "INSERT INTO coord.checkpoint (stream_created, stored_at, seq, epoch, partition, stream)"
            " VALUES ($1, $2, 40, 1, 3, 'EVENTS')",
            BEGIN,
            BEGIN + timedelta(hours=5),
        )
    assert (await run.run(pool, config(tmp_path))).done == ()


# --- late rows, and rows that somebody removed -------------------------------------------------


async def test_rows_that_came_late_are_written_too_before_the_chunk_goes(pool: Pool, tmp_path: Path) -> None:
    facts = archive.rows(60)
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path, drop_days=90_000))
    late = [
        event(1_000 + n, at=BEGIN + timedelta(hours=1, seconds=n), tenant="tenant0", kind="kind9") for n in range(5)
    ]
    await archive.fill(pool, late)

    report = await run.run(pool, config(tmp_path))

    assert report.problems == ()
    assert await archive.cold(pool, home_of(tmp_path)) == archive.places(facts + late)
    assert len(archive.seen_by_duckdb(tmp_path)) == 65
    assert await archive.in_table(pool) == {}


async def test_rows_that_come_after_the_chunk_went_are_a_piece_of_their_own(pool: Pool, tmp_path: Path) -> None:
    facts = archive.rows(60)
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path))
    late = [event(1_000 + n, at=BEGIN + timedelta(hours=1, seconds=n)) for n in range(5)]
    await archive.fill(pool, late)
    await run.run(pool, config(tmp_path))
    assert await archive.cold(pool, home_of(tmp_path)) == archive.places(facts + late)

    # Both come back into one chunk, with more late rows: all of it becomes one piece.
    await restore.restore(pool, config(tmp_path), since=BEGIN, until=BEGIN + timedelta(hours=2), keep=timedelta())
    later = [event(2_000, at=BEGIN + timedelta(hours=2))]
    await archive.fill(pool, later)
    report = await run.run(pool, config(tmp_path))
    assert report.problems == ()
    assert await archive.in_table(pool) == {}
    assert await archive.cold(pool, home_of(tmp_path)) == archive.places(facts + late + later)
    assert len(archive.seen_by_duckdb(tmp_path)) == 66


async def test_what_was_restored_beside_a_piece_that_is_not_written_yet_is_a_part_of_it(
    pool: Pool, tmp_path: Path, home: Files
) -> None:
    facts = archive.rows(40)
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path))
    late = [event(1_000 + n, at=BEGIN + timedelta(hours=1, seconds=n), epoch=2) for n in range(5)]
    await archive.fill(pool, late)
    mortal = Mortal.open(config(tmp_path))
    assert isinstance(mortal, Mortal)
    mortal.dies_at = 1
    with pytest.raises(Killed):
        await run.run(pool, config(tmp_path), files=mortal)
    assert "writing" in await states(pool)
    until, keep = BEGIN + timedelta(hours=6), timedelta(days=1)
    await restore.restore(pool, config(tmp_path), since=BEGIN, until=until, keep=keep)
    assert (await run.run(pool, config(tmp_path))).done == (), "what was restored stays its time"
    async with pool.acquire() as conn:
        await conn.execute("UPDATE coord.archive SET restored_until = now() WHERE state = 'restored'")
    # Old enough to be written, not to be dropped; then that, too.
    for drop in ({"drop_days": 90_000}, {}):
        report = await run.run(pool, config(tmp_path, **drop))
        assert report.problems == ()
    assert await archive.in_table(pool) == {}
    assert await archive.cold_rows(pool, home) == facts + late
    assert set(await states(pool)) == {"dropped"}
    assert len(archive.seen_by_duckdb(tmp_path)) == 45


async def test_what_was_restored_into_chunks_with_other_bounds_leaves_again(
    pool: Pool, tmp_path: Path, home: Files
) -> None:
    facts = archive.rows(120)
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path))
    async with pool.acquire() as conn:
        if await conn.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"):
            await conn.execute("SELECT set_chunk_time_interval('coord.event', INTERVAL '12 hours')")
    since, until = BEGIN, BEGIN + timedelta(hours=6)
    for ends in (until, until + timedelta(hours=6)):
        await restore.restore(pool, config(tmp_path), since=since, until=ends, keep=timedelta())
        report = await run.run(pool, config(tmp_path))
        assert report.problems == ()
        assert report.rows("drop") > 0
        assert await archive.in_table(pool) == {}
        assert await archive.cold_rows(pool, home) == facts
    assert set(await states(pool)) == {"dropped"}


async def test_what_would_lie_beside_rows_of_another_piece_is_not_restored(
    pool: Pool, tmp_path: Path, home: Files
) -> None:
    """Chunks were made longer, and late rows came into one: it would be written with what is restored into it."""
    facts, late = archive.rows(60), [event(1_000, at=BEGIN + timedelta(hours=1), epoch=2)]
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path))
    async with pool.acquire() as conn:
        if not await conn.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"):
            pytest.skip("spans have the same bounds always")
        await conn.execute("SELECT set_chunk_time_interval('coord.event', INTERVAL '12 hours')")
    await archive.fill(pool, late)
    await run.run(pool, config(tmp_path, drop_days=90_000))
    assert "verified" in await states(pool)
    until = BEGIN + timedelta(hours=6)
    with pytest.raises(errors.ArchiveOverlap):
        await restore.restore(pool, config(tmp_path), since=BEGIN, until=until, keep=timedelta())
    assert (await run.run(pool, config(tmp_path))).problems == ()
    assert await archive.cold_rows(pool, home) == facts + late
    assert len(archive.seen_by_duckdb(tmp_path)) == 61


async def test_a_chunk_that_lost_rows_is_neither_dropped_nor_written_again(pool: Pool, tmp_path: Path) -> None:
    facts = archive.rows(60)
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path, drop_days=90_000))
    async with pool.acquire() as conn:
        await conn.execute("DELETE FROM coord.event WHERE seq = 3")
    report = await run.run(pool, config(tmp_path))
    assert [type(problem) for problem in report.problems] == [errors.ArchiveMismatch]
    assert len(archive.seen_by_duckdb(tmp_path)) == 60
    left = await archive.in_table(pool)
    assert 0 < len(left) < 60


# --- faults ------------------------------------------------------------------------------------


async def whole(pool: Pool, folder: Path, facts: list) -> None:
    """Every row is there once: in the table, or in the archive."""
    assert await archive.in_table(pool) + await archive.cold(pool, home_of(folder)) == archive.places(facts)


@pytest.mark.parametrize(
    ("either_database", "after"),
    [("server", False), ("plain", True)],
    indirect=["either_database"],
    ids=["server-before", "plain-after"],
)
async def test_a_crash_at_any_step_neither_loses_nor_doubles(pool: Pool, tmp_path: Path, after: bool) -> None:
    facts = archive.rows(8, tenants=1, kinds=2, step=timedelta(hours=1))
    dies_at = 0
    while True:
        dies_at += 1
        async with pool.acquire() as conn:
            await conn.execute("DELETE FROM coord.archive_file")
            await conn.execute("DELETE FROM coord.archive")
            await conn.execute("TRUNCATE coord.event")
        folder = tmp_path / str(dies_at)
        folder.mkdir()
        await archive.fill(pool, facts)
        mortal = Mortal.open(config(folder))
        assert isinstance(mortal, Mortal)
        mortal.dies_at, mortal.after = dies_at, after
        try:
            await run.run(pool, config(folder), files=mortal)
        except Killed:
            pass
        else:
            break  # it has fewer operations than that
        await whole(pool, folder, facts)
        report = await run.run(pool, config(folder))
        assert report.problems == ()
        await whole(pool, folder, facts)
        assert await archive.in_table(pool) == {}
        assert len(archive.seen_by_duckdb(folder)) == len(facts)
        assert not list(folder.glob("_writing/**/*.parquet"))
    assert dies_at > 10


async def test_a_full_disk_costs_nothing(pool: Pool, tmp_path: Path) -> None:
    facts = archive.rows(60)
    await archive.fill(pool, facts)
    full = Full.open(config(tmp_path))
    assert isinstance(full, Full)
    full.bytes_left = 20_000
    with pytest.raises(errors.ArchiveUnavailable, match="No space left"):
        await run.run(pool, config(tmp_path), files=full)
    await whole(pool, tmp_path, facts)
    full.bytes_left = 100_000_000
    await run.run(pool, config(tmp_path), files=full)
    assert await archive.cold(pool, full) == archive.places(facts)


async def test_a_corrupted_file_is_found_and_named(pool: Pool, tmp_path: Path) -> None:
    await archive.fill(pool, archive.rows(60))
    await run.run(pool, config(tmp_path))
    assert (await run.verify(pool, config(tmp_path))).problems == ()
    paths = sorted(tmp_path.glob("event/tenant=*/*/*/*.parquet"))
    body = bytearray(paths[0].read_bytes())
    body[len(body) // 2] ^= 1
    paths[0].write_bytes(body)
    paths[1].unlink()
    paths[2].write_bytes(paths[2].read_bytes()[:-9])

    report = await run.verify(pool, config(tmp_path))

    named = {problem.details["path"] for problem in report.problems}
    assert named == {str(path.relative_to(tmp_path)) for path in paths[:3]}
    with pytest.raises(errors.ArchiveCorrupted):
        await restore.restore(pool, config(tmp_path), since=BEGIN, until=BEGIN + timedelta(days=9))


async def test_what_was_damaged_before_it_was_read_back_is_written_again(pool: Pool, tmp_path: Path) -> None:
    facts = archive.rows(20, tenants=1, kinds=1, step=timedelta(minutes=1))
    await archive.fill(pool, facts)

    class Flips(Files):
        flipped = False

        def move(self, source: str, target: str) -> None:
            super().move(source, target)
            if not self.flipped:
                self.flipped = True
                path = Path(self.full(target))
                body = bytearray(path.read_bytes())
                body[len(body) // 2] ^= 1
                path.write_bytes(body)

    report = await run.run(pool, config(tmp_path), files=Flips.open(config(tmp_path)))
    assert report.problems == ()
    assert [done.step for done in report.done] == ["write", "publish", "write", "publish", "verify", "drop"]
    assert await archive.cold_rows(pool, home_of(tmp_path)) == facts


async def test_what_is_published_is_on_the_disk_with_all_its_folders(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive.fill(pool, archive.rows(20))
    synced: list[str] = []
    monkeypatch.setattr(files, "_sync", synced.append)
    moved: list[str] = []

    class Watched(Files):
        def move(self, source: str, target: str) -> None:
            assert self.full(source) in synced, "what is in a file, before anybody is told of it"
            super().move(source, target)
            moved.append(self.full(target))
            synced.append("moved")

        def sink(self, path: str) -> Any:
            if path.endswith(".json"):
                after = synced[len(synced) - synced[::-1].index("moved") :]
                folders = {str(f) for file in moved for f in Path(file).parents if f.is_relative_to(self.root)}
                assert folders <= set(after), "names, before the manifest has them"
            return super().sink(path)

    await run.run(pool, config(tmp_path), files=Watched.open(config(tmp_path)))
    assert moved


async def test_a_chunk_is_not_dropped_when_its_files_are_gone(pool: Pool, tmp_path: Path) -> None:
    facts = archive.rows(20)
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path, drop_days=90_000))
    next(tmp_path.glob("event/tenant=*/*/*/*.parquet")).unlink()
    report = await run.run(pool, config(tmp_path))
    assert [type(problem) for problem in report.problems] == [errors.ArchiveCorrupted]
    assert await archive.in_table(pool) != {}


async def test_one_at_a_time(pool: Pool, tmp_path: Path) -> None:
    async with pieces.locked(pool):
        with pytest.raises(errors.ArchiveBusy):
            await run.run(pool, config(tmp_path))
    await run.run(pool, config(tmp_path))


async def test_who_was_overtaken_leaves_the_piece_alone(pool: Pool, tmp_path: Path) -> None:
    await archive.fill(pool, archive.rows(20))
    await run.run(pool, config(tmp_path, drop_days=90_000))
    stale = (await listed(pool))[0]
    async with pool.acquire() as conn:
        await pieces.again(conn, stale)
        with pytest.raises(errors.ArchiveBusy):
            await pieces.advance(conn, stale, "dropped")


# --- reading, purging, settings ------------------------------------------------------------------


async def test_facts_of_one_key_and_of_a_part_of_the_log(pool: Pool, tmp_path: Path, home: Files) -> None:
    facts = archive.rows(150)
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path))
    of_key = [row for row in facts if row[5] == "tenant1" and row[7] == "key3"]
    assert await archive.cold_rows(pool, home, Wanted(tenant="tenant1", key="key3")) == of_key != []
    of_kind = [row for row in facts if row[8] in {"kind0", "kind2"}]
    assert await archive.cold_rows(pool, home, Wanted(kinds=("kind0", "kind2"))) == of_kind
    after, upto = facts[70][1:4], facts[120][1:4]
    assert await archive.cold_rows(pool, home, Wanted(after=after, upto=upto)) == facts[71:121]
    since, until = facts[33][0], facts[130][0]
    assert await archive.cold_rows(pool, home, Wanted(since=since, until=until)) == facts[33:130]
    async with pool.acquire() as conn:
        listed = await cold.listed(conn)
    columns = ("seq", "kind")
    batches = [b for file in listed for b in cold.batches(home, file, Wanted(kinds=("kind1",)), columns=columns)]
    assert sum(batch.num_rows for batch in batches) == 50
    assert {tuple(batch.schema.names) for batch in batches} == {columns}


async def test_what_takes_several_pages_is_read_whole(
    pool: Pool, tmp_path: Path, home: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = archive.rows(60)
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path))
    monkeypatch.setattr(limits, "ARCHIVE_READ_ROWS", 7)
    assert await archive.cold_rows(pool, home) == facts


async def test_purged_files_are_gone_and_others_stay(pool: Pool, tmp_path: Path) -> None:
    await archive.fill(pool, archive.rows(120))
    await run.run(pool, config(tmp_path))
    assert await run.purged_next(pool, config(tmp_path)) == []
    every = len(await listed(pool))
    old = config(tmp_path, keep_days=2)
    assert len(await run.purged_next(pool, old)) == every
    report = await run.purge(pool, old)
    assert len(report.done) == every
    assert await listed(pool) == []
    assert not list(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.rglob("*.json"))


async def test_the_database_knows_that_there_is_an_archive(pool: Pool, tmp_path: Path) -> None:
    url = pool.config.url
    edition = (await asyncio.to_thread(migrations.status, DatabaseConfig(url=url))).edition.name
    database = DatabaseConfig(url=url, edition=edition)

    async def archived() -> bool:
        async with pool.acquire() as conn:
            return bool(await conn.fetchval("SELECT coord.is_archived('event')"))

    assert not await archived()
    secret = ArchiveConfig(url="s3://key:secret@bucket/prefix?region=x")
    await asyncio.to_thread(migrations.migrate, database, AgesConfig(), secret)
    assert await archived()
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT url FROM coord.archive_store") == "s3://bucket/prefix?region=x"
    await asyncio.to_thread(migrations.migrate, database, AgesConfig())
    assert await archived(), "a migrate that knows no archive changes nothing"
    await asyncio.to_thread(migrations.migrate, database, AgesConfig(), ArchiveConfig())
    assert not await archived()


async def test_copied_rows_of_a_reader_who_reads_both_at_different_moments(pool: Pool, tmp_path: Path) -> None:
    facts = archive.rows(20)
    await archive.fill(pool, facts)
    await run.run(pool, config(tmp_path, drop_days=90_000))
    found = [row async for page in cold.facts(pool, home_of(tmp_path), overlapping=True) for row in page]
    assert found == facts
    async with pool.transaction() as conn:
        await copy.events(conn, [])
