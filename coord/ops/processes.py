"""Several projector processes under one parent: a core each.

A projector is one event loop and fills one core.  Its replicas share the partitions by their
beats, wherever they run; this starts some of them on one machine, as one service::

    parent: /metrics, /readyz of all, retention, statistics
      ├─ child 1: a projector ─┐
      ├─ child 2: a projector ─┼─ share the partitions by beats, as replicas on other machines do
      └─ …                    ─┘

A child that dies is started again, with backoff; until then the others have its partitions.
SIGTERM drains all of them side by side.  Ready means that every child is.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Any

import msgspec
from prometheus_client import generate_latest

from coord import errors, limits
from coord.ops.settings import Settings
from coord.runtime.service import Service
from coord.telemetry import logs, merging, metrics

_log = logs.get("processes")


class _Child:
    """What is known of one child, across its incarnations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: asyncio.subprocess.Process | None = None
        self.ready = False
        self.health: dict[str, Any] = {}
        self.heard_at = float("-inf")
        """When it last said something (monotonic)."""
        self.page: asyncio.Future[str] | None = None
        """Its metrics, asked for."""

    def hear(self, line: bytes) -> None:
        record = msgspec.json.decode(line, type=dict[str, Any])
        self.heard_at = time.monotonic()
        if "metrics" in record:
            if self.page is not None and not self.page.done():
                self.page.set_result(record["metrics"])
            return
        self.ready, self.health = record["ready"], record["health"]

    def ask(self) -> asyncio.Future[str]:
        """Its page of metrics; who asks while another does gets the same one."""
        if self.page is None or self.page.done():
            self.page = asyncio.get_running_loop().create_future()
            if self.process is not None and self.process.stdin is not None:
                with contextlib.suppress(OSError, RuntimeError):
                    self.process.stdin.write(b'{"ask":"metrics"}\n')
        return self.page

    def gone(self) -> None:
        self.process, self.ready, self.health = None, False, {}
        self.heard_at = float("-inf")


class Processes(Service):
    """`count` projector processes, supervised."""

    def __init__(self, settings: Settings, count: int, *, registry: metrics.Metrics | None = None) -> None:
        """Nothing runs before `start`.  `count`: 1 to `limits.PROCESSES_MAX`."""
        super().__init__("processes", registry=registry)
        if not 1 <= count <= limits.PROCESSES_MAX:
            raise errors.SettingsError(f"processes must be 1 to {limits.PROCESSES_MAX}, not {count}")
        self._settings = settings
        self._children = [_Child(str(number)) for number in range(1, count + 1)]
        self.metrics.processes_ready.set_function(lambda: float(sum(map(self._answers, self._children))))

    async def setup(self) -> None:
        """Start the children."""
        for child in self._children:
            self.spawn(f"child.{child.name}", lambda c=child: self._live(c))  # type: ignore[misc]

    async def on_drain(self) -> None:
        """Have every child drain, and wait until all have ended."""
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            _hang_up(process)
        await asyncio.gather(*(process.wait() for process in running))

    def is_ready(self) -> bool:
        """Whether every child is, as of the last few seconds."""
        return all(map(self._answers, self._children))

    def details(self) -> dict[str, Any]:
        """Each child: its process id and what it says of itself."""
        return {
            "children": {
                child.name: {"pid": child.process.pid if child.process else None, "ready": self._answers(child)}
                | ({"health": child.health} if child.health else {})
                for child in self._children
            }
        }

    async def page(self) -> bytes:
        """The metrics of this process and of every child that answers in time, each with its label."""
        asked = {child.name: child.ask() for child in self._children if child.process is not None}
        if asked:
            await asyncio.wait(asked.values(), timeout=limits.CHILD_ANSWER_S)
        pages = {"parent": generate_latest(self.metrics.registry).decode()}
        pages |= {name: page.result() for name, page in asked.items() if page.done() and not page.cancelled()}
        return await asyncio.to_thread(merging.merged, pages)

    def _answers(self, child: _Child) -> bool:
        if child.heard_at == float("-inf"):
            return False
        silent_s = time.monotonic() - child.heard_at
        return child.ready and silent_s <= limits.CHILD_SILENT_S

    async def _live(self, child: _Child) -> None:
        """One life of a child.  Raises when it ends unasked: the supervisor starts the next one."""
        if self.draining.is_set():
            return
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "coord.ops.child", child.name,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=limits.CHILD_LINE_BYTES_MAX,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        child.process = process
        _log.info("processes.started", child=child.name, pid=process.pid)
        try:
            process.stdin.write(msgspec.json.encode(self._settings) + b"\n")
            if self.draining.is_set():  # while it was being started
                _hang_up(process)
            while line := await process.stdout.readline():
                child.hear(line)
                self.changed()
            code = await process.wait()
        finally:
            child.gone()
            self.changed()
            await _end(process)
        if not self.draining.is_set():
            raise errors.CoordError(f"projector process {child.name} ended by itself", exit_code=code)


def _hang_up(process: asyncio.subprocess.Process) -> None:
    """Close its standard input: it drains."""
    if process.stdin is not None:
        process.stdin.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End what still runs, now: whoever wanted it drained has waited for that."""
    if process.returncode is not None:
        return
    _hang_up(process)
    for end in (process.terminate, process.kill):
        with contextlib.suppress(ProcessLookupError):
            end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.CHILD_END_S):
                await process.wait()
                return
