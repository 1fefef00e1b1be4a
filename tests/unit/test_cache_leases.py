"""One load a fleet: whose turn it is while a load takes long, dies, or brings what cannot be shared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import limits
from coord.cache import tiers
from coord.cache.config import CacheConfig
from coord.cache.functions import CachedFunction, Functions
from coord.cache.loading import Cache
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.notices import Notice
from tests.support.waiting import until


class Held(msgspec.Struct):
    seq: int
    body: bytes


class MemoryTier:
    """A tier that answers at once and keeps everything."""

    name = "l2"
    life_s = 3600.0

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.seq = 0

    async def get(self, name: str, /) -> Held | None:
        return self.held.get(name)

    async def put(self, name: str, body: bytes, /, *, ttl_s: float, over: int | None = None) -> int | None:
        del ttl_s
        if over is not None and over != (self.held[name].seq if name in self.held else 0):
            return None
        self.seq += 1
        self.held[name] = Held(self.seq, body)
        return self.seq

    async def drop(self, name: str, /) -> None:
        self.held.pop(name, None)

    async def look(self) -> None:
        pass

    def is_aging(self, _: int, /) -> bool:
        return False

    def leases(self) -> list[str]:
        return [name for name in self.held if name.endswith("-lease")]


class Fleet:
    """Processes of one function."""

    def __init__(self, count: int, load: Callable[[], Any], tags: tuple[str, ...] = ()) -> None:
        self.tier = MemoryTier()
        self.loads = 0
        self.goes_on = asyncio.Event()
        self.tags = tags
        self.caches = [
            Cache(CacheConfig(load_timeout_s=120.0), metrics=Metrics(CollectorRegistry()), tiers=(self.tier,))
            for _ in range(count)
        ]
        self.functions = [self._function(cache, load) for cache in self.caches]

    def _function(self, cache: Cache, load: Callable[[], Any]) -> CachedFunction[Any]:
        @Functions(cache).cached("answer", tags=self.tags, shared=True)
        async def answer() -> Any:
            self.loads += 1
            await self.goes_on.wait()
            return load()

        return answer

    def joined(self) -> int:
        return sum(c.tiers.outcomes()["l2"].get("joined", 0) for c in self.caches if c.tiers is not None)

    async def close(self) -> None:
        for cache in self.caches:
            await cache.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_TIER_S", 30.0)
    monkeypatch.setattr(limits, "CACHE_LEASE_S", 60.0)


async def test_a_load_that_takes_longer_than_a_lease_is_not_begun_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_LEASE_S", 15.0)  # nobody is taken for dead on a slow machine
    monkeypatch.setattr(tiers, "_RENEWALS", 150)  # and every 0.1 s the holder says that it is not
    fleet = Fleet(4, lambda: 7)
    first = asyncio.create_task(fleet.functions[0]())
    await until(lambda: fleet.loads == 1)
    others = [asyncio.create_task(function()) for function in fleet.functions[1:]]
    await until(lambda: fleet.joined() == 3)
    seq = fleet.tier.seq
    await until(lambda: fleet.tier.seq > seq + 3)  # its holder lives
    fleet.goes_on.set()
    assert await asyncio.gather(first, *others) == [7] * 4
    assert fleet.loads == 1
    await fleet.close()


async def test_what_cannot_be_shared_is_waited_for_once() -> None:
    fleet = Fleet(4, lambda: (1, 2))
    first = asyncio.create_task(fleet.functions[0]())
    await until(lambda: fleet.loads == 1)
    others = [asyncio.create_task(function()) for function in fleet.functions[1:]]
    await until(lambda: fleet.joined() == 3)
    fleet.goes_on.set()
    assert await asyncio.gather(first, *others) == [(1, 2)] * 4
    assert fleet.loads == 4, "each loads for itself, beside the others"
    assert fleet.joined() == 3, "and nobody has waited twice"
    await fleet.close()


async def test_what_nobody_can_prove_is_loaded_twice_and_not_by_each() -> None:
    fleet = Fleet(32, lambda: 7, tags=("key:n1",))
    other = subjects.partition("n1") ^ 1
    beat = Notice(stream=subjects.EVENTS, epoch=1, partition=other, session="s", from_=0, to=0, tags=[])
    for cache in fleet.caches:
        cache.connected()
        cache.hear_beat(notices.encode(beat))  # notices arrive; of the partition of n1 nothing was heard
    asked = [asyncio.create_task(function()) for function in fleet.functions]
    await until(lambda: fleet.loads == 1 and fleet.joined() == 31)
    fleet.goes_on.set()
    assert await asyncio.gather(*asked) == [7] * 32
    assert fleet.loads == 2, "one that began before some had asked, and one after"
    assert all(function.peek() == 7 for function in fleet.functions)
    await fleet.close()


async def test_a_lease_whose_holder_died_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_LEASE_S", 0.05)
    fleet = Fleet(2, lambda: 7)
    fleet.goes_on.set()
    await fleet.functions[0]()
    await until(lambda: [fleet.tier.held[name].body[:1] for name in fleet.tier.leases()] == [b"D"])
    (lease,) = fleet.tier.leases()
    for name in set(fleet.tier.held) - {lease}:
        await fleet.tier.drop(name)
    await fleet.tier.put(lease, b"L", ttl_s=60)
    assert await fleet.functions[1]() == 7
    assert fleet.loads == 2
    await fleet.close()
