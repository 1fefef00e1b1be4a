"""Local steps on the real services: one claim for a line of them, and what happens when it breaks."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from typing import Any

import pytest

import coord
from coord import errors
from coord.client.building import StepRef
from coord.client.workflows import facts_of
from tests.support.tasks import Fleet
from tests.support.waiting import until

WAIT_S = 150.0

pytestmark = pytest.mark.asyncio(loop_scope="module")


def line(*capabilities: str, **options: Any) -> coord.Workflow:
    flow = coord.Workflow("line")
    before: list[StepRef] = []
    for number, capability in enumerate(capabilities):
        more = {"local": True, **options} if before else {}
        before = [flow.task(f"s{number}", capability, needs=before, **more)]
    return flow


async def told(c: coord.Coord, id: str) -> list[str]:  # noqa: A002
    return [f"{f.kind} {f.id} {f.event}" for f in await facts_of(c, id)]


async def test_a_line_costs_one_task_and_stops_where_it_must(fleet: Fleet) -> None:
    agent = coord.Agent("crew", capabilities={"add": 8, "moody": 2})
    seen: list[tuple[str, str, str, int]] = []
    moods = iter([ValueError("not today")])
    attempts: list[int] = []

    @agent.task("add")
    async def add(given: int, ctx: coord.TaskContext) -> int:
        seen.append((ctx.key, ctx.task_id, ctx.capability, ctx.claim))
        return given + 1

    @agent.task("moody")
    async def moody(given: int, ctx: coord.TaskContext) -> int:
        attempts.append(ctx.attempt)
        for mood in moods:
            raise mood
        if given < 0:
            raise coord.Reject("it is negative")
        return given * 10

    other = coord.Agent("other", capabilities={"elsewhere": 1})

    @other.task("elsewhere")
    async def elsewhere(given: int) -> int:
        return given + 100

    async with (
        agent.connect(fleet.url, tenant=fleet.tenant) as running,
        other.connect(fleet.url, tenant=fleet.tenant),
        fleet.client() as c,
    ):
        handle = await c.start_workflow(line("add", "add", "add"), 1, id="l1", returns=int)
        assert await handle.result(WAIT_S) == 4
        assert seen == [("l1", name, "add", 1) for name in ("s0", "s1", "s2")]
        assert await told(c, "l1") == [
            "workflow l1 started", "task s0 submitted", "task s0 claimed", "task s0 completed", "workflow l1 completed",
        ]  # fmt: skip
        view = await handle.status()
        assert [step.status for step in view.steps] == ["completed"] * 3
        assert view.steps[2].local is not None
        assert (view.steps[2].local["task"], view.steps[2].local["agent"]) == ("s0", "crew")

        # What this agent cannot do goes to one that can, and the line goes on from there.
        assert await c.run_workflow(line("add", "elsewhere", "add", "add"), 1, id="l2", timeout_s=WAIT_S) == 104
        submitted = [fact for fact in await told(c, "l2") if fact.endswith("submitted")]
        assert submitted == ["task s0 submitted", "task s1 submitted", "task s2 submitted"]

        # What fails is tried again as a task of its own; what is rejected is not.
        assert await c.run_workflow(line("add", "moody", "add", backoff_s=0.01), 1, id="l3", timeout_s=WAIT_S) == 21
        assert attempts == [1, 2]
        facts = Counter(await told(c, "l3"))
        assert (facts["task s1 submitted"], facts["timer s1 fired"], facts["task s2 submitted"]) == (1, 1, 0)
        failing = await c.start_workflow(line("add", "moody", "add"), -9, id="l4")
        with pytest.raises(errors.WorkflowFailed, match="negative"):
            await failing.result(WAIT_S)
        assert "task s1 submitted" not in await told(c, "l4")
        assert [s.status for s in (await failing.status()).steps] == ["completed", "failed", "skipped"]
        assert running.stats.local == 2 + 1 + 2 + 1


async def test_cancelled_in_the_middle(fleet: Fleet) -> None:
    agent = coord.Agent("crew", capabilities={"add": 8, "wait": 2})
    began, ended = asyncio.Event(), asyncio.Event()

    @agent.task("add")
    async def add(given: int) -> int:
        return given + 1

    @agent.task("wait")
    async def wait(given: int, ctx: coord.TaskContext) -> int:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert ctx.cancelled.is_set()
            ended.set()
        return given

    async with agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        handle = await c.start_workflow(line("add", "wait", "add"), 1)
        await asyncio.wait_for(began.wait(), WAIT_S)
        assert await handle.cancel("enough")
        await asyncio.wait_for(ended.wait(), WAIT_S)
        with pytest.raises(errors.WorkflowCancelled):
            await handle.result(WAIT_S)
        assert [s.status for s in (await handle.status()).steps] == ["cancelled", "skipped", "skipped"]


_CHILD = """
import asyncio, sys
import coord

agent = coord.Agent("first", capabilities={"add": 1, "hang": 1})

@agent.task("add")
async def add(given: int) -> int:
    return given + 1

@agent.task("hang")
async def hang(given: int) -> int:
    print("hangs", flush=True)
    await asyncio.Event().wait()

async def main():
    async with agent.connect(sys.argv[1], tenant=sys.argv[2]):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_killed_in_the_middle(fleet: Fleet) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, fleet.url, fleet.tenant, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert await asyncio.wait_for(child.stdout.readline(), 60) == b"ready\n"
        async with fleet.client() as c:
            handle = await c.start_workflow(line("add", "hang", "add"), 1, id="k1", returns=int)
            assert await asyncio.wait_for(child.stdout.readline(), 60) == b"hangs\n"
            agent = coord.Agent("second", capabilities={"add": 1, "hang": 1})
            did: list[str] = []

            async def add(given: int, ctx: coord.TaskContext) -> int:
                did.append(ctx.task_id)
                return given + 1

            agent.task("add")(add)
            agent.task("hang")(add)
            async with agent.connect(fleet.url, tenant=fleet.tenant):
                os.kill(child.pid, signal.SIGKILL)
                assert await handle.result(WAIT_S) == 4
            assert did == ["s0", "s1", "s2"], "all of it again"
            facts = Counter(await told(c, "k1"))
            assert (facts["task s0 released"], facts["task s0 claimed"], facts["task s0 completed"]) == (1, 2, 1)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def test_drained_in_the_middle_it_tells_what_was_done(fleet: Fleet) -> None:
    agent = coord.Agent("leaving", capabilities={"add": 1, "hang": 1}, drain_s=0.05)
    began = asyncio.Event()

    @agent.task("add")
    async def add(given: int) -> int:
        return given + 1

    @agent.task("hang")
    async def hang(given: int) -> int:
        began.set()
        await asyncio.Event().wait()
        return given

    async with fleet.client() as c:
        async with agent.connect(fleet.url, tenant=fleet.tenant):
            handle = await c.start_workflow(line("add", "add", "hang"), 1, id="d1", returns=int)
            await asyncio.wait_for(began.wait(), WAIT_S)
        await until(lambda: _submitted(c, "d1", "s2"))
        assert [step.status for step in (await handle.status()).steps] == ["completed", "completed", "running"]
        await handle.cancel()


async def _submitted(c: coord.Coord, id: str, name: str) -> bool:  # noqa: A002
    return f"task {name} submitted" in await told(c, id)
