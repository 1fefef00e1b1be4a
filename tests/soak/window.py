"""A rate that fills the log in a quarter of a minute, for twelve windows; the trimmer makes room.

Nobody is refused, every acknowledged fact is a row once, and a probe's publishes are timed while
a cut is under way and while none is: turn and turn about, in one run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

from prometheus_client import CollectorRegistry

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.client.connect import Coord
from coord.core.trim import TrimConfig
from coord.server.trimmer import Trimmer
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from coord.wire.records import Fact
from tests.soak.harness import Job, Result, Scenario, folder, percentile, say
from tests.soak.stack import Stack
from tests.support.publishing import client
from tests.support.waiting import until

SCENARIO = Scenario(name="window", title="the log fills twelve times over", bound_s=900, rank=45)

WINDOWS = 12
PER_S = 2_000
FILL_S = 15
CONFIG = TrimConfig(margin_s=2.0, every_s=0.25)
"""The marks as they are; margin and looks are shorter, as the window is."""
DUPLICATES_NS = 6 * 10**9
PROBES_PER_S = 100
TURN_S = 0.05
"""The load is sent so many times a second, an equal part each."""


async def run(job: Job) -> Result:
    facts = job.of(job.facts, WINDOWS * FILL_S * PER_S, FILL_S * PER_S)
    result = Result(rounds=facts // (FILL_S * PER_S))
    with folder(job, "window") as home:
        async with Stack.open(home) as stack:
            await (await stack.projector()).ready(60)
            async with await Connection.open(NatsConfig(urls=(stack.nats_url,)), name="window", wait=True) as conn:
                await _go(result, stack, conn, facts)
    return result


async def _go(result: Result, stack: Stack, conn: Connection, facts: int) -> None:
    config = (await conn.api("STREAM.INFO.EVENTS"))["config"]
    room = {"max_msgs": FILL_S * PER_S, "duplicate_window": DUPLICATES_NS}
    await conn.api("STREAM.UPDATE.EVENTS", config | room)
    trimmer = Trimmer(
        NatsConfig(urls=(stack.nats_url,)),
        DatabaseConfig(url=stack.database_url, pool_min=0, pool_max=1),
        CONFIG,
        registry=Metrics(CollectorRegistry()),
    )
    during: list[float] = []
    between: list[float] = []
    fills: list[float] = []
    stop = asyncio.Event()
    async with trimmer, client(stack.nats_url, tenant="window") as c:
        probing = asyncio.create_task(_probe(c, trimmer, during, between, fills, stop))
        acked = await _load(c, facts, result)
        stop.set()
        acked += await probing
        await _compare(result, stack, acked)
    info = await conn.api("STREAM.INFO.EVENTS")
    if info["config"]["max_age"] != config["max_age"]:
        result.found("wrong", f"the age was left at {info['config']['max_age']}")
    if max(fills) >= 0.8:
        result.found("late", f"the log was {max(fills):.0%} full")
    result.volume["facts"] = acked
    result.details |= {
        "windows": round(acked / (FILL_S * PER_S), 1),
        "left_early": trimmer.left,
        "cuts": trimmer.trims,
        "fill_max": round(max(fills), 3),
        "probes_during_cuts": len(during),
        "publish_ms_during_cuts": {q: round(percentile(during, q) * 1e3, 2) for q in (0.5, 0.99, 1.0)},
        "publish_ms_between_cuts": {q: round(percentile(between, q) * 1e3, 2) for q in (0.5, 0.99, 1.0)},
    }
    say(result.details)


async def _probe(
    c: Coord, trimmer: Trimmer, during: list[float], between: list[float], fills: list[float], stop: asyncio.Event
) -> int:
    """Single facts, one at a time; whether a cut was under way when it was sent or acknowledged."""
    acked = 0
    while not stop.is_set():
        began, cutting = time.perf_counter(), trimmer.is_cutting
        await c.publish(Fact(kind="probe", id="one", event="said"))
        acked += 1
        (during if cutting or trimmer.is_cutting else between).append(time.perf_counter() - began)
        fills.append(trimmer.fill)
        await asyncio.sleep(1 / PROBES_PER_S)
    return acked


async def _load(c: Coord, facts: int, result: Result) -> int:
    """State `facts` at the rate; returns how many were acknowledged."""
    acked, sent, began = 0, 0, time.perf_counter()
    waiting: set[asyncio.Future[None]] = set()

    async def one(n: int) -> None:
        nonlocal acked
        try:
            await c.publish(Fact(kind="note", id=f"n{n}", event="said", data={"n": n}))
        except errors.CoordError as exc:
            result.found("refused", f"fact {n}: {exc}")
        else:
            acked += 1

    def keep(work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        waiting.add(task)
        task.add_done_callback(waiting.discard)

    while sent < facts:
        due = min(facts, int((time.perf_counter() - began) * PER_S) + 1)
        for n in range(sent, due):
            keep(one(n))
        sent = due
        await asyncio.sleep(TURN_S)
    await asyncio.gather(*waiting)
    return acked


async def _compare(result: Result, stack: Stack, acked: int) -> None:
    db = await stack.database()

    async def there() -> bool:
        return int(await db.fetchval("SELECT count(*) FROM coord.event WHERE tenant = 'window'")) >= acked

    try:
        await until(there, 60)
    except (AssertionError, TimeoutError):
        say("not all rows came within a minute")
    row = await db.fetchrow(
        "SELECT count(*) AS rows, count(DISTINCT event_id) AS facts FROM coord.event WHERE tenant = 'window'"
    )
    await db.close()
    assert row is not None
    result.lost = max(0, acked - row["facts"])
    result.doubled = row["rows"] - row["facts"]
    for kind, count in (("lost", result.lost), ("doubled", result.doubled)):
        if count:
            result.found(kind, f"{count} facts", count)
