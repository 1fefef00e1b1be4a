"""Subscribers in a process of their own: many quick ones, or one that is slow on purpose.

The slow one blocks its whole process for each fact, so that its socket is not read either: the
broker has to hold what it cannot deliver, and in the end to cut it off.  On the word ``hurry`` it
stops being slow.  What each hears is checked here: per key the numbers 1, 2, 3, … without a hole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from tests.soak.harness import percentile
from tests.support import programs
from tests.support.forking import Forked

_CONNECT_AT_A_TIME = 32


class Audience(msgspec.Struct, frozen=True, kw_only=True):
    """What the program gets as its argument, in JSON."""

    url: str
    tenant: str
    count: int
    keys: int
    """Subscriber i follows key i mod keys; with 0 it follows every key."""
    pause_s: float = 0.0
    """How long the whole process does nothing after each fact."""


class Heard(msgspec.Struct, frozen=True):
    """What the program says when asked; latencies are since it was asked before."""

    facts: int
    """In all."""
    wrong: list[str]
    """Holes and repeats; the first few."""
    since: int
    p50_ms: float
    p99_ms: float
    pages: int
    """Pages of the log that were read to catch up."""


class Listeners:
    """The scenario's half."""

    def __init__(self, process: Forked) -> None:
        self._process = process

    async def ask(self, word: str = "ask", timeout_s: float = 60) -> Heard:
        """What they heard; `hurry` makes the slow one quick first."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        return await self.line(timeout_s)

    async def line(self, timeout_s: float) -> Heard:
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout_s):
            return msgspec.json.decode(await self._process.stdout.readline(), type=Heard)


@contextlib.asynccontextmanager
async def listening(audience: Audience, log: Path) -> AsyncIterator[Listeners]:
    """Start them; returns when every subscription is live."""
    process = await programs.start("tests.soak.listeners", audience, log)
    running = Listeners(process)
    try:
        await running.line(120)
        yield running
    finally:
        await programs.end(process)


# --- the program -------------------------------------------------------------------------


class _Program:
    def __init__(self, audience: Audience) -> None:
        self.audience = audience
        self.facts = 0
        self.wrong: list[str] = []
        self.pause_s = audience.pause_s
        self._late_ms: list[float] = []
        self._subscriptions: list[Any] = []
        self._over = asyncio.Event()

    async def run(self) -> None:
        from coord.client.connect import connect

        audience = self.audience
        async with contextlib.AsyncExitStack() as stack:
            for start in range(0, audience.count, _CONNECT_AT_A_TIME):
                numbers = range(start, min(start + _CONNECT_AT_A_TIME, audience.count))
                made = await asyncio.gather(
                    *(connect(audience.url, tenant=audience.tenant, agent=f"listener-{i}") for i in numbers)
                )
                for i, client in zip(numbers, made, strict=True):
                    stack.push_async_callback(client.close)
                    key = f"k{i % audience.keys}" if audience.keys else None
                    self._subscriptions.append(client.subscribe(kind="note", key=key))
                await asyncio.gather(*(s.wait_ready(60) for s in self._subscriptions[start:]))
            tasks = [asyncio.create_task(self._listen(s)) for s in self._subscriptions]
            self.say()
            over = asyncio.create_task(self._over.wait())
            done, _ = await asyncio.wait([*tasks, over], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {over}:
                task.result()

    async def _listen(self, subscription: Any) -> None:
        next_of: dict[str, int] = {}
        async for fact in subscription:
            self.facts += 1
            self._late_ms.append((time.time() - fact.occurred_at.timestamp()) * 1000)
            n, expected = fact.data["n"], next_of.get(fact.key)
            if expected is not None and n != expected and len(self.wrong) < 5:
                self.wrong.append(f"{fact.key}: {n} came, {expected} was next")
            next_of[fact.key] = n + 1
            if self.pause_s:
                time.sleep(self.pause_s)

    def say(self) -> None:
        late, self._late_ms = self._late_ms, []  # none heard: no latency, not NaN, which JSON cannot say
        heard = Heard(
            self.facts, self.wrong, len(late), percentile(late or [0.0], 0.5), percentile(late or [0.0], 0.99),
            sum(s.stats.pages for s in self._subscriptions),
        )  # fmt: skip
        os.write(1, msgspec.json.encode(heard) + b"\n")

    def obey(self) -> None:
        said = os.read(0, 4096)
        if not said:
            os._exit(3)
        for word in said.decode().split():
            if word == "hurry":
                self.pause_s = 0.0
            self.say()


async def _main(audience: Audience) -> None:
    program = _Program(audience)
    asyncio.get_running_loop().add_reader(0, program.obey)
    await program.run()


def main() -> None:
    import uvloop

    from coord.telemetry import logs

    logs.configure(logs.LogConfig(level="warning"), service="listeners")
    uvloop.run(_main(msgspec.json.decode(sys.argv[1], type=Audience)))


if __name__ == "__main__":
    main()
