"""The projector on real servers: what it writes, what it tells, how it shares, how it stops."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.bus.patched import Message
from coord.projector.service import ProjectorService
from coord.runtime import assets
from coord.store import checkpoints
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.envelope import Fact, Sample, encode_fact, encode_frame, encode_sample
from coord.wire.times import parse_time
from tests.support.projecting import projector_service
from tests.support.waiting import until

pytestmark = pytest.mark.slow

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
StartProjector = Callable[..., Awaitable[ProjectorService]]


@pytest.fixture
async def projector(conn, nats, migrated_database) -> AsyncIterator[StartProjector]:
    """`service = await projector(**ProjectorConfig fields)`: started and ready."""
    started: list[ProjectorService] = []

    async def start(**fields: Any) -> ProjectorService:
        service = projector_service(nats.url, migrated_database.url, **fields)
        started.append(service)
        await service.start()
        await service.wait_ready(60)
        return service

    yield start
    for service in started:
        await service.drain()
        await service.stop()


def send(conn: Connection, fact: Fact, agent: str = "a1", event_id: str = "e1") -> Awaitable[Message]:
    encoded = encode_fact(fact, tenant="acme", agent=agent, event_id=event_id, occurred_at=NOW)
    return conn.request(encoded.subject, encoded.body, headers=encoded.header_block())


async def test_a_bare_publish_and_a_full_envelope_become_rows(conn, db, projector) -> None:
    await projector()
    conn.publish("coord.ev.acme.me.me.agent.me.status", b'{"load":0.2}')
    await send(
        conn,
        Fact(
            kind="task", id="t1", key="w1", event="submitted", detail=("summarize", "batch"), data={"n": [1, "é"]},
            correlation_id="c-1", causation_id="c-0", type="com.example.thing",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    )  # fmt: skip

    async def both() -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await db.fetch("SELECT * FROM coord.event ORDER BY seq")
        return rows if len(rows) == 2 else []

    bare, full = await until(both)
    assert (bare["tenant"], bare["agent"], bare["key"], bare["kind"], bare["id"], bare["event"]) == (
        "acme", "me", "me", "agent", "me", "status",
    )  # fmt: skip
    assert bare["occurred_at"] == bare["stored_at"]
    assert bare["type"] == "coord.agent.status"
    assert msgspec.json.decode(bare["data"]) == {"load": 0.2}
    assert full["detail"] == "summarize.batch"
    assert full["occurred_at"] == NOW
    assert full["event_id"] == "e1"
    assert (full["correlation_id"], full["causation_id"], full["type"]) == ("c-1", "c-0", "com.example.thing")
    assert full["traceparent"].startswith("00-0af7")
    assert full["partition"] == subjects.partition("w1")
    assert msgspec.json.decode(full["data"]) == {"n": [1, "é"]}
    agent = await db.fetchrow("SELECT * FROM coord.agent")
    assert (agent["tenant"], agent["agent"], agent["state"]) == ("acme", "me", "alive")


async def test_telemetry_frames_and_single_samples(conn, db, projector) -> None:
    await projector()
    await conn.request("coord.tel.acme.a1.cpu", b"0.5")
    encoded = encode_sample(Sample(series="llm.tokens", value=12, data={"model": "m"}), tenant="acme", agent="a1",
                            event_id="s1", occurred_at=NOW)  # fmt: skip
    await conn.request(encoded.subject, encoded.body, headers=encoded.header_block())
    frame = encode_frame(
        [Sample(series="mem", value=i) for i in range(500)],
        tenant="acme", agent="a1", event_id="f1", occurred_at=NOW,
    )  # fmt: skip
    await conn.request(frame.subject, frame.body, headers=frame.header_block())

    async def all_there() -> Any:
        return await db.fetchval("SELECT count(*) FROM coord.metric_sample") == 502

    await until(all_there)
    rows = await db.fetch("SELECT value, idx, occurred_at FROM coord.metric_sample WHERE series = 'mem' ORDER BY idx")
    assert [r["value"] for r in rows] == list(range(500))
    assert [r["idx"] for r in rows] == list(range(500))
    labelled = await db.fetchrow("SELECT value, data FROM coord.metric_sample WHERE series = 'llm.tokens'")
    assert labelled["value"] == 12
    assert msgspec.json.decode(labelled["data"]) == {"model": "m"}


async def test_poison_is_parked_in_the_table_and_the_dlq_and_its_siblings_are_rows(conn, db, projector) -> None:
    service = await projector()
    subject = "coord.ev.acme.a1.k.note.n.said"
    await conn.request(subject, b'{"good": 1}')
    await conn.request(subject, b'{"bad": \xff}')
    await conn.request(subject, b'{"good": 2}')

    async def siblings() -> Any:  # perhaps in other transactions than the letter
        return await db.fetchval("SELECT count(*) FROM coord.event") == 2

    await until(siblings)
    (letter,) = await db.fetch("SELECT * FROM coord.dead_letter")
    assert letter["code"] == "wire.payload"
    assert letter["body"] == b'{"bad": \xff}'
    assert (letter["stream"], letter["tenant"], letter["agent"]) == ("EVENTS", "acme", "a1")
    copy = await conn.api("STREAM.MSG.GET.DLQ", {"last_by_subj": subjects.dlq("EVENTS", "acme", "a1")})
    assert copy["message"]["seq"] == 1

    async def counted() -> Any:
        labels = {"stream": "EVENTS", "reason": "wire.payload"}
        return service.metrics.registry.get_sample_value("coord_messages_dead_lettered_total", labels)

    assert await until(counted) == 1


async def test_a_row_the_database_refuses_is_parked_and_its_batch_goes_on(conn, db, projector) -> None:
    await db.execute("ALTER TABLE coord.event ADD CONSTRAINT no_evil CHECK (data ->> 'evil' IS NULL)")
    for i in range(40):
        data = {"evil": 1} if i in {7, 23} else {"i": i}
        await send(conn, Fact(kind="note", id="n", event="said", data=data), event_id=f"e{i}")
    await projector()

    async def siblings() -> Any:
        return await db.fetchval("SELECT count(*) FROM coord.event") == 38

    await until(siblings)
    assert await db.fetchval("SELECT count(*) FROM coord.dead_letter") == 2
    codes = await db.fetch("SELECT DISTINCT code, subject FROM coord.dead_letter")
    assert [c["code"] for c in codes] == ["store.refused"]
    assert codes[0]["subject"] == subjects.FactSubject("acme", "a1", "n", "note", "n", "said").stored


async def test_notices_follow_commits_and_form_a_chain(conn, db, projector) -> None:
    await projector()
    notices: list[dict[str, Any]] = []
    p = subjects.partition("k")
    await conn.subscribe(subjects.notice("acme", p), lambda m: notices.append(msgspec.json.decode(m.data)))
    await conn.flush()
    for i in range(5):
        await send(conn, Fact(kind="note", id=f"n{i}", key="k", event="said"), event_id=f"e{i}")

        async def told(n: int = i) -> Any:
            return any(f"note:n{n}" in notice["tags"] for notice in notices)

        await until(told)
        assert await db.fetchval("SELECT count(*) FROM coord.event WHERE id = $1", f"n{i}") == 1  # committed before
    assert all(a["to"] == b["from"] for a, b in itertools.pairwise(notices))
    assert {n["partition"] for n in notices} == {p}
    assert {n["stream"] for n in notices} == {"EVENTS"}


async def test_idle_partitions_follow_the_end_of_the_log(conn, db, projector) -> None:
    await projector(idle_checkpoint_s=0.2)
    answer = await send(conn, Fact(kind="note", id="n", event="said"))
    seq = msgspec.json.decode(answer.data)["seq"]

    async def all_there() -> Any:
        return (
            await db.fetchval("SELECT count(*) FROM coord.checkpoint WHERE stream = 'EVENTS' AND seq = $1", seq) == 16
        )

    await until(all_there)
    # and what comes next is still projected, exactly once
    for i in range(32):
        await send(conn, Fact(kind="note", id=f"k{i}", event="said"), event_id=f"n{i}")

    async def projected() -> Any:
        return await db.fetchval("SELECT count(*) FROM coord.event") == 33

    await until(projected)


async def test_replicas_share_and_a_drained_one_hands_over(conn, db, projector) -> None:
    first = await projector()
    second = await projector()

    async def shared() -> Any:
        return len(first._replicas.members) == len(second._replicas.members) == 2

    await until(shared)
    for i in range(200):
        await send(conn, Fact(kind="note", id=f"k{i}", event="said"), event_id=f"e{i}")

    def pinned(service: ProjectorService) -> set[tuple[str, int]]:
        return {(p.stream, p.partition) for p in service.partitions if p.state == "pinned"}

    async def even() -> Any:
        mine, theirs = (sum(s == "EVENTS" for s, _ in pinned(x)) for x in (first, second))
        return mine == theirs == 8

    await until(even)
    assert not pinned(first) & pinned(second)
    await first.drain()
    await first.stop()
    for i in range(200, 300):
        await send(conn, Fact(kind="note", id=f"k{i}", event="said"), event_id=f"e{i}")

    async def projected() -> Any:
        return await db.fetchval("SELECT count(*) FROM coord.event") == 300

    await until(projected)
    assert await db.fetchval("SELECT count(DISTINCT (epoch, seq, idx)) FROM coord.event") == 300
    await until(lambda: len(pinned(second)) >= 16)


async def test_a_replaced_stream_stops_its_partitions_until_an_operator_decides(
    conn, db, projector, migrated_database
) -> None:
    service = await projector()
    await send(conn, Fact(kind="note", id="n", event="said"))

    async def one() -> Any:
        return await db.fetchval("SELECT count(*) FROM coord.event") == 1

    await until(one)
    await conn.api("STREAM.DELETE.EVENTS")
    await topology.apply(conn, topology.load(assets.streams_dir(), "development"))

    async def stopped() -> Any:
        return all(p.state == "stopped" for p in service.partitions if p.stream == "EVENTS")

    await until(stopped)
    assert not service.ready
    problem = {error["code"]: error for error in service.health()["errors"]}["projection.stream_replaced"]
    assert "new-epoch" in problem["remedy"]
    await conn.request("coord.tel.acme.a1.cpu", b"1")  # the other stream is not concerned

    async def sampled() -> Any:
        return await db.fetchval("SELECT count(*) FROM coord.metric_sample") == 1

    await until(sampled)
    created = parse_time((await conn.api("STREAM.INFO.EVENTS"))["created"])
    await checkpoints.new_epoch(db, "EVENTS", stream_created=created, seq=0)
    await send(conn, Fact(kind="note", id="n", event="said"))

    async def two() -> Any:
        return await db.fetchval("SELECT count(*) FROM coord.event") == 2

    await until(two)
    assert [r["epoch"] for r in await db.fetch("SELECT epoch FROM coord.event ORDER BY epoch")] == [1, 2]


async def test_starts_without_its_servers_and_says_that_it_is_not_ready(nats, conn) -> None:
    service = ProjectorService(
        NatsConfig(urls=(nats.url,)),
        DatabaseConfig(url="postgresql://127.0.0.1:1/none", pool_min=0),
        registry=Metrics(CollectorRegistry()),
    )
    async with service:

        async def troubled() -> Any:
            return "store.unavailable" in {error["code"] for error in service.health()["errors"]}

        await until(troubled)
        assert not service.ready
