"""Fifty processes with a cache each ask for what is being stated, while projectors, broker and database are killed.

Each writes down what it had heard when it asked; afterwards every answer is held against the tables: older than what
was heard is stale.  They share what they load by the second tier, which a broker that is killed forgets, and every so
often somebody evicts a note by hand.  At the end, when all is quiet, every process asks for everything once more and
must have the newest: a notice that was lost with what was killed must have been found out.  In half of them facts move
answers on; each of those answers must have all facts up to its newest, each once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Final

import msgspec

from coord import errors, limits
from coord.bus.connection import NatsConfig
from coord.cache.config import CacheConfig
from coord.client.config import ClientConfig
from coord.client.connect import Coord, connect
from coord.ops.bench.cache_fleet import COMMITS, FleetConfig, jobs, left_behind, miscounted, stale_answers, worker
from coord.ops.bench.cache_worker import GO, TENANT, Told, names
from coord.ops.bench.workers import Worker
from coord.wire import subjects
from coord.wire.envelope import Fact
from tests.soak.harness import Job, Result, Scenario, folder, rng_of, say
from tests.soak.stack import Stack, settled
from tests.support.crash import ProjectorProcess

SCENARIO = Scenario(
    name="caches",
    title="50 processes with caches, kills of projector, NATS and PostgreSQL in turns",
    bound_s=600,
    rank=65,
)

PROCESSES = 50
ROUNDS = 9
NOTES = 100
PER_S = 50.0
_BY_HAND: Final = 0.05
"""Evictions by hand for each fact."""
_ROUND_S = (4.0, 8.0)
_AT_A_TIME = 5
_QUIET_S = 2 * limits.CHECKPOINT_IDLE_S
"""A notice that was lost is found out within one of these."""
_TELL_S = 120.0
_GROWTH_MAX = limits.CACHE_L1_BYTES + 16 * limits.MIB
"""Of a process after its cache is warm: the cache's bound, and what it writes down for the verdict."""


class Stating:
    """States facts about notes until told to stop, whoever is away."""

    def __init__(self, client: Coord, seed: int) -> None:
        self.acked: dict[tuple[str, int], int] = {}
        self.facts = self.unsure = self.by_hand = 0
        self._client = client
        self._rng = rng_of(Job(seed=seed), "facts")
        self.over = asyncio.Event()

    async def run(self) -> None:
        while not self.over.is_set():
            await self.say(self._rng.choice(names(NOTES)))
            if self._rng.random() < _BY_HAND:
                self._client.cache.evict(f"note:{self._rng.choice(names(NOTES))}")
                self.by_hand += 1
            await asyncio.sleep(1 / PER_S)

    async def say(self, note: str) -> None:
        try:
            ack = await self._client.publish(Fact(kind="note", id=note, event="said"))
        except errors.CoordError:
            self.unsure += 1
        else:
            self.facts += 1
            self.acked[subjects.EVENTS, subjects.partition(note)] = ack.seq


async def run(job: Job) -> Result:
    processes, rounds = job.of(None, PROCESSES, 2), job.of(job.rounds, ROUNDS, 3)
    result = Result(rounds=rounds)
    with folder(job, "caches") as home:
        async with (
            Stack.open(home, settings={"max_connections": "300"}) as stack,
            connect(_speaker(stack.nats_url)) as client,
            contextlib.AsyncExitStack() as workers,
        ):
            projector = await stack.projector(bug=job.bug)
            await projector.ready(60)
            # Of each partition something is known only once it has a fact.
            stating = Stating(client, job.seed)
            for n in range(8 * limits.PARTITIONS):
                await client.publish(Fact(kind="warm", id=f"w{n}", event="said"))
            running = await _started(stack, processes, workers)
            told = await _rounds(job, result, stack, stating, projector, running, rounds)
            db = await stack.database()
            commits = await db.fetch(COMMITS)
            await db.close()
    checked = sum(answer.times for one in told for answer in one.answers)
    if stale := stale_answers((answer for one in told for answer in one.answers), commits):
        result.found("stale", f"{stale} answers were older than what their process had heard", stale)
    for note in left_behind(told, commits):
        result.found("stale", f"{note}: somebody's last answer is not the newest")
    for note in miscounted(told, commits):
        result.found("stale", f"{note}: an answer that facts moved on has other facts than there were")
    if (growth := max(one.rss_growth_bytes for one in told)) > _GROWTH_MAX:
        result.found("memory", f"a process has grown by {growth} bytes")
    if not sum(one.shared.get("hit", 0) for one in told):
        result.found("nothing", "nobody found anything in the tier that they share")
    if not checked or not commits:
        result.found("nothing", "nobody asked, or nothing was committed")
    result.volume |= {
        "processes": processes, "answers": checked, "facts": stating.facts, "unsure": stating.unsure,
        "questions without answer": sum(one.failed for one in told), "loads": sum(one.loads for one in told),
        "evictions by hand": stating.by_hand, "found in L2": sum(one.shared.get("hit", 0) for one in told),
        "facts that moved answers": sum(one.moved.get("moved", 0) for one in told),
    }  # fmt: skip
    result.details |= {
        "rss_mib_most": max(one.rss_bytes for one in told) // limits.MIB,
        "rss_growth_mib_most": round(growth / limits.MIB, 1),
    }
    return result


def _speaker(url: str) -> ClientConfig:
    nats = NatsConfig(urls=(url,))
    return ClientConfig(nats=nats, tenant=TENANT, agent="speaker", cache=CacheConfig(l2=True))


async def _started(stack: Stack, processes: int, workers: contextlib.AsyncExitStack) -> list[Worker]:
    config = FleetConfig(
        processes=processes, connections=processes, readers=processes, notes=NOTES, pause_s=0.1, moved=processes // 2,
        l2=True,
    )  # fmt: skip
    running: list[Worker] = []
    made = iter(jobs(config, stack.nats_url, stack.database_url))
    while some := list(itertools.islice(made, _AT_A_TIME)):
        running += await asyncio.gather(*(workers.enter_async_context(worker(one)) for one in some))
        say(f"{len(running)} of {processes} processes ask")
    return running


async def _rounds(
    job: Job,
    result: Result,
    stack: Stack,
    stating: Stating,
    projector: ProjectorProcess,
    running: list[Worker],
    rounds: int,
) -> list[Told]:
    rng = rng_of(job, "moments")
    await stating.say(GO)
    speaking = asyncio.create_task(stating.run())
    for n, victim in zip(range(rounds), itertools.cycle(("projector", "nats", "postgres")), strict=False):
        await asyncio.sleep(rng.uniform(*_ROUND_S))
        say(f"round {n + 1}/{rounds}: {victim} is killed")
        if victim == "projector":
            projector.kill()
            projector = await stack.projector(bug=job.bug)
        elif victim == "nats":
            stack.nats.kill()
            await stack.nats.start()
            await stack.streams()
        else:
            await stack.postgres.kill()
            await stack.postgres.start()
        kills = f"kills {victim}"
        result.volume[kills] = result.volume.get(kills, 0) + 1
    await asyncio.sleep(_ROUND_S[1])
    stating.over.set()
    await speaking
    await settled(stack, stating.acked)
    await asyncio.sleep(_QUIET_S)
    return [msgspec.convert(one, Told) for one in await asyncio.gather(*(w.ended(_TELL_S) for w in running))]
