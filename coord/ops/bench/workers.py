"""Processes of the bench: what is measured apart from the one that measures.

A worker is ``python -m coord.ops.bench.worker JOB`` (a peer's is `peer_worker`: it must not import
coord's own client) with the job as JSON.  It writes one JSON
object a line: first ``{"ready": true}``, at the end its result.  It ends when its standard
input does, so none is left behind by a bench that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, Self

import msgspec

from coord.ops.bench.measure import BenchError

_START_S: Final = 120.0
_STOP_S: Final = 20.0
_MODULES: Final = dict.fromkeys(("faststream", "faststream-lean", "nats-sinks"), "coord.ops.bench.peer_worker") | {
    "fleet": "coord.ops.bench.task_worker",
    "agents": "coord.ops.bench.task_worker",
    "submitter": "coord.ops.bench.task_worker",
}
_LINE_BYTES_MAX: Final = 64 * 2**20
"""A result may hold every latency there was."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to do."""

    role: Literal[
        "drain", "projector", "service", "upkeep", "subscribers", "faststream", "faststream-lean", "nats-sinks",
        "fleet", "agents", "submitter",
    ]  # fmt: skip
    nats_url: str
    database_url: str = ""
    stream: str = ""
    """drain: which backlog."""
    ends: dict[int, int] = {}
    """drain: partition → stream sequence of its last message."""
    subscribers: int = 0
    expected: int = 0
    """subscribers: how many facts they will receive, all together; peers: how many rows they will write."""
    batch: int = 0
    """Peers: messages of one pull, rows of one transaction."""
    agents: int = 1
    """agents: how many, each with a connection of its own;"""
    capacity: int = 1
    """how many tasks each takes at once;"""
    handler: Literal["no-op", "work", "nap", "hold"] = "no-op"
    """and what it does with one: nothing, 10 ms of CPU, sleeping for 50, or holding it until it is killed."""
    per_s: float = 0.0
    """submitter: how many tasks of the handler's capability it submits in a second,"""
    priority: Literal["critical", "normal", "batch"] = "normal"
    """as what; batch tasks make way for critical ones."""
    profile: str | None = None
    """Write cProfile's data of the worker into this file."""


async def _start(module: str, argument: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, argument,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE_BYTES_MAX,
    )  # fmt: skip


class Worker(AbstractAsyncContextManager["Worker"]):
    """A running worker; leaving the block ends it."""

    def __init__(self, job: msgspec.Struct, *, name: str = "", module: str = "", abrupt: bool = False) -> None:
        """`name`, `module`: what it is called and what it runs, for a job that is not this module's `Job`.

        `abrupt`: leaving the block kills it, unless it is profiled: for who has nothing left that anybody wants.
        """
        self.job = job
        self._abrupt = abrupt and not getattr(job, "profile", None)
        self._name = name or (job.role if isinstance(job, Job) else type(job).__name__)
        self._module = module or _MODULES.get(self._name, "coord.ops.bench.worker")
        self.told: dict[str, Any] = {}
        """What it said when it was ready."""
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start it and wait until it is ready."""
        self._process = await _start(self._module, msgspec.json.encode(self.job).decode())
        try:
            self.told = await self._line(_START_S)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.returncode is None

    def kill(self) -> None:
        """End it at once, as a crash would."""
        assert self._process is not None
        self._process.kill()

    async def result(self, timeout_s: float) -> dict[str, Any]:
        """What it found out; `BenchError` when that takes longer or it dies."""
        return await self._line(timeout_s)

    async def ended(self, timeout_s: float) -> dict[str, Any]:
        """Tell it that it is enough: what it found out by then, as `result`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await self._line(timeout_s)

    async def _line(self, timeout_s: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise BenchError(f"the {self._name} worker said nothing for {timeout_s:g} s") from None
        if not line:
            raise BenchError(f"the {self._name} worker ended early", exit_code=await self._process.wait())
        found: dict[str, Any] = msgspec.json.decode(line)
        if "error" in found:
            raise BenchError(f"the {self._name} worker failed: {found['error']}")
        return found

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        if self._abrupt:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
