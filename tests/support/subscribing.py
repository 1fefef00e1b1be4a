"""Subscribing in tests: quick settings, taking facts with a deadline, cutting the line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from prometheus_client import CollectorRegistry

from coord.bus.connection import Connection, NatsConfig
from coord.client.subscriber import SubscriberConfig, Subscription, subscribe
from coord.telemetry.metrics import Metrics
from coord.wire.envelope import StoredFact
from tests.support.log import Log
from tests.support.network import Line
from tests.support.waiting import until

QUICK = SubscriberConfig(audit_s=0.2, save_s=0.02, unavailable_s=60.0)
HASTY = SubscriberConfig(audit_s=0.2, save_s=0.02, unavailable_s=0.6)
"""For those who are to be told that nobody answers."""


def follow(
    log: Log, *, conn: Connection | None = None, config: SubscriberConfig = QUICK, **options: Any
) -> Subscription:
    return subscribe(
        conn or log.conn,
        tenant=log.tenant,
        as_agent="me",
        config=config,
        registry=Metrics(CollectorRegistry()),
        **options,
    )


async def take(subscription: Subscription, count: int, timeout_s: float = 100.0) -> list[StoredFact]:
    facts: list[StoredFact] = []
    async with asyncio.timeout(timeout_s):
        while len(facts) < count:
            facts.append(await anext(subscription))
    return facts


async def nothing_more(subscription: Subscription) -> bool:
    """Whether nothing waits: asked after everything expected was taken."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(subscription)
            return False
    return True


async def publish_slowly(log: Log, count: int) -> None:
    for first in range(0, count, 20):
        await log.flood(20, first=first)
        await asyncio.sleep(0.001)


async def publish_until(log: Log, enough: asyncio.Event) -> int:
    """The same until it is enough; how many there were.

    It rests as long as it publishes: else who joins, with pages as small as these, may be left behind for as long as
    the machine is busy.
    """
    now = asyncio.get_running_loop().time
    count = 0
    while not enough.is_set():
        began = now()
        await log.flood(20, first=count)
        count += 20
        await asyncio.sleep(max(0.001, now() - began))
    return count


async def stored(log: Log, seq: int) -> bool:
    return bool((await log.conn.api("STREAM.INFO.EVENTS"))["state"]["last_seq"] >= seq)


def crash(subscription: Subscription) -> None:
    """The process is gone: nothing of it runs any more, nothing is saved."""
    for task in subscription._tasks:
        task.cancel()
    for unregister in subscription._unregister:
        unregister()
    subscription._opened = False


@contextlib.asynccontextmanager
async def connected(line: Line) -> AsyncIterator[Connection]:
    config = NatsConfig(urls=(line.url,), reconnect_wait_s=0.01)
    async with await Connection.open(config, name="agent") as conn:
        yield conn


async def cut(line: Line, conn: Connection, meanwhile: Awaitable[Any]) -> None:
    """Break the connection, let something happen, and wait until it is back."""
    epoch = conn.epoch
    line.cut()
    await until(lambda: not conn.is_connected)
    await meanwhile
    line.mend()
    await until(lambda: conn.epoch > epoch)
