"""Having answers before they are asked for, as long as that pays.

Four ways: ``record`` (the keys that processes of this agent asked for most, at the start), ``trigger`` (what runs of
the same sort have read), ``forecast`` (what is asked for often and is not here any more) and ``schedule`` (what the
caller names).  A value comes from a tier below where one has it, which is how a process gets what its peers have
loaded, else by calling the function: so many a second, a few at a time.

`coord.core.warming` decides; what a way brought is set aside in L1 until somebody reads it, which is how its worth is
known without a hit costing anything more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final, TypeGuard

import msgspec

from coord import limits
from coord.cache.functions import Functions
from coord.cache.keys import Key
from coord.cache.loading import Cache
from coord.core.rate import Rate
from coord.core.warming import FORECAST, SCHEDULE, TRIGGER, WAYS, Candidate, Learner, Payoff, Trigger, likely, pick
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire.cache_api import Paid

_log = logs.get("cache")


class Warming:
    """Of one cache.  `close` it before the cache."""

    def __init__(
        self,
        cache: Cache,
        functions: Functions,
        metrics: Metrics,
        ways: Sequence[str],
        run_of: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`ways`: those that are allowed; `run_of`: on whose behalf the running task asks, for `Trigger.run`."""
        self.payoffs: Final = {way: Payoff(way) for way in WAYS}
        self.learner: Final = Learner()
        self._cache = cache
        self._functions = functions
        self._metrics = metrics
        self._ways = frozenset(ways)
        self._run_of = run_of
        self._rate = Rate(limits.CACHE_WARM_LOADS_PER_S, cache.monotonic())
        self._turns = asyncio.Semaphore(limits.CACHE_WARM_AT_ONCE)
        self._running: set[asyncio.Task[Any]] = set()
        cache.l1.settled = self._settled
        cache.sampling.missed_too = self._asked

    # --- what happens --------------------------------------------------------------------

    def start(self) -> None:
        """Look ahead from now on, where that is allowed."""
        if FORECAST in self._ways:
            self._run(self._forecast_for_ever())

    def begun(self, trigger: Trigger) -> None:
        """Something began: have what will be read for it."""
        if TRIGGER in self._ways:
            keys = self.learner.begin(trigger, self._cache.monotonic())
            if keys:
                self._run(self.warm(TRIGGER, keys))

    def every(self, seconds: float, keys: Sequence[Key]) -> None:
        """Have these from now on, looking after them so often."""
        self._run(self._every(seconds, keys))

    async def warm(self, way: str, keys: Iterable[Hashable]) -> int:
        """Have what is under these keys, in this order, as far as it pays and the rate allows; how many came."""
        came = 0
        payoff = self.payoffs[way]
        for key in keys:
            async with self._turns:
                if not payoff.may(self._cache.monotonic()):
                    break
                came += await self._warm(way, payoff, key)
        return came

    async def _warm(self, way: str, payoff: Payoff, key: Hashable) -> bool:
        now = self._cache.monotonic()
        if not _is_ours(key) or not self._functions.ttl_s(key) or self._is_here(key, now):
            return False
        wait_s = self._rate.take(1.0, now)
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        try:
            warmed = await self._functions.warm(key, way)
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever a loader raises: nobody asked for it
            _log.debug("cache.warm_failed", way=way, error=exc)
            payoff.wasted(self._cache.monotonic())
            self._count(way, "wasted")
            return False
        if warmed is None:
            return False
        now = self._cache.monotonic()
        if warmed.bytes is None:
            if warmed.loaded:
                payoff.wasted(now)
                self._count(way, "wasted")
            return False
        payoff.brought(warmed.bytes, loaded=warmed.loaded)
        self._count(way, "loaded" if warmed.loaded else "found")
        return True

    def _settled(self, key: Hashable, way: str, outcome: str) -> None:
        payoff = self.payoffs.get(way)
        if payoff is not None:
            payoff.settled(self._cache.monotonic(), used=outcome == "used")
            self._count(way, outcome)
        if outcome == "used":
            self._cache.sampling.keys.offer(key, self._cache.monotonic())  # as the miss counts that it would have been
            self._asked(key)

    def _asked(self, key: Hashable) -> None:
        """A key was asked for that was not simply here."""
        run = self._run_of() if TRIGGER in self._ways else None
        if run is not None and _is_ours(key):
            self.learner.read(run, key, self._cache.monotonic())

    def _count(self, way: str, outcome: str) -> None:
        self._metrics.cache_warmed.labels(way, outcome).inc()

    # --- looking ahead -------------------------------------------------------------------

    async def _forecast_for_ever(self) -> None:
        while True:
            await asyncio.sleep(limits.CACHE_WARM_LOOK_S)
            await self.warm(FORECAST, self.forecast())

    def forecast(self) -> list[Hashable]:
        """What is likely to be asked for before it would leave again, and is not here."""
        cache, now = self._cache, self._cache.monotonic()
        candidates: list[Candidate[Hashable]] = []
        for hot in cache.sampling.keys.top(now):
            if not _is_ours(hot.name) or self._is_here(hot.name, now):
                continue
            life_s = self._functions.ttl_s(hot.name)
            chance = likely(hot.count - hot.error, limits.CACHE_HOT_HALF_LIFE_S, life_s)
            candidates.append(Candidate(hot.name, chance, 0))
        loads = int(limits.CACHE_WARM_LOADS_PER_S * limits.CACHE_WARM_LOOK_S)
        return pick(candidates, loads, cache.l1.bytes_max)

    def _is_here(self, key: Hashable, now: float) -> bool:
        entry = self._cache.l1.look(key)
        return entry is not None and entry.expires > now

    async def _every(self, seconds: float, keys: Sequence[Key]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self.warm(SCHEDULE, keys)

    # --- the record ----------------------------------------------------------------------

    def record(self, bytes_max: int = limits.CACHE_WARM_RECORD_BYTES) -> list[Key]:
        """The keys asked for most, as many as fit."""
        found: list[Key] = []
        room = bytes_max
        for hot in self._cache.sampling.keys.top(self._cache.monotonic()):
            if not _is_ours(hot.name) or not self._functions.ttl_s(hot.name):
                continue
            room -= len(msgspec.json.encode(hot.name)) + 1
            if room < 0:
                break
            found.append(hot.name)
        return found

    def paid(self) -> list[Paid]:
        """What each way has cost and brought."""
        now = self._cache.monotonic()
        return [payoff.paid(now) for payoff in self.payoffs.values()]

    # --- the end -------------------------------------------------------------------------

    def _run(self, work: Any) -> None:
        if len(self._running) >= limits.CACHE_WARM_TASKS_MAX:
            work.close()
            self._count(TRIGGER, "shed")
            return
        task = asyncio.get_running_loop().create_task(work, name="coord-cache-warming")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Look ahead no more.  Twice is legal."""
        self._cache.l1.settled = None
        self._cache.sampling.missed_too = None
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def recorded(keys: Iterable[Any]) -> list[Key]:
    """Keys as `record` gave them, out of what JSON made of them; what is none is left out."""
    found = []
    for key in keys:
        if isinstance(key, list) and key:
            made = tuple(tuple(part) if isinstance(part, list) else part for part in key)
            if _is_ours(made) and all(isinstance(part, str | tuple) for part in made):
                found.append(made)
    return found


def _is_ours(key: Any) -> TypeGuard[Key]:
    """Whether it is a key of a cached function: a template and values."""
    return type(key) is tuple and bool(key) and type(key[0]) is str
