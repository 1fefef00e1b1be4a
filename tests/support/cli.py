"""Running ``coord`` in a test: in this process for one command, as a process for what keeps running."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from coord.ops.cli import main
from coord.telemetry import logs


class Result(NamedTuple):
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one JSON document."""
        return msgspec.json.decode(self.out)

    @property
    def lines(self) -> list[Any]:
        """stdout as JSON lines."""
        return [msgspec.json.decode(line) for line in self.out.splitlines()]


def run_cli(*args: str | Path) -> Result:
    """Run one command in this process and thread."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(a) for a in args])
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
        finally:
            logs.unconfigure()
    return Result(code, out.getvalue(), err.getvalue())


async def cli(*args: str | Path) -> Result:
    """The same beside a running event loop."""
    return await asyncio.to_thread(run_cli, *args)


class Process:
    """A ``coord`` that keeps running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.err: list[str] = []
        self.out: list[str] = []
        self._heard = asyncio.Event()
        assert process.stderr is not None
        assert process.stdout is not None
        self._readers = [
            asyncio.create_task(self._read(process.stderr, self.err)),
            asyncio.create_task(self._read(process.stdout, self.out)),
        ]

    async def _read(self, stream: asyncio.StreamReader, into: list[str]) -> None:
        async for line in stream:
            into.append(line.decode().rstrip("\n"))
            self._heard.set()
        asyncio.get_running_loop().call_soon(self._heard.set)  # when this task is done

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def says(self, text: str, timeout_s: float = 100.0) -> str:
        """Wait for a line, on either stream, that contains `text`."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    ended = all(reader.done() for reader in self._readers)  # before it is looked at what they read
                    for line in self.err + self.out:
                        if text in line:
                            return line
                    assert not ended, f"it ended: {self.err}"
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} was not said: {self.err} {self.out}") from None

    def send(self, os_signal: int) -> None:
        """Send it a signal."""
        self._process.send_signal(os_signal)

    async def ends(self, timeout_s: float = 100.0) -> int:
        """Wait for its end; the exit code."""
        async with asyncio.timeout(timeout_s):
            code = await self._process.wait()
            await asyncio.gather(*self._readers)
        return code

    async def close(self) -> None:
        """End it for certain."""
        if self._process.returncode is None:
            self._process.kill()
        await self.ends()


@contextlib.asynccontextmanager
async def running_cli(*args: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """``coord`` as a process of its own, killed at the end if it still runs."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COORD_") or k == "COORD_CACHE_DIR"}
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from coord.ops.cli import main; main()",
        *map(str, args),
        cwd=cwd,
        env=environ | dict(env or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Process(process)
    try:
        yield running
    finally:
        await running.close()
