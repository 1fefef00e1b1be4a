"""Three servers, three copies: the log's leader is killed or stopped amid bursts of facts; all is stored, in order."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from coord.bus.connection import NatsConfig
from coord.client.connect import connect
from coord.projector.config import ProjectorConfig
from coord.projector.service import ProjectorService
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from coord.wire.envelope import Fact
from tests.support.nats_cluster import NatsCluster
from tests.support.waiting import until

KEYS = 8
BURST = 12
BURSTS = 20
"""Before the fault and from it on, of all keys: on three servers that share a busy core they take seconds each."""


def fact(key: int, n: int) -> Fact:
    """Every third may wait for company: facts of a key keep their order across classes."""
    kind, event = ("task", "progress") if n % 3 == 0 else ("note", "said")
    return Fact(kind=kind, id=f"{kind}{key}", key=f"k{key}", event=event, data={"n": n})


@pytest.mark.parametrize("fault", ["killed", "stopped"])
async def test_a_leader_that_goes_costs_no_fact_and_no_order(tmp_path: Path, migrated_database, fault: str) -> None:
    async with NatsCluster(tmp_path / "cluster") as cluster:
        await cluster.apply(EVENTS={"max_bytes": 1 << 26}, TELEMETRY={"max_bytes": 1 << 26})
        config = NatsConfig(urls=cluster.urls, ping_interval_s=1.0)
        stored = DatabaseConfig(url=migrated_database.url, pool_min=1, pool_max=8)
        registry = Metrics(CollectorRegistry())
        async with (
            ProjectorService(config, stored, ProjectorConfig(retry_max_s=0.5), registry=registry) as projector,
            connect(config, tenant="t", agent="a1", wait=True) as client,
            await cluster.connect("look") as conn,
        ):
            await projector.wait_ready(100)
            assert client.connection.is_clustered
            said = 0

            async def state(key: int, enough: asyncio.Event) -> None:
                nonlocal said
                n = 0
                while not enough.is_set():
                    receipts = [await client.emit(fact(key, n + i)) for i in range(BURST)]
                    for receipt in receipts:
                        await receipt
                    n, said = n + BURST, said + BURST

            enough = asyncio.Event()
            lines = [asyncio.create_task(state(key, enough)) for key in range(KEYS)]
            await until(lambda: said > BURSTS * BURST)
            leader = await cluster.leader(conn, "EVENTS")
            if fault == "killed":
                cluster.kill(leader)
            else:
                cluster.pause(leader)
            before = said
            await until(lambda: said > before + BURSTS * BURST)
            if fault == "stopped":
                cluster.resume(leader)  # in its own eyes it leads
            enough.set()
            await asyncio.gather(*lines)
            db = await asyncpg.connect(migrated_database.url)
            try:
                began = time.monotonic()
                await until(lambda: _count(db, said))
                # How soon is measured where nothing else runs: tests/soak/cluster.py.
                print(
                    f"{said} facts are in the tables {time.monotonic() - began:.2f} s after the last was acknowledged"
                )
                rows = await db.fetch(
                    "SELECT key, array_agg((data ->> 'n')::int ORDER BY epoch, seq, idx) AS ns"
                    " FROM coord.event GROUP BY key"
                )
            finally:
                await db.close()
    assert len(rows) == KEYS
    for row in rows:
        assert row["ns"] == list(range(len(row["ns"])))
    assert sum(len(row["ns"]) for row in rows) == said


async def _count(db: asyncpg.Connection, said: int) -> bool:
    return bool(await db.fetchval("SELECT count(*) FROM coord.event") >= said)
