"""A submitter that keeps so many tasks and workflows in flight, and knows how each of them ended."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

import coord
from coord import errors, limits
from coord.client.connect import Coord
from coord.wire import subjects
from tests.support.crew import Work

_BURST = 500
"""Begun before the event loop has a turn."""
FAN_OUT = 2
"""Executions of a workflow's first step."""


class Amount(msgspec.Struct, frozen=True):
    """How much, and how long each takes."""

    tasks: int
    workflows: int
    task_s: tuple[float, float] = (4.0, 16.0)
    step_s: tuple[float, float] = (1.0, 5.0)


class Load:
    """Submits until `finish`; what ended is in `ends`."""

    def __init__(self, c: Coord, amount: Amount, seed: int) -> None:
        self.ends: dict[tuple[str, str], str] = {}
        """(kind, id) → its status, as its submitter was told."""
        self.wrong: list[str] = []
        """Results that are not what the handler returns."""
        self.unsure: Counter[str] = Counter()
        """Submissions that were given up, by code: the log may have them or not."""
        self.in_flight: Counter[str] = Counter()
        self._c = c
        self._amount = amount
        self._rng = random.Random(seed)
        self._number = 0
        self._probes = 0
        self._flow_number = 0
        self._full = False
        self._stopping = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._top_up = asyncio.create_task(self._keep())

    @property
    def ended(self) -> int:
        """How many tasks and workflows have."""
        return len(self.ends)

    async def full(self, timeout_s: float) -> None:
        """Return once all that is to be in flight is."""
        async with asyncio.timeout(timeout_s):
            while not self._full:  # noqa: ASYNC110 - a test's clock
                await asyncio.sleep(0.05)

    async def probe(self, timeout_s: float) -> float | None:
        """Seconds that tasks and workflows of every partition take, submitted now; None: not within `timeout_s`."""
        self._probes += 1
        began, ids = time.monotonic(), _ids(f"p{self._probes}")
        ends = [self._task(id_, "probe", n, lambda n: n) for n, id_ in enumerate(ids)]
        ends += [self._flow(id_, n, 0.0) for n, id_ in enumerate(_ids(f"pf{self._probes}"))]
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*ends)
        except TimeoutError:
            return None
        return time.monotonic() - began

    async def finish(self, timeout_s: float) -> int:
        """Submit no more and wait for all; how many have not ended within `timeout_s`."""
        self._stopping.set()
        await self._top_up
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        left = len(self._running)
        for running in list(self._running):
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        return left

    async def last_word(self) -> None:
        """Something runs, so whoever runs things hears its broker again."""
        await (await self._c.submit("probe", 1, id="last")).result(100)

    # --- one after the other ---------------------------------------------------------------

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            missing = [
                ("task", self._amount.tasks - self.in_flight["task"], self._next_task),
                ("workflow", self._amount.workflows - self.in_flight["workflow"], self._next_flow),
            ]
            for kind, count, make in missing:
                for _ in range(min(count, _BURST)):
                    self._begin(kind, make())
            # What ends between two looks is missing for a moment: with thousands in flight, hundreds.
            self._full |= all(count <= _BURST for _, count, _ in missing)
            await asyncio.sleep(0.02)

    def _begin(self, kind: str, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            finally:
                self.in_flight[kind] -= 1

        self.in_flight[kind] += 1
        running = asyncio.create_task(run())
        self._running.add(running)
        running.add_done_callback(self._done)

    def _done(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        if not running.cancelled() and (exc := running.exception()) is not None:
            self.wrong.append(f"a defect: {exc!r}")

    def _next_task(self) -> Awaitable[None]:
        self._number += 1
        n = self._number
        return self._task(f"t{n}", "hold", Work(n, self._rng.uniform(*self._amount.task_s)), lambda _: n * n)

    def _next_flow(self) -> Awaitable[None]:
        self._flow_number += 1
        return self._flow(f"f{self._flow_number}", self._flow_number, self._rng.uniform(*self._amount.step_s))

    async def _task(self, id_: str, capability: str, given: object, expected: Callable[..., int]) -> None:
        try:
            handle = await self._c.submit(capability, given, id=id_)
        except errors.CoordError as exc:
            self.unsure[exc.code] += 1
            return
        await self._end("task", id_, handle.result(), expected(given))

    async def _flow(self, id_: str, n: int, hold_s: float) -> None:
        flow = coord.Workflow("chain")
        one = flow.task("one", "step", for_each=[Work(i, hold_s) for i in range(FAN_OUT)])
        two = flow.task("two", "step", needs=[one], input=Work(n, hold_s))
        flow.task("three", "step", needs=[two], input=Work(n + 1, hold_s))
        try:
            handle = await self._c.start_workflow(flow, n, id=id_)
        except errors.CoordError as exc:
            self.unsure[exc.code] += 1
            return
        await self._end("workflow", id_, handle.result(), n + 2)

    async def _end(self, kind: str, id_: str, result: Awaitable[object], expected: int) -> None:
        try:
            found = await result
            end = "completed"
            if found != expected:
                self.wrong.append(f"{kind} {id_}: {found!r} instead of {expected}")
        except errors.TaskRejected:
            end = "rejected"
        except (errors.TaskFailed, errors.WorkflowFailed):
            end = "failed"
        except errors.CoordError as exc:
            end = exc.code
        self.ends[kind, id_] = end


def _ids(prefix: str) -> list[str]:
    """Two for every partition."""
    found: dict[int, list[str]] = {p: [] for p in range(limits.PARTITIONS)}
    n = 0
    while any(len(ids) < 2 for ids in found.values()):
        n += 1
        id_ = f"{prefix}-{n}"
        if len(ids := found[subjects.partition(id_)]) < 2:
            ids.append(id_)
    return [id_ for ids in found.values() for id_ in ids]
