"""What a hit costs: CPU of this process alone, coord's ways in beside cachebox's own get and aiocache's.

Interleaved rounds over a thousand keys, the loop's own cost subtracted; a figure is the best round's, which others
disturbed least.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiocache
from cachebox import LRUCache
from prometheus_client import CollectorRegistry

from coord.cache.functions import Functions
from coord.cache.loading import Cache
from coord.cache.memory import MemoryCache
from coord.ops.bench.measure import rounded
from coord.telemetry.metrics import Metrics

_KEYS: Final = 1_000


async def hits(rounds: int, count: int, say: Callable[[str], None]) -> dict[str, float]:
    """Nanoseconds of CPU a hit, and what coord's are to others'."""
    keys = [f"agent-{n}" for n in range(_KEYS)]
    bare: LRUCache[str, str] = LRUCache(0)
    own = MemoryCache()
    as_it_comes, unhurried = aiocache.SimpleMemoryCache(), aiocache.SimpleMemoryCache(timeout=None)
    cached = Functions(Cache(metrics=Metrics(CollectorRegistry()))).cached

    @cached("agent:{id}")
    async def agent(id: str) -> str:  # noqa: A002
        return id

    for key in keys:
        bare[key] = key
        own.keep(key, key, ttl_s=600.0)
        await agent(key)
        for other in (as_it_comes, unhurried):
            await other.set(key, key)
    plain: dict[str, Callable[[str], Any]] = {"cachebox": bare.get, "peek": own.peek}
    awaited: dict[str, tuple[Callable[[str], Awaitable[Any]], int]] = {
        "get": (own.get, 1),
        "call": (agent, 1),
        "aiocache": (unhurried.get, 10),
        "aiocache_as_it_comes": (as_it_comes.get, 40),
    }
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, ask in plain.items():
            _least(best, name, _timed(ask, keys, count))
        for name, (get, less) in awaited.items():
            _least(best, name, await _timed_awaits(get, keys, count // less))
    for name, ns in best.items():
        say(f"  {name:<22}{ns:>9.0f} ns a hit")
    ratios = {
        "l1_hit_ratio_to_cachebox": best["peek"] / best["cachebox"],
        "l1_get_ratio_to_cachebox": best["get"] / best["cachebox"],
        "l1_call_ratio_to_cachebox": best["call"] / best["cachebox"],
        "l1_speedup_over_aiocache": best["aiocache"] / best["get"],
        "l1_speedup_over_aiocache_as_it_comes": best["aiocache_as_it_comes"] / best["get"],
    }
    return {name: rounded(value) for name, value in ratios.items()} | {
        f"hit_ns_{name}": round(ns, 1) for name, ns in best.items()
    }


def _least(best: dict[str, float], name: str, ns: float) -> None:
    best[name] = min(best.get(name, ns), ns)


def _timed(ask: Callable[[str], Any], keys: list[str], count: int) -> float:
    """Nanoseconds of CPU a call, without the loop's own."""
    turns = range(max(1, count // len(keys)))
    began = time.process_time_ns()
    for _ in turns:
        for _key in keys:
            pass
    empty_ns = time.process_time_ns() - began
    began = time.process_time_ns()
    for _ in turns:
        for key in keys:
            ask(key)
    return (time.process_time_ns() - began - empty_ns) / (len(turns) * len(keys))


async def _timed_awaits(get: Callable[[str], Awaitable[Any]], keys: list[str], count: int) -> float:
    """The same, awaited; the loop's own cost, a hundredth, is not subtracted."""
    turns = range(max(1, count // len(keys)))
    began = time.process_time_ns()
    for _ in turns:
        for key in keys:
            await get(key)
    return (time.process_time_ns() - began) / (len(turns) * len(keys))
