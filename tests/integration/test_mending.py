"""The copy of the log, damaged, is what the log's window says again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from coord import errors
from coord.bus.connection import Connection
from coord.client.connect import connect
from coord.ops.devstack.nats import NatsServer
from coord.projector import mending
from coord.store import rollups
from coord.store.archive import pieces
from coord.store.pool import Pool, rows_of
from coord.store.rows import EVENT_COLUMNS, SAMPLE_COLUMNS
from coord.wire.envelope import Sample, encode_frame
from coord.wire.records import Fact
from tests.support.cli import cli
from tests.support.cluster import Database
from tests.support.projecting import projector_service
from tests.support.store import T0, pool_of
from tests.support.waiting import until


@pytest.fixture
async def pool(migrated_database: Database) -> AsyncIterator[Pool]:
    async with pool_of(migrated_database.url) as pool:
        yield pool


async def everything(db: asyncpg.Connection) -> list[Any]:
    facts = await db.fetch(f"SELECT {', '.join(EVENT_COLUMNS)} FROM coord.event ORDER BY epoch, seq, idx")
    samples = await db.fetch(f"SELECT {', '.join(SAMPLE_COLUMNS)} FROM coord.metric_sample ORDER BY epoch, seq, idx")
    return [*facts, *samples]


async def test_what_is_missing_comes_and_what_is_another_goes(
    conn: Connection,
    nats: NatsServer,
    db: asyncpg.Connection,
    pool: Pool,
    migrated_database: Database,
    rng: random.Random,
) -> None:
    with pytest.raises(errors.RebuildRefused):
        await mending.mend(conn, pool, "EVENTS")
    projector = projector_service(nats.url, migrated_database.url)
    await projector.start()
    async with connect(nats.url, tenant="acme", agent="a1") as me:
        for n in range(200):
            event = rng.choice(["submitted", "completed"])
            detail = ("work", "normal") if event == "submitted" else ()
            await me.stating.state(Fact(kind="task", event=event, id=f"t{n % 20}", detail=detail, data={"retries": 1}))
    frame = encode_frame(
        [Sample(series="cpu", value=float(n)) for n in range(50)],
        tenant="acme", agent="a1", event_id="f1", occurred_at=T0,
    )  # fmt: skip
    await conn.request(frame.subject, frame.body, headers=frame.header_block())
    await conn.request("coord.ev.acme.a1.k.task.t1.submitted", b"{")  # a dead letter

    async def projected() -> bool:
        rows = "(SELECT count(*) FROM coord.event) + (SELECT count(*) FROM coord.dead_letter)"
        return bool(await db.fetchval(f"SELECT {rows} >= 201 AND (SELECT count(*) >= 50 FROM coord.metric_sample)"))

    await until(projected)
    await projector.drain()
    await projector.stop()
    before = await everything(db)
    letters = await db.fetchval("SELECT count(*) FROM coord.dead_letter")
    assert letters
    whole = await mending.mend(conn, pool, "EVENTS")
    assert (whole.missing, whole.changed) == (0, 0)
    assert whole.rows >= len([row for row in before if "key" in row.keys()])  # noqa: SIM118 - a record's
    assert whole.left == 0
    aged = await mending.mend(conn, pool, "EVENTS", kept=timedelta())
    assert (aged.missing, aged.changed) == (0, 0)
    assert aged.left, "old enough to be dropped"
    assert await everything(db) == before

    one = "(SELECT min(seq) + {} FROM coord.event)"
    deleted = rows_of(
        await db.execute(f"DELETE FROM coord.event WHERE seq BETWEEN {one.format(3)} AND {one.format(9)}")
    )
    altered = rows_of(await db.execute(f"UPDATE coord.event SET data = '{{\"x\": 1}}' WHERE seq = {one.format(20)}"))
    altered += rows_of(await db.execute(f"UPDATE coord.event SET agent = 'eve' WHERE seq = {one.format(25)}"))
    columns = ", ".join(EVENT_COLUMNS)
    doubled = rows_of(
        await db.execute(
            f"INSERT INTO coord.event ({columns}) SELECT {columns} FROM coord.event WHERE seq > {one.format(190)}"
        )
    )
    await db.execute("DELETE FROM coord.metric_sample WHERE idx > 40")
    await db.execute("DELETE FROM coord.dead_letter WHERE code LIKE 'wire.%'")
    assert await everything(db) != before

    # Not in the table because the archive has it: there it is not to be a second time.
    damaged = await everything(db)
    await db.execute(
        "INSERT INTO coord.archive (relation, range_start, range_end, state) SELECT relation, now() - interval '1 day',"
        " now() + interval '1 day', state FROM (VALUES ('event', 'dropped'), ('metric_sample', 'verified'))"
        " AS v (relation, state)"
    )
    for stream in ("EVENTS", "TELEMETRY"):
        archived = await mending.mend(conn, pool, stream)
        assert (archived.missing, archived.changed) == (0, 0)
        assert archived.left == archived.rows > 0
    assert await everything(db) == damaged
    await db.execute("DELETE FROM coord.archive")
    async with pieces.locked(pool):
        with pytest.raises(errors.ArchiveBusy):
            await mending.mend(conn, pool, "EVENTS")

    # The damage has been counted.
    await db.execute("UPDATE coord.checkpoint SET stored_at = now() + interval '1 day'")
    await rollups.advance_all(pool, pause_s=0)
    told: list[tuple[int, int]] = []
    found = await mending.mend(conn, pool, "EVENTS", told=lambda done, total: told.append((done, total)))
    assert (found.missing, found.changed) == (deleted, altered + doubled), "each place once, whatever stood there"
    assert (await mending.mend(conn, pool, "TELEMETRY")).missing == 9
    assert await everything(db) == before
    assert await db.fetchval("SELECT count(*) FROM coord.dead_letter") == letters
    assert told[-1][0] == told[-1][1]
    for _ in range(2):
        assert await db.fetchval("SELECT sum(facts) FROM coord.v_fact_rate_1d") == len(before) - 50
        assert await db.fetchval("SELECT sum(samples) FROM coord.v_telemetry_1d") == 50
        await rollups.advance_all(pool, pause_s=0)

    await db.execute("DELETE FROM coord.event WHERE id = 't3'")
    rebuilt = await cli(
        "projection", "rebuild", "--log", "--yes", "--database", migrated_database.url, "--nats", nats.url
    )
    assert rebuilt.code == 0, rebuilt.err
    assert "were missing" in rebuilt.err
    assert await everything(db) == before
