"""coord: an agent and a submitter through its SDK; what ``coord serve`` runs is the bench's fleet process.

`variant`: "": each step of a workflow is a task, for whoever is free; "local": those after the first are local steps;
"handler": a workflow is the code of one handler, which has each of its steps recorded.

The handlers run in one process with two agents, as `coord bench tasks` has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Mapping
from typing import Final

from coord.client.agent import Agent
from coord.client.building import StepRef, Workflow
from coord.client.connect import connect
from coord.client.tasks import Handler, TaskContext
from coord.ops.bench import process
from coord.ops.bench.beside.job import FLOWS, STEPS, Job, Kind, One
from coord.wire.flow import Definition

_TENANT: Final = "beside"
_RESULT_S: Final = 30.0
_AGENTS: Final = 2
_CAPACITY: Final = 128


async def work(job: Job, parent_gone: asyncio.Event) -> None:
    """Two agents, one capability."""
    async with contextlib.AsyncExitStack() as stack:
        for n in range(_AGENTS):
            handlers = _handlers(job)
            agent = Agent(f"worker-{n}", capabilities=dict.fromkeys(handlers, _CAPACITY), drain_s=1.0)
            for capability, handler in handlers.items():
                agent.task(capability, timeout_s=60, retries=0)(handler)
            await stack.enter_async_context(agent.connect(job.url, tenant=_TENANT))
        process.say({"ready": True})
        await parent_gone.wait()


async def _nothing() -> None:
    pass


def _handlers(job: Job) -> dict[str, Handler]:
    if job.variant != "handler":
        return {"no-op": _nothing}
    return {kind: _steps(STEPS[kind]) for kind in FLOWS}


def _steps(count: int) -> Handler:
    async def handler(ctx: TaskContext) -> None:
        for n in range(count):
            await ctx.run(f"s{n}", _nothing)

    return handler


@contextlib.asynccontextmanager
async def submit(job: Job) -> AsyncIterator[Mapping[Kind, One]]:
    """Tasks, and workflows whose steps are tasks."""
    numbers = itertools.count()
    run = os.getpid()
    async with connect(job.url, tenant=_TENANT, agent="submitter") as c:

        def task(capability: str) -> One:
            async def one() -> None:
                handle = await c.submit(capability, id=f"t{run}-{next(numbers)}")
                await handle.result(timeout_s=_RESULT_S)

            return one

        def workflow(definition: Definition) -> One:
            async def one() -> None:
                await c.run_workflow(definition, id=f"w{run}-{next(numbers)}", timeout_s=_RESULT_S)

            return one

        if job.variant == "handler":
            yield {kind: task(kind) for kind in FLOWS}
            return
        local = job.variant == "local"
        ones: dict[Kind, One] = {kind: workflow(_chain(kind, local=local)) for kind in FLOWS}
        yield ones | {"task": task("no-op")}


def _chain(kind: Kind, *, local: bool) -> Definition:
    flow = Workflow(kind.replace("_", "-"))
    before: list[StepRef] = []
    for n in range(STEPS[kind]):
        before = [flow.task(f"s{n}", "no-op", needs=before, retries=0, local=local and n > 0)]
    return flow.definition()
