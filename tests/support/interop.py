"""Running the Node client of tests/interop_node."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import node

FOLDER = Path(__file__).resolve().parents[1] / "interop_node"


class Script:
    """A running Node script that says JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> Any:
        """The next line, decoded; fails with what the script complained about when it has ended."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            pytest.fail(await self.complaint())
        return json.loads(line)

    async def complaint(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()[-4_000:]

    async def end(self) -> None:
        """Wait until it has ended by itself, well."""
        if await self._process.wait():
            pytest.fail(await self.complaint())


@contextlib.asynccontextmanager
async def script(*arguments: str, timeout_s: float = 200) -> AsyncIterator[Script]:
    """Run tests/interop_node/main.mjs with `arguments`; skipped without Node, but never in CI."""
    found = node.required()
    process = await asyncio.create_subprocess_exec(
        found.node,
        "main.mjs",
        *arguments,
        cwd=await asyncio.to_thread(found.install, FOLDER),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=8 * 1024 * 1024,
    )
    try:
        async with asyncio.timeout(timeout_s):
            yield Script(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
