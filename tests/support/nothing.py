"""A system that does nothing, as `coord bench tasks-peers` wants one: its bench without anything installed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from coord.ops.bench import process
from coord.ops.bench.beside.job import Job, Kind, One
from coord.ops.bench.measure import BenchError

FAILS = "fails"
"""The variant whose tasks fail."""


async def work(job: Job, parent_gone: asyncio.Event) -> None:
    """Host nothing."""
    process.say({"ready": True})
    await parent_gone.wait()


@contextlib.asynccontextmanager
async def submit(job: Job) -> AsyncIterator[Mapping[Kind, One]]:
    """Results are there at once."""

    async def one() -> None:
        await asyncio.sleep(0)
        if job.variant == FAILS:
            raise BenchError("this system is broken")

    yield dict.fromkeys(job.kinds, one)
