"""The chain of what was projected, recomputed from the stream as an audit does it."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from coord import limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.bus.direct import next_on_leader
from coord.core import chain
from coord.core.checkpoint import Checkpoint
from coord.runtime import assets
from coord.store import checkpoints, maintenance
from coord.store.pool import Pool
from coord.wire import subjects
from coord.wire.envelope import Fact, encode_fact
from tests.support.projecting import projector_service
from tests.support.waiting import until

pytestmark = pytest.mark.slow

Place = tuple[int, int, int]
"""Sequence, messages and digest of an anchor or a checkpoint."""

HOSTILE = [
    None,
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\na: b\r\n\r\n",
    b"NATS/1.0\r\na: b\r\nXY",
    b"NATS/1.0\r\n\xff\xfe: 1\r\n\r\n",
]


async def read_again(conn: Connection, stream: str, partition: int, begin: Place, to_seq: int) -> tuple[int, int]:
    """(messages, digest) at `to_seq`, from what the stream has of a partition behind `begin`."""
    filter_subject = subjects.partition_filter(stream, partition)
    seq, messages, digest = begin
    while True:
        message = await next_on_leader(conn, stream, filter_subject, seq + 1)
        if message is None or message.seq > to_seq:
            return messages, digest
        headers = chain.canonical_headers(message.headers)
        digest = chain.extend(digest, message.seq, message.subject, headers, message.body)
        seq, messages = message.seq, messages + 1


async def test_the_stream_leads_from_anchor_to_anchor_to_checkpoint(
    start_nats: Any, migrated_database: Any, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ANCHOR_MESSAGES", 7)
    nats = await start_nats()
    async with await Connection.open(NatsConfig(urls=(nats.url,)), name="test") as conn:
        await topology.apply(conn, topology.load(assets.streams_dir(), "development"))

        async def publish(first: int, count: int) -> None:
            for i in range(first, first + count):
                key = f"k{i % 3}"
                sent = encode_fact(
                    Fact(kind="note", id="n", key=key, event="said", data={"i": i}),
                    tenant="acme", agent="a1", event_id=f"e{i}", occurred_at=datetime.now(UTC),
                )  # fmt: skip
                await conn.request(sent.subject, sent.body, headers=sent.header_block())
                block = HOSTILE[i % len(HOSTILE)]
                conn.publish(f"coord.ev.acme.a1.{key}.note.n.said", b"\xff%d" % i, headers=block)
                conn.publish("coord.tel.acme.a1.cpu", b"%d" % i, headers=block)
            await conn.flush()

        async def marks() -> list[Checkpoint]:
            async with pool.acquire() as db:
                return [m for s in ("EVENTS", "TELEMETRY") for m in await checkpoints.read_all(db, s)]

        async def projected(count: int) -> bool:
            return sum(m.messages for m in await marks()) == count

        for first in (0, 40):  # two sessions, the second of which goes on where the first one was
            async with projector_service(nats.url, migrated_database.url):
                await publish(first, 40)
                await until(lambda n=first: projected(3 * (n + 40)))  # type: ignore[misc]
        async with pool.acquire() as db:
            anchors = await db.fetch("SELECT * FROM coord.audit_anchor ORDER BY stream, partition, seq")
        busy = [m for m in await marks() if m.messages]
        assert len(anchors) > len(await marks()), "none was written on the way"
        for mark in busy:
            mine = (mark.stream, mark.partition, mark.epoch)
            places = [
                (a["seq"], a["messages"], a["digest"])
                for a in anchors
                if (a["stream"], a["partition"], a["epoch"]) == mine
            ]
            assert places[0][1:] == (0, chain.EMPTY)
            for begin, end in itertools.pairwise([*places, (mark.seq, mark.messages, mark.digest)]):
                assert await read_again(conn, mark.stream, mark.partition, begin, end[0]) == end[1:]


async def test_old_anchors_leave_and_a_partition_keeps_where_its_window_begins(pool: Pool) -> None:
    async with pool.acquire() as db:
        await db.execute(
            "INSERT INTO coord.audit_anchor (anchored_at, seq, messages, digest, epoch, partition, stream)"
            " SELECT now() - make_interval(days => 20 - n), n, n, 0, 1, p, 'EVENTS'"
            " FROM generate_series(0, 20) AS n, generate_series(0, 3) AS p"
        )
    removed = await maintenance.remove_anchors(pool, timedelta(days=7), batch_rows=5, pause_s=0)
    async with pool.acquire() as db:
        left = await db.fetch("SELECT partition, min(seq), count(*) FROM coord.audit_anchor GROUP BY 1")
    assert removed == 4 * 13
    assert {tuple(r)[1:] for r in left} == {(13, 8)}
    assert await maintenance.remove_anchors(pool, timedelta(days=7)) == 0
