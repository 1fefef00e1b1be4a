"""The pool when the database is busy, restarts, hangs or is not there: it waits, says so, and never hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.core.retry import CallPolicy
from coord.ops.devstack.postgres import PostgresServer
from coord.runtime.retrying import retrying
from coord.store.config import DatabaseConfig
from coord.store.pool import PROJECTOR_SETTINGS, Connection, Pool
from coord.telemetry.metrics import Metrics
from tests.support import waiting
from tests.support.cluster import Database
from tests.support.servers import run_sync
from tests.support.store import StallingProxy, deaf_port, plain_server, pool_of

PATIENT = CallPolicy(retries_max=None, deadline_s=60)
"""Of a machine that stands still, and of a circuit that is open."""


@pytest.fixture(scope="module")
def wheel_server() -> Iterator[PostgresServer]:
    """A server that a test may stop and kill."""
    server = plain_server()
    run_sync(server.start())
    run_sync(server.ensure_database("pool"))
    yield server
    run_sync(server.stop(immediate=True))


@pytest.fixture
async def proxy(bare_database: Database) -> AsyncIterator[StallingProxy]:
    parts = urlsplit(bare_database.url)
    assert parts.hostname
    async with StallingProxy(parts.hostname, parts.port or 5432) as proxy:
        yield proxy


def through(proxy: StallingProxy, url: str) -> str:
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    return parts._replace(netloc=f"{user}127.0.0.1:{proxy.port}").geturl()


async def pid(conn: Connection) -> int:
    return int(await conn.fetchval("SELECT pg_backend_pid()"))


# --- ordinary life -----------------------------------------------------------------------


async def test_keeps_its_minimum_and_never_exceeds_its_maximum(bare_database: Database) -> None:
    async with pool_of(bare_database.url, pool_min=2, pool_max=3) as pool:
        await waiting.until(lambda: pool.stats.idle == 2)
        async with pool.acquire(), pool.acquire(), pool.acquire():
            assert (pool.stats.used, pool.stats.idle) == (3, 0)
            with pytest.raises(errors.Overloaded):
                async with pool.acquire(timeout_s=0.05):
                    pass
        assert (pool.stats.used, pool.stats.idle, pool.stats.connects_total) == (0, 3, 3)


async def test_surplus_is_closed_after_its_idle_time_and_the_minimum_stays(bare_database: Database) -> None:
    async with pool_of(bare_database.url, pool_min=1, pool_max=4, idle_s=0.5, health_after_s=0.15) as pool:
        async with pool.acquire(), pool.acquire(), pool.acquire():
            pass
        assert pool.stats.idle == 3
        await waiting.until(lambda: pool.stats.idle == 1)
        for _ in range(3):  # several rounds of the keeper later
            await asyncio.sleep(0.06)
            assert pool._size == 1  # idle, or being asked


async def test_the_most_recently_used_is_taken_first(bare_database: Database) -> None:
    async with pool_of(bare_database.url) as pool:
        async with pool.acquire() as a, pool.acquire() as b:
            last = await pid(a), await pid(b)
        for _ in range(3):
            async with pool.acquire() as conn:
                assert await pid(conn) == last[0]


async def test_sessions_are_set_up(bare_database: Database) -> None:
    names = ("statement_timeout", "idle_in_transaction_session_timeout", "application_name", "search_path", "jit")
    pooled = pool_of(bare_database.url, statement_timeout_s=12.5, idle_in_transaction_s=2.0, application_name="me")
    async with pooled as pool, pool.acquire() as conn:
        shown = {name: await conn.fetchval(f"SHOW {name}") for name in (*names, *PROJECTOR_SETTINGS)}
    assert shown == {
        "statement_timeout": "12500ms",
        "idle_in_transaction_session_timeout": "2s",
        "application_name": "me",
        "search_path": "coord, public",
        "jit": "off",
        **PROJECTOR_SETTINGS,
    }


async def test_waits_are_counted_and_served_in_order(bare_database: Database) -> None:
    order: list[int] = []
    registry = CollectorRegistry()
    config = DatabaseConfig(url=bare_database.url, pool_min=1, pool_max=1)
    async with Pool(config, metrics=Metrics(registry)) as pool:

        async def use(number: int) -> None:
            async with pool.acquire():
                order.append(number)

        async with pool.acquire():
            users = []
            for number in range(5):
                users.append(asyncio.create_task(use(number)))
                await waiting.until(lambda n=number: pool.stats.waiting == n + 1)  # type: ignore[misc]
            assert registry.get_sample_value("coord_db_pool_waiting") == 5
            assert registry.get_sample_value("coord_db_pool_connections", {"state": "used"}) == 1
            await asyncio.sleep(0.05)
        await asyncio.gather(*users)
        stats = pool.stats
    assert order == [0, 1, 2, 3, 4]
    assert stats.wait_s_max >= 0.05
    assert stats.wait_s_total >= 5 * 0.05
    assert registry.get_sample_value("coord_db_pool_wait_seconds_count") == 7  # the check of open() too
    assert registry.get_sample_value("coord_db_pool_waiting") == 0
    assert registry.get_sample_value("coord_db_pool_connections", {"state": "idle"}) == 0


async def test_whoever_waits_too_long_is_told_and_leaves_no_trace(bare_database: Database) -> None:
    async with pool_of(bare_database.url, pool_max=1, acquire_timeout_s=0.5) as pool:
        async with pool.acquire():
            with pytest.raises(errors.Overloaded) as caught:
                async with pool.acquire():
                    pass
            assert caught.value.retry_after_s == 0.5
            waiter = asyncio.create_task(pool.acquire(timeout_s=30).__aenter__())
            await waiting.until(lambda: pool.stats.waiting == 1)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        for _ in range(3):
            async with pool.acquire() as conn:
                await conn.fetchval("SELECT 1")
        assert (pool.stats.refused_total, pool.stats.used, pool.stats.waiting) == (1, 0, 0)


async def test_opening_and_closing_twice_is_legal(bare_database: Database) -> None:
    pool = Pool(DatabaseConfig(url=bare_database.url, pool_min=1), metrics=Metrics(CollectorRegistry()))
    with pytest.raises(errors.StoreError, match="not open"):
        await pool.check()
    for _ in range(2):
        await pool.open()
        await pool.open()
        await pool.check()
        await pool.close()
        await pool.close()
    with pytest.raises(errors.StoreError, match="not open"):
        await pool.check()
    assert pool.stats.idle == 0


async def test_closing_waits_for_whoever_is_inside_but_not_for_ever(bare_database: Database) -> None:
    pool = await Pool(DatabaseConfig(url=bare_database.url, pool_min=0), metrics=Metrics(CollectorRegistry())).open()
    inside = asyncio.Event()

    async def work(seconds: float) -> None:
        async with pool.acquire() as conn:
            inside.set()
            await conn.execute("SELECT pg_sleep($1)", seconds)

    quick = asyncio.create_task(work(0.1))
    await inside.wait()
    inside.clear()
    slow = asyncio.create_task(work(60))
    await inside.wait()
    started = time.monotonic()
    await pool.close(timeout_s=2)
    assert 2 <= time.monotonic() - started < 20
    await quick
    with pytest.raises(errors.DatabaseUnavailable):
        await slow


# --- what goes back, and what does not -----------------------------------------------------


async def test_a_failed_statement_keeps_the_connection(bare_database: Database) -> None:
    async with pool_of(bare_database.url) as pool:
        for sql, kind in (
            ("SELECT 1 / 0", errors.DatabaseRefused),
            ("SELECT * FROM nowhere", errors.DatabaseNotReady),
            ("SELEC 1", errors.StoreError),
        ):
            with pytest.raises(kind):
                async with pool.acquire() as conn:
                    await conn.fetch(sql)
            with pytest.raises(kind):
                async with pool.transaction() as conn:
                    await conn.fetch(sql)
        with pytest.raises(KeyError):
            async with pool.transaction() as conn:
                raise KeyError
        assert pool.stats.connects_total == 1


async def test_a_transaction_commits_or_leaves_nothing(bare_database: Database) -> None:
    async with pool_of(bare_database.url) as pool:
        async with pool.transaction() as conn:
            await conn.execute("CREATE TABLE t (i int); INSERT INTO t VALUES (1)")
        with pytest.raises(errors.NotConnected):
            async with pool.transaction() as conn:
                await conn.execute("INSERT INTO t VALUES (2)")
                raise errors.NotConnected
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                async with pool.transaction() as conn:
                    await conn.execute("INSERT INTO t VALUES (3)")
                    await conn.execute("SELECT pg_sleep(30)")
        async with pool.acquire() as conn:
            assert await conn.fetchval("SELECT array_agg(i) FROM t") == [1]


async def test_a_connection_left_in_a_transaction_is_not_handed_on(bare_database: Database) -> None:
    async with pool_of(bare_database.url) as pool:
        async with pool.acquire() as conn:
            left = await pid(conn)
            await conn.execute("BEGIN")
        async with pool.acquire() as conn:
            assert await pid(conn) != left
            assert not conn.is_in_transaction()


async def test_a_cancelled_statement_closes_its_connection(bare_database: Database) -> None:
    async with pool_of(bare_database.url) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), pool.acquire() as conn:
                await conn.execute("SELECT pg_sleep(30)")
        async with asyncio.timeout(60), pool.acquire() as conn:
            assert await conn.fetchval("SELECT 1") == 1


async def test_a_statement_has_its_time(bare_database: Database) -> None:
    async with pool_of(bare_database.url, statement_timeout_s=1.0, idle_in_transaction_s=1.0) as pool:
        with pytest.raises(errors.DatabaseUnavailable, match="statement timeout"):
            async with pool.transaction(timeout_s=20) as conn:
                await conn.execute("SELECT pg_sleep(30)")


async def test_a_transaction_whose_client_is_silent_is_ended(bare_database: Database) -> None:
    """Its locks must not outlive a takeover."""
    async with pool_of(bare_database.url, idle_in_transaction_s=0.1) as pool:
        async with pool.acquire() as conn:
            await conn.execute("CREATE TABLE t (i int)")
        with pytest.raises(errors.DatabaseUnavailable):
            async with pool.transaction() as conn:
                await conn.execute("LOCK TABLE t")
                async with pool.acquire() as other:
                    await other.execute("INSERT INTO t VALUES (1)")  # waits until the server has ended the first
                await conn.execute("SELECT 1")


# --- faults ------------------------------------------------------------------------------


async def test_no_server_is_said_at_once(bare_database: Database) -> None:
    for url in ("postgresql://u:s3cret@127.0.0.1:1/x", "postgresql://u:s3cret@nowhere.invalid/x"):
        pool = Pool(DatabaseConfig(url=url), metrics=Metrics(CollectorRegistry()))
        with pytest.raises(errors.DatabaseUnavailable, match="cannot connect") as caught:
            await pool.open()
        assert "s3cret" not in str(caught.value)
        assert pool.stats.connect_errors_total == 1
        await pool.close()


async def test_a_database_that_does_not_exist_is_the_operators(bare_database: Database) -> None:
    config = DatabaseConfig(url=bare_database.url.replace(bare_database.name, "nowhere"))
    with pytest.raises(errors.DatabaseNotReady, match="does not exist"):
        await Pool(config, metrics=Metrics(CollectorRegistry())).open()


async def test_a_url_the_driver_cannot_read_is_a_setting(bare_database: Database) -> None:
    config = DatabaseConfig(url=f"{bare_database.url}?sslmode=perhaps")
    with pytest.raises(errors.SettingsError):
        await Pool(config, metrics=Metrics(CollectorRegistry())).open()


async def test_a_deaf_port_does_not_hold_anybody(bare_database: Database) -> None:
    async with deaf_port() as port:
        config = DatabaseConfig(url=f"postgresql://u@127.0.0.1:{port}/x", connect_timeout_s=0.2)
        pool = Pool(config, metrics=Metrics(CollectorRegistry()))
        started = time.monotonic()
        with pytest.raises(errors.DatabaseUnavailable, match="no answer"):
            await pool.open()
        await pool.open(wait=False)  # a service starts before its database
        with pytest.raises(errors.DatabaseUnavailable):
            await pool.check()
        await pool.close()
        assert time.monotonic() - started < 30


async def test_a_stalled_network_ends_a_transaction_in_its_time(proxy: StallingProxy, bare_database: Database) -> None:
    async with pool_of(through(proxy, bare_database.url)) as pool:
        started = time.monotonic()
        with pytest.raises(errors.DatabaseUnavailable):
            async with pool.transaction(timeout_s=0.3) as conn:
                await conn.execute("SELECT 1")
                proxy.stall()
                await conn.execute("SELECT 2")
        assert time.monotonic() - started < 30
        # Cancelled instead: no politeness either, nobody would answer.
        proxy.resume()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), pool.transaction() as conn:
                await conn.execute("SELECT 1")
                proxy.stall()
                async with conn.transaction():  # a savepoint inside
                    await conn.execute("SELECT 2")
        assert time.monotonic() - started < 30


async def test_a_stall_inside_a_savepoint_ends_in_time_too(proxy: StallingProxy, bare_database: Database) -> None:
    """Rolling a savepoint back waits for an answer: the transaction's own clock must end that."""
    async with pool_of(through(proxy, bare_database.url)) as pool:
        started = time.monotonic()
        with pytest.raises(errors.DatabaseUnavailable):
            async with pool.transaction(timeout_s=0.5) as conn, conn.transaction():
                proxy.stall()
                await conn.execute("SELECT 2", timeout=0.1)
        assert time.monotonic() - started < 30


async def test_an_idle_connection_that_died_silently_is_found_before_it_is_handed_out(
    proxy: StallingProxy, bare_database: Database
) -> None:
    config = {"health_after_s": 0.05, "health_timeout_s": 0.2, "connect_timeout_s": 4.0, "pool_min": 0}
    async with pool_of(through(proxy, bare_database.url), **config) as pool:
        async with pool.acquire(), pool.acquire():
            pass
        proxy.stall()
        await asyncio.sleep(0.06)
        started = time.monotonic()
        with pytest.raises(errors.DatabaseUnavailable):  # both idle ones, and then a new one
            await pool.check()
        assert time.monotonic() - started < 40
        assert pool.stats.unhealthy_total == 2
        proxy.resume()
        await retrying(pool.check, PATIENT)


async def test_connections_the_server_closed_are_not_handed_out(bare_database: Database) -> None:
    async with pool_of(bare_database.url, pool_min=0) as pool:
        async with pool.acquire() as a, pool.acquire() as b:
            pids = [await pid(a), await pid(b)]
        admin = await asyncpg.connect(bare_database.url)
        try:
            await admin.execute("SELECT pg_terminate_backend(p) FROM unnest($1::int[]) AS p", pids)
        finally:
            await admin.close()
        await waiting.until(lambda: pool.stats.idle == 0)
        async with pool.acquire() as conn:
            assert await pid(conn) not in pids


async def test_one_lost_connection_makes_all_idle_ones_suspect(proxy: StallingProxy, bare_database: Database) -> None:
    async with pool_of(through(proxy, bare_database.url), pool_min=0, health_timeout_s=0.1) as pool:
        async with pool.acquire(), pool.acquire():
            pass
        with pytest.raises(errors.DatabaseUnavailable):
            async with pool.acquire() as conn:
                await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        proxy.stall()
        doomed = asyncio.create_task(pool.check())
        await waiting.until(lambda: pool.stats.unhealthy_total == 1)  # asked, though it was idle only a moment
        proxy.resume()
        await asyncio.gather(doomed, return_exceptions=True)
        await retrying(pool.check, PATIENT)


@pytest.mark.faults
async def test_a_restart_of_the_server_is_survived(wheel_server: PostgresServer) -> None:
    async with pool_of(wheel_server.url("pool"), pool_min=2, connect_timeout_s=10) as pool:
        await waiting.until(lambda: pool.stats.idle == 2)
        with pytest.raises(errors.DatabaseUnavailable):
            async with pool.transaction() as conn:
                await conn.execute("SELECT 1")
                await wheel_server.stop()
                await conn.execute("SELECT 2")
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(errors.DatabaseUnavailable):
                await pool.check()
        assert time.monotonic() - started < 40, "a refused connection is known at once"
        await wheel_server.start()
        await retrying(pool.check, PATIENT)  # the circuit may be open by now
        assert pool.stats.used == 0


@pytest.mark.faults
async def test_a_crash_of_the_server_is_survived(wheel_server: PostgresServer) -> None:
    async with pool_of(wheel_server.url("pool"), pool_min=1, pool_max=3, connect_timeout_s=10) as pool:

        async def work() -> str:
            try:
                async with pool.transaction() as conn:
                    await conn.execute("SELECT pg_sleep(30)")
            except errors.DatabaseUnavailable:
                return "unavailable"
            return "finished"

        busy = [asyncio.create_task(work()) for _ in range(5)]  # two of them wait for a slot
        await waiting.until(lambda: pool.stats.used == 3)
        await wheel_server.kill()
        async with asyncio.timeout(28):
            assert set(await asyncio.gather(*busy)) == {"unavailable"}
        await wheel_server.start()
        # Five failures in a row: the circuit is open.
        await retrying(pool.check, PATIENT)
        assert (pool.stats.used, pool.stats.waiting) == (0, 0)
