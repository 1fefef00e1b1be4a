"""Local steps on the real services: one claim for a line of them, and what happens when it breaks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextvars import ContextVar
from typing import Any

import pytest

import coord
from coord import errors, limits
from coord.client import execution
from coord.client.building import StepRef
from coord.client.workflows import facts_of
from tests.support import forking
from tests.support.tasks import Fleet
from tests.support.waiting import until

WAIT_S = 150.0

pytestmark = pytest.mark.asyncio(loop_scope="module")


def line(*capabilities: str, first: dict[str, Any] | None = None, **options: Any) -> coord.Workflow:
    flow = coord.Workflow("line")
    before: list[StepRef] = []
    for number, capability in enumerate(capabilities):
        more = {"local": True, **options} if before else first or {}
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
        seen.append((ctx.key, ctx.step, ctx.capability, ctx.claim))
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


async def test_no_more_than_the_slots_and_no_longer_than_others_can_wait(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = coord.Agent("crew", capabilities={"add": 4, "soft": 1, "one": 1, "hard": 4})
    begun: list[str] = []
    began, go_on = asyncio.Event(), asyncio.Event()

    async def add(given: int) -> int:
        return given + 1

    for capability in ("add", "soft", "hard"):
        agent.task(capability, preemptible=capability == "soft")(add)

    @agent.task("one")
    async def one(given: int, ctx: coord.TaskContext) -> int:
        begun.append(ctx.key)
        began.set()
        await go_on.wait()
        return given + 1

    async with agent.connect(fleet.url, tenant=fleet.tenant) as running, fleet.client() as c:
        first = await c.start_workflow(line("add", "one", "add"), 1, id="c1", returns=int)
        await asyncio.wait_for(began.wait(), WAIT_S)
        assert running.load()["running"] == {"add": 1, "soft": 0, "one": 1, "hard": 0}
        second = await c.start_workflow(line("add", "one", "add"), 11, id="c2", returns=int)
        await until(lambda: _submitted(c, "c2", "s1"))  # the slot is taken: it is a task that waits for it
        assert begun == ["c1"]
        go_on.set()
        assert (await first.result(WAIT_S), await second.result(WAIT_S)) == (4, 14)
        assert begun == ["c1", "c2"]
        assert running.load()["running"]["one"] == 0
        assert not await _submitted(c, "c1", "s1")

        # What would not make way is no part of a line that does.
        flow = line("soft", "soft", "hard", first={"priority": "batch"}, priority="batch")
        assert await c.run_workflow(flow, 1, id="p1", timeout_s=WAIT_S) == 4
        assert [await _submitted(c, "p1", name) for name in ("s0", "s1", "s2")] == [True, False, True]

        # Where no slot is free something more urgent may wait.
        monkeypatch.setattr(limits, "LOCAL_CROWDED_S", 0.0)
        for name, capability, options, lines in [
            ("u1", "soft", {}, 3),
            ("u2", "soft", {"priority": "critical"}, 1),
            ("u3", "hard", {}, 1),
        ]:
            flow = line(capability, capability, capability, first=options, **options)
            assert await c.run_workflow(flow, 1, id=name, timeout_s=WAIT_S) == 4
            assert Counter(fact.split()[2] for fact in await told(c, name))["submitted"] == lines, name


async def test_an_execution_in_a_line_is_as_one_of_a_task(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = coord.Agent("crew", capabilities={"make": 4})
    variable: ContextVar[str] = ContextVar("variable", default="none")
    keys: list[tuple[str, int, str]] = []

    @agent.task("make", retries=1)
    async def make(given: dict[str, Any], ctx: coord.TaskContext) -> dict[str, Any]:
        """Of more than the half of what the local steps of a line give together."""
        keys.append((ctx.task_id, ctx.claim, ctx.step))
        assert variable.get() == "none"
        variable.set("changed")
        await ctx.progress(0.5)
        if ctx.step == given.get("fails") and ctx.attempt == 1:
            raise ValueError("not today")
        return given | {"n": given.get("n", 0) + 1, "pad": "x" * 140_000}

    flow = coord.Workflow("values")
    before: list[StepRef] = []
    for n in range(4):
        before = [flow.task(f"s{n}", "make", needs=before, backoff_s=0.01, local=n > 0)]
    last = flow.task("see", "make", needs=before, when="steps.s2.output.n == 3 and steps.s3.output.n == 4")
    flow.output(last.output["n"])
    async with agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        assert await c.run_workflow(flow, {}, id="v1", timeout_s=WAIT_S) == 5
        facts = await told(c, "v1")
        assert [fact for fact in facts if fact.endswith("submitted")] == [
            "task s0 submitted", "task s3 submitted", "task see submitted",
        ], "no more is begun when what they gave is 256 KiB"  # fmt: skip
        assert facts.index("task s0 progress") < facts.index("task s0 completed")
        assert Counter(facts)["task s0 progress"] == 1, "and not what a local step says"
        assert await c.run_workflow(flow, {"fails": "s1"}, id="v2", timeout_s=WAIT_S) == 5
        assert {("s0", 1, "s1"), ("s1", 1, "s1")} < set(keys)
        keys.clear()

        def defect(*_: Any) -> bytes:
            raise RuntimeError("planted")

        monkeypatch.setattr(execution, "begins", defect)
        assert await c.run_workflow(flow, {}, id="v3", timeout_s=WAIT_S) == 5
        assert keys == [(name, 1, name) for name in ("s0", "s1", "s2", "s3", "see")], "nothing is thrown away"


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
    child = await forking.python("-c", _CHILD, fleet.url, fleet.tenant)
    try:
        assert await asyncio.wait_for(child.stdout.readline(), 60) == b"ready\n"
        async with fleet.client() as c:
            handle = await c.start_workflow(line("add", "hang", "add"), 1, id="k1", returns=int)
            assert await asyncio.wait_for(child.stdout.readline(), 60) == b"hangs\n"
            agent = coord.Agent("second", capabilities={"add": 1, "hang": 1})
            did: list[str] = []

            async def add(given: int, ctx: coord.TaskContext) -> int:
                did.append(ctx.step)
                return given + 1

            agent.task("add")(add)
            agent.task("hang")(add)
            async with agent.connect(fleet.url, tenant=fleet.tenant):
                os.kill(child.pid, signal.SIGKILL)
                assert await handle.result(WAIT_S) == 4
            assert did == ["s0", "s1", "s2"], "all of it again"
            facts = Counter(await told(c, "k1"))
            assert (facts["task s0 released"], facts["task s0 claimed"], facts["task s0 completed"]) == (1, 2, 1)
            assert (facts["task s1 submitted"], facts["task s2 submitted"]) == (1, 0), "whoever dies of s1 is told so"
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
