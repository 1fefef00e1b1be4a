"""What the tables say of a replay as tasks: who waited for how long, by placement and priority."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.ops.bench.measure import percentile
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated
from coord.wire import work

_LOOK_S: Final = 0.2


class Waits(msgspec.Struct, frozen=True):
    """Tasks of one priority that were placed in one way."""

    placement: str
    priority: str
    tasks: int
    """That ended."""
    wait_p50_ms: float
    """From the submission to the first claim, by the broker's clock."""
    wait_p90_ms: float
    wait_p99_ms: float
    wait_max_ms: float
    run_mean_ms: float
    """Of their handlers."""


class Offers(msgspec.Struct, frozen=True):
    """What the scheduler did about the tasks of one placement."""

    offers: int
    pulls: int
    """Tasks that were left to whoever is free first."""


class Tables:
    """What is projected of one replay."""

    def __init__(self, pool: Pool, tenant: str) -> None:
        self._pool = pool
        self._tenant = tenant

    async def tasks(self, prefix: str) -> list[Any]:
        """Those that have ended of which the key begins so."""
        return await self._rows("replayed_tasks", prefix)

    async def talks(self, prefix: str) -> list[Any]:
        """Workflows likewise, each with its handoffs."""
        return await self._rows("replayed_talks", prefix)

    async def offers(self, prefix: str, since: datetime) -> Offers:
        """What was decided since then."""
        (row,) = await self._rows("replayed_placements", prefix, since)
        return Offers(row["offers"], row["pulls"])

    async def until(self, look: Callable[[str], Any], prefix: str, count: int) -> list[Any]:
        """What is there once there is as much of it; `DeadlineExceeded` when nothing more comes for a minute."""
        seen, seen_at = -1, time.monotonic()
        while True:
            rows: list[Any] = await look(prefix)
            if len(rows) >= count:
                return rows
            if len(rows) != seen:
                seen, seen_at = len(rows), time.monotonic()
            elif time.monotonic() - seen_at > limits.REPLAY_PATIENCE_S / 2:
                raise errors.DeadlineExceeded(
                    "the tables do not have all that ended: is the projector running?", found=seen, expected=count
                )
            await asyncio.sleep(_LOOK_S)

    async def _rows(self, name: str, prefix: str, *more: Any) -> list[Any]:
        # Keys are compared by their bytes: what begins with the prefix lies before its next one.
        behind = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        async with self._pool.acquire() as conn:
            with translated("a replay's outcome"):
                return list(await conn.fetch(statement(name), self._tenant, prefix, behind, *more))


def summary(placement: str, rows: Sequence[Any]) -> list[Waits]:
    """By priority, the most urgent first."""
    waited: defaultdict[str, list[float]] = defaultdict(list)
    ran: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        waited[row["priority"]].append(1000 * row["wait_seconds"])
        ran[row["priority"]].append(1000 * (row["run_seconds"] or 0.0))
    found = []
    for priority in work.PRIORITIES:
        if priority in waited:
            ms, run_ms = sorted(waited[priority]), ran[priority]
            p50, p90, p99 = (round(percentile(ms, share), 2) for share in (0.5, 0.9, 0.99))
            mean_ms = round(sum(run_ms) / len(run_ms), 2)
            found.append(Waits(placement, priority, len(ms), p50, p90, p99, round(ms[-1], 2), mean_ms))
    return found
