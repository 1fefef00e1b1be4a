"""The pool's circuit: a database that is away is asked by one, and refused to the others, until it is back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.core.breaker import BreakerPolicy
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.telemetry.metrics import Metrics
from tests.support import waiting
from tests.support.cluster import Database
from tests.support.proxy import Proxy
from tests.support.store import pool_of

QUICK_BREAKER = BreakerPolicy(failures_max=3, open_first_s=0.1, open_max_s=0.4)


@pytest.fixture
async def line(bare_database: Database) -> AsyncIterator[Proxy]:
    parts = urlsplit(bare_database.url)
    assert parts.hostname
    async with Proxy(parts.hostname, parts.port or 5432) as line:
        yield line


@contextlib.asynccontextmanager
async def circuit_pool(url: str, **fields: Any) -> AsyncIterator[tuple[Pool, CollectorRegistry]]:
    registry = CollectorRegistry()
    config = DatabaseConfig(url=url, **fields)
    async with Pool(config, metrics=Metrics(registry), circuit="database.test", breaker=QUICK_BREAKER) as pool:
        yield pool, registry


async def test_a_database_that_is_away_is_asked_by_one_and_refused_to_the_others(
    line: Proxy, bare_database: Database
) -> None:
    """Cut off: the circuit opens, a hundred callers cost few connections, and it heals by itself."""
    url = line.in_front_of(bare_database.url)
    async with circuit_pool(url, pool_min=0, connect_timeout_s=30, health_timeout_s=30) as (pool, registry):
        await pool.check()
        line.refuse()
        line.cut()
        refused = failed = 0
        connections = line.connections
        began = time.monotonic()
        asked = 0
        while time.monotonic() - began < 1.5 or asked < 1_000:
            results = await asyncio.gather(*(pool.check() for _ in range(20)), return_exceptions=True)
            asked += len(results)
            refused += sum(isinstance(r, errors.DatabaseCircuitOpen) for r in results)
            failed += sum(isinstance(r, errors.DatabaseUnavailable) for r in results)
            await asyncio.sleep(0.02)
        assert failed == asked
        # The first twenty were admitted together; after that one a turn: 0.1 + 0.2 + 0.4 + 0.4 …, half of it random.
        attempts = line.connections - connections
        print(f"{asked} calls, {attempts} connections")
        assert attempts <= 20 + (time.monotonic() - began) / 0.05
        assert attempts < asked / 10
        assert registry.get_sample_value("coord_circuit_state", {"name": "database.test"}) in {1, 2}
        assert registry.get_sample_value("coord_circuit_refused_total", {"name": "database.test"}) == refused
        started = time.monotonic()
        with pytest.raises(errors.DatabaseUnavailable):
            await pool.check()
        assert time.monotonic() - started < 20, "refused, or one probe"
        line.resume()
        waited_s = 0.0
        while True:
            try:
                await pool.check()
                break
            except errors.DatabaseCircuitOpen as exc:
                waited_s += exc.retry_after_s
                await asyncio.sleep(exc.retry_after_s)
        assert waited_s <= QUICK_BREAKER.open_max_s + 0.1, "the next probe was let through, and healed it"
        assert registry.get_sample_value("coord_circuit_state", {"name": "database.test"}) == 0


async def test_a_deaf_database_costs_waiters_one_timeout_not_each_its_own(line: Proxy, bare_database: Database) -> None:
    """Whoever waited for a connection while the circuit opened is refused, and does not try for himself."""
    url = line.in_front_of(bare_database.url)
    async with circuit_pool(url, pool_min=0, pool_max=3, connect_timeout_s=1.0, health_timeout_s=1.0) as (pool, _):
        line.stall()
        results = await asyncio.gather(*(pool.check() for _ in range(30)), return_exceptions=True)
        assert all(isinstance(r, errors.DatabaseUnavailable) for r in results)
        assert pool.stats.connect_errors_total <= 4 + 6, "thirty, ten turns of a second each, otherwise"
        assert pool.stats.waiting == pool.stats.used == 0


async def test_what_one_statement_suffers_opens_nothing(bare_database: Database) -> None:
    async with circuit_pool(bare_database.url) as (pool, _):
        for _ in range(5):
            with pytest.raises(errors.DatabaseUnavailable):
                async with pool.transaction() as conn:
                    await conn.execute("SET LOCAL statement_timeout = '0.3s'")
                    await conn.execute("SELECT pg_sleep(10)")
            with pytest.raises(errors.DatabaseNotReady):
                async with pool.acquire() as conn:
                    await conn.execute("SELECT * FROM nothing_of_the_kind")
        assert pool.circuit.state == "closed"


async def test_a_probe_with_a_long_transaction_does_not_keep_others_out(line: Proxy, bare_database: Database) -> None:
    async with circuit_pool(line.in_front_of(bare_database.url), pool_min=0, connect_timeout_s=10) as (pool, _):
        line.refuse()
        line.cut()
        for _ in range(3):
            with pytest.raises(errors.DatabaseUnavailable):
                await pool.check()
        assert not pool.circuit.closed.is_set()
        line.resume()
        await asyncio.sleep(0.1)
        async with pool.acquire():  # connected: that is proof
            assert pool.circuit.closed.is_set()
            await pool.check()


async def test_idle_connections_are_asked_before_anybody_wants_them(line: Proxy, bare_database: Database) -> None:
    """Every `health_after_s` (30 s by default), in the background; the dead are replaced."""
    url = line.in_front_of(bare_database.url)
    config = {"pool_min": 2, "health_after_s": 0.1, "health_timeout_s": 0.5, "connect_timeout_s": 2.0}
    async with circuit_pool(url, **config) as (pool, _):
        await waiting.until(lambda: pool.stats.idle == 2)
        statements = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT 1' AND datname = current_database()"
        async with pool_of(bare_database.url, pool_min=0) as other, other.acquire() as conn:

            async def both_asked() -> bool:
                return bool(await conn.fetchval(statements) == 2)

            await waiting.until(both_asked)
        connects = pool.stats.connects_total
        line.stall()  # as a firewall does that has forgotten them: no reset, no answer
        await waiting.until(lambda: pool.stats.unhealthy_total >= 2)
        assert pool.stats.acquired_total == 1  # open()'s: nobody else came
        line.resume()
        await waiting.until(lambda: pool.stats.idle == 2)
        assert pool.stats.connects_total > connects
        assert pool.config.health_after_s == 0.1
        assert DatabaseConfig(url=url).health_after_s == 30.0
