"""Answers that are here before they are asked for, on a real broker."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import coord
from coord import limits
from coord.bus.connection import NatsConfig
from coord.client import context
from coord.client.connect import Coord
from coord.core.warming import RECORD, SCHEDULE, TRIGGER
from coord.ops import caches
from coord.telemetry.metrics import Metrics
from coord.wire.cache_api import CacheAsk, Paid
from tests.support.waiting import until

pytestmark = pytest.mark.slow


def config(nats: Any, **cache: Any) -> coord.ClientConfig:
    return coord.ClientConfig(
        nats=NatsConfig(urls=(nats.url,)), tenant="acme", agent="pages", cache=coord.CacheConfig(**cache)
    )


def pages(c: Coord, loads: list[str]) -> Any:
    @c.cached("page:{name}", shared=str, timeout_s=480)  # of which tiers have a part: slow is not away
    async def page(name: str) -> str:
        loads.append(name)
        return "<b>" + name

    return page


def paid(c: Coord, way: str) -> Paid:
    return next(paid for paid in c._caches().warming.paid() if paid.way == way)


def stored(c: Coord) -> int:
    assert c.cache.tiers is not None
    return c.cache.tiers.outcomes()["l2"].get("stored", 0)


async def test_the_next_process_of_an_agent_begins_with_what_this_one_asked_for_most(
    conn, nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its record the keys, and from what they share the values: nothing is loaded again."""
    monkeypatch.setattr(limits, "CACHE_TIER_S", 60.0)  # on a slow machine, too, it is asked and not passed over
    loads: list[str] = []
    async with coord.connect(config(nats, warm=("record",), l2=True)) as first:
        page = pages(first, loads)
        for name in ("x", "y", "x"):
            await page(name)
        await until(lambda: stored(first) == 2)
        await first._caches().put_on_record()
        await first._caches().put_on_record()
    assert loads == ["x", "y"]
    registry = CollectorRegistry()
    async with coord.connect(config(nats, warm=("record",), l2=True), metrics=Metrics(registry)) as second:
        page = pages(second, loads)
        assert await second.begin_warm() == 2
        assert (await page("x"), page.peek("y")) == ("<b>x", "<b>y")
        assert loads == ["x", "y"], "from the tier below"
        assert (paid(second, RECORD).loads, paid(second, RECORD).used) == (0, 2)
        (y,) = await caches.ask(conn, "acme", CacheAsk(asker="", what="get", keys="page:y"), wait_s=60, processes=1)
        assert [entry.tier for entry in y.entries] == ["l1", "l2"]
        kept = second.cache.l1.look(page.key("y"))
        assert kept is not None
        assert second.cache.monotonic() - kept.since > 0, "as old as the load of another process makes it"
        for metric in ("load_seconds", "age_seconds"):
            count = registry.get_sample_value(f"coord_cache_{metric}_count", {"tier": "l2"})
            assert count is not None
            assert count >= 2
        await second._caches().put_on_record()  # over what another process wrote
    async with coord.connect(config(nats, warm=("record",))) as third:
        page = pages(third, loads)
        assert await third.begin_warm() == 2
        assert sorted(loads[2:]) == ["x", "y"], "without one they are loaded"
    async with coord.connect(config(nats)) as fourth:
        pages(fourth, loads)
        assert await fourth.begin_warm() == 0, "it is not asked for"
        page = fourth.cached("other:{name}")(page.__wrapped__)
        assert await fourth.warm(page, [("z",), ("z",)]) == 1
        assert paid(fourth, SCHEDULE).values == 1


async def test_a_workflow_that_starts_warms_what_runs_before_it_have_read(
    conn, nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CACHE_LEARNT_RUNS_MAX", 1)  # a run is over when the next begins
    loads: list[str] = []
    async with coord.connect(config(nats, warm=("trigger",))) as c, c.subscribe(kind="workflow") as starts:
        page = pages(c, loads)
        runs = c._caches().warming.learner
        for number in range(4):
            started = {"definition": {"name": "nightly"}, "input": {"repo": f"r{number}"}}
            await c.publish(coord.Fact(kind="workflow", id=f"wf-{number}", event="started", data=started))
            fact = await anext(starts)
            await until(lambda: runs.watches(f"wf-{number}"))  # noqa: B023 - awaited here
            if number == 3:
                await until(lambda: paid(c, TRIGGER).values == 1)
                assert loads[-1] == "r3", "before anybody asked"
            with context.handling(fact):
                assert await page(f"r{number}") == f"<b>r{number}"
        assert loads == ["r0", "r1", "r2", "r3"]
        assert paid(c, TRIGGER).used == 1
