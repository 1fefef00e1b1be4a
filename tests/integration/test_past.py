"""States of the past on real servers: at each point the fold of the facts up to it, wherever those are."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

import coord
from coord.client import entities
from coord.core.past import Point
from coord.ops.past import Judges, Past, Sources
from coord.projector.tableless import FOLDED
from coord.store.pool import Pool
from coord.wire.records import StoredFact
from tests.support.cli import cli
from tests.support.cluster import Database
from tests.support.log import projector
from tests.support.store import pool_of
from tests.support.tasks import Fleet
from tests.support.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("unsuspecting")]


def sources(fleet: Fleet, pool: Pool | None) -> Sources:
    """Where histories are read in a test; without a pool the database is away."""

    @contextlib.asynccontextmanager
    async def reads() -> AsyncIterator[Pool]:
        if pool is None:
            raise coord.errors.DatabaseUnavailable("it is away")
        yield pool

    @contextlib.asynccontextmanager
    async def bus() -> AsyncIterator[Any]:
        yield fleet.conn

    return Sources(reads, bus, window=timedelta(days=1))


def no_broker() -> Any:
    """In place of a connection to it."""
    raise coord.errors.NotConnected


async def everything(fleet: Fleet) -> list[StoredFact]:
    """All of a tenant's facts that the log holds."""
    return await entities.facts(fleet.conn, fleet.tenant)


def folded(facts: list[StoredFact], of: tuple[str, str, str]) -> Any:
    """The state of (key, kind, id) by the deciders' own fold; None: there was none."""
    key, kind, id_ = of
    table = FOLDED[kind]
    names = {"tenant": facts[0].tenant, "key": key, "id": id_}
    fold = table.fold(**{n: v for n, v in names.items() if n in table.fold.__struct_fields__})
    known = False
    for fact in facts:
        if (fact.key, fact.kind, fact.id) == of and (table.heeds is None or fact.event in table.heeds):
            fold.apply(fact)
            known = known or table.known(fold)
    return comparable(fold) if known else None


def comparable(fold: Any) -> Any:
    """A state without what depends on how JSON is spaced, which jsonb does not keep."""
    state = msgspec.to_builtins(fold)
    state.pop("payload_hash", None)
    return state


async def at(where: Sources, tenant: str, of: tuple[str, str, str], point: Point) -> tuple[Any, Past]:
    key, kind, id_ = of
    found = Past(where, tenant, key, point, kind=kind, id=id_)
    judges = Judges(found)
    async with contextlib.aclosing(found.facts()) as facts:
        async for said in facts:
            judges.judge(said)
    judges.end()
    judge = judges.get(kind, id_)
    return (None if judge is None else comparable(judge.fold)), found


async def play(fleet: Fleet, worker: coord.Agent) -> None:
    """Something of everything that has a fold."""
    flow = coord.Workflow("chain")
    flow.task("first", "add")
    flow.task("second", "add", needs=["first"])
    async with worker.connect(fleet.url, tenant=fleet.tenant), fleet.client("boss") as boss, fleet.client("b") as other:
        assert await (await boss.submit("add", [1, 2], id="sum")).result(60) == 3
        handle = await boss.start_workflow(flow, [3], id="w1")
        await handle.result(60)
        offer = await boss.handoff({"n": 1}, to="b", reason="late", id="h1", timeout_s=600)
        await offer.withdraw("done elsewhere")
        await boss.signals.raise_("ready", {"n": 1}, key="k1")
        async with boss.lock("db"):
            wanted = other.lock("db", timeout_s=90)
            entering = asyncio.create_task(wanted.__aenter__())
            await until(lambda: _said(fleet, "requested", 2))
        await entering
        await wanted.__aexit__(None, None, None)
        await boss.flags.set("beta", percentage=10.0)
        await boss.flags.set("beta", percentage=50.0)
        await boss.flags.remove("beta")
        for delay_s in (3_600.0, 7_200.0):
            await boss.timers.set("later", delay_s=delay_s)
        await boss.timers.cancel("later")
        for version in ("1", "2"):
            rules = {"rules": [{"output": {"to": "eu"}}], "version": version}
            await boss.publish(coord.Fact(kind="rules", id="where", event="set", data=rules))
        for load in range(3):
            await boss.status.update({"load": load, "name": "boss"})
            await boss.flush()  # else they share a frame, and with it a sequence


async def _said(fleet: Fleet, event: str, times: int) -> bool:
    return sum(fact.event == event for fact in await everything(fleet)) >= times


@pytest.fixture
def worker() -> coord.Agent:
    agent = coord.Agent("adder", capabilities={"add": 4})

    @agent.task("add")
    async def add(numbers: Any) -> int:
        return sum(numbers) if isinstance(numbers, list) else 0

    return agent


async def test_every_state_of_the_past_is_the_fold_of_the_facts_up_to_it(
    fleet: Fleet, worker: coord.Agent, migrated_database: Database, rng: random.Random
) -> None:
    await play(fleet, worker)
    log = await everything(fleet)
    those = {(f.key, f.kind, f.id) for f in log if f.kind in FOLDED}
    assert {kind for _, kind, _ in those} == FOLDED.keys() - {"capability"}, "a circuit takes twenty failures"

    async with pool_of(migrated_database.url) as pool:
        here, away = sources(fleet, pool), sources(fleet, None)
        for of in those:
            mine = [f for f in log if (f.key, f.kind, f.id) == of]
            end = mine[len(mine) // 2]
            for where in (here, away):
                state, found = await at(where, fleet.tenant, of, Point(seq=end.seq))
                assert state == folded([f for f in log if f.seq <= end.seq], of)
                assert set(found.found) == {"log"}
                assert bool(found.notes) == (where is away)

        async with projector(fleet.url, migrated_database.url) as running:
            await until(lambda: running.is_ready() and _projected(pool, log))
        for of in those:
            points = sorted({f.seq for f in log if f.key == of[0]})
            for seq in (points[0] - 1, *points[rng.randrange(3) :: 3], points[-1]):
                upto = [f for f in log if f.seq <= seq]
                state, found = await at(here, fleet.tenant, of, Point(seq=seq))
                assert state == (folded(upto, of) if upto else None), (of, seq)
                assert set(found.found) <= {"table"}
                assert not found.notes
            last = next(f for f in reversed(log) if f.key == of[0])
            before = [f for f in log if f.stored_at <= last.stored_at - timedelta(microseconds=1)]
            state, _ = await at(here, fleet.tenant, of, Point(time=last.stored_at - timedelta(microseconds=1)))
            assert state == (folded(before, of) if before else None)

        # What comes after the tables is the log's, and each fact is there once.
        async with fleet.client("boss") as boss:
            await boss.flags.set("beta", percentage=70.0)
        flag = ("flags", "flag", "beta")
        state, found = await at(here, fleet.tenant, flag, Point())
        assert state == folded(await everything(fleet), flag)
        assert (found.found["table"], found.found["log"], found.notes) == (3, 1, [])

        # What the tables have forgotten the log may still have.
        async with pool.acquire() as conn:
            await conn.execute("TRUNCATE coord.event")
        log = await everything(fleet)
        for of in those:
            points = [f.seq for f in log if f.key == of[0]]
            for seq in (points[len(points) // 2], points[-1]):
                state, found = await at(here, fleet.tenant, of, Point(seq=seq))
                assert state == folded([f for f in log if f.seq <= seq], of), (of, seq)
                assert (found.found.keys() <= {"log"}, found.notes) == (True, [])
        cut_off = msgspec.structs.replace(here, bus=no_broker)
        _, found = await at(cut_off, fleet.tenant, flag, Point(seq=log[0].seq))
        assert [note.partition(" (")[0] for note in found.notes] == [
            "The log cannot be asked for what was stored and has left the tables"
        ]


async def _projected(pool: Pool, log: list[StoredFact]) -> bool:
    async with pool.acquire() as conn:
        have: int = await conn.fetchval("SELECT count(*) FROM coord.event WHERE tenant = $1", log[0].tenant)
        dead: int = await conn.fetchval("SELECT count(*) FROM coord.dead_letter WHERE tenant = $1", log[0].tenant)
    return have + dead >= len(log)


@pytest.fixture
def asked(fleet: Fleet, migrated_database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fleet:
    """The fleet as the command line's settings name it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COORD_NATS_URLS", fleet.url)
    monkeypatch.setenv("COORD_DATABASE_URL", migrated_database.url)
    monkeypatch.setenv("COORD_IDENTITY_TENANT", fleet.tenant)
    monkeypatch.setenv("COORD_IDENTITY_AGENT", "ops")
    return fleet


async def test_the_command_line_shows_what_was(asked: Fleet, worker: coord.Agent, migrated_database: Database) -> None:
    await play(asked, worker)
    log = await everything(asked)

    def seq(kind: str, id_: str, event: str) -> str:
        return str(next(f.seq for f in log if (f.kind, f.id, f.event) == (kind, id_, event)))

    async def got(*args: str) -> Any:
        result = await cli(*args, "-o", "json")
        assert result.code == 0, result.err
        return result.json

    async with pool_of(migrated_database.url) as pool, projector(asked.url, migrated_database.url) as running:
        await until(lambda: running.is_ready() and _projected(pool, log))
    task = await got("task", "get", "sum", "--at", seq("task", "sum", "claimed"))
    assert (task["status"], task["claimant"], task["sources"]) == ("claimed", "adder", {"table": 2})
    assert [h["event"] for h in task["history"]] == ["submitted.add.normal", "claimed.1"]
    assert (await got("task", "get", "sum", "--at", f"1:{log[-1].seq}"))["status"] == "completed"
    early = await cli("task", "get", "sum", "--at", "2020-01-01")
    assert (early.code, "There was no task sum at 2020-01-01" in early.err) == (4, True)
    assert (await cli("task", "get", "sum", "--at", "yesterday")).code == 2
    assert (await cli("task", "get", "sum", "--at", "20261121")).code == 2, "a sequence, or a day?"
    for later in ("9999999999", "2099-01-01"):
        assert "so far" in (await got("task", "get", "sum", "--at", later))["notes"][0], "the present, and said so"
    nowhere = await cli("task", "get", "sum", "--at", "2:1")
    assert (nowhere.code, "has not begun" in nowhere.err) == (2, True)

    flow = await got("workflow", "get", "w1", "--at", seq("task", "first", "completed"))
    assert (flow["life"]["status"], {s["name"]: s["status"] for s in flow["steps"]}) == (
        "running",
        {"first": "completed", "second": "waiting"},
    )
    assert (await got("workflow", "get", "w1", "--at", "0s"))["life"]["status"] == "completed"
    assert (await cli("workflow", "get", "w1", "--at", seq("task", "sum", "submitted"))).code == 4
    assert (await got("handoff", "get", "h1", "--at", seq("handoff", "h1", "offered")))["status"] == "offered"
    assert (await got("handoff", "get", "h1", "--at", "0s"))["status"] == "withdrawn"
    assert (await got("signal", "get", "ready", "--key", "k1"))["raised_by"] == "boss"
    lock = await got("lock", "get", "db", "--at", str([f.seq for f in log if f.event == "requested"][1]))
    assert [r["agent"] for r in lock["requests"].values()] == ["boss", "b"]
    flags = [f.seq for f in log if f.kind == "flag"]
    said = [(await got("flag", "get", "beta", "--at", str(n)))["said"] for n in flags]
    assert [one and one["percentage"] for one in said] == [10.0, 50.0, None]
    loads = [f.seq for f in log if f.kind == "agent" and f.id == "boss" and f.event in ("status", "changed")]
    for load, n in enumerate(loads):
        boss = await got("agent", "get", "boss", "--at", str(n))
        assert (boss["status"], boss["status_stale"], boss["state"]) == ({"load": load, "name": "boss"}, False, "alive")
    assert (await cli("agent", "get", "boss", "--at", "0s")).code == 0
    assert (await cli("agent", "get", "nobody", "--at", "0s")).code == 4

    told = await got("event", "history", "w1")
    mine = [f for f in log if f.key == "w1"]
    assert [(f["seq"], f["index"]) for f in told["facts"]] == [(f.seq, f.index) for f in mine]
    assert {(e["kind"], e["id"]): e["state"]["status"] for e in told["entities"]} == {
        ("workflow", "w1"): "completed",
        ("task", "first"): "completed",
        ("task", "second"): "completed",
    }
    lines = (await cli("event", "history", "w1", "--kind", "task", "--at", str(mine[-1].seq), "-o", "jsonl")).lines
    assert [f["seq"] for f in lines] == [f.seq for f in mine if f.kind == "task"]
    table = await cli("event", "history", "sum")
    assert "task/sum completed" in table.out
    assert "from the event copy." in table.err
    nothing = await cli("event", "history", "never", "--kind", "task")
    assert (nothing.code, nothing.out) == (4, "")
    assert nothing.err.startswith("There are no facts under the key never about task. (fleet ")
    for command in (("event", "history", "never"), ("lock", "get", "never"), ("workflow", "get", "never")):
        # What could not be asked is not "there is none".
        assert (await cli(*command, "--database", "postgresql://coord@127.0.0.1:1/coord")).code == 3
