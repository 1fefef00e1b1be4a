"""What analysts see of presence: states of agents in coord.agent, and no row for a heartbeat."""

from __future__ import annotations

from collections.abc import Awaitable

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

import coord
from coord.bus.connection import NatsConfig
from coord.projector.service import ProjectorService
from coord.runtime.assets import sql_dir
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from tests.support.fleet import serving
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unsuspecting")]


async def test_states_of_agents_are_rows_and_heartbeats_are_not(start_nats, migrated_database) -> None:
    server = await start_nats()
    projector = ProjectorService(
        NatsConfig(urls=(server.url,)),
        DatabaseConfig(url=migrated_database.url),
        registry=Metrics(CollectorRegistry()),
    )
    async with serving(server) as fleet, projector:
        db = await asyncpg.connect(migrated_database.url)

        async def state(agent: str) -> str | None:
            query = "SELECT state FROM coord.agent WHERE tenant = $1 AND agent = $2"
            found: str | None = await db.fetchval(query, "acme", agent)
            return found

        try:
            async with coord.connect(server.url, tenant="acme", agent="a1") as one:
                other = await coord.connect(server.url, tenant="acme", agent="a1")
                await one.beating.register(capabilities={"ocr": 1})
                await other.beating.register(capabilities={"ocr": 1})
                await until(lambda: _is(state("a1"), "alive"))
                await one.beating.drain()
                await until(lambda: _is(state("a1"), "draining"))
                await one.beating.rejoin()
                await other.close()  # it leaves, and the agent is still there
                await until(lambda: _is(_count(db, "left"), 1))
                await until(lambda: _is(_count(db, "returned"), 1))
                await until(lambda: _is(state("a1"), "alive"))
                for _ in range(50):
                    one.beating.beat()
                heard = fleet.board.beats
                await until(lambda: fleet.board.beats > heard)
                # As one that hangs: it beats no more, and says nothing.
                one.beating._closed = True
                row = fleet.board.table.get("acme", "a1", one.instance)
                assert row is not None
                row.due_s = 0.1
                fleet.board.table._next_at = 0.0  # as a heartbeat that is due so soon would have it
                one.beating._loop.cancel()  # type: ignore[union-attr]
                await until(lambda: _is(state("a1"), "gone"))
            kinds = await db.fetch("SELECT event, count(*) AS n FROM coord.event WHERE kind = 'agent' GROUP BY event")
            counts = {row["event"]: row["n"] for row in kinds}
            counts.pop("suspected", None)  # or not, if it was gone by the next look
            # Who left too, where the end of its connection was heard before its goodbye: a machine that stood still.
            assert counts.pop("gone") in {1, 2}
            assert counts == {"registered": 3, "draining": 1, "left": 1, "returned": 1}

            # What a projector of the release before leaves beside the new tables is put right when it has gone.
            await db.execute("UPDATE coord.agent_registry SET state = NULL; UPDATE coord.agent SET state = 'alive'")
            await db.execute((sql_dir() / "migrations" / "0015_post_agent_states_meanwhile.sql").read_text())
            assert await state("a1") == "gone"
            assert await db.fetchval("SELECT state FROM coord.agent_registry WHERE tenant = 'acme'") == "gone"
        finally:
            await db.close()


async def _is(asked: Awaitable[object], wanted: object) -> bool:
    return await asked == wanted


async def _count(db: asyncpg.Connection, event: str) -> int:
    count: int = await db.fetchval("SELECT count(*) FROM coord.event WHERE kind = 'agent' AND event = $1", event)
    return count
