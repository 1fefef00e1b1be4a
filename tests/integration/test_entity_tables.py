"""The tables of entities are what the folds say, however a history is cut into batches."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from coord.core import tasks
from coord.core.tasks import Task
from coord.projector import entities, tables
from coord.projector.rows import agent_row
from coord.store import copy, queries
from coord.store.pool import Connection
from coord.store.rows import EventRow
from coord.wire.envelope import StoredFact
from tests.support.cluster import Database
from tests.support.store import event, pool_of

AGENTS = ("me", "w1", "w2", "_task")
EVENTS = ("submitted", "claimed", "progress", "completed", "failed", "rejected", "returned", "released", "cancelled",
          "expired", "placed")  # fmt: skip


def history(rng: random.Random, ids: int, facts: int) -> list[EventRow]:
    """Facts of many tasks, one after the other as a log has them, without regard to what is allowed."""
    return [_fact(rng, seq, f"t{rng.randrange(ids)}") for seq in range(1, facts + 1)]


def _fact(rng: random.Random, seq: int, id_: str) -> EventRow:
    name = rng.choice(EVENTS)
    data: Any = {}
    detail = ""
    if name == "submitted":
        detail = rng.choice(["work.normal", "work.critical", "work.normal", "odd"])
        data = {"retries": rng.randrange(3), "redrive": rng.choice([0, 0, 1, 2]), "deadline": rng.choice([None, 1e300])}
    elif name in ("claimed", "returned", "released"):
        detail = str(rng.randrange(1, 5))
    elif name == "progress":
        data = {"done": rng.random()}
    elif name == "failed":
        data = {"error": "E\u00e9", "message": "no", "run_s": 0.5}
    agent = rng.choice(AGENTS)
    return event(seq, agent=agent, key=id_, id=id_, event=name, detail=detail, data=msgspec.json.encode(data).decode())


def facts_of(log: list[EventRow]) -> dict[str, list[StoredFact]]:
    found: dict[str, list[StoredFact]] = {}
    for row in log:
        found.setdefault(row[9], []).append(entities.fact_of(row))
    return found


async def project(conn: Connection, log: list[EventRow]) -> dict[tuple[int, int], str]:
    """As the writer does it: what is refused is parked, the rest comes again."""
    refused: dict[tuple[int, int], str] = {}
    while True:
        async with conn.transaction():
            (found,) = await entities.project(conn, [log])
        if not found:
            return refused
        refused |= {place: error.code for place, error in found.items()}
        log = [row for row in log if (row[2], row[3]) not in found]


@pytest.mark.parametrize("batch", [1, 7, 400])
async def test_tables_equal_the_fold(migrated_database: Database, rng: random.Random, batch: int) -> None:
    log = history(rng, ids=12, facts=400)
    refused: dict[tuple[int, int], str] = {}
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        for start in range(0, len(log), batch):
            refused |= await project(conn, log[start : start + batch])
        saved = {r["id"]: r for r in await conn.fetch("SELECT * FROM coord.task")}
    expected: dict[tuple[int, int], str] = {}
    for id_, facts in facts_of(log).items():
        task, unbelieved = tasks.fold(facts)
        assert (task is not None) == (id_ in saved)
        expected |= {
            (fact.seq, 0): refusal.code
            for fact, refusal in unbelieved
            if fact.event == "submitted" and refusal.code in tables.BY_ITSELF
        }
        if task is None:
            continue
        begun = next(f.seq for f in facts if f.event_id == task.event_id)
        expected |= {
            (fact.seq, 0): refusal.code
            for fact, refusal in unbelieved
            if fact.seq > begun and refusal.code not in tables.QUIET
        }
        tables.TABLES["task"].slim(task)
        row = saved[id_]
        assert msgspec.msgpack.decode(row["fold"], type=Task) == task
        assert (row["status"], row["claims"], row["claimant"]) == (task.status, task.claims, task.claimant)
        assert row["submitted_at"] == datetime.fromtimestamp(task.submitted_at, UTC)
    assert refused == expected


async def test_the_same_batch_again_changes_nothing(migrated_database: Database, rng: random.Random) -> None:
    log = history(rng, ids=3, facts=60)
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        await project(conn, log)
        before = await conn.fetch("SELECT * FROM coord.task ORDER BY id")
        await project(conn, log)
        assert await conn.fetch("SELECT * FROM coord.task ORDER BY id") == before


async def test_facts_about_what_nobody_began_leave_no_trace(migrated_database: Database) -> None:
    log = [event(seq, event="progress", id=f"t{seq % 3}", key="k") for seq in range(1, 50)]
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        assert not await project(conn, log)
        assert not await conn.fetch("SELECT FROM coord.task")


@pytest.mark.parametrize(
    ("kind", "name", "detail", "first", "other"),
    [
        ("task", "submitted", "work.normal", {"input": 1}, {"input": 2}),
        (
            "workflow",
            "started",
            "",
            {"definition": {"name": "n"}, "input": 1},
            {"definition": {"name": "n"}, "input": 2},
        ),
    ],
)
async def test_a_beginning_that_repeats_the_first_is_no_dead_letter(
    migrated_database: Database, kind: str, name: str, detail: str, first: Any, other: Any
) -> None:
    """Other work under the id is one, and names the first."""
    log = [
        event(seq, kind=kind, event=name, id="e", key="e", detail=detail, data=msgspec.json.encode(data).decode())
        for seq, data in enumerate((first, first, other), 1)
    ]
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        assert await project(conn, log) == {(3, 0): f"{kind}.exists"}
        async with conn.transaction():
            ((_, error),) = (await entities.project(conn, [log[2:]]))[0].items()
        assert log[0][12] in error.message


WRONG = [
    ("task", "submitted", "e", "e", "work.normal", '{"retries":"x"}', "task.malformed"),
    ("task", "submitted", "e", "e", "work", "{}", "task.malformed"),
    ("task", "submitted", "e", "e", "work.urgent", "{}", "task.malformed"),
    ("workflow", "started", "e", "e", "", "[1]", "workflow.malformed"),
    ("workflow", "started", "e", "other", "", '{"definition":{"name":"n"}}', "workflow.key"),
    ("handoff", "offered", "e", "e", "", '{"timeout_ms":"x"}', "handoff.malformed"),
    ("handoff", "offered", "e", "e", "", '{"to":"b","work":1}', "handoff.malformed"),
    ("signal", "awaited", "e", "e", "", "{}", "signal.malformed"),
    ("lock", "requested", "e", "e", "", "{}", "lock.malformed"),
    ("flag", "set", "e", "flags", "", '{"percentage":"x"}', "flag.malformed"),
    ("flag", "set", "e", "e", "", "{}", "flag.key"),
    ("timer", "set", "e", "e", "", '{"cron":"nonsense"}', "timer.malformed"),
    ("rules", "set", "e", "e", "", '{"rules":"x"}', "rules.invalid"),
    ("rules", "set", "e", "other", "", '{"rules":[{"output":1}]}', "rules.key"),
]


async def test_a_beginning_that_is_wrong_by_itself_is_a_dead_letter(migrated_database: Database) -> None:
    """Nobody knows the entity, and nobody will: it must be seen that its author was not heard."""
    log = [
        event(seq, kind=kind, event=name, id=f"{id_}{seq}", key=key if key in ("flags", "other") else f"{key}{seq}",
              detail=detail, data=data)
        for seq, (kind, name, id_, key, detail, data, _) in enumerate(WRONG, 1)
    ]  # fmt: skip
    good = event(50, event="submitted", id="e1", key="e1", detail="work.normal", data="{}")
    # What may be older than the projection is none: a step of a handoff, by its decider.
    step = event(51, kind="handoff", event="offered", id="h", key="h", detail="2", data="{}", agent="_handoff")
    told = event(52, kind="handoff", event="offered", id="0", key="past", detail="", data='{"to":"b","reason":"x"}')
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        (refused,) = await entities.project(conn, [log[:1]])
        assert "retries" in refused[1, 0].message
        expected = {(seq, 0): code for seq, (*_, code) in enumerate(WRONG, 1)}
        assert await project(conn, [*log, good, step, told]) == expected
        assert [row["id"] for row in await conn.fetch("SELECT id FROM coord.task")] == ["e1"]


async def test_every_kind_has_its_row(migrated_database: Database) -> None:
    def fact(seq: int, kind: str, name: str, id_: str, data: Any, detail: str = "", agent: str = "a1") -> EventRow:
        key = {"flag": "flags", "agent": id_}.get(kind, id_)
        text = msgspec.json.encode(data).decode()
        return event(seq, kind=kind, event=name, id=id_, key=key, detail=detail, agent=agent, data=text)

    log = [
        fact(1, "workflow", "started", "w", {"definition": {"name": "n", "version": "1"}, "input": {}}),
        fact(2, "handoff", "offered", "h", {"agent": "b", "work": "x" * 1000}),
        fact(3, "signal", "awaited", "s", {"names": ["s"]}, "token1"),
        fact(4, "lock", "requested", "l", {"instance": "i1"}, "tok1"),
        fact(5, "lock", "requested", "l", {"instance": "i2"}, "tok2", "a2"),
        fact(6, "flag", "set", "f", {"percentage": 10}),
        fact(7, "agent", "registered", "a1", {"instance": "i1", "capabilities": {"work": 2}, "labels": {"z": "1"}}),
        fact(8, "handoff", "accepted", "h", {}, "1", "eve"),
        fact(9, "flag", "set", "g", {"rules": [{"agents": ["a1"]}]}),
        fact(10, "flag", "removed", "g", {}, agent="a2"),
    ]
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        assert await project(conn, log) == {(8, 0): "handoff.not_addressee"}
        for table in ("workflow", "handoff", "signal", "lock", "agent_registry"):
            assert await conn.fetchval(f"SELECT count(*) FROM coord.{table}") == 1, table
        for everything, wanted in (("false", ["f"]), ("true", ["f", "g"])):
            assert [r["id"] for r in await queries.run(conn, "flags", all=everything)] == wanted
        told = [
            (r["is_set"], r["percentage"], r["set_by"], r["changes"]) for r in await queries.run(conn, "flags", all="1")
        ]
        assert told == [(True, 10, "a1", 1), (False, None, "a2", 2)]
        (flag,) = await queries.run(conn, "flag", tenant="acme", id="f")
        assert (flag["key"], flag["enabled"], flag["rules"]) == ("flags", True, "[]")
        for asked, ids in (({"waited": "true"}, ["s"]), ({"raised": "true"}, [])):
            assert [r["id"] for r in await queries.run(conn, "signals", **asked)] == ids
        waiting = await conn.fetch("SELECT what, who, holder FROM coord.v_waiting ORDER BY what")
        # An agent is what its instances are, whatever its last fact says of others, or of the whole agent.
        for seq, (name, detail, state, quota) in enumerate(
            (
                ("quarantined", "1", "quarantined", "inflight"),
                ("status", "", "quarantined", "inflight"),
                ("gone", "i1.1", "gone", "inflight"),
                ("released", "1", "gone", None),
            ),
            11,
        ):
            said = fact(seq, "agent", name, "a1", {"instance": "i1", "others": 4, "quota": "inflight"}, detail)
            assert await project(conn, [said]) == {}
            await copy.upsert_agents(conn, [agent_row(said)])
            (row,) = await conn.fetch("SELECT state, quota FROM coord.v_agent")
            assert (row["state"], row["quota"]) == (state, quota), name
    assert {r["what"] for r in waiting} == {"handoff", "lock", "signal", "workflow"}
