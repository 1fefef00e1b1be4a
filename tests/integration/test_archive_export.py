"""Rows on their way out of the database: cancelled, cut off, in silence; how the driver connects."""

from __future__ import annotations

import asyncio
import builtins
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from psycopg import conninfo

from coord import errors, limits
from coord.core.archive import Piece
from coord.store.archive import export, pieces, run
from coord.store.archive.files import Files
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from tests.support import archive
from tests.support.archive import config
from tests.support.cluster import Database
from tests.support.proxy import Proxy
from tests.support.store import pool_of
from tests.support.waiting import until

ASLEEP = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^COPY' AND state = 'active'"


async def piece_of(url: str) -> Piece:
    """A piece that is to be written, of a chunk with facts."""
    async with pool_of(url) as pool:
        await archive.fill(pool, archive.rows(12))
        async with pool.acquire() as conn:
            [span, *_] = await pieces.spans(conn, "event")
            return await pieces.begin(conn, "event", span)


def counted(batches: Any) -> int:
    """What takes them, in a thread."""
    return sum(batch.num_rows for batch in batches)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server needs a minute before the first row."""
    query = export._query

    def sleeping(piece: Piece) -> str:
        return query(piece).replace("WHERE", "WHERE (SELECT pg_sleep(60) IS NOT NULL) AND")

    monkeypatch.setattr(export, "_query", sleeping)


async def at_it(db: asyncpg.Connection, of: str = ASLEEP) -> int:
    """The backend that sends the rows, once it does."""
    found: list[int] = []

    async def copying() -> bool:
        found[:] = [row["pid"] for row in await db.fetch(of)]
        return bool(found)

    await until(copying)
    return found[0]


async def test_cancelled_it_has_ended_here_and_on_the_server(migrated_database: Database, slow: None) -> None:
    piece = await piece_of(migrated_database.url)
    source = export.Source(DatabaseConfig(url=migrated_database.url))
    db = await asyncpg.connect(migrated_database.url)
    try:
        exporting = asyncio.ensure_future(export.exported(source, piece, counted))
        await at_it(db)
        exporting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exporting

        async def over() -> bool:
            return not await db.fetch(ASLEEP)

        await until(over)
    finally:
        await db.close()
        source.close()


async def test_it_takes_only_so_long(migrated_database: Database, slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = await piece_of(migrated_database.url)
    source = export.Source(DatabaseConfig(url=migrated_database.url))
    monkeypatch.setattr(limits, "ARCHIVE_STATEMENT_S", 0.3)
    with pytest.raises(errors.DatabaseUnavailable):
        await export.exported(source, piece, counted)
    source.close()


async def test_a_backend_that_is_ended_costs_an_attempt_and_no_row(
    migrated_database: Database, tmp_path: Path, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = archive.rows(12)
    async with pool_of(migrated_database.url) as pool:
        await archive.fill(pool, facts)
        db = await asyncpg.connect(migrated_database.url)
        running = asyncio.ensure_future(run.run(pool, config(tmp_path)))
        await db.execute("SELECT pg_terminate_backend($1)", await at_it(db))
        with pytest.raises(errors.DatabaseUnavailable):
            await running
        await db.close()
        assert await archive.in_table(pool) == archive.places(facts)

        monkeypatch.undo()
        report = await run.run(pool, config(tmp_path))
        assert report.problems == ()
        assert await archive.cold_rows(pool, Files.open(config(tmp_path))) == facts


async def test_a_server_that_says_nothing_keeps_nobody(
    migrated_database: Database, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = await piece_of(migrated_database.url)
    address = urlsplit(migrated_database.url)
    monkeypatch.setattr(limits, "ARCHIVE_CANCEL_S", 0.2)
    async with Proxy(address.hostname or "", address.port or 0) as proxy:
        source = export.Source(DatabaseConfig(url=proxy.in_front_of(migrated_database.url)))
        db = await asyncpg.connect(migrated_database.url)
        taken: list[int] = []
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def take(batches: Any) -> None:
            try:
                taken.append(counted(batches))
            finally:
                loop.call_soon_threadsafe(ended.set)

        exporting = asyncio.ensure_future(export.exported(source, piece, take))
        backend = await at_it(db)
        proxy.stall()
        exporting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exporting
        assert not ended.is_set()

        await db.execute("SELECT pg_terminate_backend($1)", backend)
        proxy.cut()
        proxy.resume()
        async with asyncio.timeout(60):
            await ended.wait()
        assert taken == [], "it takes no row any more"
        await db.close()
        source.close()


async def test_the_driver_connects_as_the_pool_does(migrated_database: Database) -> None:
    settings = DatabaseConfig(url=migrated_database.url, application_name="an archivist")
    source = export.Source(settings)

    def ask() -> dict[str, str]:
        import adbc_driver_manager as manager
        import pyarrow as pa

        connection = source.take()
        with manager.AdbcStatement(connection) as asked:
            asked.set_sql_query("SELECT name, setting FROM pg_settings")
            handle, _ = asked.execute_query()
            rows = pa.RecordBatchReader.from_stream(handle).read_all().to_pylist()
        connection.close()
        return {row["name"]: row["setting"] for row in rows}

    there = await asyncio.to_thread(ask)
    async with Pool(settings) as pool, pool.transaction() as conn:
        await pieces.patient(conn, limits.ARCHIVE_STATEMENT_S)
        usual = {row["name"]: row["setting"] for row in await conn.fetch("SELECT name, setting FROM pg_settings")}
    different = {name for name in there if there[name] != usual[name]}
    # The pool's own bound for who forgets a transaction: COPY is never idle in one.
    assert different <= {"idle_in_transaction_session_timeout"}
    assert there["application_name"] == "an archivist"
    source.close()


def test_what_the_url_says_stays() -> None:
    url = (
        "postgresql://me:pa%20ss@db.example:6543/facts?sslmode=verify-full&sslrootcert=/ca.pem&options=-c%20geqo%3Doff"
    )
    info = conninfo.conninfo_to_dict(export._info(DatabaseConfig(url=url)))
    assert info | {"user": "me", "password": "pa ss", "host": "db.example", "port": "6543", "dbname": "facts"} == info
    assert info | {"sslmode": "verify-full", "sslrootcert": "/ca.pem"} == info
    assert str(info["options"]).startswith("-c geqo=off -c search_path=coord,\\ public ")


async def test_nobody_there_is_said_without_the_password(migrated_database: Database) -> None:
    piece = await piece_of(migrated_database.url)
    source = export.Source(DatabaseConfig(url="postgresql://me:very-secret@127.0.0.1:1/x"))
    with pytest.raises(errors.DatabaseUnavailable) as raised:
        await export.exported(source, piece, counted)
    assert "very-secret" not in str(raised.value)


async def test_without_the_driver_it_says_what_to_install(
    migrated_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = await piece_of(migrated_database.url)
    usual = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("adbc"):
            raise ImportError(name)
        return usual(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(errors.ArchiveNotInstalled, match=r"pyarrow|extra"):
        await export.exported(export.Source(DatabaseConfig(url=migrated_database.url)), piece, counted)
