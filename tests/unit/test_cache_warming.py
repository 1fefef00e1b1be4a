"""Answers that are here before they are asked for, and what becomes known of their worth."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import limits
from coord.cache.config import CacheConfig
from coord.cache.functions import Functions
from coord.cache.loading import Cache
from coord.cache.warming import Warming, recorded
from coord.core.warming import FORECAST, RECORD, SCHEDULE, TRIGGER, WAYS, Trigger
from coord.telemetry.metrics import Metrics
from tests.support.waiting import until

run_of: contextvars.ContextVar[str | None] = contextvars.ContextVar("run", default=None)


class Warm:
    """A cache with a function, whose loads are counted, and a clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.cache = Cache(CacheConfig(), metrics=metrics, rng=random.Random(3), monotonic=lambda: self.now)
        self.functions = Functions(self.cache)
        self.warming = Warming(self.cache, self.functions, metrics, WAYS, run_of.get)
        self.loads: list[tuple[str, int]] = []
        self.fails = False
        self.page = self.functions.cached("page:{name}:{n}", ttl_s=300)(self._load)

    async def _load(self, name: str, n: int = 0) -> str:
        self.loads.append((name, n))
        if self.fails:
            raise ValueError(name)
        return f"{name}/{n}"

    def paid(self, way: str) -> Any:
        return next(paid for paid in self.warming.paid() if paid.way == way)


@pytest.fixture
async def warm() -> AsyncIterator[Warm]:
    made = Warm()
    yield made
    await made.warming.close()
    await made.cache.close()


async def test_what_is_warmed_is_read_without_a_load_and_its_first_read_counts(warm: Warm) -> None:
    keys = [warm.page.key("a", 1), warm.page.key("b", 2)]
    assert await warm.warming.warm(RECORD, keys) == 2
    assert await warm.warming.warm(RECORD, keys) == 0, "it is here"
    assert sorted(warm.loads) == [("a", 1), ("b", 2)]
    assert [await warm.page("a", 1) for _ in range(3)] == ["a/1"] * 3
    assert warm.page.peek("b", 2) == "b/2"
    assert len(warm.loads) == 2
    paid = warm.paid(RECORD)
    assert (paid.loads, paid.values, paid.used, paid.unused) == (2, 2, 2, 0)
    assert paid.hits_per_load == 1
    assert paid.hits_per_mb > 0
    assert warm.registry.get_sample_value("coord_cache_warmed_total", {"way": RECORD, "outcome": "used"}) == 2
    assert warm.cache.stats().misses == 0


async def test_what_nobody_reads_is_counted_when_it_leaves_and_a_way_that_brings_that_is_switched_off(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CACHE_WARM_TRIAL", 4)
    monkeypatch.setattr(limits, "CACHE_HOT_KEYS", 5)
    warming = Warming(warm.cache, warm.functions, Metrics(CollectorRegistry()), WAYS)
    keys = [warm.page.key(str(n)) for n in range(6)]
    assert await warming.warm(SCHEDULE, keys) == 5, "of a way that is not known, not all"
    warm.now += 301
    warm.cache.l1.sweep()
    (paid,) = (paid for paid in warming.paid() if paid.way == SCHEDULE)
    assert (paid.used, paid.unused, paid.is_on) == (0, 5, False)
    assert await warming.warm(SCHEDULE, keys) == 0
    warm.now += limits.CACHE_WARM_REST_S
    assert await warming.warm(SCHEDULE, keys) == 4, "after a while it is tried again"
    await warming.close()


async def test_loaders_that_raise_do_not_end_it_and_are_not_called_for_ever(warm: Warm) -> None:
    warm.fails = True
    keys = [warm.page.key("a"), ("unknown:{x}", "y"), "plain", warm.page.key("b")]
    assert await warm.warming.warm(FORECAST, keys) == 0
    assert warm.loads == [("a", 0), ("b", 0)]
    assert (warm.paid(FORECAST).loads, warm.paid(FORECAST).values) == (2, 0)


async def test_what_was_set_aside_is_bounded_and_leaves_before_anything_that_is_used(warm: Warm) -> None:
    l1 = warm.cache.l1
    l1.bytes_max = 64 * limits.KIB
    for n in range(200):
        l1.keep(("x", n), "v" * 100, ttl_s=100)
        l1.set_aside(("x", n), RECORD)
        assert l1.bytes <= l1.bytes_max * limits.CACHE_WARM_SHARE
    kept = l1.keys()
    assert sum(entry.bytes for key in kept if (entry := l1.look(key))) == l1.bytes
    assert kept[-1] == ("x", 199), "the oldest left"
    assert l1.claim(kept[0]) == "v" * 100
    assert l1.claim(kept[0], "none") == "none", "once"
    assert await l1.get(kept[1]) == "v" * 100
    for n in range(200):
        l1.keep(("y", n), "v" * 100, ttl_s=100)
    assert l1.bytes <= l1.bytes_max
    await l1.clear()
    assert (l1.bytes, len(l1), l1._aside, l1._aside_bytes) == (0, 0, {}, 0)


async def test_what_is_asked_for_often_and_has_left_is_brought_back(warm: Warm) -> None:
    for _ in range(40):
        await warm.page("often")
        warm.cache.l1.drop(warm.page.key("often"))
    await warm.page("once")
    warm.cache.l1.drop(warm.page.key("once"))
    assert warm.warming.forecast() == [warm.page.key("often")], "of the other one read in ten minutes is unlikely"
    assert await warm.warming.warm(FORECAST, warm.warming.forecast()) == 1
    assert warm.warming.forecast() == []


async def test_a_run_finds_what_runs_before_it_have_read(warm: Warm) -> None:
    for number in range(4):
        before = len(warm.loads)
        warm.warming.begun(Trigger("nightly", f"wf-{number}", {"id": f"wf-{number}", "repo": f"r{number}"}))
        if number == 3:
            await until(lambda: warm.paid(TRIGGER).values == 1)
        run_of.set(f"wf-{number}")
        assert await warm.page(f"r{number}", 7) == f"r{number}/7"
        run_of.set(None)
        await warm.page(f"other-{number}")
        assert len(warm.loads) == before + 2
        warm.now += limits.CACHE_LEARNT_RUN_S + 1
    assert warm.paid(TRIGGER).used == 1


async def test_a_record_is_what_was_asked_for_most_and_is_read_back(warm: Warm) -> None:
    for n in range(30):
        for _ in range(30 - n):
            await warm.page("p", n)
            warm.cache.l1.drop(warm.page.key("p", n))
    warm.cache.counts.sample("somebody's own")
    said = msgspec.json.encode(warm.warming.record(200))
    assert len(said) <= 200
    keys = recorded(msgspec.json.decode(said))
    assert keys[:2] == [warm.page.key("p", 0), warm.page.key("p", 1)]
    assert recorded([1, [], [1], ["a", {}], ["ok", "x"], None, ["ok", ["int", "3"]]]) == [
        ("ok", "x"), ("ok", ("int", "3")),
    ]  # fmt: skip


async def test_a_schedule_has_it_there_again(warm: Warm) -> None:
    warm.warming.every(0.001, [warm.page.key("a")])
    await until(lambda: len(warm.loads) == 1)
    assert await warm.page("a") == "a/0"
    warm.cache.l1.drop(warm.page.key("a"))
    warm.now += 10
    await until(lambda: len(warm.loads) >= 2)
    await warm.warming.close()
    await asyncio.sleep(0)
