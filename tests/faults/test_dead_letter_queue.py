"""The DLQ stream is full, missing, or nobody answers in its place: the table has the letters, partitions go on."""

from __future__ import annotations

import random

import pytest

from coord import limits
from coord.bus import topology
from coord.projector import dead_letters
from coord.runtime import assets
from tests.support.rawnats import RawNats
from tests.support.waiting import until
from tests.support.workload import Watcher, Workload, connect, verify

LETTERS = 60


@pytest.mark.parametrize("trouble", ["full", "missing", "somebody listens and does not answer"])
async def test_a_partition_goes_on_without_it(
    nats, conn, migrated_database, projector, rng: random.Random, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    # How long a silent DLQ is waited for: production has the patience for a change of leader.
    monkeypatch.setattr(limits, "RPC_TIMEOUT_S", 0.4)
    monkeypatch.setattr(dead_letters, "_MUTE_S", 1.0)
    url = migrated_database.url
    stored = 0
    if trouble == "full":
        stored = 5
        spec = topology.load(assets.streams_dir(), "development").get("DLQ")
        await conn.api("STREAM.UPDATE.DLQ", spec.config | {"max_msgs": stored})
    else:
        await conn.api("STREAM.DELETE.DLQ")
    if trouble.startswith("somebody"):
        await conn.subscribe("coord.dlq.>", lambda _: None)
    service = await projector(url)
    db = await connect(url)
    async with Workload(nats.url, rng, per_s=600) as load, Watcher(url, load.tenant), RawNats(nats.port) as raw:
        for i in range(LETTERS):
            await load.more(3)
            await raw.publish(f"coord.ev.poison.mallory.k{i % 9}.note.n.said", b"not JSON")
        await load.stop()
        await verify(url, load)

        async def parked() -> bool:
            return bool(await db.fetchval("SELECT count(*) FROM coord.dead_letter") == LETTERS)

        await until(parked)
    refused = service.metrics.registry.get_sample_value("coord_load_shed_total", {"reason": "dlq_refused"})
    assert refused is not None
    assert refused >= LETTERS - stored, "a letter that the DLQ did not take was not counted"
    await service.wait_ready(100)
    await db.close()
