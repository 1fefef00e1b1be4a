"""A database that refuses: one row is parked and its siblings go on; everything is waited for."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import pytest

from coord import errors
from coord.bus.connection import Connection
from coord.projector.service import ProjectorService
from coord.wire.envelope import Fact, Sample, encode_fact, encode_frame
from tests.support.waiting import until
from tests.support.workload import Watcher, Workload, connect, verify

CONSTRAINT = "ALTER TABLE coord.event ADD CONSTRAINT no_evil CHECK (data ->> 'evil' IS NULL)"
TRIGGER = """
CREATE FUNCTION refuse_evil() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF new.data ->> 'evil' IS NOT NULL THEN RAISE EXCEPTION 'no evil here'; END IF;
  RETURN new;
END $$;
CREATE TRIGGER refuse_evil BEFORE INSERT ON coord.event FOR EACH ROW EXECUTE FUNCTION refuse_evil();
"""


async def publish(conn: Connection, tenant: str, entries: list[Fact] | list[Sample], event_id: str) -> int:
    """One message of the agent `evil`: a fact, or a frame of several; its sequence."""
    where: dict[str, Any] = {
        "tenant": tenant,
        "agent": "evil",
        "event_id": event_id,
        "occurred_at": datetime.now(UTC),
    }
    if len(entries) == 1 and isinstance(entries[0], Fact):
        encoded = encode_fact(entries[0], **where)
    else:
        encoded = encode_frame(entries, **where)
    answer = msgspec.json.decode(
        (await conn.request(encoded.subject, encoded.body, headers=encoded.header_block())).data
    )
    return int(answer["seq"])


@pytest.mark.parametrize("refuse", [CONSTRAINT, TRIGGER], ids=["constraint", "trigger"])
async def test_the_culprits_are_parked_and_their_siblings_projected(
    nats, conn, migrated_database, projector, rng: random.Random, refuse: str
) -> None:
    """Single facts and entries of frames among thousands of good ones."""
    url = migrated_database.url
    db = await connect(url)
    await db.execute(refuse)
    await db.execute("ALTER TABLE coord.metric_sample ADD CONSTRAINT no_evil CHECK (value <> 666)")
    evil: set[tuple[str, int, int]] = set()
    good: set[tuple[str, int, int]] = set()
    async with Workload(nats.url, rng) as load, Watcher(url, load.tenant):
        tenant = load.tenant + "x"
        service = None
        for i in range(30):
            if i == 15:
                service = await projector(url)  # half of it waits for the first batch, the rest comes along
            await load.more(rng.randrange(5, 40))
            seq = await publish(conn, tenant, [Fact(kind="deed", id="d", event="done", data={"evil": i})], f"deed-{i}")
            evil.add(("EVENTS", seq, 0))
            which = set(rng.sample(range(8), rng.randint(1, 3)))
            kind = rng.choice(["progress", "status", "sample"])
            entries: list[Any] = [
                Sample(series="sins", value=666 if n in which else n)
                if kind == "sample"
                else Fact(
                    kind="deed" if kind == "progress" else "agent",
                    id="evil",
                    event=kind,
                    data={"evil": 1} if n in which else {"good": 1},
                )
                for n in range(8)
            ]
            seq = await publish(conn, tenant, entries, f"frame-{i}")
            stream = "TELEMETRY" if kind == "sample" else "EVENTS"
            evil |= {(stream, seq, n) for n in which}
            good |= {(stream, seq, n) for n in range(8) if n not in which}
        await load.stop()

        async def parked() -> bool:
            return bool(await db.fetchval("SELECT count(*) FROM coord.dead_letter") >= len(evil))

        await until(parked, every_s=0.1)

        async def siblings() -> bool:
            return len(await evil_rows(db)) >= len(good)

        await until(siblings, every_s=0.1)
        assert await evil_rows(db) == sorted(good)
        await verify(url, load)
    letters = await db.fetch("SELECT * FROM coord.dead_letter")
    assert {(r["stream"], r["seq"], r["idx"]) for r in letters} == evil
    assert len(letters) == len(evil)
    assert {r["code"] for r in letters} == {errors.DatabaseRefused.code}
    assert all("evil" in r["reason"] for r in letters)
    assert all((r["tenant"], r["agent"]) == (tenant, "evil") for r in letters)
    copies = (await conn.api("STREAM.INFO.DLQ"))["state"]["messages"]
    assert copies == len(evil)
    # The agent's last status in the table is one that was accepted.
    status = await db.fetchval("SELECT status FROM coord.agent WHERE tenant = $1 AND agent = 'evil'", tenant)
    assert status is None or "evil" not in msgspec.json.decode(status)
    assert service is not None
    await service.wait_ready(100)
    await db.close()


async def evil_rows(db: asyncpg.Connection) -> list[tuple[str, int, int]]:
    """Where in the streams the rows of the agent `evil` stood."""
    rows = await db.fetch(
        "SELECT 'EVENTS', seq, idx FROM coord.event WHERE agent = 'evil' UNION ALL"
        " SELECT 'TELEMETRY', seq, idx FROM coord.metric_sample WHERE agent = 'evil'"
    )
    return sorted(tuple(r) for r in rows)


def says(service: ProjectorService, code: str) -> bool:
    """Whether its health names this error."""
    return code in {e.get("code") for e in service.health()["errors"]}


OUTAGES = {
    "read-only": (
        "ALTER DATABASE {name} SET default_transaction_read_only = on",
        "ALTER DATABASE {name} RESET default_transaction_read_only",
        "store.unavailable",
    ),
    "no table": (
        "ALTER TABLE coord.event RENAME TO event_away",
        "ALTER TABLE coord.event_away RENAME TO event",
        "store.not_ready",
    ),
    "no schema": (
        "ALTER SCHEMA coord RENAME TO coord_away",
        "ALTER SCHEMA coord_away RENAME TO coord",
        "store.not_ready",
    ),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_what_an_operator_can_mend_is_waited_for(
    nats, migrated_database, projector, rng: random.Random, outage: str
) -> None:
    """Nothing is parked, nothing is lost, and the service says what it waits for."""
    begin, end, code = OUTAGES[outage]
    url = migrated_database.url
    db = await connect(url)
    await db.execute("SET default_transaction_read_only = off")
    service = await projector(url)
    async with Workload(nats.url, rng) as load:
        await load.until(200)
        await db.execute(begin.format(name=migrated_database.name))
        # Connections that are open keep what they were told at login.
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'coord'"
        )
        await until(lambda: says(service, code))
        assert not service.ready
        await load.more(200)
        await db.execute(end.format(name=migrated_database.name))
        await load.stop()
        await verify(url, load)
    assert await db.fetchval("SELECT count(*) FROM coord.dead_letter") == 0
    await service.wait_ready(100)
    await db.close()


async def test_a_table_that_is_locked_for_a_while_only_delays(
    nats, migrated_database, projector, rng: random.Random
) -> None:
    url = migrated_database.url
    service = await projector(url, database={"statement_timeout_s": 1.0, "idle_in_transaction_s": 1.0})
    db = await connect(url)
    async with Workload(nats.url, rng) as load, Watcher(url, load.tenant):
        await load.until(100)
        async with db.transaction():
            await db.execute("LOCK TABLE coord.event, coord.metric_sample IN EXCLUSIVE MODE")  # readers may pass
            await load.more(600)
            await until(lambda: says(service, errors.DatabaseUnavailable.code))  # the statement's time was over
        await load.stop()
        await verify(url, load)
    await db.close()
