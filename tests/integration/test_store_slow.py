"""Slow statements are counted, and logged with their name and plan."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.store import queries, slow
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.store.sqlstate import translated
from coord.telemetry.metrics import Metrics
from tests.support.cluster import Database
from tests.support.waiting import until

SLEEP = slow.called(
    "SELECT pg_sleep($1::float8), x FROM generate_series(1, 1) AS x WHERE x = ANY ($2::bigint[])", "sleeping"
)


def opened(url: str, **fields: Any) -> tuple[Pool, Metrics]:
    metrics = Metrics(CollectorRegistry())
    given = {"pool_min": 0, "pool_max": 2, "slow_query_ms": 50.0, "statement_timeout_s": 120.0, **fields}
    return Pool(DatabaseConfig(url=url, **given), metrics=metrics), metrics


def said(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """The lines about a statement."""
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if "statement.slow" in line and f"statement='{name}'" in line]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the machine takes: a plan is waited for, and a name is said once."""
    monkeypatch.setattr(limits, "SLOW_EXPLAIN_S", 100.0)
    monkeypatch.setattr(limits, "SLOW_SAY_EVERY_S", 3_600.0)


async def test_a_slow_statement_is_logged_with_its_name_and_its_plan(
    migrated_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    pool, metrics = opened(migrated_database.url)
    async with pool:
        async with pool.acquire() as conn:
            await conn.fetch(SLEEP, 0.06, list(range(100_000)))
        await until(lambda: said(caplog, "sleeping"))
        (line,) = said(caplog, "sleeping")
        assert "Function Scan on generate_series" in line
        assert "4999" not in line, "of a large array a few values are shown"
        for _ in range(3):
            async with pool.acquire() as conn:
                await conn.fetch(SLEEP, 0.06, [1])

        def counted() -> bool:
            return metrics.registry.get_sample_value("coord_db_slow_queries_total", {"statement": "sleeping"}) == 4

        await until(counted)
        assert len(said(caplog, "sleeping")) == 1, "the same name is said now and then, however often it is slow"


async def test_what_has_no_plan_or_failed_says_so(
    migrated_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    pool, metrics = opened(migrated_database.url, slow_query_ms=0.001, pool_max=1)
    async with pool:
        async with pool.acquire() as conn:
            await queries.run(conn, "tasks")
            with pytest.raises(errors.DatabaseRefused), translated("divide"):
                await conn.fetch("WITH x AS (SELECT 1 / $1::int) SELECT * FROM x", 0)
            async with conn.transaction():
                await conn.execute("DO $$ BEGIN PERFORM 1; END $$")
        await until(lambda: said(caplog, "tasks") and said(caplog, "DO"))
        (do,) = said(caplog, "DO")
        assert "no_plan='it has none'" in do
        (line,) = said(caplog, "tasks")
        assert "Index Scan" in line or "Seq Scan" in line
        (failed,) = said(caplog, "WITH")
        assert "failed='DivisionByZeroError'" in failed
        assert metrics.registry.get_sample_value("coord_db_slow_queries_total", {"statement": "tasks"}) == 1
        assert metrics.registry.get_sample_value("coord_db_slow_queries_total", {"statement": "BEGIN"}) == 1
        assert not said(caplog, "BEGIN"), "it was heard of before the DO"


async def test_a_busy_pool_is_not_waited_for_and_nothing_is_logged_where_it_is_off(
    migrated_database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SLOW_EXPLAIN_S", 0.05)
    caplog.set_level(logging.WARNING)
    pool, _ = opened(migrated_database.url, pool_max=1)
    async with pool, pool.acquire() as conn:
        await conn.fetch(SLEEP, 0.06, [1])
        await until(lambda: said(caplog, "sleeping"))
        assert "plan=None" in said(caplog, "sleeping")[0]
        assert (pool.stats.waiting, pool.stats.refused_total) == (0, 0), "it took nobody's place"
    caplog.clear()
    for over_ms in (0.0, 600_000.0):
        pool, _ = opened(migrated_database.url, slow_query_ms=over_ms)
        async with pool, pool.acquire() as conn:
            await conn.fetch(SLEEP, 0.06, [1])
        assert not said(caplog, "sleeping")
