"""What is asked for most, how old it is, and what evicts most: from samples of the hits."""

from __future__ import annotations

import random

import pytest
from prometheus_client import CollectorRegistry

from coord import limits
from coord.cache.config import CacheConfig
from coord.cache.functions import Functions
from coord.cache.loading import Cache, Loaded
from coord.errors import InvalidCacheKey
from coord.telemetry.metrics import Metrics
from coord.wire import notices


def sampled_cache() -> tuple[Cache, CollectorRegistry]:
    registry = CollectorRegistry()
    return Cache(CacheConfig(), metrics=Metrics(registry), rng=random.Random(7)), registry


async def test_every_hit_is_counted_and_the_most_frequent_are_known() -> None:
    cache, registry = sampled_cache()

    @Functions(cache).cached("file:{name}")
    async def file(name: str) -> str:
        return name.upper()

    for n in range(20_000):
        assert await file("often" if n % 4 else f"seldom-{n % 100}") is not None
    stats = cache.stats()
    assert (stats.tier, stats.hits + stats.misses, stats.misses) == ("l1", 20_000, 26)
    top = cache.sampling.keys.top(cache.monotonic(), 3)
    assert top[0].name == file.key("often")
    assert 0.5 * 15_000 < top[0].count < 1.5 * 15_000, "one in 256 is looked at, and stands for those between"
    seen = registry.get_sample_value("coord_cache_age_seconds_count", {"tier": "l1"})
    assert seen is not None
    assert 0 < seen < 20_000 / limits.CACHE_SAMPLED_HITS * 2
    await cache.close()


async def test_what_took_entries_along_is_known() -> None:
    cache, _ = sampled_cache()
    cache.connected()
    beat = notices.Notice(stream="EVENTS", epoch=1, partition=3, session="s", from_=0, to=5, tags=None)
    cache.hear_beat(notices.encode(beat))

    @Functions(cache).cached("file:{name}", tags=["dir:a", "file:{name}"])
    async def file(name: str) -> str:
        return name

    for _ in range(3):
        for n in range(10):
            await file(f"f{n}")
        assert cache.evict("dir:a", "file:f1", "nothing") == 10
    await file("f1")
    cache.disconnected()
    cache.disconnected()
    top = {hot.name: round(hot.count) for hot in cache.sampling.evictors.top(cache.monotonic())}
    assert sum(top.values()) == 31
    assert top["dir:a"] in range(27, 31)
    assert top["(lost: everything)"] == 1
    assert "nothing" not in top
    await cache.close()


async def test_what_cannot_be_kept_is_handed_over() -> None:
    cache, _ = sampled_cache()
    functions = Functions(cache)

    @functions.cached("one:{a}")
    async def one(a: str) -> Loaded:
        return Loaded(a, tags=("",) if a == "empty" else (5,))  # type: ignore[arg-type]  # a loader may do so

    assert [await one("empty"), await one("number")] == ["empty", "number"]
    assert cache.stats().refused == {"invalid": 2}
    assert len(cache.l1) == 0

    @functions.cached("two:{a}:{b}")
    async def two(a: str, b: str) -> str:
        raise AssertionError("it is not asked")

    with pytest.raises(InvalidCacheKey):
        await two("x" * 1_000, "x" * 1_000)
    await cache.close()


async def test_caches_of_one_process_are_added_up() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    first, second = Cache(CacheConfig(), metrics=metrics), Cache(CacheConfig(), metrics=metrics)
    for cache in (first, second):
        cache.l1.keep("x", "v", ttl_s=60)
        cache.counts.publish(cache.l1)
        cache.counts.publish(cache.l1)
    assert registry.get_sample_value("coord_cache_entries", {"tier": "l1"}) == 2
    await first.close()
    assert registry.get_sample_value("coord_cache_entries", {"tier": "l1"}) == 1
    assert registry.get_sample_value("coord_cache_bytes", {"tier": "l1"}) == second.l1.bytes
    await second.close()
