"""A crew at work, and what kills its members, its broker and its database."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from coord.ops.devstack.nats import NatsServer
from coord.ops.devstack.postgres import PostgresServer
from tests.support import crew
from tests.support.crew import Member
from tests.support.nats_cluster import NatsCluster

VICTIMS = ("worker", "server", "nats")


_STARTS_MAX = 5
"""Of one member, while the broker is away: as whoever supervises a worker does."""


class Kill(msgspec.Struct, frozen=True):
    """One kill of a round."""

    victim: str
    after_s: float
    """Since the round began."""
    away_s: float
    """Until it is started again."""


def plan(rng: random.Random, rounds: int) -> list[list[Kill]]:
    """A worker in most rounds, a decider in every second, the broker in every third."""
    found = []
    for i in range(rounds):
        victims = ["worker"] * rng.choice((0, 1, 1, 2)) + ["server"] * (i % 2) + ["nats"] * (i % 3 == 2)
        kills = [Kill(victim, rng.uniform(0.0, 1.0), rng.uniform(0.0, 1.0)) for victim in victims or ["worker"]]
        found.append(sorted(kills, key=lambda kill: kill.after_s))
    rng.shuffle(found)
    return found


class Outages(msgspec.Struct, frozen=True):
    """The database is away now and then, whatever else happens.  Seconds, evenly distributed."""

    every_s: tuple[float, float] = (5.0, 40.0)
    away_s: tuple[float, float] = (0.0, 10.0)


class Siege:
    """`async with Siege.of(…)`: servers and workers are there, and ready."""

    def __init__(self, broker: NatsServer | NatsCluster, job: crew.Job, log: Path) -> None:
        self.kills: Counter[str] = Counter()
        """By victim; `in vain`: starts of workers that found no broker."""
        self.database_away_s = 0.0
        self.urls = broker.urls if isinstance(broker, NatsCluster) else (broker.url,)
        self._broker = broker
        self._job = msgspec.structs.replace(job, urls=self.urls)
        self._log = log
        self._members: dict[str, list[Member]] = {"server": [], "worker": []}
        self._next = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def of(
        cls, broker: NatsServer | NatsCluster, job: crew.Job, log: Path, *, servers: int = 2, workers: int = 4
    ) -> AsyncIterator[Siege]:
        """`job`: what all of them are told beside their role, name and where the broker is."""
        siege = cls(broker, job, log)
        try:
            # Nobody answers a worker that opens its queues before a server is there.
            await asyncio.gather(*(siege._start("server") for _ in range(servers)))
            await asyncio.gather(*(siege._start("worker") for _ in range(workers)))
            yield siege
        finally:
            await asyncio.gather(*(m.close() for members in siege._members.values() for m in members))

    async def _start(self, role: str) -> None:
        for _ in range(_STARTS_MAX):
            self._next += 1
            job = msgspec.structs.replace(self._job, role=role, name=f"{role}{self._next}")
            member = await crew.start(job, self._log)
            self._members[role].append(member)
            if await member.ready():
                return
            self._members[role].remove(member)
            await member.close()
            self.kills["in vain"] += 1
        raise AssertionError(f"no {role} could begin, {_STARTS_MAX} times")

    async def round(self, kills: Sequence[Kill]) -> None:
        """Do them, and return once everybody is back."""
        await asyncio.gather(*(self._kill(kill) for kill in kills))

    async def _kill(self, kill: Kill) -> None:
        await asyncio.sleep(kill.after_s)
        self.kills[kill.victim] += 1
        if kill.victim == "nats":
            assert isinstance(self._broker, NatsServer)
            self._broker.kill()
            await asyncio.sleep(kill.away_s)
            await self._broker.start()
            return
        victim = self._members[kill.victim].pop(0)
        victim.kill()
        await victim.close()
        await asyncio.sleep(kill.away_s)
        await self._start(kill.victim)

    async def without_database(self, postgres: PostgresServer, rng: random.Random, often: Outages) -> None:
        """Until cancelled: kill it, and start it again after a while."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(rng.uniform(*often.every_s))
            began = loop.time()
            self.kills["postgres"] += 1
            await postgres.kill()
            try:
                await asyncio.sleep(rng.uniform(*often.away_s))
            finally:
                await postgres.start()
            self.database_away_s += loop.time() - began
