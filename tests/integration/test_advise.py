"""`coord db advise` on a real server: what it counts, in hypertables and plain tables."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from coord.core.advice import advise
from coord.ops.bench import made
from coord.store import advice
from coord.store.pool import Connection
from tests.support.cli import cli
from tests.support.cluster import Database
from tests.support.store import pool_of


@pytest.fixture
async def conn(migrated_database: Database) -> AsyncIterator[Connection]:
    """Three days and some hours of facts, few enough to be quick."""
    until = datetime.now(UTC)
    shape = made.Shape(rows=4_000, begin=until.replace(hour=0, minute=0) - timedelta(days=3, hours=5), until=until)
    await made.fill(migrated_database.url, shape)
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        yield conn


async def test_the_schema_lacks_nothing(conn: Connection) -> None:
    known = (await advice.gather(conn)).known
    assert set(known.wanted) >= {"task_open_idx", "event_agent_idx", "event_key_idx", "handoff_time_idx"}
    assert {i.name for i in known.indexes} >= known.wanted.keys()
    assert [a for a in advise(known) if a.kind in {"missing index", "invalid index", "unused index"}] == []


async def test_an_index_that_was_dropped_and_one_nobody_uses(conn: Connection) -> None:
    await conn.execute("DROP INDEX coord.task_open_idx")
    await conn.execute("CREATE INDEX event_mine_idx ON coord.event (event, stored_at)")
    known = (await advice.gather(conn)).known
    mine = next(i for i in known.indexes if i.name == "event_mine_idx")
    assert mine.relation == "event"
    assert mine.bytes > 16_384, "those of the chunks are counted"
    # As after a month, and as if it were large.
    known = msgspec.structs.replace(
        known,
        observed_s=30 * 86_400,
        indexes=[msgspec.structs.replace(i, bytes=2**30) if i.name == mine.name else i for i in known.indexes],
    )
    found = {(a.severity, a.kind, a.what) for a in advise(known)}
    assert ("urgent", "missing index", "task_open_idx") in found
    assert ("advice", "unused index", "event.event_mine_idx") in found
    missing = next(a for a in advise(known) if a.kind == "missing index")
    await conn.execute(missing.statement)
    assert "task_open_idx" in {i.name for i in (await advice.gather(conn)).known.indexes}


async def test_days_are_whole_and_scans_are_counted(conn: Connection) -> None:
    async with conn.transaction():  # in which it is one and the same day
        known = (await advice.gather(conn, retain_days=30)).known
        days = known.disk.facts_by_day
        expected = await conn.fetch(
            "SELECT count(*) AS facts FROM coord.event WHERE stored_at < date_trunc('day', now(), 'UTC')"
            " GROUP BY date_trunc('day', stored_at, 'UTC') ORDER BY min(stored_at)"
        )
    assert len(days) >= 3
    assert list(days) == [row["facts"] for row in expected][1:], (
        "without the first, which began at some time of the day"
    )
    assert known.disk.bytes_per_fact > 100
    event = next(t for t in known.tables if t.relation == "event")
    assert event.rows >= 0
    if known.chunks:
        chunks = next(c for c in known.chunks if c.relation == "event")
        assert chunks.interval_s == 6 * 3_600
        assert chunks.count >= 12
        assert chunks.bytes_per_s > 0


async def test_the_command_says_it(conn: Connection, migrated_database: Database) -> None:
    args = ("db", "advise", "--database", migrated_database.url, "-o", "json")
    roomy = await cli(*args, "--disk-gib", "100000")
    assert roomy.code == 0, roomy.err
    assert roomy.json["forecast"]["days_judged"] >= 3
    assert roomy.json["forecast"]["bytes_per_day"] > 0
    full = await cli(*args, "--disk-gib", "0.0001")
    assert full.code == 3
    urgent = [a for a in full.json["advice"] if a["severity"] == "urgent"]
    assert [a["kind"] for a in urgent] == ["disk"]
    assert "full in 0 days" in urgent[0]["why"]
