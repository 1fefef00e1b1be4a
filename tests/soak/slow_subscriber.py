"""One subscriber at a hundredth of the speed among a thousand: nobody else notices, and it misses nothing.

Measured in turns, without it and with it, inside one run: what of a publish reaches the others how
late.  Then the slow one is allowed to hurry, and must hear everything that was stated since it
subscribed, in order, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from coord.client.connect import Coord, connect
from coord.wire.envelope import Fact
from tests.soak.harness import Job, Result, Scenario, folder, percentile, say
from tests.soak.listeners import Audience, Heard, Listeners, listening
from tests.soak.stack import Stack
from tests.support.log import query_service

SCENARIO = Scenario(
    name="slow-subscriber", title="a subscriber at 1/100 of the speed among 1,000", bound_s=420, rank=70
)

SUBSCRIBERS = 1_000
KEYS = 250
PER_S = 500.0
"""Facts a second; each has SUBSCRIBERS / KEYS quick listeners and, in its turns, the slow one."""
SLOWER = 100
TURN_S = 20.0
TURNS = 3
P99_MAX_MS = 20.0
"""What the others may wait (issue's bar for subscribers); below it nobody was harmed, whatever the ratio."""
RATIO_MAX = 1.5
CATCH_UP_BOUND_S = 120.0
_TENANT = "audience"


class Stating:
    """States facts at a steady rate, until told to stop; numbers per key."""

    def __init__(self, client: Coord) -> None:
        self.stated = 0
        self._client = client
        self._stop = asyncio.Event()

    async def run(self) -> None:
        began = time.monotonic()
        while not self._stop.is_set():
            key = f"k{self.stated % KEYS}"
            await self._client.emit(Fact(kind="note", id=key, event="said", data={"n": self.stated // KEYS + 1}))
            self.stated += 1
            wait_s = began + self.stated / PER_S - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)

    async def stop(self) -> None:
        self._stop.set()
        await self._client.flush()


async def run(job: Job) -> Result:
    subscribers = job.of(job.facts, SUBSCRIBERS, 20)
    turns = job.of(job.rounds, TURNS, 1)
    result = Result(rounds=turns)
    with folder(job, "slow") as home:
        async with (
            Stack.open(home) as stack,
            query_service(stack.nats_url),
            connect(stack.nats_url, tenant=_TENANT, agent="speaker") as client,
        ):
            quick = Audience(url=stack.nats_url, tenant=_TENANT, count=subscribers, keys=KEYS)
            async with listening(quick, home / "quick.log") as others, stating(client) as statement:
                await _turns(result, stack, home, others, statement, turns)
                await statement.stop()
                await _all_heard(result, others, statement, subscribers)
    result.volume |= {"facts": statement.stated, "subscribers": subscribers + 1}
    return result


@contextlib.asynccontextmanager
async def stating(client: Coord) -> AsyncIterator[Stating]:
    statement = Stating(client)
    task = asyncio.create_task(statement.run())
    try:
        yield statement
    finally:
        await statement.stop()
        await task


async def _turns(result: Result, stack: Stack, home: Path, others: Listeners, statement: Stating, turns: int) -> None:
    alone: list[Heard] = []
    beside: list[Heard] = []
    for i in range(turns):
        await others.ask()
        await asyncio.sleep(TURN_S)
        alone.append(await others.ask())
        slow = Audience(url=stack.nats_url, tenant=_TENANT, count=1, keys=0, pause_s=SLOWER / PER_S)
        async with listening(slow, home / "slow.log") as laggard:
            first = statement.stated
            await others.ask()
            await asyncio.sleep(TURN_S)
            beside.append(await others.ask())
            await _catch_up(result, laggard, statement, first)
        say(
            f"turn {i + 1}/{turns}: p99 {alone[-1].p99_ms:.2f} ms without the slow one,"
            f" {beside[-1].p99_ms:.2f} ms with it; it caught up in {result.catch_up_s[-1]:g} s"
        )
    without, having = (percentile([h.p99_ms for h in heard], 0.5) for heard in (alone, beside))
    result.details |= {
        "p99_ms_without": [round(h.p99_ms, 2) for h in alone],
        "p99_ms_with": [round(h.p99_ms, 2) for h in beside],
        "p50_ms_without": [round(h.p50_ms, 2) for h in alone],
        "p50_ms_with": [round(h.p50_ms, 2) for h in beside],
        "deliveries_per_turn": beside[-1].since,
    }
    if having > P99_MAX_MS and having > RATIO_MAX * without:
        result.found("harmed", f"the others' p99 is {having:.1f} ms with the slow one and {without:.1f} ms without")


async def _catch_up(result: Result, laggard: Listeners, statement: Stating, first: int) -> None:
    """Let it hurry until it has all that was stated until now; it hears on meanwhile."""
    began = time.monotonic()
    heard = await laggard.ask("hurry")
    slow_facts = heard.facts
    goal = statement.stated - first  # at least so many since it was live
    while heard.facts < goal and time.monotonic() < began + CATCH_UP_BOUND_S:
        await asyncio.sleep(0.1)
        heard = await laggard.ask()
    if heard.facts < goal:
        result.found("lost", f"the slow subscriber has {heard.facts} of at least {goal} facts")
    result.lost = (result.lost or 0) + max(0, goal - heard.facts)
    for text in heard.wrong:
        result.found("disordered", f"the slow subscriber: {text}")
    result.doubled, result.disordered = result.doubled or 0, (result.disordered or 0) + len(heard.wrong)
    result.catch_up_s.append(round(time.monotonic() - began, 2))
    result.details.setdefault("slow_heard_while_slow", []).append(slow_facts)
    result.details.setdefault("slow_pages_read", []).append(heard.pages)


async def _all_heard(result: Result, others: Listeners, statement: Stating, subscribers: int) -> None:
    """Every quick one has every fact of its key."""
    per_key = [statement.stated // KEYS + (k < statement.stated % KEYS) for k in range(KEYS)]
    wanted = sum(per_key[i % KEYS] for i in range(subscribers))
    deadline = time.monotonic() + 30
    heard = await others.ask()
    while heard.facts < wanted and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        heard = await others.ask()
    if heard.facts != wanted:
        result.found("lost" if heard.facts < wanted else "doubled", f"the others heard {heard.facts} of {wanted}")
        result.lost = (result.lost or 0) + max(0, wanted - heard.facts)
    for text in heard.wrong:
        result.found("disordered", f"a quick subscriber: {text}")
    result.volume["deliveries"] = heard.facts
