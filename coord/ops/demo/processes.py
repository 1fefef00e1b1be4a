"""Processes of the demo's fleet: each hosts some agents, and ends when it is told, or is killed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from contextlib import AbstractAsyncContextManager
from typing import Final, Self

import msgspec

from coord import errors
from coord.ops.demo.fleet import Job

_END_S: Final = 30.0
"""How long a process that was dismissed may take to finish what it holds."""


class Process(AbstractAsyncContextManager["Process"]):
    """One of them; leaving the block ends it, however it fares."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._process: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        """Start it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "coord.ops.demo.fleet", msgspec.json.encode(self.job).decode(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._ended = asyncio.ensure_future(self._watch(self._process))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()
        assert self._ended is not None
        await asyncio.wait({self._ended})
        if not self._ended.cancelled():
            self._ended.exception()  # somebody was told, or nobody needs to be

    async def ended(self) -> None:
        """Return when it has ended well; raises `CoordError` with its last words otherwise."""
        assert self._ended is not None
        await asyncio.shield(self._ended)

    async def dismiss(self) -> None:
        """Tell it that it is not needed any more, and wait until it has ended."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(_END_S):
            await self.ended()

    def kill(self) -> None:
        """End it at once (SIGKILL).  Twice is legal."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        talk = await process.stderr.read()
        if await process.wait():
            last = talk.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise errors.CoordError(f"a process of the fleet ended with {process.returncode}: {' '.join(last)}")
