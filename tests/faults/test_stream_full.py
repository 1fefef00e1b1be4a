"""The log is full while nobody projects: publishers are refused, told so, and nothing acknowledged is lost."""

from __future__ import annotations

import random

import pytest

from coord import errors
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.runtime import assets
from coord.wire.envelope import Fact
from tests.support.publishing import client, quick
from tests.support.streams import apply_topology
from tests.support.workload import Watcher, Workload, verify

FULL = 10077
ROOM = 400


async def test_refuses_then_resumes(start_nats, migrated_database, projector, rng: random.Random) -> None:
    server = await start_nats()
    url = migrated_database.url
    async with await Connection.open(NatsConfig(urls=(server.url,)), name="operator") as conn:
        await apply_topology(conn, EVENTS={"max_msgs": ROOM})
        async with Workload(server.url, rng) as load:
            await load.until(ROOM)
            while not load.refusals[FULL]:
                await load.more(1)
            async with client(server.url, publisher=quick(deadline_s=30, refused_wait_s=0.2)) as c:
                with pytest.raises(errors.StreamFull) as refused:
                    await c.publish(Fact(kind="note", id="n", event="said"))
                assert refused.value.details["server_code"] == FULL
            assert set(load.refusals) == {FULL}

            service = await projector(url, nats_url=server.url)
            async with Watcher(url, load.tenant):
                # The window moves: an operator gives room, and later takes back what is projected.
                spec = topology.load(assets.streams_dir(), "development").get("EVENTS")
                await conn.api("STREAM.UPDATE.EVENTS", spec.config | {"max_msgs": 10 * ROOM})
                await load.more(500)
                await load.stop()
                rows = await verify(url, load)
            await service.wait_ready(100)
            print(f"{len(rows)} rows, refused {load.refusals[FULL]} times")
