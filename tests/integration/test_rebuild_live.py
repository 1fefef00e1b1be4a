"""A rebuild beside the projector at work: nothing waits for it but for the moment of the swap, and nobody is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from coord.bus.connection import Connection
from coord.client.connect import connect
from coord.ops.devstack.nats import NatsServer
from coord.projector import rebuild
from coord.projector.rebuild import Rebuilder
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.telemetry.metrics import Metrics
from coord.wire.records import Fact
from tests.support.cluster import Database
from tests.support.projecting import projector_service
from tests.support.rebuilding import differing, tables, unequal
from tests.support.store import pool_of
from tests.support.waiting import until

_SAID: dict[str, list[tuple[str, tuple[str, ...], Any]]] = {
    "task": [
        ("submitted", ("work", "normal"), {"retries": 2, "input": {"zz": 1, "a": [2]}}),
        ("claimed", ("1",), {"instance": "i"}),
        ("claimed", ("2",), {"instance": "i"}),
        ("completed", (), {"run_s": 0.5}),
        ("failed", (), {"error": "E", "message": "no"}),
    ],
    "signal": [("raised", (), {}), ("awaited", ("w1",), {"names": ["s1"], "instance": "i"})],
    "lock": [("requested", ("tok1",), {"instance": "i"}), ("released", ("tok1",), {})],
    "flag": [("set", (), {"percentage": 10}), ("set", (), {"percentage": 90})],
    "note": [("said", (), {"text": "x"})],
}


def some_fact(rng: random.Random) -> Fact:
    kind = rng.choice(["task", "task", *_SAID])
    id_ = f"{kind[0]}{rng.randrange(50)}"
    event, detail, data = rng.choice(_SAID[kind])
    return Fact(kind=kind, event=event, id=id_, key="flags" if kind == "flag" else id_, detail=detail, data=data)


@pytest.fixture
async def pool(migrated_database: Database) -> AsyncIterator[Pool]:
    async with pool_of(migrated_database.url) as pool:
        yield pool


@pytest.fixture
async def rebuilder(migrated_database: Database) -> AsyncIterator[Rebuilder]:
    async with rebuild.pools(DatabaseConfig(url=migrated_database.url)) as (writer, reader):
        yield Rebuilder(writer, reader)


async def ends(conn: Connection) -> dict[str, int]:
    """Where the streams of facts, letters and timers end."""
    streams = (await conn.api("STREAM.LIST"))["streams"]
    return {s["config"]["name"]: s["state"]["last_seq"] for s in streams if s["config"]["name"] != "CURSORS"}


async def test_ingest_goes_on_and_nobody_is_told(
    conn: Connection,
    nats: NatsServer,
    db: asyncpg.Connection,
    migrated_database: Database,
    pool: Pool,
    rebuilder: Rebuilder,
    rng: random.Random,
) -> None:
    sent = 0
    metrics = Metrics(CollectorRegistry())
    projector = projector_service(nats.url, migrated_database.url)

    async def projected() -> bool:
        rows = "SELECT count(*) FROM coord.event WHERE kind <> 'agent'"
        return bool(await db.fetchval(f"SELECT ({rows}) + (SELECT count(*) FROM coord.dead_letter)") >= sent)

    async with AsyncExitStack() as stack:
        await projector.start()
        stack.push_async_callback(projector.stop)
        stack.push_async_callback(projector.drain)
        async with (
            connect(nats.url, tenant="acme", agent="a1", metrics=metrics) as one,
            connect(nats.url, tenant="acme", agent="a2", metrics=metrics) as other,
        ):

            async def go_on(facts: int) -> None:
                nonlocal sent
                for _ in range(facts):
                    await rng.choice([one, other]).stating.state(some_fact(rng))
                    sent += 1

            await go_on(400)
            await until(projected)
            for _ in range(3):  # the second and third meet the tables that the one before has made
                async with asyncio.TaskGroup() as group:
                    group.create_task(go_on(300))
                    await rebuilder.begin()
                    await rebuilder.build()
                    assert unequal(await rebuilder.compare()) == [], await differing(pool)
                    await rebuilder.swap()
        await until(projected)
        assert not [p.error for p in projector.partitions if p.state in ("retrying", "stopped")]

        # Nothing comes now: whatever is said is the rebuild's.
        told: list[Any] = []
        before, ended = await tables(pool), await ends(conn)
        listening = await conn.subscribe("coord.>", told.append)
        await rebuilder.begin()
        await rebuilder.build()
        assert unequal(await rebuilder.compare()) == [], await differing(pool)
        await rebuilder.swap()
        await listening.unsubscribe()
        assert await tables(pool) == before
        assert await ends(conn) == ended
        assert not [m for m in told if not m.subject.startswith(("coord.beat", "coord.notice._."))], told
