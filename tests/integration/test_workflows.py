"""Workflows through the SDK on the real services: started, decided, run by agents, told of."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest

import coord
from coord import errors
from coord.client.building import StepRef
from coord.wire.flow import RuleTable, When
from coord.wire.records import Fact
from tests.support.tasks import Fleet
from tests.support.waiting import until

WAIT_S = 150.0


pytestmark = pytest.mark.asyncio(loop_scope="module")


def crew(done: list[str] | None = None) -> coord.Agent:
    """An agent that can do all that the tests ask for; `done`: what it did."""
    agent = coord.Agent("crew", capabilities={"add": 8, "boom": 2, "undo": 2, "count": 2})
    log = [] if done is None else done

    @agent.task("add")
    async def add(given: Any) -> Any:
        log.append("add")
        return given + 1

    @agent.task("boom", retries=0)
    async def boom(given: Any) -> Any:
        raise coord.Reject(f"no {given}")

    @agent.task("undo")
    async def undo(given: Any) -> None:
        log.append(f"undo {given['output']}")

    @agent.task("count")
    async def count(given: Any) -> Any:
        return {"files": list(range(given)), "score": given / 10}

    return agent


def chain(length: int = 3) -> coord.Workflow:
    flow = coord.Workflow("chain")
    before: list[StepRef] = []
    for number in range(length):
        before = [flow.task(f"s{number}", "add", needs=before)]
    return flow


async def test_three_steps_one_after_another(fleet: Fleet) -> None:
    async with crew().connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        handle = await c.start_workflow(chain(), 1, id="w1", returns=int)
        assert await handle.result(WAIT_S) == 4
        assert await (await c.start_workflow(chain(), 1, id="w1")).result(WAIT_S) == 4, "the same again is the same"
        with pytest.raises(errors.WorkflowExists):
            await c.start_workflow(chain(), 2, id="w1")
        view = await handle.status()
        assert (view.life.status, [step.status for step in view.steps]) == ("completed", ["completed"] * 3)
        assert not await handle.cancel()
        took = []
        for _ in range(20):
            began = time.perf_counter()
            await c.run_workflow(chain(), 1, timeout_s=WAIT_S)
            took.append(1e3 * (time.perf_counter() - began))
        print(f"three steps: p50 {statistics.median(took):.1f} ms, worst {max(took):.1f} ms")


async def test_fan_out_a_condition_a_sub_workflow_and_a_decision(fleet: Fleet) -> None:
    inner = coord.Workflow("inner")
    inner.task("once", "add")
    flow = coord.Workflow("wide", version="2")
    scan = flow.task("scan", "count", input=flow.input["n"])
    each = flow.workflow("each", inner, for_each=scan.output["files"], max_parallelism=2)
    flow.task("never", "boom", when=scan.output["score"] > 5)
    size = flow.decide(
        "size", RuleTable(rules=[When(when="input.n >= 3", output="big"), When(output="small")]), input=flow.input
    )
    table = flow.decide("how", "prices", input={"size": size})
    flow.output({"each": each, "price": table.output["price"]})
    async with crew().connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        rules = {"rules": [{"when": "input.size == 'big'", "output": {"price": 9}}], "version": "7"}
        await c.publish(Fact(kind="rules", id="prices", event="set", data=rules))
        handle = await c.start_workflow(flow, {"n": 4}, id="wide-1")
        assert await handle.result(WAIT_S) == {"each": [1, 2, 3, 4], "price": 9}
        steps = {step.name: step for step in (await handle.status()).steps}
        assert steps["never"].status == "skipped"
        assert (steps["how"].decided or {})["version"] == "7"
        child = await c.workflow("wide-1-each-3").status()
        assert child.life.status == "completed"


async def test_an_approval_by_somebody_else(fleet: Fleet) -> None:
    flow = coord.Workflow("gated")
    gate = flow.approval("gate", "approved")
    flow.task("go", "add", needs=[gate], input=1)
    async with crew().connect(fleet.url, tenant=fleet.tenant), fleet.client() as c, fleet.client("human") as human:
        yes, no = [await c.start_workflow(flow, id=name) for name in ("yes", "no")]
        with pytest.raises(errors.DeadlineExceeded):
            await yes.result(0.1)

        async def waits() -> bool:
            return all([(await handle.status()).steps[0].status == "running" for handle in (yes, no)])

        await until(waits)
        await human.workflow("yes").approve("approved")
        await human.workflow("no").decline("approved", why="not today")
        assert await yes.result(WAIT_S) == 2
        with pytest.raises(errors.WorkflowFailed) as failed:
            await human.workflow("no").result(WAIT_S)
        assert (failed.value.details["step"], failed.value.details["error"]) == ("gate", "workflow.declined")
        with pytest.raises(errors.UnknownWorkflow):
            await human.workflow("nobody").signal("approved")


async def test_what_was_done_is_undone(fleet: Fleet) -> None:
    flow = coord.Workflow("saga")
    one = flow.task("one", "add", undo="undo", input=1)
    two = flow.task("two", "add", undo="undo", needs=[one])
    flow.task("three", "boom", needs=[two])
    done: list[str] = []
    async with crew(done).connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        handle = await c.start_workflow(flow)
        with pytest.raises(errors.WorkflowFailed, match="no 3") as failed:
            await handle.result(WAIT_S)
        assert (failed.value.details["step"], failed.value.details["error"]) == ("three", "rejected")
        assert done == ["add", "add", "undo 3", "undo 2"]


async def test_a_sleep_and_a_signal_that_nobody_raises_in_time(fleet: Fleet) -> None:
    flow = coord.Workflow("slow")
    rest = flow.sleep("rest", 0.2)
    flow.signal("wait", "never", needs=[rest], timeout_s=0.2)
    async with fleet.client() as c:
        handle = await c.start_workflow(flow)
        with pytest.raises(errors.WorkflowFailed) as failed:
            await handle.result(WAIT_S)
        assert failed.value.details["error"] == "workflow.timeout"


async def test_cancelling_from_whoever_started_it_only(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = coord.Workflow("waits")
    flow.signal("wait", "never")
    async with fleet.client() as c, fleet.client("other") as other:
        handle = await c.start_workflow(flow, id="w")
        with pytest.raises(errors.NotSubmitter) as refused:
            await other.workflow("w").cancel("not mine")
        assert refused.value.details["submitter"] == "boss"
        with pytest.raises(errors.DeadlineExceeded):
            await handle.result(0.3)
        assert await handle.cancel("enough")
        with pytest.raises(errors.WorkflowCancelled, match="enough"):
            await other.workflow("w").result(WAIT_S)
        assert not await handle.cancel("again")
        # It ends between the look and the cancellation: the log says which was first.
        raced = await c.start_workflow(flow, id="raced")
        before = await raced._life()
        await raced.signal("never", 1)
        await raced.result(WAIT_S)

        async def life() -> Any:
            return before

        monkeypatch.setattr(raced, "_life", life)
        assert not await raced.cancel("too late")
        assert (await raced.status()).life.status == "completed"


async def test_definitions_that_are_none_are_refused_before_and_by_the_decider(fleet: Fleet) -> None:
    async with fleet.client() as c:
        flow = coord.Workflow("round")
        flow.task("a", "add", needs=["b"])
        flow.task("b", "add", needs=["a"])
        with pytest.raises(errors.CyclicWorkflow) as cyclic:
            await c.start_workflow(flow)
        assert cyclic.value.details["cycle"] == ["a", "b", "a"]
        data = {"definition": {"name": "x", "steps": [{"name": "a"}]}, "input": 1}
        await c.publish(Fact(kind="workflow", id="bare", event="started", data=data))
        with pytest.raises(errors.WorkflowFailed) as failed:
            await c.workflow("bare").result(WAIT_S)
        assert (failed.value.details["error"], failed.value.details["step"]) == ("workflow.no_handler", "a")
