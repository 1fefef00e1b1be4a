"""A clock that jumps ahead makes nothing old: neither the database's nor the broker's alone decides what is dropped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from coord.store import copy, maintenance
from coord.store.pool import Pool
from tests.support.cluster import Database
from tests.support.store import event, pool_of, sample

RETAIN = timedelta(days=30)
AHEAD = timedelta(days=400)
HOUR = timedelta(hours=1)


@pytest.fixture
async def pool(either_database: Database) -> AsyncIterator[Pool]:
    if either_database.edition == "community":
        pytest.skip("the server's own policy drops there, by its clock alone")
    async with pool_of(either_database.url) as pool:
        yield pool


async def stored(pool: Pool, *times: datetime, seen: datetime) -> None:
    """Facts and samples of these times; `seen`: the newest of the broker's times that a checkpoint has."""
    async with pool.transaction() as conn:
        await copy.events(conn, [event(i, at=at) for i, at in enumerate(times, 1)])
        await copy.samples(conn, [sample(i, at=at) for i, at in enumerate(times, 1)])
        await conn.execute(
            "INSERT INTO coord.checkpoint (stream_created, stored_at, seq, epoch, partition, stream)"
            " VALUES ($1, $1, 1, 1, 3, 'EVENTS') ON CONFLICT (stream, partition) DO UPDATE SET stored_at = $1",
            seen,
        )


async def left(pool: Pool) -> tuple[int, int]:
    async with pool.acquire() as conn:
        counts = [await conn.fetchval(f"SELECT count(*) FROM coord.{t}") for t in ("event", "metric_sample")]
    return counts[0], counts[1]


async def test_the_databases_clock_jumps_ahead(pool: Pool) -> None:
    """To it everything is old; by the log's time the facts are an hour old."""
    there = datetime.now(UTC) - AHEAD
    await stored(pool, there - HOUR, there, seen=there)
    await maintenance.maintain(pool, RETAIN)
    assert await left(pool) == (2, 2)
    # Set right again, or time has gone by: what is said now shows it, and what is old goes.
    now = datetime.now(UTC)
    await stored(pool, now, seen=now)
    await maintenance.maintain(pool, RETAIN)
    assert await left(pool) == (1, 1)


async def test_the_brokers_clock_jumps_ahead(pool: Pool) -> None:
    """What it stored meanwhile lies in the future; what was there before is no older for that."""
    now = datetime.now(UTC)
    await stored(pool, now - HOUR, now + AHEAD, seen=now + AHEAD)
    await maintenance.maintain(pool, RETAIN)
    assert await left(pool) == (2, 2)


async def test_the_brokers_clock_jumps_back(pool: Pool) -> None:
    """Facts are stored as of last year: they stay until the log's own time has passed them by."""
    now = datetime.now(UTC)
    await stored(pool, now - AHEAD, seen=now - AHEAD)
    await maintenance.maintain(pool, RETAIN)
    assert await left(pool) == (1, 1)
