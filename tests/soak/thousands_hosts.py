"""A process with very many agents in it, for `tests.soak.thousands`: each has a connection of its own and takes naps.

Each execution writes a line when its handler begins, and one when it is done.  It leaves, all agents at once, when its
standard input says so; it ends when that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

import coord
from coord.runtime import running
from coord.telemetry import logs
from tests.support import programs
from tests.support.forking import Forked

CAPABILITY = "nap"
_CONNECT_AT_A_TIME = 32


class Hosted(msgspec.Struct, frozen=True, kw_only=True):
    """What the program gets as its argument, in JSON."""

    url: str
    tenant: str
    name: str
    """What its agents' names begin with; a number follows."""
    agents: int
    folder: str
    """Where it writes what it executes."""


class Told(msgspec.Struct, frozen=True):
    """What it says when all are there, and when they have left."""

    seconds: float
    cpu_s: float
    """Of its own, since it began."""
    slowest_s: float = 0.0
    """Of those that left, the one that took longest."""
    failed: int = 0
    """Of those that left: how many said that something was not stored."""


class Host:
    """The scenario's half."""

    def __init__(self, hosted: Hosted, process: Forked, came: Told) -> None:
        self.hosted = hosted
        self.process = process
        self.came = came

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def leave(self, timeout_s: float = 120) -> Told:
        """All of its agents close, together."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"leave\n")
        return await _line(self.process, timeout_s)


@contextlib.asynccontextmanager
async def hosting(hosted: Hosted, log: Path) -> AsyncIterator[Host]:
    """Start it; returns when all of its agents are registered."""
    process = await programs.start("tests.soak.thousands_hosts", hosted, log)
    try:
        yield Host(hosted, process, await _line(process, 180))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await programs.end(process)


async def _line(process: Forked, timeout_s: float) -> Told:
    assert process.stdout is not None
    async with asyncio.timeout(timeout_s):
        return msgspec.json.decode(await process.stdout.readline(), type=Told)


# --- the program -------------------------------------------------------------------------


async def _main(hosted: Hosted) -> None:
    began = time.monotonic()
    file = os.open(Path(hosted.folder) / f"{hosted.name}.ran", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    stays: list[contextlib.AsyncExitStack] = []

    async def one(i: int) -> None:
        agent = coord.Agent(f"{hosted.name}-{i}", capabilities={CAPABILITY: 1}, drain_s=5.0)

        @agent.task(CAPABILITY, timeout_s=120, retries=3)
        async def nap(seconds: float, ctx: coord.TaskContext) -> float:
            at = time.time()
            os.write(file, f"began {ctx.task_id} {ctx.claim} {at:.6f} {agent.name}\n".encode())
            await asyncio.sleep(seconds)
            os.write(file, f"ended {ctx.task_id} {ctx.claim} {time.time():.6f} {agent.name}\n".encode())
            return at

        stack = contextlib.AsyncExitStack()
        await stack.enter_async_context(agent.connect(hosted.url, tenant=hosted.tenant))
        stays.append(stack)

    for start in range(0, hosted.agents, _CONNECT_AT_A_TIME):
        await asyncio.gather(*(one(i) for i in range(start, min(start + _CONNECT_AT_A_TIME, hosted.agents))))
    _say(Told(time.monotonic() - began, _cpu_s()))
    words = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    if await words.readline() != b"leave\n":
        return
    began, cpu_s = time.monotonic(), _cpu_s()
    took = await asyncio.gather(*(_leave(stack) for stack in stays))
    failed = sum(not well for _, well in took)
    _say(Told(time.monotonic() - began, _cpu_s() - cpu_s, max(s for s, _ in took), failed))
    await words.read()


async def _leave(stack: contextlib.AsyncExitStack) -> tuple[float, bool]:
    began, well = time.monotonic(), True
    try:
        await stack.aclose()
    except coord.errors.CoordError:
        well = False
    return time.monotonic() - began, well


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _say(told: Told) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    logs.configure(logs.LogConfig(level="error", format="console", libraries_level="error"))
    running.run(_main(msgspec.json.decode(sys.argv[1], type=Hosted)))
