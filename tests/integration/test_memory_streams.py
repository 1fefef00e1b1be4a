"""What a restarted broker has forgotten is made again."""

from __future__ import annotations

import pytest

from coord import errors
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.ops.devstack.nats import NatsServer
from coord.runtime import assets
from coord.server.memory_streams import MemoryStreams
from coord.wire import subjects
from tests.support.waiting import until

pytestmark = pytest.mark.slow


async def _there(conn: Connection) -> bool:
    try:
        await conn.api(f"STREAM.INFO.{subjects.CACHE_L2}")
    except errors.CoordError:
        return False
    return True


async def test_streams_in_memory_come_back_with_their_broker(nats: NatsServer) -> None:
    wanted = topology.load(assets.streams_dir(), "development")
    config = NatsConfig(urls=(nats.url,))
    async with await Connection.open(config, name="test") as conn:
        await topology.apply(conn, wanted)
        await nats.restart()
        await conn.wait_connected(60)
        assert not await _there(conn), "nobody has made it again"
        async with MemoryStreams(config, wanted):

            async def back() -> bool:
                return await _there(conn)

            await until(back)
            await conn.api(f"STREAM.DELETE.{subjects.CACHE_L2}")
            await nats.restart()
            await conn.wait_connected(60)
            await until(back)
        assert await topology.plan(conn, topology.Topology(wanted.streams)) == [], "as the files have them"
