"""TELEMETRY discards its oldest when the projector is too slow: what passed by is counted, never silent."""

from __future__ import annotations

import random

from coord.bus import topology
from coord.bus.connection import Connection
from coord.runtime import assets
from tests.support.waiting import until
from tests.support.workload import Entry, Workload, compare, connect, read_rows

KEPT = 150


async def test_what_passes_a_running_projector_is_counted(
    nats, conn: Connection, migrated_database, projector, rng: random.Random
) -> None:
    """The database is slow, not away: the session goes on and the window passes it."""
    url = migrated_database.url
    spec = topology.load(assets.streams_dir(), "development").get("TELEMETRY")
    await conn.api("STREAM.UPDATE.TELEMETRY", spec.config | {"max_msgs": KEPT})
    service = await projector(url, pull_messages_max=10, batch_rows_max=20)

    def shed(stream: str) -> float:
        count = service.metrics.registry.get_sample_value("coord_projection_shed_messages_total", {"stream": stream})
        return count or 0.0

    db = await connect(url)
    async with Workload(nats.url, rng, lines=40, per_s=1500, kinds=("sample", "note", "sample")) as load:
        await load.until(200)
        async with db.transaction():
            await db.execute("LOCK TABLE coord.metric_sample IN EXCLUSIVE MODE")
            await load.more(1800)
        await load.more(100)
        await load.stop()

        async def caught_up() -> list[Entry]:
            """What is missing, once everything that the streams still hold is in the tables."""
            rows = await read_rows(db, load.tenant)
            lost = {f.text for f in compare(rows, load.acked) if f.kind == "lost"}
            missing = [e for e in load.acked if f"{e}" in lost]
            first = (await conn.api("STREAM.INFO.TELEMETRY"))["state"]["first_seq"]
            done = all(e.stream == "TELEMETRY" and e.seq < first for e in missing)
            return missing if done else []

        missing = await until(caught_up, every_s=0.2)
        found = [f for f in compare(await read_rows(db, load.tenant), load.acked) if f.kind != "lost"]
        assert not found
    lost = len({e.seq for e in missing})
    assert lost > 50, "nothing was shed: this test has shown nothing"
    await until(lambda: shed("TELEMETRY") >= lost)
    assert shed("EVENTS") == 0
    print(f"{lost} messages passed by, counted as at most {shed('TELEMETRY'):.0f}")
    await db.close()
