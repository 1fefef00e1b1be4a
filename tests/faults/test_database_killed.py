"""SIGKILL to PostgreSQL, commits lost among it: rows and checkpoint vanish together and the log refills them.

The cluster is made to lose much (see `crash_server`): the projector commits with
synchronous_commit=off, and the WAL writer sleeps ten seconds.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from urllib.parse import urlsplit

import asyncpg

from tests.conftest import soak_rounds
from tests.support.proxy import Proxy
from tests.support.waiting import until
from tests.support.workload import Row, Watcher, Workload, beyond_checkpoint, compare, connect, read_rows, verify


async def positions(db: asyncpg.Connection) -> dict[tuple[str, int], tuple[int, int]]:
    """Where each partition's checkpoint stands."""
    rows = await db.fetch("SELECT stream, partition, epoch, seq FROM coord.checkpoint")
    return {(r["stream"], r["partition"]): (r["epoch"], r["seq"]) for r in rows}


async def seen_but_not_safe(
    db: asyncpg.Connection, load: Workload, more: int
) -> tuple[dict[tuple[str, int], tuple[int, int]], list[Row]]:
    """Checkpoints and rows after `more` facts, some of which only PostgreSQL's memory has."""
    for _ in range(20):
        mark = await db.fetchval("SELECT pg_current_wal_insert_lsn()")
        known = len(await read_rows(db, load.tenant))
        await load.more(more)
        while len(await read_rows(db, load.tenant)) <= known:
            await load.more(10)
        found = await positions(db), await read_rows(db, load.tenant)
        # What was committed after the mark is not on disk yet, if nothing behind the mark is.
        if await db.fetchval("SELECT pg_current_wal_flush_lsn() <= $1", mark):
            return found
    raise AssertionError("the WAL writer was always there first")


async def test_the_postmaster_is_killed(nats, crash_server, crash_database, projector, rng: random.Random) -> None:
    url = crash_database.url
    await projector(url)
    async with Workload(nats.url, rng, per_s=1000) as load, Watcher(url, load.tenant):
        for _ in range(soak_rounds(2)):
            await load.more(rng.randrange(50, 600))
            await crash_server.kill()
            await crash_server.start()
        await load.more(50)
        await load.stop()
        rows = await verify(url, load)
    print(f"{len(rows)} rows, {load.acks} messages")


async def test_backends_are_killed(nats, crash_server, crash_database, projector, rng: random.Random) -> None:
    """One backend of the projector: PostgreSQL then ends all of them and recovers, its postmaster alive."""
    url = crash_database.url
    await projector(url)
    async with Workload(nats.url, rng, per_s=1000) as load, Watcher(url, load.tenant):
        for _ in range(soak_rounds(2)):
            await load.more(rng.randrange(50, 500))
            db = await connect(url)

            async def backends(db: asyncpg.Connection = db) -> list[asyncpg.Record]:
                return await db.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'coord'"
                    " ORDER BY state = 'active' DESC, pid"
                )

            busy = await until(backends)  # none while the circuit is open
            os.kill(busy[0]["pid"], signal.SIGKILL)

            async def ended(db: asyncpg.Connection = db) -> bool:
                with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    await db.fetch("SELECT 1")
                return db.is_closed()

            await until(ended)
        await load.more(50)
        await load.stop()
        rows = await verify(url, load)
    print(f"{len(rows)} rows, {load.acks} messages")


async def test_lost_commits_are_refilled_from_the_log(
    nats, crash_server, crash_database, projector, rng: random.Random, record_property
) -> None:
    url = crash_database.url
    lost_rows = 0
    async with Proxy("127.0.0.1", urlsplit(url).port or 0) as line:
        await projector(line.in_front_of(url))
        async with Workload(nats.url, rng, per_s=1500) as load:
            crashes = 0
            # The WAL writer may come between the look and the kill: then one more crash has to show it.
            while crashes < soak_rounds(2) or (lost_rows == 0 and crashes < soak_rounds(2) + 8):
                crashes += 1
                db = await connect(url)
                before, rows_before = await seen_but_not_safe(db, load, rng.randrange(300, 900))
                line.refuse()
                await crash_server.kill()
                line.cut()
                await crash_server.start()
                db = await connect(url)
                after, rows_after = await positions(db), await read_rows(db, load.tenant)
                lost_rows += len(rows_before) - len(rows_after)
                back = sum(after.get(p, (0, 0)) < at for p, at in before.items())
                print(f"{len(rows_before) - len(rows_after)} of {len(rows_before)} rows and {back} checkpoints lost")
                # Together: no row beyond its checkpoint, and every acknowledged fact up to it is there.
                assert not await beyond_checkpoint(db, load.tenant)
                covered = [e for e in load.acked if (e.epoch, e.seq) <= after.get((e.stream, e.partition), (0, 0))]
                assert not [f for f in compare(rows_after, covered) if f.kind in ("lost", "doubled")]
                await db.close()
                line.resume()
            assert lost_rows > 0, "no crash lost anything: this test has shown nothing"
            await load.stop()
            rows = await verify(url, load)
    record_property("rows_lost_and_refilled", lost_rows)
    print(f"{lost_rows} rows lost and refilled, {len(rows)} in all")


async def test_lost_commits_are_refilled_though_nobody_publishes_any_more(
    nats, crash_server, crash_database, projector, rng: random.Random
) -> None:
    """The log's last facts: no later one draws the projector's attention to them."""
    url = crash_database.url
    await projector(url)
    async with Workload(nats.url, rng, per_s=1500) as load:
        await load.until(300)
        await load.stop()
        rows = await verify(url, load)
        await crash_server.kill()
        await crash_server.start()
        db = await connect(url)
        left = len(await read_rows(db, load.tenant))
        await db.close()
        again = await verify(url, load)
    assert [r.identity for r in again] == [r.identity for r in rows]
    print(f"{left} of {len(rows)} rows when it came back")
