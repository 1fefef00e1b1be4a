"""The archive in an S3-compatible store, under a process that is really killed, and from the command line."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pytest

from coord import errors
from coord.store.archive import run
from coord.store.archive.files import Files
from tests.support import archive, forking
from tests.support.archive import BEGIN, config
from tests.support.cli import cli
from tests.support.pages import command_lines, pages, words
from tests.support.s3 import s3_store
from tests.support.store import event, pool_of
from tests.support.waiting import until


async def test_in_an_s3_compatible_store(migrated_database, tmp_path: Path) -> None:
    facts = archive.rows(12)
    with s3_store() as store:
        settings = config(store.url)
        async with pool_of(migrated_database.url) as pool:
            await archive.fill(pool, facts)

            # It is full when the first file gets its name: nothing is lost, and nobody sees half a chunk.
            store.fail = lambda method, key: 507 if method == "PUT" and "tenant=" in key else None
            with pytest.raises(errors.ArchiveUnavailable):
                await run.run(pool, settings)
            assert await archive.in_table(pool) == archive.places(facts)
            assert not [key for key in store.objects if key.startswith("archive/event/tenant=")]
            store.fail = lambda _method, _key: None

            report = await run.run(pool, settings)
            assert report.problems == ()
            assert await archive.in_table(pool) == {}
            files = Files.open(settings)
            assert await archive.cold_rows(pool, files) == facts
            table = ds.dataset(f"{files.root}/event", filesystem=files.filesystem, partitioning="hive").to_table()
            assert sorted(table.column("seq").to_pylist()) == sorted(row[2] for row in facts)

            # A byte that rots in the store is found.
            [key, *_] = sorted(key for key in store.objects if key.endswith(".parquet"))
            body = bytearray(store.objects[key])
            body[len(body) // 2] ^= 1
            store.objects[key] = bytes(body)
            [problem] = (await run.verify(pool, settings)).problems
            assert f"archive/{problem.details['path']}" == key

            assert (await run.purge(pool, config(store.url, keep_days=2))).rows("purge") == len(facts)
            assert not [key for key in store.objects if key.endswith((".parquet", ".json"))]


_VICTIM = """
import asyncio, sys
from coord import errors
from coord.store.archive import run
from tests.support.archive import Mortal, config
from tests.support.store import pool_of

async def main(url, folder, dies_at):
    files = Mortal.open(config(folder))
    files.dies_at, files.after, files.exits = dies_at, True, True
    async with pool_of(url) as pool:
        while True:
            try:
                return await run.run(pool, config(folder), files=files)
            except errors.ArchiveBusy:
                await asyncio.sleep(0.01)  # the server has not noticed yet that the one before is gone

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_a_process_that_ends_in_the_middle(migrated_database, tmp_path: Path) -> None:
    facts = archive.rows(8, tenants=1, kinds=2)
    async with pool_of(migrated_database.url) as pool:
        await archive.fill(pool, facts)
        for dies_at in (2, 6, 9):
            victim = await forking.python("-c", _VICTIM, migrated_database.url, tmp_path, str(dies_at))
            assert await victim.wait() == 9
            there = await archive.in_table(pool) + await archive.cold(pool, Files.open(config(tmp_path)))
            assert there == archive.places(facts)

        async def free() -> bool:
            try:
                report = await run.run(pool, config(tmp_path))
            except errors.ArchiveBusy:
                return False  # the server has not noticed yet that its client is gone
            assert report.problems == ()
            return True

        await until(free)
        assert await archive.in_table(pool) == {}
        assert len(archive.seen_by_duckdb(tmp_path)) == len(facts)


async def test_the_documented_question_over_hot_and_cold(
    migrated_database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COORD_DATABASE_URL", migrated_database.url)
    facts = archive.rows(60)
    async with pool_of(migrated_database.url) as pool:
        await archive.fill(pool, facts)
        # The first chunk is dropped, the second is in files and in the table, what is new is in the table only.
        await run.run(pool, config(tmp_path / "archive"))
        new = [event(9_000 + n, at=BEGIN + timedelta(days=3, hours=6 * n), tenant="acme") for n in range(3)]
        await archive.fill(pool, new[:2])
        await run.run(pool, config(tmp_path / "archive", drop_days=80_000))
        await archive.fill(pool, new[2:])
    blocks = list(pages()["docs/howto/archive.md"].blocks())
    [export] = [line for b in blocks if b.language == "sh" for line in command_lines(b.text) if "hot.parquet" in line]
    [question] = [b.text for b in blocks if b.text.startswith("-- DuckDB")]

    for tenant in ("acme", "tenant0"):
        assert (await cli(*words(export.replace("acme", tenant))[1:])).code == 0
        sql = question.replace("/var/lib/coord/archive", str(tmp_path / "archive")).replace("acme", tenant)
        asked = duckdb.sql(sql)
        assert asked is not None
        expected = Counter((row[0].date(), row[8], row[10]) for row in facts + new if row[5] == tenant)
        assert {tuple(row[:3]): row[3] for row in asked.fetchall()} == expected


async def test_from_the_command_line(migrated_database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "archive"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COORD_DATABASE_URL", migrated_database.url)
    for name, value in {"URL": str(home), "AFTER_DAYS": "1", "DROP_DAYS": "1", "KEEP_DAYS": "2"}.items():
        monkeypatch.setenv(f"COORD_ARCHIVE_{name}", value)
    facts = archive.rows(20, step=timedelta(minutes=30))
    async with pool_of(migrated_database.url) as pool:
        await archive.fill(pool, facts)

        dry = await cli("db", "archive", "run", "--dry-run", "-o", "json")
        assert {row["step"] for row in dry.json} == {"begin"}
        assert not home.exists()

        ran = await cli("db", "archive", "run", "-o", "json")
        assert ran.code == 0, ran.err
        assert ran.json["rows"]["drop"] == 20
        assert "drop event of 2026-01-01 00:00" in ran.err
        assert await archive.in_table(pool) == {}

        pieces = (await cli("db", "archive", "ls", "--cold", "-o", "json")).json
        assert sum(row["rows"] for row in pieces) == 20
        files = (await cli("db", "archive", "ls", "--files", "-o", "json")).json
        assert all(Path(row["path"]).stat().st_size == row["bytes"] for row in files)

        times = ("--since", BEGIN.isoformat(), "--until", (BEGIN + timedelta(hours=1)).isoformat())
        would = (await cli("db", "archive", "restore", *times, "--dry-run", "-o", "json")).json
        assert [row["state"] for row in would] == ["dropped"]
        assert (await cli("db", "archive", "restore", *times, "--keep", "0")).code == 0
        assert 0 < len(await archive.in_table(pool)) < 20
        assert (await cli("db", "archive", "run")).code == 0

        assert (await cli("db", "archive", "verify")).code == 0
        path = Path(files[0]["path"])
        path.write_bytes(path.read_bytes()[:-1])
        damaged = await cli("db", "archive", "verify", "-o", "json")
        assert damaged.code == 3
        assert path.name in damaged.err
        assert path.name in damaged.json["problems"][0]

        would = (await cli("db", "archive", "purge", "--dry-run", "-o", "json")).json
        assert sum(row["rows"] for row in would) == 20
        assert path.exists()
        assert (await cli("db", "archive", "purge")).code == 0
        assert not list(home.rglob("*.parquet"))
    monkeypatch.delenv("COORD_ARCHIVE_URL")
    none = await cli("db", "archive", "run")
    assert none.code != 0
    assert "archive.url" in none.err
