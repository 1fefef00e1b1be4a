"""SIGKILL to the projector while tasks go on: the tables of entities are what the log's facts fold to."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from coord.client.connect import connect
from coord.core import tasks
from coord.core.tasks import Task
from coord.projector import entities, tables
from coord.store.rows import EVENT_COLUMNS
from coord.telemetry.metrics import Metrics
from coord.wire.records import Fact
from tests.conftest import soak_rounds
from tests.support.store import pool_of
from tests.support.waiting import until


def some_fact(rng: random.Random) -> Fact:
    event = rng.choice(["submitted", "claimed", "claimed", "completed", "failed", "progress", "cancelled"])
    detail: tuple[str, ...] = ()
    data: dict[str, Any] = {}
    if event == "submitted":
        detail, data = ("work", "normal"), {"retries": 2, "redrive": rng.choice([0, 0, 1])}
    elif event == "claimed":
        detail = (str(rng.randrange(1, 4)),)
    return Fact(kind="task", event=event, id=f"t{rng.randrange(60)}", detail=detail, data=data)


async def test_tables_equal_the_fold_though_killed(nats, migrated_database, process, rng: random.Random) -> None:
    url, sent = migrated_database.url, 0
    metrics = Metrics(CollectorRegistry())
    async with (
        connect(nats.url, tenant="killed", agent="a1", metrics=metrics) as one,
        connect(nats.url, tenant="killed", agent="a2", metrics=metrics) as other,
    ):

        async def go_on(facts: int) -> None:
            nonlocal sent
            for _ in range(facts):
                await rng.choice([one, other]).stating.state(some_fact(rng))
                sent += 1

        for _ in range(soak_rounds(3)):
            projector = await process(url)
            await projector.ready()
            load = asyncio.ensure_future(go_on(300))
            await asyncio.sleep(rng.uniform(0.02, 0.3))  # wherever it is then
            projector.kill()
            assert await projector.ended() == -9
            await load
        await process(url)
        await go_on(100)
    async with pool_of(url) as pool, pool.acquire() as conn:
        counts = "SELECT (SELECT count(*) FROM coord.event) + (SELECT count(*) FROM coord.dead_letter)"

        async def projected() -> bool:
            return bool(await conn.fetchval(counts) >= sent)

        await until(projected)
        assert await conn.fetchval(counts) == sent, "each is a row or a dead letter, once"
        log = await conn.fetch(f"SELECT {', '.join(EVENT_COLUMNS)} FROM coord.event ORDER BY seq, idx")
        saved = {r["id"]: r["fold"] for r in await conn.fetch("SELECT id, fold FROM coord.task")}
        letters = await conn.fetchval("SELECT count(*) FROM coord.dead_letter WHERE code LIKE 'task.%'")
    facts: dict[str, list[Any]] = {}
    for row in log:
        facts.setdefault(row["id"], []).append(entities.fact_of(tuple(row)))
    assert letters > 0
    for id_, history in facts.items():
        task, _ = tasks.fold(history)
        assert (task is None) == (id_ not in saved)
        if task is not None:
            tables.TABLES["task"].slim(task)
            found = msgspec.msgpack.decode(saved[id_], type=Task)
            found.payload_hash = task.payload_hash  # jsonb spaces its text differently
            assert found == task
    print(f"{sent} facts, {letters} dead letters, {len(saved)} tasks")
