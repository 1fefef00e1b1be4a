"""One contract on every edition: detection, retention by steps, and moving from plain to TimescaleDB."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from coord import errors
from coord.ops.devstack.postgres import PostgresServer
from coord.store import copy, editions, migrations
from coord.store.config import DatabaseConfig
from coord.store.maintenance import maintain
from coord.store.migrations import Report
from coord.store.pool import Pool
from tests.support.cluster import Database
from tests.support.servers import run_sync
from tests.support.store import event, plain_server, pool_of, sample


@pytest.fixture(scope="module")
def wheel_server() -> Iterator[PostgresServer]:
    """PostgreSQL without TimescaleDB, as `coord dev` falls back to."""
    server = plain_server()
    run_sync(server.start())
    yield server
    run_sync(server.stop(immediate=True))


async def migrate(url: str, edition: str = "auto") -> Report:
    config = DatabaseConfig(url=url, edition=edition)  # type: ignore[arg-type]
    return await asyncio.to_thread(migrations.migrate, config)


async def test_what_the_server_has_is_detected(database: Database) -> None:
    report = await migrate(database.url)
    assert report.edition.name == database.edition
    async with pool_of(database.url) as pool, pool.acquire() as conn:
        assert await editions.detect_async(conn) == report.edition
    assert ("compression" in " ".join(report.edition.lacks)) == (report.edition.name != "community")


async def test_plain_by_choice_where_the_extension_could_be_had(bare_database: Database) -> None:
    report = await migrate(bare_database.url, "plain")
    assert report.edition.name == "plain"
    assert report.edition.timescaledb is None
    assert "TimescaleDB" in report.edition.lacks[0]


async def test_the_extension_is_created_where_it_can_be(bare_database: Database, database: Database) -> None:
    assert (await migrate(bare_database.url)).edition.name == database.edition


async def test_plain_because_nothing_else_is_there_is_said(wheel_server: PostgresServer) -> None:
    await wheel_server.ensure_database("plain")
    report = await migrate(wheel_server.url("plain"))
    assert report.edition.name == "plain"
    assert report.notes == ("TimescaleDB is not installed on this server",)


async def test_production_that_wants_community_does_not_get_less(wheel_server: PostgresServer) -> None:
    await wheel_server.ensure_database("wanted")
    with pytest.raises(errors.MigrationFailed, match=r"want edition community.*plain.*not installed"):
        await migrate(wheel_server.url("wanted"), "community")
    with psycopg.connect(wheel_server.url("wanted")) as conn:
        assert conn.execute("SELECT to_regnamespace('coord')").fetchone() == (None,)


async def test_a_plain_database_becomes_a_hypertable_with_its_rows(bare_database: Database, database: Database) -> None:
    if database.edition == "plain":
        pytest.skip("needs TimescaleDB on the server")
    await migrate(bare_database.url, "plain")
    async with pool_of(bare_database.url) as pool, pool.acquire() as conn:
        await copy.events(conn, [event(i) for i in range(100)])
        await copy.samples(conn, [sample(i) for i in range(100)])
    assert (await migrate(bare_database.url)).edition.name == database.edition
    async with pool_of(bare_database.url) as pool, pool.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM coord.v_event") == 100
        assert await conn.fetchval("SELECT count(*) FROM timescaledb_information.chunks") == 2
        # The shim is gone: there is one time_bucket.
        shim = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'coord'::regnamespace AND proname = 'time_bucket'"
        assert await conn.fetchval(shim) == 0
        await conn.fetchval("SELECT time_bucket('1 hour', now())")


@pytest.mark.parametrize("width", ["1 second", "5 minutes", "1 hour", "1 day", "1 week"])
async def test_the_shim_is_time_bucket(migrated_database: Database, plain_database: Database, width: str) -> None:
    if migrated_database.edition == "plain":
        pytest.skip("needs TimescaleDB on the server to compare with")
    sql = (
        "SELECT array_agg(time_bucket($1::text::interval, t) ORDER BY t) FROM generate_series("
        "timestamptz '1999-12-27 23:59:59.999999+00', '2026-03-01', interval '19 days 7 hours 3 minutes 1 second') AS t"
    )
    answers = []
    for url in (migrated_database.url, plain_database.url):
        async with pool_of(url) as pool, pool.acquire() as conn:
            answers.append(await conn.fetchval(sql, width))
    assert answers[0] == answers[1]


@pytest.fixture(params=["server", "plain", "wheel"])
async def old_and_new(
    request: pytest.FixtureRequest, database: Database, bare_database: Database, wheel_server: PostgresServer
) -> AsyncIterator[tuple[Pool, str]]:
    """3 days of rows, one every 6 hours' chunk times 100, up to now; and the edition."""
    urls = {"server": database.url, "plain": bare_database.url, "wheel": wheel_server.url(f"old_{database.name}")}
    if request.param == "wheel":
        await wheel_server.ensure_database(f"old_{database.name}")
    report = await migrate(urls[request.param], "auto" if request.param == "server" else "plain")
    now = datetime.now(UTC)
    async with pool_of(urls[request.param]) as pool:
        async with pool.acquire() as conn:
            at = [now - i * timedelta(hours=6) for i in range(12)]
            await copy.events(conn, [event(i, at=t) for t in at for i in range(100)])
            await copy.samples(conn, [sample(i, at=t) for t in at for i in range(10)])
        yield pool, report.edition.name


async def count(pool: Pool) -> tuple[int, int]:
    async with pool.acquire() as conn:
        row = await conn.fetchrow(
            "SELECT (SELECT count(*) FROM coord.event), (SELECT count(*) FROM coord.metric_sample)"
        )
        assert row is not None
        return row[0], row[1]


async def test_retention_goes_by_bounded_steps(old_and_new: tuple[Pool, str]) -> None:
    pool, edition = old_and_new
    if edition == "community":
        pytest.skip("the server's own policies do it")
    one_step = await maintain(pool, timedelta(days=1), batch_rows=150, steps_max=1)
    by_name = {r.relation: r for r in one_step}
    assert by_name["event"].more == (edition == "plain")
    assert by_name["event"].unit == ("rows" if edition == "plain" else "chunks")
    assert by_name["event"].removed == (150 if edition == "plain" else by_name["event"].removed)
    await maintain(pool, timedelta(days=1), batch_rows=150, pause_s=0)
    events, samples = await count(pool)
    # Rows delete to the row; chunks go only when all of them is old: up to two chunks of six hours more.
    assert 400 <= events <= (500 if edition == "plain" else 700)
    assert samples == events // 10
    again = await maintain(pool, timedelta(days=1))
    assert [r.removed for r in again] == [0, 0, 0]


async def test_retention_of_nothing_is_refused(old_and_new: tuple[Pool, str]) -> None:
    pool, edition = old_and_new
    before = await count(pool)
    with pytest.raises(errors.SettingsError):
        await maintain(pool, timedelta(0))
    if edition != "community":  # in SQL too, where an operator may type it
        with pytest.raises(errors.CoordError, match="must be positive"):
            async with pool.acquire() as conn:
                await conn.fetch("SELECT * FROM coord.maintain(interval '-1 day')")
    assert await count(pool) == before


async def test_many_chunks_are_dropped_a_few_at_a_time(database: Database) -> None:
    report = await migrate(database.url)
    if report.edition.name != "apache":
        pytest.skip("apache only: plain deletes rows, community has policies")
    async with pool_of(database.url) as pool:
        start = datetime(2025, 1, 1, tzinfo=UTC)
        async with pool.acquire() as conn:
            await copy.events(conn, [event(i, at=start + i * timedelta(hours=6)) for i in range(20)])
        (events, *_) = await maintain(pool, timedelta(days=30), steps_max=1)
        assert (events.removed, events.more) == (8, True)
        (events, *_) = await maintain(pool, timedelta(days=30), pause_s=0)
        assert (events.removed, events.more) == (12, False)
        assert await count(pool) == (0, 0)


async def test_the_reader_reads_views_and_nothing_else(database: Database) -> None:
    await migrate(database.url)
    async with pool_of(database.url) as pool:
        async with pool.acquire() as conn:
            await copy.events(conn, [event()])
            views = await conn.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'coord'")
        async with pool.transaction() as conn:
            await conn.execute("SET LOCAL ROLE coord_reader")
            for (view,) in views:
                await conn.fetch(f"SELECT * FROM coord.{view}")
            assert await conn.fetchval("SELECT count(*) FROM coord.v_event") == 1
        for forbidden in (
            "SELECT * FROM coord.event",
            "SELECT * FROM coord.dead_letter",
            "INSERT INTO coord.agent SELECT * FROM coord.agent",
            "SELECT * FROM coord.maintain(interval '1 day')",
            "CREATE TABLE coord.mine (i int)",
            "CREATE VIEW coord.mine AS SELECT 1",
        ):
            with pytest.raises(errors.DatabaseNotReady, match="permission denied"):
                async with pool.transaction() as conn:
                    await conn.execute("SET LOCAL ROLE coord_reader")
                    await conn.execute(forbidden)
        async with pool.acquire() as conn:
            settings = await conn.fetchval(
                "SELECT s.setconfig FROM pg_db_role_setting AS s"
                " WHERE s.setrole = 'coord_reader'::regrole"
                " AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        assert "statement_timeout=30s" in settings
        assert "default_transaction_read_only=on" in settings


async def test_a_login_as_the_reader_is_read_only_and_limited(database: Database) -> None:
    await migrate(database.url)
    login = f"ada_{database.name}"
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE coord_reader".encode())
        for setting in ("statement_timeout = '30s'", "default_transaction_read_only = on"):
            conn.execute(f"ALTER ROLE {login} IN DATABASE {database.name} SET {setting}".encode())
        theirs = database.url.replace("//coord@", f"//{login}:x@")
        try:
            if theirs == database.url:
                pytest.skip("the external cluster's URL has another user")
            with psycopg.connect(theirs) as reader:
                assert reader.execute("SHOW statement_timeout").fetchone() == ("30s",)
                reader.execute("SELECT * FROM coord.v_agent_status")
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    reader.execute("CREATE TABLE coord.mine (i int)")
        finally:
            conn.execute(f"DROP OWNED BY {login}; DROP ROLE {login}".encode())
