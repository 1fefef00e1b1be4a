"""procrastinate: jobs in PostgreSQL, a worker woken by LISTEN/NOTIFY, as its documentation shows one.

It has no results: the handler's last line tells the submitter by a datagram, before the job is
marked as done.  A notification that arrives while the worker fetches is forgotten, and the job
waits for the next look: every `_POLL_S`, not every 5 s as by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from coord.ops.bench import process
from coord.ops.bench.beside import told
from coord.ops.bench.beside.job import Job, Kind, One

_AT_A_TIME: Final = 32
_CONNECTIONS: Final = 8
_POLL_S: Final = 0.02


async def work(job: Job, parent_gone: asyncio.Event) -> None:
    """Its schema, then one worker."""
    teller = told.Teller(job.port)
    app = _app(job, teller)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        working = asyncio.ensure_future(
            app.run_worker_async(
                concurrency=_AT_A_TIME, fetch_job_polling_interval=_POLL_S, install_signal_handlers=False
            )
        )
        process.say({"ready": True})
        await asyncio.wait({working, asyncio.ensure_future(parent_gone.wait())}, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
    teller.close()


@contextlib.asynccontextmanager
async def submit(job: Job) -> AsyncIterator[Mapping[Kind, One]]:
    """Tasks; it has no workflows."""
    numbers = itertools.count()
    app = _app(job, None)
    async with app.open_async(), told.listening(job.port) as waiting:
        nothing = app.tasks["nothing"]

        async def task() -> None:
            id_ = f"{os.getpid()}-{next(numbers)}"
            done = waiting.expect(id_)
            await nothing.defer_async(id_=id_)
            await done

        yield {"task": task}


def _app(job: Job, teller: told.Teller | None) -> Any:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=job.database_url, min_size=_CONNECTIONS, max_size=_CONNECTIONS))

    @app.task(name="nothing")
    async def nothing(id_: str) -> None:
        if teller is not None:
            teller.tell(id_)

    return app
