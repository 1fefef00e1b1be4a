"""Reads that go to a real streaming replica while it is fresh enough, and to the primary otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus.rpc import Request
from coord.query.used import UsedIds
from coord.store import reading
from coord.store.pool import Connection
from coord.store.reading import Reads
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.log_api import LogInfo
from coord.wire.used import UsedRequest
from tests.support.cli import cli
from tests.support.cluster import Database
from tests.support.replica import Pair, pair
from tests.support.standing import standing_still
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(postgres: object) -> AsyncIterator[Pair]:
    async with pair() as started:
        async with writing(started) as conn:
            await conn.execute("CREATE TABLE said (n bigint PRIMARY KEY)")
        there = await asyncpg.connect(started.replica.url())
        await until(lambda: there.fetchval("SELECT to_regclass('said') IS NOT NULL"))
        await there.close()
        yield started


@contextlib.asynccontextmanager
async def writing(servers: Pair) -> AsyncIterator[Connection]:
    conn = await asyncpg.connect(servers.primary.url())
    try:
        yield conn
    finally:
        await conn.close()


def opened(servers: Pair, **fields: Any) -> Reads:
    return reading.pools(servers.config(**fields), metrics=Metrics(CollectorRegistry()))


async def commit(servers: Pair) -> int:
    n = next(_numbers)
    async with writing(servers) as conn:
        await conn.execute("INSERT INTO said VALUES ($1)", n)
    return n


async def read(reads: Reads) -> tuple[bool, int]:
    """Whether a replica answered, and the newest that it showed."""
    async with reads.acquire() as conn:
        found = await conn.fetchrow("SELECT pg_is_in_recovery(), (SELECT coalesce(max(n), 0) FROM said)")
    assert found is not None
    return found[0], found[1]


async def replica_answers(reads: Reads) -> bool:
    return (await read(reads))[0]


async def test_reads_go_to_the_replica_and_beyond_the_bound_to_the_primary(servers: Pair) -> None:
    metrics = Metrics(CollectorRegistry())
    first = await commit(servers)
    async with reading.pools(servers.config(replica_staleness_max_s=2.0), metrics=metrics) as reads:

        async def shows(n: int) -> bool:
            return await read(reads) == (True, n)

        await until(lambda: shows(first))
        await servers.replays(on=False)
        try:
            second = await commit(servers)
            await until(lambda: reads.route.why == "stale")
            assert await read(reads) == (False, second)
        finally:
            await servers.replays(on=True)
        await until(lambda: shows(second))
        async with reads.transaction() as conn:
            assert await conn.fetchval("SELECT count(*) FROM said") >= 2
        for server in ("primary", "replica"):
            assert metrics.registry.get_sample_value("coord_db_reads_total", {"server": server})
        assert metrics.registry.get_sample_value("coord_db_replica_age_seconds") is not None


async def test_a_replica_that_is_cut_off_grows_old_though_it_has_all_it_received(servers: Pair) -> None:
    async with opened(servers, replica_staleness_max_s=1.5) as reads:
        await until(lambda: replica_answers(reads))
        with standing_still(await receiver(servers)):
            n = await commit(servers)
            await until(lambda: reads.route.why == "stale")
            assert await read(reads) == (False, n)

        async def shown() -> bool:
            return await read(reads) == (True, n)

        await until(shown)


async def receiver(servers: Pair) -> int:
    conn = await asyncpg.connect(servers.replica.url())
    try:
        found: int = await until(lambda: conn.fetchval("SELECT pid FROM pg_stat_wal_receiver"))
    finally:
        await conn.close()
    return found


async def test_a_replica_that_dies_is_read_around_and_used_again_when_it_is_back(servers: Pair) -> None:
    n = await commit(servers)
    async with opened(servers, circuit_open_max_s=0.2) as reads:
        await until(lambda: replica_answers(reads))

        async def slow(conn: Connection) -> bool:
            if await conn.fetchval("SELECT pg_is_in_recovery()"):
                await servers.replica.kill()
            answer: bool = await conn.fetchval("SELECT pg_is_in_recovery()")
            return answer

        try:
            assert not await reads.run(slow), "asked again of the primary"
            for _ in range(3):
                assert await read(reads) == (False, n)
            assert reads.route.why == "away"
            later = await commit(servers)
        finally:
            await servers.replica.start()
        await until(lambda: replica_answers(reads))

        async def shown() -> bool:
            return await read(reads) == (True, later)

        await until(shown)


async def test_without_its_primary_a_replica_answers_until_the_bound_and_no_longer(
    servers: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(servers, replica_staleness_max_s=300.0, circuit_open_max_s=0.2) as reads:
        await until(lambda: replica_answers(reads))
        await servers.primary.kill()
        try:
            assert await replica_answers(reads)
            later = time.monotonic() + 300.0
            monkeypatch.setattr(reading, "clock", SimpleNamespace(monotonic=lambda: later))
            assert reads.route.why == "stale"
            with pytest.raises(errors.DatabaseUnavailable):
                await read(reads)
        finally:
            await servers.primary.start()
    async with opened(servers) as reads:
        await until(lambda: reads.route.server == "replica")


async def test_a_replica_that_grows_too_old_while_a_read_waits_for_it_is_not_read(
    servers: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(servers, replica_staleness_max_s=300.0, pool_min=1, pool_max=1) as reads:
        await until(lambda: replica_answers(reads))
        replica = reads._replica
        assert replica is not None
        async with replica.acquire():
            waiting = asyncio.create_task(replica_answers(reads))
            await until(lambda: replica.stats.waiting == 1)
            later = itertools.count(time.monotonic() + 300.0, 1_000.0)
            monkeypatch.setattr(reading, "clock", SimpleNamespace(monotonic=lambda: next(later)))
        assert not await waiting


async def test_what_is_no_replica_of_it_is_never_read(servers: Pair, migrated_database: Database) -> None:
    strange = msgspec.structs.replace(servers.config(), replica_url=migrated_database.url)
    async with reading.pools(strange, metrics=Metrics(CollectorRegistry())) as reads:
        assert reads.route.why == "other"
        assert not await replica_answers(reads)
    itself = msgspec.structs.replace(servers.config(), replica_url=servers.primary.url())
    async with reading.pools(itself, metrics=Metrics(CollectorRegistry())) as reads:
        assert (reads.route.server, reads.route.why) == ("primary", "other")
    nobody = msgspec.structs.replace(servers.config(), replica_url="postgresql://127.0.0.1:1/none")
    async with reading.pools(nobody, metrics=Metrics(CollectorRegistry())) as reads:
        assert reads.route.why == "away"
        assert not await replica_answers(reads)
    async with Reads(reading.pools(servers.config()).primary) as reads:
        assert (reads.route.why, await replica_answers(reads)) == ("no_replica", False)


async def test_of_several_replicas_behind_one_address_one_is_read(
    servers: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPLICA_PROBE_MAX_S", 1.0)  # the probe that finds none of those left, and the next
    async with opened(servers, replica_staleness_max_s=60.0) as reads:
        await until(lambda: replica_answers(reads))
        known, replica = reads._started_at, reads._replica
        assert replica is not None
        there = await asyncpg.connect(servers.replica.url())
        try:
            async with replica.acquire():
                reads._started_at = datetime(2020, 1, 1, tzinfo=UTC)  # those that stand are of another one
                with pytest.raises(errors.DatabaseUnavailable):
                    await reads._look_before_use(there)
                assert reads.route.why == "other"
                assert not await replica_answers(reads)
        finally:
            await there.close()
        await until(lambda: replica_answers(reads))  # once none of those is left
        assert reads._started_at == known


async def test_used_ids_are_read_where_everything_is_that_has_left_the_log(servers: Pair) -> None:
    created = datetime.now(UTC)
    info = LogInfo(
        first_seq=101, last_seq=200, first_stored_at=created, last_stored_at=created, created=created.isoformat()
    )

    async def what() -> LogInfo:
        return info

    async with writing(servers) as conn:
        for partition in range(limits.PARTITIONS):
            await conn.execute(
                "INSERT INTO coord.checkpoint (stream, partition, stream_created, seq, epoch)"
                " VALUES ('EVENTS', $1, $2, 99, 1)",
                partition,
                created,
            )
    async with opened(servers, replica_staleness_max_s=60.0) as reads:
        await until(lambda: replica_answers(reads))
        used, asked = UsedIds(reads, what), []

        async def ask(conn: Connection) -> bool:
            asked.append(await conn.fetchval("SELECT pg_is_in_recovery()"))
            return bool(asked[-1])

        assert not await used._ask(reads, ask), "100 has left the log, and nobody knows that the replica has it"
        async with writing(servers) as conn:
            await conn.execute("UPDATE coord.checkpoint SET seq = 100 WHERE stream = 'EVENTS'")

        async def proven() -> bool:
            return await used._ask(reads, ask)

        await until(proven)
        about = Request(
            subjects.rpc("acme", "ids", "used"),
            msgspec.json.encode(UsedRequest("task", [("a", "b")])),
            "json",
            math.inf,
        )
        assert (await used.used(about)).whole
        info = msgspec.structs.replace(info, created=datetime(2020, 1, 1, tzinfo=UTC).isoformat())
        assert not await proven(), "another log's"


async def test_a_login_without_rights_of_its_own_is_told_how_old_the_replica_is(servers: Pair) -> None:
    async with writing(servers) as conn:
        await conn.execute("CREATE ROLE nobody_special LOGIN")
    config = servers.config()
    urls = {name: getattr(config, name).replace("coord@", "nobody_special@") for name in ("url", "replica_url")}
    there = await asyncpg.connect(servers.replica.url())
    await until(lambda: there.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 'nobody_special'"))
    await there.close()
    async with reading.pools(msgspec.structs.replace(config, **urls), metrics=Metrics(CollectorRegistry())) as reads:
        await until(lambda: reads.route.server == "replica")


async def test_a_command_says_where_its_answer_is_from(servers: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORD_DATABASE_URL", servers.primary.url())
    first = await cli("task", "ls", "-o", "json")
    assert (first.code, "From the" in first.err) == (0, False)
    monkeypatch.setenv("COORD_DATABASE_REPLICA_URL", servers.replica.url())
    monkeypatch.setenv("COORD_DATABASE_REPLICA_STALENESS_MAX_S", "60")

    async def from_replica() -> bool:
        result = await cli("task", "ls", "-o", "json")
        assert (result.code, result.json) == (0, [])
        return "From the replica: at most " in result.err

    await until(from_replica)

    async def examined() -> str:
        checks = (await cli("doctor", "-o", "json")).json
        (found,) = (f"{c['state']}: {c['detail']}" for c in checks if (c["area"], c["name"]) == ("database", "replica"))
        return found

    monkeypatch.setenv("COORD_NATS_URLS", "nats://127.0.0.1:1")
    monkeypatch.setenv("COORD_NATS_CONNECT_TIMEOUT_S", "0.1")
    await until(lambda: _begins(examined, "ok: at most "))
    monkeypatch.setenv("COORD_DATABASE_REPLICA_URL", "postgresql://127.0.0.1:1/none")
    assert await examined() == "warn: reads go to the primary: the replica does not answer"
    away = await cli("task", "ls", "-o", "json")
    assert (away.code, away.json) == (0, [])
    assert "From the primary: the replica does not answer." in away.err


async def _begins(asked: Callable[[], Awaitable[str]], text: str) -> bool:
    return (await asked()).startswith(text)
