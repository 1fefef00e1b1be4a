"""taskiq-nats: a pull broker on JetStream, as its documentation shows one.

taskiq_nats            its results are not stored: the handler's last line tells the submitter by a datagram
taskiq_nats_results    with its result backend, an object store, which the submitter polls

Both: `PullBasedJetStreamBroker` with pulls of 100 messages, acknowledged after the handler
(`ack_type=when_executed`), 100 handlers at a time, parameters not validated.
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

WITH_RESULTS: Final = "results"
"""The variant."""

_AT_A_TIME: Final = 100
_PULL: Final = 100
_PULL_S: Final = 1.0
_POLL_S: Final = 0.005
"""Between two looks for a result; its own default is 0.2 s."""
_RESULT_S: Final = 30.0
"""A result that takes longer is a failure of the bench."""


async def work(job: Job, parent_gone: asyncio.Event) -> None:
    """One receiver, which is what its command line runs in each process."""
    from taskiq.acks import AcknowledgeType
    from taskiq.api import run_receiver_task

    teller = told.Teller(job.port)
    broker = _broker(job, teller)
    await broker.startup()
    receiving = asyncio.ensure_future(
        run_receiver_task(
            broker,
            max_async_tasks=_AT_A_TIME,
            max_prefetch=_PULL,
            validate_params=False,
            ack_time=AcknowledgeType.WHEN_EXECUTED,
        )
    )
    process.say({"ready": True})
    await parent_gone.wait()
    receiving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await receiving
    await broker.shutdown()
    teller.close()


@contextlib.asynccontextmanager
async def submit(job: Job) -> AsyncIterator[Mapping[Kind, One]]:
    """Tasks; it has no workflows."""
    numbers = itertools.count()
    broker = _broker(job, None)
    await broker.startup()
    nothing = broker.find_task("nothing")
    async with told.listening(job.port) as waiting:

        async def untold() -> None:
            task = await nothing.kiq("")
            async with asyncio.timeout(_RESULT_S):
                while not await _has_result(task):  # noqa: ASYNC110 - its results are polled for
                    await asyncio.sleep(_POLL_S)

        async def task() -> None:
            id_ = f"{os.getpid()}-{next(numbers)}"
            done = waiting.expect(id_)
            await nothing.kiq(id_)
            await done

        yield {"task": untold if job.variant == WITH_RESULTS else task}
    await broker.shutdown()


async def _has_result(task: Any) -> bool:
    """Look, and read it if it is there.

    A look at a result that is there makes a consumer of the object store's stream, and now and then one fails.  Who
    polls looks again.
    """
    from taskiq.exceptions import ResultGetError, ResultIsReadyError

    try:
        if not await task.is_ready():
            return False
        await task.get_result()
    except (ResultGetError, ResultIsReadyError):
        return False
    return True


def _broker(job: Job, teller: told.Teller | None) -> Any:
    from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

    broker: Any = PullBasedJetStreamBroker([job.url], pull_consume_batch=_PULL, pull_consume_timeout=_PULL_S)
    if job.variant == WITH_RESULTS:
        broker = broker.with_result_backend(NATSObjectStoreResultBackend([job.url]))

    @broker.task(task_name="nothing")
    async def nothing(id_: str) -> None:
        if id_ and teller is not None:
            teller.tell(id_)

    return broker
