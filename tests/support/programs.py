"""Programs that a test starts, listens to and ends: modules of the tests, each with one argument in JSON."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.support import forking
from tests.support.forking import Forked


async def start(module: str, argument: msgspec.Struct, log: Path) -> Forked:
    """Run a module with pipes to its stdin and from its stdout; what it writes to stderr goes to `log`.

    The end of its stdin tells the program that we are gone.
    """
    root = Path(__file__).parents[2]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COORD_")} | {"PYTHONPATH": str(root)}
    with log.open("ab") as err:
        return await forking.python(
            "-m", module, msgspec.json.encode(argument).decode(), cwd=root, env=environ, stderr=err.fileno()
        )


async def end(process: Forked) -> None:
    """End it for certain."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()


class Program:
    """The test's half of one that speaks in lines; subclasses make something of them in `hear`."""

    def __init__(self, process: Forked) -> None:
        self._process = process
        self._news = asyncio.Condition()
        self._ended = False
        """It will say nothing more."""
        self._reader = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self, line: bytes) -> None:
        """One line that it said."""
        raise NotImplementedError

    async def close(self) -> None:
        """End it for certain."""
        await end(self._process)
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.hear(line)
            async with self._news:
                self._news.notify_all()
        self._ended = True
        async with self._news:
            self._news.notify_all()

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Return once it has said what makes `condition` true, or has ended; raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: condition() or self._ended)
