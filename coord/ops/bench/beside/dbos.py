"""DBOS: workflows whose steps are rows in PostgreSQL, as its documentation shows them.

dbos           workflows called in the process that submits them: nothing is dispatched, which is its fastest way
dbos_queued    a client enqueues them, a worker's queue takes them: polled, both there and for the result

Its default is to poll every second; here a queue polls every `_POLL_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from coord.ops.bench import process
from coord.ops.bench.beside.job import STEPS, Job, Kind, One

QUEUED: Final = "queued"
"""The variant."""

_QUEUE: Final = "tasks"
_VERSION: Final = "1"
_POLL_S: Final = 0.01
_CONNECTIONS: Final = 20


async def work(job: Job, parent_gone: asyncio.Event) -> None:
    """A queue's worker; nothing at all where workflows run where they are submitted."""
    if job.variant != QUEUED:
        process.say({"ready": True})
        await parent_gone.wait()
        return
    async with _launched(job) as dbos:
        await dbos.DBOS.register_queue_async(_QUEUE, polling_interval_sec=_POLL_S)
        process.say({"ready": True})
        await parent_gone.wait()


@contextlib.asynccontextmanager
async def submit(job: Job) -> AsyncIterator[Mapping[Kind, One]]:
    """Workflows of no step, of one and of three."""
    if job.variant == QUEUED:
        async with _enqueueing(job) as ones:
            yield ones
        return
    async with _launched(job) as dbos:

        @dbos.DBOS.step()
        async def nothing() -> None:
            pass

        def workflow(steps: int) -> One:
            @dbos.DBOS.workflow(name=f"steps-{steps}")
            async def run() -> None:
                for _ in range(steps):
                    await nothing()

            return run  # type: ignore[no-any-return]

        yield {
            "task": workflow(0),
            "one_step": workflow(STEPS["one_step"]),
            "three_steps": workflow(STEPS["three_steps"]),
        }


@contextlib.asynccontextmanager
async def _enqueueing(job: Job) -> AsyncIterator[Mapping[Kind, One]]:
    from dbos import DBOSClient

    client = DBOSClient(system_database_url=job.database_url)

    async def task() -> None:
        handle: Any = await client.enqueue_async(
            {"queue_name": _QUEUE, "workflow_name": "task", "app_version": _VERSION}
        )
        await handle.get_result(polling_interval_sec=_POLL_S)

    try:
        yield {"task": task}
    finally:
        client.destroy()


@contextlib.asynccontextmanager
async def _launched(job: Job) -> AsyncIterator[Any]:
    import dbos

    dbos.DBOS(
        config={
            "name": "beside",
            "system_database_url": job.database_url,
            "sys_db_pool_size": _CONNECTIONS,
            "application_version": _VERSION,
            "log_level": "ERROR",
        }
    )

    @dbos.DBOS.workflow(name="task")
    async def task() -> None:
        pass

    dbos.DBOS.launch()
    try:
        yield dbos
    finally:
        await asyncio.to_thread(dbos.DBOS.destroy)
