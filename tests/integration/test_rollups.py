"""Rollups on real servers: the views' answers do not depend on how far a rollup has come, nor on the edition."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from coord.core import upkeep
from coord.projector import entities
from coord.runtime.assets import sql_dir
from coord.store import copy, migrations, rollups
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.store.rows import EventRow
from tests.support.cluster import Database
from tests.support.rolling import BEGIN, END, checkpoints_sql, facts_sql, rows_sql, view_names
from tests.support.slots import percentile, slot
from tests.support.store import event, pool_of


async def filled(url: str, rows: int = 3_000) -> None:
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


async def test_answers_are_the_same_however_far_it_has_come(migrated_database: Database) -> None:
    if community(migrated_database):
        pytest.skip("the server's own: tests/contract/community")
    await filled(migrated_database.url)
    async with pool_of(migrated_database.url) as pool:
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


@pytest.mark.parametrize("back_s", [7, 500, 8_000])
async def test_facts_of_a_clock_that_was_set_back_are_counted(
    migrated_database: Database, back_s: float, seed: int
) -> None:
    if community(migrated_database):
        pytest.skip("the server notices changed rows itself")
    rng = random.Random(seed)
    turn = BEGIN + timedelta(hours=2.5, seconds=rng.random() * 3_600)
    late = [
        event(10_000 + n, agent="a1", at=turn + timedelta(seconds=n - back_s))
        for n in range(max(5, round(back_s / 20)))
    ]
    async with pool_of(migrated_database.url) as pool:
        await filled(migrated_database.url, 600)
        await complete(pool, turn)
        await rollups.advance_all(pool, pause_s=0)
        gone = set()
        if rng.random() < 0.5:  # the minutes of the hours before are gone: they are made of facts
            gone = {"v_fact_rate_1m"}
            (rollup,) = [r for r in rollups.load() if r.name == "fact_rate"]
            await rollups.expire(pool, rollup, "1m", timedelta(0), pause_s=0)
        async with pool.transaction() as conn:
            await copy.events(conn, late)
            since = upkeep.late_since(late[0][0], turn)
            assert since is not None
            await rollups.late(conn, since)
        await complete(pool, END + timedelta(minutes=5))
        moved = await rollups.advance_all(pool, pause_s=0)
        assert {one.relation for one in moved if one.again} == {r.table("1m") for r in rollups.load()}
        found = await answers(pool)
        async with pool.acquire() as conn:
            await conn.execute("DELETE FROM coord.rollup")
            for view in view_names():
                await conn.execute(f"DELETE FROM coord.{view.removeprefix('v_')}")
        live = await answers(pool)
        assert [v for v in live if found[v] != live[v] and v not in gone] == []
        assert not any(one.again for one in await rollups.advance_all(pool, pause_s=0))


async def test_both_editions_give_the_same_rows(migrated_database: Database, plain_database: Database) -> None:
    if migrated_database.edition == "plain":
        pytest.skip("needs TimescaleDB on the server to compare with")
    await filled(migrated_database.url)
    await filled(plain_database.url)
    async with pool_of(migrated_database.url) as one, pool_of(plain_database.url) as other:
        await complete(other, BEGIN + timedelta(hours=3.7))
        if not community(migrated_database):
            await complete(one, BEGIN + timedelta(hours=1.1))
            await rollups.advance_all(one, pause_s=0)
        await rollups.advance_all(other, pause_s=0)
        assert await answers(one) == await answers(other)


WAITS = """INSERT INTO coord.outcome (
  stored_at, wait_s, attempts, failures, tenant, kind, status, capability, priority, from_agent, agent
)
SELECT $1::timestamptz + i * interval '20 s', w, 1, 0, 'acme', 'task', 'completed', 'c', 'normal', 'boss', 'a1'
FROM unnest($2::float8[]) WITH ORDINALITY AS x (w, i)"""
PERCENTILE = "SELECT coord.percentile_of(slot, ends, $1) FROM coord.v_wait_1h WHERE tenant = $2"


async def test_percentiles_are_those_of_the_times_within_the_bound(migrated_database: Database, seed: int) -> None:
    rng = random.Random(seed)
    kinds = (rng.random, lambda: rng.expovariate(0.01), lambda: 0.001 * 2 ** rng.randrange(20), lambda: 0.0)
    waits = [rng.choice(kinds)() for _ in range(2_000)]
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        await conn.execute(WAITS, BEGIN, waits)
        counted = Counter(slot(w) for w in waits)
        for fraction in (0.0, 0.01, 0.5, 0.95, 0.99, 1.0):
            told = await conn.fetchval(PERCENTILE, fraction, "acme")
            assert told == pytest.approx(percentile(counted, fraction), rel=1e-12)
            exact = sorted(waits)[max(1, math.ceil(fraction * len(waits))) - 1]
            assert abs(told - exact) <= max(0.0005, exact * 0.045)
        assert await conn.fetchval(PERCENTILE, 0.5, "nobody") is None
        with pytest.raises(asyncpg.PostgresError, match="from 0 to 1"):
            await conn.fetchval(PERCENTILE, 1.5, "acme")


def said(seq: int, seconds: float, name: str, agent: str, detail: str = "", data: str = "{}") -> EventRow:
    at = BEGIN + timedelta(seconds=seconds)
    return event(seq, id="t", key="t", event=name, agent=agent, detail=detail, data=data, at=at)


async def test_an_end_is_counted_once_and_a_redrive_again(migrated_database: Database) -> None:
    begin = [said(1, 0, "submitted", "boss", "sum.normal"), said(2, 10, "claimed", "w1", "1")]
    end = [said(3, 20, "rejected", "w1")]
    again = [said(4, 7_200, "submitted", "boss", "sum.normal", '{"redrive":1}')]
    rest = [said(5, 7_203, "claimed", "w2", "2"), said(6, 7_206, "completed", "w2", data='{"run_s":2.5}')]
    async with pool_of(migrated_database.url) as pool:
        for batch in (begin, end, end, again, rest):
            async with pool.transaction() as conn:
                assert await entities.project(conn, [batch]) == [{}]
        async with pool.acquire() as conn:
            found = await conn.fetch("SELECT * FROM coord.outcome ORDER BY stored_at")
    told = [tuple(r[c] for c in ("status", "capability", "from_agent", "agent", "run_s", "attempts")) for r in found]
    assert told == [("rejected", "sum", "boss", "w1", None, 1), ("completed", "sum", "boss", "w2", 2.5, 2)]
    assert found[0]["wait_s"] == pytest.approx(10)


async def test_what_ended_before_the_old_code_was_gone_is_counted_after_all(database: Database) -> None:
    """0011: processes of the release before end tasks without a row of coord.outcome."""
    if community(database):
        pytest.skip("the server's own rollups")
    await asyncio.to_thread(migrations.migrate, DatabaseConfig(url=database.url))
    meanwhile = (sql_dir() / "migrations" / "0011_post_outcomes_meanwhile.sql").read_text(encoding="utf-8")
    now = datetime.now(UTC)
    log = [event(n, id=f"t{n}", key=f"t{n}", agent="boss", detail="sum.normal", data="{}", at=now) for n in range(1, 7)]
    ends = [
        event(10 + n, id=f"t{n}", key=f"t{n}", agent="boss", event="cancelled", at=now + timedelta(seconds=n // 2))
        for n in range(1, 7)
    ]
    counts = "SELECT ARRAY[count(*), count(DISTINCT stored_at)] FROM coord.outcome"
    async with pool_of(database.url) as pool:
        async with pool.transaction() as conn:
            assert await entities.project(conn, [log]) == [{}]
            assert await entities.project(conn, [ends]) == [{}]
            assert await conn.fetchval(counts) == [6, 4]
            await conn.execute("DELETE FROM coord.outcome WHERE stored_at = $1", now + timedelta(seconds=1))
        await complete(pool, now + timedelta(hours=1))
        await rollups.advance_all(pool, pause_s=0)
        async with pool.acquire() as conn:
            assert await conn.fetchval("SELECT sum(ends) FROM coord.outcome_1m") == 4
        for _ in range(2):
            async with pool.transaction() as conn:
                await conn.execute(meanwhile)
            await rollups.advance_all(pool, pause_s=0)
            async with pool.acquire() as conn:
                assert await conn.fetchval(counts) == [6, 4]
                assert await conn.fetchval("SELECT sum(ends) FROM coord.v_outcome_1m") == 6
                assert await conn.fetchval("SELECT sum(ends) FROM coord.outcome_1m") == 6
