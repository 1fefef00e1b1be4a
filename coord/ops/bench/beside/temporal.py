"""Temporal: a worker with workflows and one activity, as its documentation shows them.

temporal         a task is an activity started by a client, without a workflow; steps are activities
temporal_local   steps are local activities: they run within the workflow's own turn, nothing is dispatched

The workflow runs outside the SDK's sandbox, which costs CPU and guards against what these do not do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, Final

from coord.ops.bench import process
from coord.ops.bench.beside.job import FLOWS, STEPS, Job, Kind, One

LOCAL: Final = "local"
"""The variant."""

_QUEUE: Final = "tasks"
_TIMEOUT: Final = timedelta(seconds=5)
_POLLERS: Final = 10
_START_S: Final = 30.0


async def work(job: Job, parent_gone: asyncio.Event) -> None:
    """One worker for workflows and activities."""
    from temporalio.worker import UnsandboxedWorkflowRunner, Worker

    from coord.ops.bench.beside import temporal_flows

    client = await _client(job.url)
    async with Worker(
        client,
        task_queue=_QUEUE,
        workflows=[temporal_flows.Chain],
        activities=[temporal_flows.nothing],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_workflow_task_polls=_POLLERS,
        max_concurrent_activity_task_polls=_POLLERS,
    ):
        process.say({"ready": True})
        await parent_gone.wait()


async def _client(url: str) -> Any:
    """Connected: the server listens a moment before it answers."""
    from temporalio.client import Client

    async with asyncio.timeout(_START_S):
        while True:
            try:
                return await Client.connect(url)
            except RuntimeError:
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def submit(job: Job) -> AsyncIterator[Mapping[Kind, One]]:
    """Activities by themselves, and workflows of them."""
    from coord.ops.bench.beside import temporal_flows

    client = await _client(job.url)
    numbers = itertools.count()

    def id_() -> str:
        return f"{os.getpid()}-{next(numbers)}"

    async def task() -> None:
        await client.execute_activity(
            temporal_flows.nothing, id=id_(), task_queue=_QUEUE, start_to_close_timeout=_TIMEOUT
        )

    def workflow(steps: int) -> One:
        async def one() -> None:
            await client.execute_workflow(
                temporal_flows.Chain.run, args=[steps, job.variant == LOCAL], id=id_(), task_queue=_QUEUE
            )

        return one

    ones: dict[Kind, One] = {kind: workflow(STEPS[kind]) for kind in FLOWS}
    yield ones | {"task": task}
