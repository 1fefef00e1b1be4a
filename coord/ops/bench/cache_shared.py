"""What an answer from L2 takes: one process has loaded it, another one asks for the first time.

Two caches on two connections to a real broker.  What is timed is a call: not in L1, found in the broker's memory,
proved to be current, decoded, kept in L1.  One at a time.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry

from coord import limits
from coord.bus.connection import Connection, NatsConfig
from coord.bus.tier import shared_tiers
from coord.cache.functions import CachedFunction, Functions
from coord.cache.loading import Cache
from coord.ops.bench.measure import BenchError, percentiles, rounded
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.notices import Notice

_TENANT: Final = "bench"
_BYTES: Final = 1_024


class Page(msgspec.Struct, frozen=True):
    """What is asked for."""

    id: str
    text: str


class _Process:
    """A cache of its own, which hears that nothing happens."""

    def __init__(self, conn: Connection) -> None:
        tiers = shared_tiers(conn, _TENANT, l2=True, l3=False)
        self.cache = Cache(metrics=Metrics(CollectorRegistry()), tiers=tiers)
        self.cache.connected()
        for stream in (subjects.EVENTS, subjects.TELEMETRY):
            for partition in range(limits.PARTITIONS):
                beat = Notice(stream=stream, epoch=1, partition=partition, session="s", from_=0, to=0, tags=[])
                self.cache.hear_beat(notices.encode(beat))

        @Functions(self.cache).cached("page:{id}", tags=["page:{id}"], shared=Page)
        async def page(id: str) -> Page:  # noqa: A002
            return Page(id, random.Random(id).randbytes(_BYTES // 2).hex())

        self.page: CachedFunction[Page] = page

    def hits(self) -> int:
        assert self.cache.tiers is not None
        return self.cache.tiers.outcomes()["l2"].get("hit", 0)


async def shared(count: int, nats_url: str, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Milliseconds of an answer from L2, and of one that has to be loaded and stored."""
    ids = [f"p{n}" for n in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        writer, reader = [
            _Process(await stack.enter_async_context(await Connection.open(NatsConfig(urls=(nats_url,)), name=name)))
            for name in ("bench-writer", "bench-reader")
        ]
        stack.push_async_callback(writer.cache.close)
        stack.push_async_callback(reader.cache.close)
        loads_ms = await _timed(writer.page, ids)
        await writer.cache.close()  # what it stores has arrived
        hits_ms = await _timed(reader.page, ids)
        if reader.hits() != count:
            raise BenchError("not all of them came from L2", hits=reader.hits(), count=count)
    figures = {
        name: {q: rounded(values[0]) for q, values in percentiles([took]).items()}
        for name, took in (("l2_hit_ms", hits_ms), ("l2_load_ms", loads_ms))
    }
    say(f"  an answer from L2: p50 {figures['l2_hit_ms']['p50']:g} ms, p99 {figures['l2_hit_ms']['p99']:g} ms")
    return figures


async def _timed(page: CachedFunction[Page], ids: list[str]) -> list[float]:
    took_ms = []
    for id_ in ids:
        began = time.perf_counter()
        await page(id_)
        took_ms.append((time.perf_counter() - began) * 1e3)
    return took_ms
