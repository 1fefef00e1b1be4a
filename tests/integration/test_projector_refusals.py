"""A database that refuses all of a batch holds nobody up for good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from coord.bus.pull import Delivery
from coord.projector import writer as writing
from coord.projector.rows import Batch, Letter
from coord.projector.writer import Writer
from coord.store import checkpoints
from coord.store.config import DatabaseConfig
from coord.store.pool import PROJECTOR_SETTINGS, Pool
from coord.telemetry.metrics import Metrics
from coord.wire import subjects

ROWS = 100


class NoQueue:
    async def publish(self, letters: Sequence[Letter]) -> None:
        """The stream is not what is tested."""


async def test_a_batch_that_is_refused_whole_is_parked_in_more_than_one_transaction(
    migrated_database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search by halving takes two savepoints a row: no transaction's deadline may depend on the batch."""
    monkeypatch.setattr(writing, "_SEARCH_ROWS", 64)
    db = await asyncpg.connect(migrated_database.url)
    await db.execute("ALTER TABLE coord.event ADD CONSTRAINT no_bad CHECK (kind <> 'bad')")
    # However long it takes: how many transactions there are does not depend on it.
    config = DatabaseConfig(
        url=migrated_database.url, pool_min=1, pool_max=2, statement_timeout_s=200.0, idle_in_transaction_s=200.0
    )
    pool = Pool(config, settings=PROJECTOR_SETTINGS)
    await pool.open()
    async with pool.acquire() as conn:
        checkpoint = await checkpoints.create(
            conn, stream="EVENTS", partition=0, stream_created=datetime(2026, 1, 1, tzinfo=UTC), seq=0
        )
    batch = Batch("EVENTS", 0, checkpoint.epoch)
    stored = f"coord.log.{subjects.partition('k')}.t.k.bad.k.a.done"
    for seq in range(1, ROWS + 1):
        batch.add(Delivery(seq, time.time_ns(), stored, None, b"{}"))
    assert len(batch.events) == ROWS
    before = pool.stats.acquired_total
    writer = Writer(pool, NoQueue(), Metrics(CollectorRegistry()))  # type: ignore[arg-type]
    lane = asyncio.create_task(writer.run())
    move = await asyncio.wait_for(writer.offer(batch, checkpoint).settled, 200)
    lane.cancel()
    assert move.after.seq == ROWS
    assert pool.stats.acquired_total - before == 4, "the write, two searches, the write again"
    assert await db.fetchval("SELECT count(*) FROM coord.dead_letter") == ROWS
    assert await db.fetchval("SELECT count(*) FROM coord.event") == 0
    await pool.close()
    await db.close()
