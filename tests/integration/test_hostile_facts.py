"""Over plain NATS, for every event that there is: what a stranger states changes nobody's work and stops nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

import coord
from coord.client import entities
from coord.core import handoff, locks, tasks, timers, workflow_life
from coord.limits import PARTITIONS
from coord.wire.authors import TABLE, Author
from coord.wire.subjects import FactSubject, partition
from tests.integration.test_bad_facts import adder
from tests.support.cluster import Database
from tests.support.log import projector
from tests.support.tasks import Fleet, services
from tests.support.waiting import until

BODIES = (
    b"", b"{}", b"null", b"[]", b'"x"', b"7", b'{"a":NaN}', b"\xff\xfe",
    b"[" * 5_000, b'{"x":"' + b"y" * 70_000 + b'"}',
    b'{"claim":-1,"epoch":-1,"set":-1,"n":-1,"every_s":-1,"at":-1,"permits":-1,"ttl_s":-1,"timeout_ms":-1,"redrive":-1}',
    b'{"claim":1,"instance":5,"names":{},"definition":[],"then":7,"held":[],"placement":4,"rules":8,"capabilities":3}',
    b'{"claim":1e308,"epoch":1e308,"set":1e308,"at":1e308,"every_s":1e308,"restated":18446744073709551616,"ttl_s":1e308}',
    b'{"priority":"?","mode":"?","status":"?","reason":"?","overlap":"?","strategy":"?","agent":"?","capability":"?"}',
    b'{"claim":1,"output":1,"error":"x","step":"s","instance":"i","reason":"gone","epoch":1,"set":1,"at":1}',
)  # fmt: skip
"""Missing, no JSON, deep, large, negative, of wrong types, beyond what a number is, unknown, and as usual."""

USUAL = (b"{}", BODIES[-1])
"""Stated with every detail."""

DETAILS = ((), ("1",), ("x", "y"), ("tok",), ("99999999999999999999",))
SHARED = ("flag", "rules")
"""Anybody may set those."""


async def of_victims(boss: coord.Coord, tenant: str) -> dict[str, Any]:
    """What the log makes of those whom it is about."""
    found: dict[str, Any] = {}
    for name in ("sum", "open", "flow", "door", "tea", "job"):
        facts = await entities.facts(boss.connection, tenant, key=name)
        of = {kind: [fact for fact in facts if fact.kind == kind] for kind in ("task", "workflow", "timer", "handoff")}
        lock = locks.fold(fact for fact in facts if fact.kind == "lock")
        found[name] = (
            tasks.fold([fact for fact in of["task"] if fact.id == name])[0], workflow_life.fold(of["workflow"])[0],
            timers.fold(of["timer"]), handoff.fold(of["handoff"]), lock and [r.token for r in lock.holders],
        )  # fmt: skip
    return found


async def attack(fleet: Fleet, token: str) -> int:
    """State everything about everybody, and about nobody; how much it was.  `token`: of who holds the lock."""
    sent = 0
    for (kind, event), rule in TABLE.items():
        ids = {
            "task": ("sum", "open"),
            "workflow": ("flow",),
            "lock": ("door",),
            "timer": ("tea",),
            "handoff": ("job",),
        }
        for id_ in (*ids.get(kind, ("boss",)), "ghost"):
            if kind in SHARED and id_ != "ghost":
                continue
            for number, body in enumerate(BODIES):
                details = (*DETAILS, (token,)) if body in USUAL else DETAILS[number % len(DETAILS) :][:1]
                author = "_task" if rule.author is Author.SELF and number % 2 else "eve"
                for detail in details:
                    told = ("nobody", "normal") if (kind, event) == ("task", "submitted") else detail
                    subject = FactSubject(fleet.tenant, author, id_, kind, id_, event, told).publish
                    fleet.conn.publish(subject, body)
                    sent += 1
        await fleet.conn.flush()
    return sent


async def test_what_a_stranger_states_changes_nobodys_work_and_stops_nobody(
    nats_server: Any, migrated_database: Database
) -> None:
    agent, begun, may_end = adder(), asyncio.Event(), asyncio.Event()

    @agent.task("hold")
    async def hold() -> str:
        begun.set()
        await may_end.wait()
        return "held"

    async with (
        services(nats_server.url) as fleet,
        projector(nats_server.url, migrated_database.url),
        agent.connect(fleet.url, tenant=fleet.tenant),
        fleet.client("boss") as boss,
    ):
        flow = coord.Workflow("gated")
        flow.signal("gate", "go")
        assert await (await boss.submit("add", [1, 2], id="sum")).result(60) == 3
        held = await boss.submit("hold", id="open")
        await begun.wait()
        gated = await boss.start_workflow(flow, {}, id="flow")
        await boss.timers.set("tea", delay_s=3_600)
        await boss.handoff({"work": 1}, to="absent", id="job", timeout_s=3_600)
        async with boss.lock("door", key="door"):
            before = await of_victims(boss, fleet.tenant)
            assert all(any(part for part in of) for of in before.values()), before
            sent = await attack(fleet, before["door"][-1][0])
            # Every partition is decided about, and projected, as before.
            keys = {partition(f"k{n}"): f"k{n}" for n in range(200)}
            assert len(keys) == PARTITIONS
            handles = [await boss.submit("add", [2, 2], id=key) for key in keys.values()]
            assert [await handle.result(60) for handle in handles] == [4] * PARTITIONS
            assert await of_victims(boss, fleet.tenant) == before
        await boss.signals.raise_("go", 5, key="flow")
        may_end.set()
        assert [await gated.result(60), await held.result(60)] == [5, "held"]
        db = await asyncpg.connect(migrated_database.url)
        try:
            await until(lambda: _all_of(db, fleet.tenant, sent))
            parked = await db.fetch(
                "SELECT DISTINCT code, reason FROM coord.dead_letter WHERE tenant = $1", fleet.tenant
            )
            assert parked
            assert not [row for row in parked if "." not in row["code"] or "defect" in row["code"] or not row["reason"]]
            believed = await db.fetch(
                "SELECT DISTINCT kind, event FROM coord.event WHERE tenant = $1 AND agent = 'eve'", fleet.tenant
            )
            decided = {about for about, rule in TABLE.items() if rule.author in (Author.DECIDER, Author.SELF)}
            assert not decided & {(row["kind"], row["event"]) for row in believed}
        finally:
            await db.close()


async def _all_of(db: Any, tenant: str, sent: int) -> bool:
    """Whether each of them is a row, of what happened or of what is not believed."""
    said = "(agent = 'eve' OR (agent = '_task' AND kind = 'agent'))"
    events = await db.fetchval(f"SELECT count(*) FROM coord.event WHERE tenant = $1 AND {said}", tenant)
    letters = await db.fetchval(
        "SELECT count(*) FROM coord.dead_letter WHERE tenant = $1 AND agent IN ('eve', '_task')", tenant
    )
    assert events + letters <= sent
    return bool(events + letters == sent)
