"""Rollups on real servers: the views' answers do not depend on how far a rollup has come, nor on the edition."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import asyncpg
import pytest

from coord.store import migrations, rollups
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from tests.support.cluster import Database
from tests.support.rolling import BEGIN, END, checkpoints_sql, facts_sql, rows_sql, view_names
from tests.support.store import pool_of


async def filled(url: str, edition: str = "auto", rows: int = 3_000) -> None:
    await asyncio.to_thread(migrations.migrate, DatabaseConfig(url=url, edition=edition))  # type: ignore[arg-type]
    conn = await asyncpg.connect(url)
    try:
        for sql in facts_sql(rows):
            await conn.execute(sql)
    finally:
        await conn.close()


async def complete(pool: Pool, until: datetime) -> None:
    async with pool.acquire() as conn:
        await conn.execute(checkpoints_sql(until))


async def answers(pool: Pool) -> dict[str, list[str]]:
    async with pool.acquire() as conn:
        return {view: [r[0] for r in await conn.fetch(rows_sql(view))] for view in view_names()}


def community(database: Database) -> bool:
    return database.edition == "community"


async def test_answers_are_the_same_however_far_it_has_come(database: Database) -> None:
    if community(database):
        pytest.skip("the server's own: tests/contract/community")
    await filled(database.url)
    async with pool_of(database.url) as pool:
        live = await answers(pool)
        assert all(live.values())
        for hours in (1.3, 4.01, 6.5):
            await complete(pool, BEGIN + timedelta(hours=hours))
            moved = await rollups.advance_all(pool, pause_s=0)
            assert not any(one.more for one in moved)
            assert await answers(pool) == live, hours
        async with pool.acquire() as conn:
            kept = await conn.fetchval("SELECT count(*) FROM coord.fact_rate_1m")
            shown = await conn.fetchval("SELECT shown FROM coord.rollup WHERE name = 'fact_rate_1m'")
        assert kept
        assert shown >= END


async def test_both_editions_give_the_same_rows(database: Database, bare_database: Database) -> None:
    if database.edition == "plain":
        pytest.skip("needs TimescaleDB on the server to compare with")
    await filled(database.url)
    await filled(bare_database.url, "plain")
    async with pool_of(database.url) as one, pool_of(bare_database.url) as other:
        await complete(other, BEGIN + timedelta(hours=3.7))
        if not community(database):
            await complete(one, BEGIN + timedelta(hours=1.1))
            await rollups.advance_all(one, pause_s=0)
        await rollups.advance_all(other, pause_s=0)
        assert await answers(one) == await answers(other)
