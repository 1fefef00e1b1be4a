"""kill -9 of projectors, of NATS and of PostgreSQL, one on top of the other, while ten million facts pass.

A round kills a projector and, in half of the rounds each, NATS and PostgreSQL, within a second of
each other in an order of the seed's; each comes back after a moment.  Then the clock runs: from
the last process being back until everything acknowledged by then, and by now, is in the tables.
At the end the tables are compared with what was acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import time

import msgspec

from coord import limits
from coord.bus.connection import Connection, NatsConfig
from tests.soak.harness import Job, Result, Scenario, folder, percentile, rng_of, say
from tests.soak.lag import STUCK_S, caught_up
from tests.soak.speakers import Speakers, Speech, speaking
from tests.soak.stack import LOSES_MUCH, Checkpoints, Stack
from tests.soak.verdict import judge
from tests.support.crash import ProjectorProcess

SCENARIO = Scenario(
    name="kill-storm",
    title="kill -9: projector in every round, NATS and PostgreSQL in every second, overlapping",
    bound_s=2400,
    rank=10,
)

ROUNDS = 200
FACTS = 10_000_000
PER_S = 11_000.0
"""Paced, so that kills are spread over the facts; what outages cost is made up for at the end."""
REPLICAS = 2
_AHEAD_MAX_S = 4.0
"""How long a round waits for its share of the facts at most: the machine may be too slow for the pace."""
CATCH_UP_MAX_S = limits.TAKEOVER_S
_WINDOW = {"max_age": 300 * 10**9, "max_msgs": 20_000_000}
"""The log is a window here too: what is older than five minutes leaves, and no disk fills up."""


class Kill(msgspec.Struct, frozen=True):
    """One kill of a round."""

    victim: str
    after_s: float
    """Since the round began."""
    away_s: float
    """Until it is started again."""


def plan(rng: random.Random, rounds: int) -> list[list[Kill]]:
    """Which kills each round has: a projector always, NATS and PostgreSQL in half of the rounds each."""
    with_nats = set(rng.sample(range(rounds), rounds // 2))
    with_postgres = set(rng.sample(range(rounds), rounds // 2))
    rounds_of_kills = []
    for i in range(rounds):
        victims = ["projector"]
        victims += ["nats"] if i in with_nats else []
        victims += ["postgres"] if i in with_postgres else []
        kills = [Kill(victim, rng.uniform(0.0, 1.0), rng.uniform(0.0, 0.5)) for victim in victims]
        rounds_of_kills.append(sorted(kills, key=lambda kill: kill.after_s))
    return rounds_of_kills


class Storm:
    """What is running, and the kills done to it."""

    def __init__(self, job: Job, stack: Stack, speakers: Speakers, checkpoints: Checkpoints) -> None:
        self.kills = {"projector": 0, "nats": 0, "postgres": 0}
        self.outages_s: list[float] = []
        """From the first kill of a round until all was in the tables."""
        self._job = job
        self._stack = stack
        self._speakers = speakers
        self._checkpoints = checkpoints
        self._projectors: list[ProjectorProcess] = []
        self._next = 0

    async def start(self) -> None:
        for _ in range(REPLICAS):
            await self._start_projector()

    async def _start_projector(self) -> None:
        projector = await self._stack.projector(bug=self._job.bug if self._job.bug != "lost_ack" else None)
        self._projectors.append(projector)
        await projector.ready(60)

    async def round(self, kills: list[Kill]) -> float | None:
        """Do all kills, wait until all is back; the seconds it took to catch up, None when it never did."""
        began = time.monotonic()
        await asyncio.gather(*(self._kill(kill) for kill in kills))
        took = await caught_up(self._speakers, self._checkpoints, projectors=self._projectors)
        self.outages_s.append(time.monotonic() - began)
        return took

    async def _kill(self, kill: Kill) -> None:
        await asyncio.sleep(kill.after_s)
        self.kills[kill.victim] += 1
        if kill.victim == "nats":
            self._stack.nats.kill()
            await asyncio.sleep(kill.away_s)
            await self._stack.nats.start()
        elif kill.victim == "postgres":
            await self._stack.postgres.kill()
            await asyncio.sleep(kill.away_s)
            await self._stack.postgres.start()
        else:
            victim = self._projectors.pop(self._next % len(self._projectors))
            self._next += 1
            victim.kill()
            await victim.ended()
            await asyncio.sleep(kill.away_s)
            await self._start_projector()


async def run(job: Job) -> Result:
    rounds, facts = job.of(job.rounds, ROUNDS, 2), job.of(job.facts, FACTS, 1000)
    result = Result(rounds=rounds)
    with folder(job, "storm") as home:
        async with Stack.open(
            home,
            settings=LOSES_MUCH | {"checkpoint_timeout": "60s"},
            EVENTS=_WINDOW,
            TELEMETRY=_WINDOW,
        ) as stack:
            speech = Speech(
                url=stack.nats_url, tenant="storm", seed=job.seed, records=str(home / "records"), per_s=PER_S,
                bug=job.bug if job.bug == "lost_ack" else None,
            )  # fmt: skip
            async with speaking(speech, home / "speakers.log") as speakers:
                await _storm(job, result, stack, speakers, rounds, facts)
            say("comparing")
            began = time.monotonic()
            db = await stack.database()
            rows, findings = await judge(db, [speech])
            await db.close()
            result.add(findings)
            result.volume["rows"] = rows
            result.details["compared_in_s"] = round(time.monotonic() - began, 1)
    return result


async def _storm(job: Job, result: Result, stack: Stack, speakers: Speakers, rounds: int, facts: int) -> None:
    checkpoints = Checkpoints(stack.database_url)
    storm = Storm(job, stack, speakers, checkpoints)
    await storm.start()
    await speakers.until(2_000, 60)
    pauses = rng_of(job, "pauses")
    for i, kills in enumerate(plan(rng_of(job, "kills"), rounds)):
        took = await storm.round(kills)
        if took is None:
            result.found("stuck", f"round {i}: not caught up {STUCK_S:g} s after {[k.victim for k in kills]} were back")
            break
        result.catch_up_s.append(round(took, 3))
        say(f"round {i + 1}/{rounds}: {'+'.join(k.victim for k in kills)}; caught up {took:.2f} s after the last"
            f" was back, {storm.outages_s[-1]:.2f} s in all; {speakers.told.acked:,} facts")  # fmt: skip
        if took > CATCH_UP_MAX_S:
            result.found("late", f"round {i}: caught up after {took:.2f} s ({[k.victim for k in kills]})")
        # The storm is spread over the facts: a round that is ahead of them waits; and kills hit work, not a rhythm.
        await speakers.until(0 if job.bug else facts * (i + 1) // rounds, timeout_s=_AHEAD_MAX_S)
        await asyncio.sleep(pauses.uniform(0.1, 0.6))
    speakers.pace(0.0)
    if not await speakers.until(facts, timeout_s=600):
        result.found("few", f"only {speakers.told.acked:,} of {facts:,} facts")
    told = await speakers.finish()
    if await caught_up(speakers, checkpoints) is None:
        result.found("stuck", f"not everything is in the tables {STUCK_S:g} s after the last fact")
    checkpoints.close()
    result.volume |= {"facts": told.acked, "messages": told.messages, "unsure": told.unsure, "shed": told.shed}
    result.volume |= {f"kills_{victim}": count for victim, count in storm.kills.items()}
    result.details |= {
        "resends": told.resends,
        "failures": told.failures,
        "catch_up_p50_s": round(percentile(result.catch_up_s, 0.5), 3),
        "outage_worst_s": round(max(storm.outages_s, default=0.0), 2),
        "log": await _log_state(stack),
    }


async def _log_state(stack: Stack) -> dict[str, int]:
    async with await Connection.open(NatsConfig(urls=(stack.nats_url,)), name="soak-look") as conn:
        state = (await conn.api("STREAM.INFO.EVENTS"))["state"]
    return {name: state[name] for name in ("messages", "bytes", "first_seq", "last_seq")}
