"""No room left on the database's disk while the tables are maintained: told, nothing half done, and done later once.

The server's answer (53100) comes here from a trigger, for one table at a time, so every statement that writes is tried;
a volume that really fills up is `make soak SOAK_ONLY=disk-full`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.ops.bench import made
from coord.server.maintenance import Maintenance
from coord.store import rollups
from coord.store.config import AgesConfig, DatabaseConfig
from coord.store.pool import Pool
from coord.telemetry.metrics import Metrics
from tests.support.cluster import Database
from tests.support.store import pool_of

NO_ROOM = """
    CREATE FUNCTION public.no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
    END $$
"""


@pytest.fixture
async def pool(migrated_database: Database) -> AsyncIterator[Pool]:
    """Two hours of a fleet's facts that no rollup has counted."""
    if migrated_database.edition == "community":
        pytest.skip("the server rolls up by itself there")
    until = datetime.now(UTC)
    shape = made.Shape(rows=3_000, begin=until - timedelta(hours=2), until=until, samples=300, agents=30)
    await made.fill(migrated_database.url, shape)
    async with pool_of(migrated_database.url) as pool:
        async with pool.acquire() as conn:
            await conn.execute(NO_ROOM)
            # The broker's clock has gone on: the last seconds are settled, too.
            await conn.execute("UPDATE coord.checkpoint SET stored_at = stored_at + INTERVAL '1 minute'")
        yield pool


@asynccontextmanager
async def full(pool: Pool, table: str) -> AsyncIterator[None]:
    """Nothing more fits into the table while the block runs."""
    async with pool.acquire() as conn:
        await conn.execute(
            f"CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON coord.{table} EXECUTE FUNCTION public.no_room()"
        )
    yield
    async with pool.acquire() as conn:
        await conn.execute(f"DROP TRIGGER no_room ON coord.{table}")


async def counted(pool: Pool) -> tuple[int, int, int]:
    """Facts in the tables of the rollup, in its view, and in truth."""
    async with pool.acquire() as conn:
        row = await conn.fetchrow(
            "SELECT (SELECT coalesce(sum(facts), 0) FROM coord.fact_rate_1m)::bigint,"
            " (SELECT sum(facts) FROM coord.v_fact_rate_1h)::bigint, (SELECT count(*) FROM coord.event)"
        )
    assert row is not None
    return tuple(row)


@pytest.mark.parametrize("table", ["fact_rate_1m", "fact_rate_1h", "rollup"])
async def test_a_rollup_without_room_counts_nothing_twice(pool: Pool, table: str) -> None:
    async with full(pool, table):
        with pytest.raises(errors.DatabaseUnavailable) as told:
            await rollups.advance_all(pool, pause_s=0)
        assert told.value.retryable
        rolled, shown, there = await counted(pool)
        assert shown == there, "views answer as before, whatever has been rolled up"
        assert rolled == (there if table == "fact_rate_1h" else 0)
    await rollups.advance_all(pool, pause_s=0)
    rolled, shown, there = await counted(pool)
    assert rolled == shown == there > 0


async def test_the_maintenance_goes_on_once_there_is_room(pool: Pool, migrated_database: Database) -> None:
    config = DatabaseConfig(url=migrated_database.url, pool_min=0, statement_timeout_s=120.0)
    service = Maintenance(None, config, AgesConfig(), registry=Metrics(CollectorRegistry()))
    async with full(pool, "outcome_1m"):
        # It says so and does what it can; or the look ends with an error that its loop logs and outlives.
        with suppress(errors.DatabaseUnavailable):
            await service.look()
        _, shown, there = await counted(pool)
        assert shown == there
    await service.look()
    async with pool.acquire() as conn:
        ends = await conn.fetchrow(
            "SELECT (SELECT sum(ends) FROM coord.v_outcome_1d)::bigint, (SELECT count(*) FROM coord.outcome)"
        )
    assert ends is not None
    assert ends[0] == ends[1] > 0
    rolled, shown, there = await counted(pool)
    assert rolled == shown == there
