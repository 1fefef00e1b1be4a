"""Running a workflow again from a step, on the real services."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg
import pytest

import coord
from coord import errors, limits
from coord.ops.devstack.nats import NatsServer
from coord.wire import subjects
from coord.wire.records import Fact
from tests.support.cluster import Database
from tests.support.log import projector, rows
from tests.support.tasks import Fleet, services
from tests.support.waiting import until

WAIT_S = 150.0

shared = pytest.mark.asyncio(loop_scope="module")


class Crew:
    """Does steps, and says which; breaks at `broken`."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.broken = True
        self.agent = coord.Agent("crew", capabilities={"do": 8, "large": 2, "shaky": 1, "undo": 1})

        @self.agent.task("do")
        async def do(given: Any, ctx: coord.TaskContext) -> Any:
            self.did.append(ctx.step or ctx.task_id)
            return given

        @self.agent.task("large")
        async def large(given: Any, ctx: coord.TaskContext) -> Any:
            self.did.append(ctx.task_id)
            return "x" * given

        @self.agent.task("shaky", retries=0)
        async def shaky(given: Any, ctx: coord.TaskContext) -> Any:
            if self.broken:
                raise coord.Reject("broken")
            self.did.append(ctx.task_id)
            return len(given["texts"])

        @self.agent.task("undo")
        async def undo(given: Any, ctx: coord.TaskContext) -> None:
            self.did.append(ctx.task_id)

    def take(self) -> list[str]:
        done, self.did = sorted(self.did), []
        return done


def import_of(**last: Any) -> coord.Workflow:
    """Each kind of step before the one that breaks."""
    inner = coord.Workflow("inner")
    inner.task("once", "do")
    flow = coord.Workflow("import", version="1")
    scan = flow.task("scan", "do", input=["a", "b", "c"])
    each = flow.task("each", "do", for_each=scan.output)
    line = flow.task("line", "do", needs=[scan], local=False)
    sub = flow.workflow("sub", inner, input={"of": line.output})
    no = flow.task("no", "do", needs=[scan], when='steps.scan.status == "failed"')
    gate = flow.approval("gate", "yes", needs=[sub])
    big = flow.task("big", "large", input=limits.TASK_INLINE_BYTES + 1)
    odd = flow.task("odd", "shaky", input=None, optional=True, retries=0)
    flow.task(
        "sum", "shaky", input={"texts": [each.output, big.output, sub.output], "by": gate.output["by"]},
        needs=[no, odd], retries=0, **last,
    )  # fmt: skip
    flow.task("after", "do", needs=["sum"], undo="undo")
    return flow


@shared
async def test_a_failed_workflow_goes_on_where_it_failed(fleet: Fleet) -> None:
    crew = Crew()
    async with crew.agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        handle = await c.start_workflow(import_of(), {"n": 1}, id="imp")
        await handle.approve("yes")
        with pytest.raises(errors.WorkflowFailed):
            await handle.result(WAIT_S)
        assert crew.take() == ["big", "each-0", "each-1", "each-2", "line", "once", "scan"]
        with pytest.raises(errors.UnknownStep):
            await c.rerun_workflow("imp", "nothing")
        with pytest.raises(errors.UnknownWorkflow):
            await c.rerun_workflow("nobody")

        crew.broken = False
        again = await c.rerun_workflow("imp", returns=int)
        assert (again.id, await again.result(WAIT_S)) == ("imp-r2", 3)
        assert crew.take() == ["after", "sum"], "by reference, skipped, failed, joined, approved: all taken over"
        view = await again.status()
        assert view.life.rerun_of == "imp"
        shown = {step.name: (step.status, step.taken_over) for step in view.steps}
        assert shown["no"] == ("skipped", True)
        assert shown["odd"] == ("failed", True)
        assert [name for name, (_, taken) in shown.items() if not taken] == ["sum", "after"]

        with pytest.raises(errors.InvalidArgument, match="name the one"):
            await c.rerun_workflow("imp-r2")
        deeper = await c.rerun_workflow("imp-r2", "each", id="imp-x")
        assert await deeper.result(WAIT_S) == 3
        assert crew.take() == ["after", "each-0", "each-1", "each-2", "sum"]
        assert await (await c.rerun_workflow("imp-r2", "each", id="imp-x")).result(WAIT_S) == 3, "the same again"
        with pytest.raises(errors.WorkflowExists):
            await c.rerun_workflow("imp-r2", "line", id="imp-x")
        assert (await handle.status()).life.status == "failed", "nobody touched it"


@shared
async def test_what_fails_again_undoes_what_it_did_and_nothing_else(fleet: Fleet) -> None:
    crew = Crew()
    flow = coord.Workflow("trip")
    flight = flow.task("flight", "do", undo="undo", input=1)
    hotel = flow.task("hotel", "do", undo="undo", needs=[flight])
    flow.task("car", "shaky", input={"texts": []}, needs=[hotel], retries=0)
    async with crew.agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        crew.broken = False
        await (await c.start_workflow(flow, id="trip")).result(WAIT_S)
        assert crew.take() == ["car", "flight", "hotel"]
        crew.broken = True
        again = await c.rerun_workflow("trip", "hotel", id="second")
        with pytest.raises(errors.WorkflowFailed):
            await again.result(WAIT_S)
        assert crew.take() == ["hotel", "undo_hotel"], "the flight is the first one's, and stands"
        # Of the second the hotel was undone: it is done again without being named; the flight is there as before.
        crew.broken = False
        third = await c.rerun_workflow("second", "car")
        await third.result(WAIT_S)
        assert crew.take() == ["car", "hotel"]


@shared
async def test_a_running_one_a_mended_definition_and_another_input(fleet: Fleet) -> None:
    crew = Crew()
    flow = coord.Workflow("w")
    one = flow.task("one", "do", input=1)
    gate = flow.signal("gate", "go", needs=[one])
    flow.task("two", "do", needs=[gate], input={"a": flow.input["a"], "one": one.output})
    async with crew.agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        first = await c.start_workflow(flow, {"a": 1}, id="w1")

        async def waits() -> bool:
            return (await first.status()).steps[1].status == "running"

        await until(waits)
        mended = coord.Workflow("w", version="2")
        mended.task("one", "do", input=5, retries=7)
        mended.task("two", "do", needs=["one"], input={"a": flow.input["a"], "one": one.output})
        again = await c.rerun_workflow("w1", definition=mended, input={"a": 2})
        assert await again.result(WAIT_S) == {"a": 2, "one": 1}
        assert crew.take() == ["one", "two"]
        other = coord.Workflow("w", version="3")
        other.task("one", "large", input=5)
        other.task("two", "do", needs=["one"])
        with pytest.raises(errors.StepsDiffer) as differ:
            await c.rerun_workflow("w1", definition=other)
        assert differ.value.details["steps"] == ["one"]
        await first.signal("go", 1)
        assert await first.result(WAIT_S) == {"a": 1, "one": 1}

        # What no SDK says is refused by the decider, naming the step.
        bad = {"of": "w1", "steps": {"gate": {"output": 1}}}
        data = {"definition": {"name": "w", "steps": [
            {"name": "one", "task": "do"}, {"name": "gate", "needs": ["one"], "signal": "go"},
        ]}, "rerun": bad}  # fmt: skip
        await c.publish(Fact(kind="workflow", id="bare", event="started", data=data))
        with pytest.raises(errors.WorkflowFailed) as failed:
            await c.workflow("bare").result(WAIT_S)
        assert (failed.value.details["error"], failed.value.details["step"]) == ("workflow.invalid", "gate")


@shared
async def test_many_outputs_that_do_not_fit_travel_by_reference(fleet: Fleet) -> None:
    crew = Crew()
    flow = coord.Workflow("wide")
    parts = [flow.task(f"p{n}", "large", input=limits.TASK_INLINE_BYTES - 1_000) for n in range(5)]
    flow.task("sum", "shaky", input={"texts": [part.output for part in parts]}, retries=0)
    async with crew.agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        handle = await c.start_workflow(flow, id="wide")
        with pytest.raises(errors.WorkflowFailed) as failed:
            await handle.result(WAIT_S)
        assert failed.value.details["error"] == "workflow.too_large", "1.2 MB are not handed to one step"
        again = await c.rerun_workflow("wide")
        crew.broken = False
        crew.take()
        assert await again.result(WAIT_S) == 5
        assert crew.take() == ["sum"]


async def test_what_has_left_the_log_is_taken_from_the_tables(nats: NatsServer, migrated_database: Database) -> None:
    crew = Crew()
    async with (
        services(nats.url, database_url=migrated_database.url) as fleet,
        projector(nats.url, migrated_database.url),
        crew.agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c,
    ):  # fmt: skip
        flow = coord.Workflow("old")
        one = flow.task("one", "do", input=[1, "ä", 2.5])
        flow.task("two", "shaky", input={"texts": one.output}, retries=0)
        for name in ("old", "older"):
            with pytest.raises(errors.WorkflowFailed):
                await (await c.start_workflow(flow, id=name)).result(WAIT_S)
        ended = "SELECT started_at, ended_at FROM coord.v_workflow WHERE ended_at IS NOT NULL ORDER BY id"
        _, older = await rows(migrated_database.url, ended, count=2)
        for name in ("old", "older"):
            for kind, id_ in (("workflow", name), ("task", "one"), ("task", "two")):
                gone = subjects.entity_filter(fleet.tenant, name, kind, id_)
                await fleet.conn.api(f"STREAM.PURGE.{subjects.EVENTS}", {"filter": gone})
        with pytest.raises(errors.UnknownWorkflow):
            await c.workflow("old").status()
        crew.broken = False
        crew.take()
        again = await c.rerun_workflow("old")
        assert await again.result(WAIT_S) == 3
        assert crew.take() == ["two"]
        query = "SELECT rerun_of FROM coord.v_workflow WHERE rerun_of IS NOT NULL"
        assert [row[0] for row in await rows(migrated_database.url, query, count=1)] == ["old"]

        # What only the archive has is said to be there; of what never was nothing is, whatever else has its name.
        conn = await asyncpg.connect(migrated_database.url)
        await conn.execute("DELETE FROM coord.event WHERE key = 'older'")
        await conn.close()
        with pytest.raises(errors.WorkflowGone) as gone_too:
            await c.rerun_workflow("older")
        told = gone_too.value.details
        assert [datetime.fromisoformat(told[name]) for name in ("since", "until")] == list(older)
        await c.timers.set("never", delay_s=600)
        with pytest.raises(errors.UnknownWorkflow):
            await c.rerun_workflow("never")
