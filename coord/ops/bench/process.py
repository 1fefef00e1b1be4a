"""What every worker process of the bench does: its job, one line of JSON a result, no life after its parent."""

from __future__ import annotations

import asyncio
import cProfile
import functools
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from coord.errors import CoordError
from coord.ops.bench.workers import Job
from coord.runtime import running
from coord.telemetry import logs

Role = Callable[[Job, asyncio.Event], Awaitable[None]]
"""Does a job; the event is set once standard input has ended, which means: whoever asked is gone or has enough."""


def say(message: Mapping[str, Any]) -> None:
    """Tell the parent."""
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


def main(argument: str, roles: Mapping[str, Role], *, patient: frozenset[str] = frozenset()) -> int:
    """Do the job `argument` (JSON); a failure is the last line.

    `patient`: roles that end by themselves when the event is set; others are cancelled then.
    """
    job = msgspec.json.decode(argument, type=Job)
    return run(functools.partial(roles[job.role], job), patient=job.role in patient, profile=job.profile)


def run(role: Callable[[asyncio.Event], Awaitable[None]], *, patient: bool, profile: str | None = None) -> int:
    """Play a role whose job is known already; `patient` as above, `profile`: cProfile's data go into this file."""
    logs.configure(logs.LogConfig(level="warning", format="console", libraries_level="error"))
    profiler = cProfile.Profile() if profile else None
    try:
        if profiler:
            profiler.enable()
        running.run(_run(role, patient=patient))
    except CoordError as exc:
        say({"error": f"{exc} [{exc.code}]"})
        return 1
    finally:
        if profiler and profile:
            profiler.disable()
            profiler.dump_stats(profile)
    return 0


async def _run(role: Callable[[asyncio.Event], Awaitable[None]], *, patient: bool) -> None:
    parent_gone = asyncio.Event()
    watch = asyncio.create_task(_until_parent_is_gone(parent_gone))
    work = asyncio.ensure_future(role(parent_gone))
    gone = asyncio.create_task(parent_gone.wait())
    await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        if not patient:
            work.cancel()
        await asyncio.wait({work})
    watch.cancel()
    gone.cancel()
    if not work.cancelled():
        work.result()


async def _until_parent_is_gone(parent_gone: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    parent_gone.set()
