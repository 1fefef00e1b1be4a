"""Tasks with a placement, end to end on real servers: who is offered them, who runs them, and what the log says."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

import coord
from coord.bus.connection import NatsConfig
from coord.client.histories import read
from coord.client.queues import Queues
from coord.core.task_decider import TaskDecider
from coord.ops.devstack.nats import NatsServer
from coord.server.decider_service import DeciderService
from coord.telemetry.metrics import Metrics
from coord.wire.records import StoredFact
from tests.support.cluster import Database
from tests.support.log import projector, rows
from tests.support.tasks import Fleet
from tests.support.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("unsuspecting")]


PATIENT = {"accept_ms": 30_000}
"""A machine that stands still for seconds is no agent that refuses."""


class Hold:
    """Tasks whose input is "hold" run until they are let go."""

    def __init__(self) -> None:
        self.held: list[str] = []
        """Who runs one."""
        self.over = asyncio.Event()


@contextlib.asynccontextmanager
async def agents(
    fleet: Fleet,
    *names: str,
    labels: Mapping[str, dict[str, str]] | None = None,
    capacity: int = 8,
    known: int = 0,
    hold: Hold | None = None,
) -> AsyncIterator[list[Any]]:
    """Workers of the capability `work`, each of which answers with its name; all of them are heard of."""
    async with contextlib.AsyncExitStack() as stack:
        workers = []
        for name in names:
            agent = coord.Agent(
                name, capabilities={"work": capacity}, labels={"name": name, **(labels or {}).get(name, {})}
            )

            @agent.task("work")
            async def work(given: Any, _: coord.TaskContext, name: str = name) -> str:
                if given == "hold" and hold is not None:
                    hold.held.append(name)
                    await hold.over.wait()
                return name

            workers.append(await stack.enter_async_context(agent.connect(fleet.url, tenant=fleet.tenant)))
        await heard(fleet, known + len(names))
        yield workers


async def heard(fleet: Fleet, count: int) -> None:
    """The services know of so many workers."""
    table = fleet.presence.board.table
    await until(lambda: sum(row.state == "alive" for row in table.rows(fleet.tenant, "work")) >= count)


def tasks(fleet: Fleet) -> list[TaskDecider]:
    return [d for d in fleet.deciders.deciders() if isinstance(d, TaskDecider)]


def tried(fleet: Fleet, id_: str) -> list[str]:
    """Who was offered a task."""
    found = [task.placing.tried for d in tasks(fleet) if (task := d.get(fleet.tenant, id_, id_)) and task.placing]
    return [agent for agent, _ in found[0]] if found else []


async def placed(fleet: Fleet, id_: str) -> list[StoredFact]:
    _, facts = await read(fleet.conn, fleet.tenant, id_, id_)
    return [fact for fact in facts if fact.event == "placed"]


async def test_the_chosen_agent_runs_it_and_the_decision_is_a_fact(fleet: Fleet) -> None:
    async with agents(fleet, "a", "b", "c"), fleet.client() as c:
        handle = await c.submit(
            "work", 1, id="t1", placement=PATIENT | {"strategy": "agent", "agent": "b", "strict": True}
        )
        assert await handle.result(timeout_s=90) == "b"
        (decision,) = await placed(fleet, "t1")
        assert decision.agent == "_scheduler"
        assert decision.data["agent"] == "b"
        assert decision.data["considered"] == 1
        assert [s["agent"] for s in decision.data["candidates"]] == ["b"]


async def test_what_is_placed_on_an_agent_that_has_only_registered_is_done(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is heard of before its queues are open: where the service is being restarted, by seconds."""
    over = asyncio.Event()

    async def slow(*_: Any, **__: Any) -> bool:
        return await over.wait()

    async with fleet.client() as c:
        alone = PATIENT | {"strategy": "agent", "agent": "new", "strict": True}
        handle = await c.submit("work", 1, placement=alone)
        monkeypatch.setattr(Queues, "open", slow)
        async with asyncio.TaskGroup() as group:
            group.create_task(_once(fleet, over))
            assert await handle.result(timeout_s=30) == "new"
            over.set()


async def _once(fleet: Fleet, over: asyncio.Event) -> None:
    async with agents(fleet, "new"):
        await over.wait()


async def test_turns(fleet: Fleet) -> None:
    labels = {"a": {"weight": "2"}, "b": {"weight": "1"}}
    async with agents(fleet, "a", "b", labels=labels), fleet.client() as c:
        ran = []
        for _ in range(12):
            handle = await c.submit("work", 1, placement=PATIENT | {"strategy": "round_robin"})
            ran.append(await handle.result(timeout_s=90))
        assert Counter(ran) == {"a": 8, "b": 4}


async def ended(c: Any, count: int, **options: Any) -> list[str]:
    """Who ran so many tasks, one after the other."""
    found = []
    for _ in range(count):
        handle = await c.submit("work", 1, **options)
        found.append(await handle.result(timeout_s=150))
    return found


async def test_labels_what_is_required_and_what_is_near(fleet: Fleet) -> None:
    labels = {"eu": {"region": "eu"}, "us": {"region": "us", "gpu": "yes"}, "ap": {"region": "ap", "gpu": "yes"}}
    async with agents(fleet, *labels, labels=labels), fleet.client() as c:
        near = coord.Placement(strategy="label", label="region", values=("eu", "us"), accept_ms=30_000)
        assert set(await ended(c, 3, placement=near)) == {"eu"}
        assert set(await ended(c, 3, placement=msgspec.structs.replace(near, require={"gpu": "yes"}))) == {"us"}


async def test_loads_speeds_and_scores(fleet: Fleet) -> None:
    hold = Hold()
    big, small = agents(fleet, "big", capacity=8, hold=hold), agents(fleet, "small", capacity=2, known=1, hold=hold)
    async with big, small, fleet.client() as c:
        held = await c.submit_many("work", ["hold"] * 5, placement=PATIENT | {"strategy": "least_connections"})
        await until(lambda: len(hold.held) == 5)
        # 4 of 8 taken and 1 of 2: the shares are as even as they can be.
        assert Counter(hold.held) == {"big": 4, "small": 1}
        assert set(await ended(c, 2, placement=PATIENT | {"prefer": {"name": "small"}})) == {"small"}
        hold.over.set()
        for handle in held:
            await handle.result(timeout_s=150)
        # By chance, five to one: tests/property/test_placement.py has the shares.
        assert set(await ended(c, 5, placement=PATIENT | {"strategy": "response_time"})) <= {"big", "small"}


async def test_who_is_full_hangs_or_dies_after_being_chosen_is_followed_by_the_next(fleet: Fleet) -> None:
    asked = {"strategy": "round_robin", "accept_ms": 300, "offers_max": 9}
    async with fleet.client() as c, fleet.client("deaf") as deaf, fleet.client("dying") as dying:
        # They register, and take nothing that they are offered.
        for one, weight in ((deaf, "9"), (dying, "5")):
            await one.beating.register(capabilities={"work": 4}, labels={"weight": weight})
        weights = {"full": {"weight": "3"}, "free": {"weight": "1"}}
        async with agents(fleet, "full", "free", known=2, labels=weights) as (full, _):
            full.draining = True  # after its last heartbeat: it is chosen, and gives it back
            handle = await c.submit("work", 1, id="t1", placement=asked)
            await until(lambda: "dying" in tried(fleet, "t1"))
            await dying.close()
            assert await handle.result(timeout_s=150) == "free"
            said = [d.data.get("agent") for d in await placed(fleet, "t1")]  # whoever stands still is passed over too
            assert said[:4] == ["deaf", "dying", "full", "free"]
            full.draining = False


async def test_what_nobody_accepts_is_pulled_in_the_end(fleet: Fleet) -> None:
    async with fleet.client() as c, fleet.client("deaf") as deaf:
        await deaf.beating.register(capabilities={"work": 4})
        await heard(fleet, 1)
        handle = await c.submit("work", 1, id="t1", priority="critical", placement={"accept_ms": 100})
        await until(lambda: any(t.restated for d in tasks(fleet) if (t := d.get(fleet.tenant, "t1", "t1"))))
        assert [d.data.get("agent") for d in await placed(fleet, "t1")] == ["deaf", None]
        async with agents(fleet, "late", known=1):
            assert await handle.result(timeout_s=150) == "late"
        task = await handle.status()
        assert (task.queue, task.restated, task.claims) == ("critical", 1, 1)


async def test_whom_nobody_fits_shows_on_the_board_and_waits(fleet: Fleet) -> None:
    async with agents(fleet, "us", labels={"us": {"region": "us"}}), fleet.client() as c:
        asked = coord.Placement(require={"region": "eu"}, accept_ms=30_000)
        handle = await c.submit("work", 1, id="t1", placement=asked)

        def unplaced() -> int:
            fares = [d.fares.get((fleet.tenant, "work")) for d in tasks(fleet)]
            return sum(fare.unplaced for fare in fares if fare is not None)

        await until(lambda: unplaced() == 1)
        async with agents(fleet, "eu", known=1, labels={"eu": {"region": "eu"}}):
            assert await handle.result(timeout_s=150) == "eu"
        await until(lambda: unplaced() == 0)
        nobody, chosen = await placed(fleet, "t1")
        assert nobody.data["passed_over"] == {"labels": 1}
        assert chosen.data["agent"] == "eu"


async def test_a_step_of_a_workflow_and_a_timer_are_placed_too(fleet: Fleet) -> None:
    pinned = PATIENT | {"strategy": "agent", "agent": "b", "strict": True}
    flow = coord.Workflow("one")
    flow.task("only", "work", input=1, placement=pinned)  # the options of a task are a step's
    async with agents(fleet, "a", "b"), fleet.client() as c:
        handle = await c.start_workflow(flow, {}, id="w1")
        await handle.result(timeout_s=150)
        later = await c.submit("work", 1, id="t1", delay_s=0.2, placement=pinned)
        assert await later.result(timeout_s=150) == "b"
        _, facts = await read(fleet.conn, fleet.tenant, "w1", "only")
        assert [f.agent for f in facts if f.event == "claimed"] == ["b"]


async def test_decisions_are_joined_with_what_became_of_them(
    nats_server: NatsServer, fleet: Fleet, migrated_database: Database
) -> None:
    async with agents(fleet, "a", "b"), fleet.client() as c, projector(nats_server.url, migrated_database.url):
        await ended(c, 4, placement=PATIENT | {"strategy": "round_robin"})
        found = await rows(
            migrated_database.url,
            "SELECT * FROM coord.v_placement WHERE tenant = $1 AND task_status = 'completed' ORDER BY stored_at",
            fleet.tenant,
            count=4,
        )
    assert [r["placed_on"] for r in found] == [r["claimant"] for r in found]
    assert Counter(r["placed_on"] for r in found) == {"a": 2, "b": 2}
    for row in found:
        assert row["accepted"]
        assert (row["decision"], row["strategy"], row["considered"], row["pull"]) == ("1", "round_robin", 2, False)
        assert row["score"] > 0
        assert row["wait_seconds"] >= 0
        assert row["run_seconds"] >= 0


@pytest.mark.slow
async def test_two_processes_decide_each_thing_once_also_when_one_leaves(nats_server: NatsServer, fleet: Fleet) -> None:
    config = NatsConfig(urls=(nats_server.url,), reconnect_wait_s=0.05)
    registry = Metrics(CollectorRegistry())
    asked = {"strategy": "round_robin", "accept_ms": 5_000}
    async with agents(fleet, "a", "b", "c", capacity=4), fleet.client() as c:
        other = DeciderService(config, presence=fleet.presence.board.table, registry=registry)
        async with other:
            # A second process takes half of the partitions that have facts; both offer to the same agents.
            await until(lambda: any(p.is_running for p in other.partitions), 60)
            first = await c.submit_many("work", range(100), placement=asked)
        second = await c.submit_many("work", range(50), placement=asked)
        ran = Counter([await handle.result(timeout_s=120) for handle in (*first, *second)])
        assert sum(ran.values()) == 150
        assert set(ran) == {"a", "b", "c"}
        for handle in (*first, *second):
            task, facts = await read(fleet.conn, fleet.tenant, handle.id, handle.id)
            assert task is not None
            assert task.claims == 1
            numbers = [f.detail for f in facts if f.event == "placed"]
            assert numbers == [(str(n + 1),) for n in range(len(numbers))]
    for service in (registry, fleet.deciders.metrics):
        assert service.decider_statements.labels(decider="_scheduler", outcome="conflict")._value.get() == 0
