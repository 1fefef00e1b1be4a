"""What is in hand stays bounded, whatever a sender packs into a message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
import zstandard

from coord import limits
from coord.bus.pull import Delivery
from coord.projector.rows import Batch
from coord.projector.service import ProjectorService
from coord.projector.writer import Offer, Writer
from coord.store import copy
from coord.wire import frames, headers
from tests.support.projecting import projector_service

pytestmark = pytest.mark.slow

ZSTD = headers.encode({"ce-specversion": "1.0", "ce-datacontenttype": "application/vnd.coord.frame+msgpack+zstd"})


@pytest.fixture
def service(nats, migrated_database) -> ProjectorService:
    return projector_service(nats.url, migrated_database.url, streams=("TELEMETRY",), batch_rows_max=2_000)


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(rows, bytes in memory for bodies) of every transaction."""
    seen: list[tuple[int, int]] = []
    transaction = Writer._transaction

    async def recording(self: Writer, offers: Sequence[Offer]) -> Any:
        batches = [offer.batch for offer in offers]
        held = sum(len(letter.body) for batch in batches for letter in batch.letters)
        held += sum(len(row[10] or "") for batch in batches for row in batch.samples)
        seen.append((sum(map(len, batches)), held))
        return await transaction(self, offers)

    monkeypatch.setattr(Writer, "_transaction", recording)
    return seen


async def count(db: asyncpg.Connection, table: str, wanted: int) -> None:
    async with asyncio.timeout(60):
        while (await db.fetchval(f"SELECT count(*) FROM coord.{table}")) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_small_messages_that_decode_to_many_megabytes_are_committed_a_few_at_a_time(
    conn, db, service, committed
) -> None:
    bomb = frames.pack(0, [(0, {"value": 1, "x": "A" * 7_000_000})], compress=True)  # too large for a row: poison
    heavy = frames.pack(0, [(0, {"value": 1, "x": "A" * 900_000})] * 8, compress=True)  # eight rows
    assert len(bomb) < 2_000
    assert len(heavy) < 4_000
    for body in [bomb, heavy] * 10:
        await conn.request("coord.tel.acme.a1.cpu", body, headers=ZSTD)
    async with service:
        await count(db, "metric_sample", 80)
        await count(db, "dead_letter", 10)
    assert max(held for _, held in committed) <= limits.PROJECT_BATCH_BYTES + limits.FRAME_BYTES_MAX


def test_headers_of_any_size_cost_a_dead_letter_little() -> None:
    """A message may be a megabyte of headers, and a batch thousands of such messages."""
    batch = Batch("EVENTS", 0, 1)
    for seq in range(1, 2_001):
        batch.add(Delivery(seq, 0, "coord.log.0.t.k.task.k.a.done", b"NATS/1.0\r\n" + b"\xff" * 1_000_000, b""))
        if batch.is_full(10_000):
            break
    assert len(batch) < 2_000
    rows = [letter.row for letter in batch.letters]
    assert max(len(row.headers or "") for row in rows) <= 4 * limits.HEADERS_BYTES_MAX
    pieces = list(copy._pieces(rows))
    assert [row for piece in pieces for row in piece] == rows
    for piece in pieces:
        assert sum(len(row.headers or "") for row in piece) <= limits.DEAD_LETTER_STATEMENT_BYTES_MAX


async def test_a_batch_of_frames_has_at_most_one_frame_too_many(conn, db, service, committed) -> None:
    single = zstandard.ZstdCompressor().compress(frames.pack(0, [(0, 1.0)]))
    full = zstandard.ZstdCompressor().compress(frames.pack(0, [(0, 1.0)] * limits.FRAME_ENTRIES_MAX))
    for body in [single] * 100 + [full] * 50:  # frames behind singles: the past does not tell
        await conn.request("coord.tel.acme.a1.cpu", body, headers=ZSTD)
    async with service:
        await count(db, "metric_sample", 50_100)
    assert await db.fetchval("SELECT count(DISTINCT (seq, idx)) FROM coord.metric_sample") == 50_100
    assert max(rows for rows, _ in committed) < 2_000 + limits.FRAME_ENTRIES_MAX
    assert len(committed) < 60
