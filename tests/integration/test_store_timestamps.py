"""Times as coord writes and reads them are asyncpg's own, on both sides of every pair."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.store.config import DatabaseConfig
from coord.store.pool import Connection, Pool
from coord.telemetry.metrics import Metrics
from tests.support.cluster import Database

NOW = datetime(2026, 11, 21, 13, 14, 15, 123456, tzinfo=UTC)
TIMES = (
    NOW,
    NOW.astimezone(timezone(timedelta(hours=5, minutes=45))),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2000, 1, 1, tzinfo=UTC),
    datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999998, tzinfo=UTC),
)


@pytest.fixture
async def taught(pool: Pool) -> AsyncIterator[Connection]:
    async with pool.acquire() as conn:
        yield conn


async def test_a_time_is_written_and_read_as_asyncpg_does_it(migrated_database: Database, taught: Connection) -> None:
    plain: Connection = await asyncpg.connect(migrated_database.url)
    try:
        for time in TIMES:
            text = await plain.fetchval("SELECT ($1::timestamptz AT TIME ZONE 'UTC')::text", time)
            assert await taught.fetchval("SELECT ($1::timestamptz AT TIME ZONE 'UTC')::text", time) == text
            several = [time, None, time]
            assert await taught.fetchval("SELECT $1::timestamptz[]", several) == several
        for value in ("now()", "'infinity'", "'-infinity'", "NULL"):
            query = f"SELECT date_trunc('year', {value}::timestamptz)"
            assert await taught.fetchval(query) == await plain.fetchval(query)
    finally:
        await plain.close()


async def test_the_first_and_the_last_moment_are_themselves(taught: Connection) -> None:
    """asyncpg would write infinities."""
    for time in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        assert await taught.fetchval("SELECT isfinite($1::timestamptz)", time)
        assert await taught.fetchval("SELECT $1::timestamptz", time) == time


async def test_copied_rows_have_their_times(taught: Connection) -> None:
    await taught.execute("CREATE TEMPORARY TABLE moment (at timestamptz, maybe timestamptz)")
    await taught.copy_records_to_table("moment", records=[(time, None) for time in TIMES])
    found = await taught.fetch("SELECT at, maybe FROM moment")
    assert [tuple(row) for row in found] == [(time, None) for time in TIMES]
    assert all(row["at"].utcoffset() == timedelta(0) for row in found)


async def test_a_time_without_a_zone_is_refused(taught: Connection) -> None:
    with pytest.raises(asyncpg.DataError):
        await taught.fetchval("SELECT $1::timestamptz", NOW.replace(tzinfo=None))


async def test_a_connection_that_cannot_be_prepared_is_not_handed_out(migrated_database: Database) -> None:
    seen: list[Connection] = []

    async def refuse(conn: Connection) -> None:
        seen.append(conn)
        await conn.execute("SELECT 1 / 0")

    config = DatabaseConfig(url=migrated_database.url, pool_min=1)
    pool = Pool(config, metrics=Metrics(CollectorRegistry()), prepare=refuse)
    with pytest.raises(errors.DatabaseUnavailable):
        await pool.open()
    await pool.close()
    assert seen
    assert all(conn.is_closed() for conn in seen)
