"""L1: strictly bounded by bytes, least recently used first, times, tags, and aiocache's habits."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

import aiocache
import msgspec
import pytest
from aiocache.serializers import JsonSerializer
from hypothesis import given, settings
from hypothesis import strategies as st

from coord import errors, limits
from coord.cache.memory import MISSING, MemoryCache
from coord.cache.sizes import held_bytes
from tests.support.waiting import until

KIB = 1024


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock | None = None, **fields: Any) -> MemoryCache:
    return MemoryCache(**{"jitter": 0.0, "monotonic": clock, **fields})


# --- bytes -------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=50) | st.binary(max_size=2_000),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=30,
)
WRITES = st.lists(st.tuples(st.integers(0, 30), VALUES, st.sets(st.sampled_from("abcd"))), max_size=60)


@given(
    st.lists(st.tuples(st.integers(0, 30), VALUES, st.sets(st.sampled_from("abcd"))), max_size=60), st.integers(4, 64)
)
def test_the_bound_holds_and_books_are_kept(writes: list[tuple[int, Any, set[str]]], kib: int) -> None:
    cache = made(bytes_max=kib * KIB)
    for key, value, tags in writes:
        cache.keep(f"k{key}", value, ttl_s=None, tags=tuple(sorted(tags)))
        assert cache.bytes <= cache.bytes_max
        assert cache.bytes == sum(entry.bytes for entry in cache._entries.values())
        assert len(cache._fresh) == len(cache._entries)
        assert {t for e in cache._entries.values() for t in e.tags} == set(cache.tags())
    cache.drop_tags("abcd", "manual")
    assert cache.tags() == {}


STEPS = st.sampled_from(["keep", "aside", "read", "peek", "entry", "drop", "tags", "time"])


@settings(max_examples=60)
@given(st.lists(st.tuples(STEPS, st.integers(0, 12)), max_size=80), st.sampled_from([0.0, 5.0]))
def test_what_is_set_aside_is_told_of_once_and_books_are_kept(steps: list[tuple[str, int]], stale_s: float) -> None:
    now, told, brought = 0.0, [], 0
    cache = made(bytes_max=64 * KIB, monotonic=lambda: now)
    cache.settled = lambda key, way, outcome: told.append((key, way, outcome))
    for step, n in steps:
        before, was_aside = len(told), n in cache._aside
        if step == "keep":
            cache.keep(n, b"x" * 2_000, ttl_s=10, stale_s=stale_s, tags=("t",) if n % 2 else ())
        elif step == "aside":
            brought += cache.set_aside(n, "forecast") is not None
        elif step in {"read", "entry"}:
            found = cache.read(n) if step == "read" else cache.entry(n)
            assert not was_aside or found is not None
            assert told[before:] == ([(n, "forecast", "used")] if was_aside else [])
        elif step == "peek":
            assert not was_aside or cache.peek(n) is None
        elif step == "drop":
            cache.drop(n)
        elif step == "tags":
            cache.drop_tags(("t",), "notice")
        else:
            now += n
            cache.sweep()
        assert cache.bytes == sum(entry.bytes for entry in cache._entries.values()) <= cache.bytes_max
        assert cache._aside_bytes == sum(cache._entries[key].bytes for key in cache._aside)
        assert cache._aside_bytes <= cache.bytes_max * limits.CACHE_WARM_SHARE
        assert len(cache._fresh) + len(cache._aside) + len(cache._stale) == len(cache._entries) == len(cache.keys())
        assert brought == len(told) + len(cache._aside)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=200))
def test_the_least_recently_used_leaves_first(steps: list[tuple[bool, int]]) -> None:
    """Against an OrderedDict, with values of one size."""
    cache, model = made(bytes_max=64 * KIB), OrderedDict[str, int]()
    body = b"x" * 10_000
    for write, n in steps:
        key = f"{n:02}"
        if write:
            cache.keep(key, body, ttl_s=None)
            model.pop(key, None)
            model[key] = n
            while len(model) > len(cache):
                model.popitem(last=False)
        elif cache.peek(key) is not None:
            model.move_to_end(key)
        assert list(model) == cache.keys()


class Thing(msgspec.Struct, gc=False):
    name: str
    parts: list[bytes]


class Plain:
    def __init__(self) -> None:
        self.body = b"x" * 5_000


def test_what_a_value_holds_is_counted_wherever_it_is() -> None:
    body = b"x" * 5_000
    holders: list[Any] = [
        [body], {body: 1}, {"a": {"b": [body]}}, (body,), {body}, Thing("n", [body]), Plain(), OrderedDict(a=body),
        {"k" * 5_000: 1}, {"a": bytearray(5_000)}, frozenset({body}), [datetime.now(UTC), body],
    ]  # fmt: skip
    for holder in holders:
        size = held_bytes(holder, 100_000)
        assert size is not None, holder
        assert 5_000 < size < 7_000, holder
    shared = [body] * 100
    assert (held_bytes(shared, 100_000) or 0) < 7_000, "one object is counted once"
    loop: list[Any] = [body]
    loop.append(loop)
    assert held_bytes(loop, 100_000)
    assert held_bytes([b"x" * 5_000 for _ in range(3)] + [bytes(range(250)) * 20], 10_000) is None
    assert held_bytes([[] for _ in range(limits.CACHE_VALUE_OBJECTS_MAX + 1)], 2**40) is None
    assert (held_bytes([Plain, os, len, None, True], 10_000) or 0) < 200, "what everybody shares is nobody's"


MEASURE = """
import gc, os, random, sys
from coord.cache.memory import MemoryCache
rng = random.Random(1)
kind = sys.argv[1]
def value(n):
    if kind == "small": return n * 1000
    if kind == "rows": return [{f"column-{n}-{i}": rng.random() for i in range(10)} for _ in range(5)]
    return {"id": f"a{n}", "load": rng.random(), "labels": [f"x{n}", f"y{n}"]}
def rss():
    with open("/proc/self/statm") as f: return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
cache = MemoryCache(bytes_max=12 << 20)
gc.collect()
before, n = rss(), 0
while n < 2000 or (cache.bytes < 0.95 * cache.bytes_max and n < 200000):
    n += 1
    cache.keep(("agent:{id}", f"a{n}"), value(n), ttl_s=300, tags=() if kind == "small" else (f"agent:a{n}",))
gc.collect()
print(rss() - before, cache.bytes, cache.bytes_max)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["small", "rows", "dicts"])
def test_the_process_grows_by_no_more_than_the_bound(kind: str) -> None:
    ran = subprocess.run([sys.executable, "-c", MEASURE, kind], capture_output=True, text=True, check=True, timeout=200)
    grown, counted, bound = map(int, ran.stdout.split())
    print(f"{kind}: grown by {grown / 1e6:.1f} MB, counted {counted / 1e6:.1f} of {bound / 1e6:.1f}")
    assert counted <= bound
    assert grown <= bound + (1 << 20), "a megabyte for the loop's own garbage"


# --- times -------------------------------------------------------------------------------


def test_what_expires_is_not_served_and_goes() -> None:
    clock = Clock()
    cache = made(clock)
    cache.keep("a", 1, ttl_s=10)
    cache.keep("b", 2, ttl_s=20, stale_s=10)
    cache.keep("c", 3, ttl_s=None)
    clock.now += 15
    cache.sweep()
    assert (cache.peek("a"), cache.peek("b"), cache.peek("c")) == (None, 2, 3)
    clock.now += 10
    cache.sweep()
    assert cache.peek("b") is None
    stale = cache.entry("b")
    assert stale is not None
    assert stale.value == 2
    clock.now += 10
    assert cache.entry("b") is None
    assert cache.keys() == ["c"]


def test_times_differ_by_the_jitter() -> None:
    clock = Clock()
    cache = made(clock, jitter=0.5, rng=random.Random(1))
    for n in range(200):
        cache.keep(n, n, ttl_s=100)
    times = sorted(entry.expires - clock.now for entry in cache._entries.values())
    assert 50 <= times[0] < 60
    assert 90 < times[-1] <= 100


async def test_a_timer_takes_out_what_expires_also_when_cleared_and_set_again() -> None:
    cache = made()
    cache.keep("a", 1, ttl_s=0.01)
    await cache.clear()
    cache.keep("a", 2, ttl_s=1_000)  # aiocache's own: the first one's timer deletes this
    cache.keep("b", 3, ttl_s=0.01)
    await until(lambda: cache.peek("b") is None)
    assert cache.peek("a") == 2
    await cache.close()


def test_times_of_what_left_before_do_not_pile_up() -> None:
    cache = made()
    for n in range(10_000):
        cache.keep("a", n, ttl_s=1_000)
    assert len(cache._times) <= 2 * limits.KIB


# --- aiocache's habits -------------------------------------------------------------------


async def test_aiocaches_interface() -> None:
    cache = made()
    assert isinstance(cache, aiocache.base.BaseCache)
    await cache.set("a", 1)
    assert await cache.get("a") == 1
    assert await cache.get("nothing", "default") == "default"
    assert await cache.add("b", 2)
    with pytest.raises(ValueError, match="already exists"):
        await cache.add("b", 3)
    await cache.multi_set([("c", 3), ("d", [4])])
    assert await cache.multi_get(["a", "c", "d", "x"]) == [1, 3, [4], None]
    assert await cache.exists("d")
    assert await cache.increment("a", 4) == 5
    assert await cache.increment("new") == 1
    with pytest.raises(TypeError):
        await cache.increment("d")
    assert await cache.expire("a", 1_000)
    assert not await cache.expire("x", 1)
    assert await cache.delete("a") == 1
    assert await cache.delete("a") == 0
    await cache.set("n", None)
    assert cache.peek("n", MISSING) is None, "peek tells a kept None from nothing"
    assert await cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


async def test_namespaces_and_serializers_as_aiocache_has_them() -> None:
    cache = made(namespace="ns:", serializer=JsonSerializer())
    await cache.set("a", {"x": [1]})
    assert await cache.get("a") == {"x": [1]}
    assert cache.peek("ns:a") == '{"x": [1]}'
    await cache.set("b", 1, namespace="other:")
    await cache.clear(namespace="other:")
    assert cache.keys() == ["ns:a"]


async def test_what_is_set_of_aiocaches_later_counts_for_every_read() -> None:
    cache = made(namespace=None, plugins=[])
    await cache.set("a", 1)
    assert (await cache.get("a"), await cache.get("a", timeout=1)) == (1, 1)
    cache.namespace = "ns:"
    assert await cache.get("a") is None
    await cache.set("a", 2)
    assert (await cache.get("a"), cache.peek("ns:a")) == (2, 2)
    built = made(key_builder=lambda key, namespace: f"built {key}")
    await built.set("a", 3)
    assert (await built.get("a"), built.peek("built a")) == (3, 3)


async def test_under_aiocaches_decorators_values_stay_what_they_are() -> None:
    calls = 0

    @aiocache.cached(cache=MemoryCache, key="k")
    async def answer() -> dict[str, int]:
        nonlocal calls
        calls += 1
        return {"n": calls}

    @aiocache.cached_stampede(cache=MemoryCache, key="k", lease=5)
    async def guarded() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return 7

    assert [await answer(), await answer()] == [{"n": 1}, {"n": 1}]
    assert await asyncio.gather(*[guarded() for _ in range(10)]) == [7] * 10
    assert calls == 2


async def test_bad_input_is_refused_with_a_type() -> None:
    cache = made(bytes_max=64 * KIB)
    await cache.set("a", 1)
    with pytest.raises(errors.CacheValueTooLarge):
        await cache.set("a", b"x" * 60_000)
    assert await cache.get("a") is None, "the old value is not what was said last"
    with pytest.raises(errors.InvalidCacheKey):
        await cache.set("k" * 10_000, 1)
    for call in (cache.set, cache.get):
        with pytest.raises(errors.InvalidCacheKey):
            await call({}, 1)
    assert cache.bytes == 0
