"""Three servers, three copies of every stream, and the leader of the log killed, stopped and cut off.

A round does one thing to the cluster while publishers state facts and two projectors write them:

*kill*      the log's leader is killed (-9), away for some seconds, and started again
*follower*  the same to a server that follows
*stop*      the leader stands still (SIGSTOP) until others have elected one, and wakes up a leader
*isolate*   no server hears the leader, nor it them; its clients stay connected to it
*cut*       two servers do not hear each other, the third one hears both
*half*      the leader is heard and hears nobody

Then the cluster is made whole, and once its servers say that they are, the clock runs: until all
that is acknowledged by then is in the tables.  At the end the tables are compared with what was
acknowledged.  The network is broken by proxies in the servers' routes (tests/support/nats_cluster.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from pathlib import Path
from typing import Literal, get_args

import msgspec

from coord import limits
from coord.bus.connection import Connection
from coord.projector.config import ProjectorConfig
from tests.soak.harness import Job, Result, Scenario, folder, percentile, rng_of, say
from tests.soak.lag import STUCK_S, caught_up
from tests.soak.speakers import Speakers, Speech, speaking
from tests.soak.stack import Checkpoints, database
from tests.soak.verdict import judge
from tests.support import crash
from tests.support.crash import ProjectorProcess, projector_process
from tests.support.nats_cluster import SIZE, NatsCluster, NotWhole
from tests.support.workload import connect

SCENARIO = Scenario(
    name="cluster",
    title="three servers, R3: the leader killed, stopped, cut off; followers killed; links cut",
    bound_s=1800,
    rank=15,
)

ROUNDS = 30
FACTS = 600_000
PER_S = 1_500.0
"""Every fact is stored three times, and servers, publishers and projectors share the machine's cores."""
REPLICAS = 2
CATCH_UP_MAX_S = limits.TAKEOVER_S
WHOLE_MAX_S = 60.0
"""A cluster that is not whole so long after its last fault will not be: a finding."""
_AHEAD_MAX_S = 4.0
"""How long a round waits for its share of the facts."""
_EVENTS = {"max_bytes": 1 << 30, "max_age": 900 * 10**9}
_TELEMETRY = {"max_bytes": 1 << 29, "max_age": 900 * 10**9}
"""Three copies on one disk, and nothing leaves the window before the end."""

Fault = Literal["kill", "follower", "stop", "isolate", "cut", "half"]
FAULTS: tuple[Fault, ...] = get_args(Fault)


class Round(msgspec.Struct, frozen=True):
    """What is done to the cluster."""

    fault: Fault
    away_s: float
    """Until it is undone.  Servers elect after 4 to 9 s of silence, and a leader that hears nobody
    resigns after 10 s: some faults end before, some after, some in the middle."""
    other: int
    """Which of the two other servers, where the fault is between two."""


def plan(rng: random.Random, rounds: int) -> list[Round]:
    """Every fault about as often as the others, in the seed's order."""
    faults = [FAULTS[i % len(FAULTS)] for i in range(rounds)]
    rng.shuffle(faults)
    return [Round(fault, rng.uniform(1.0, 13.0), rng.randrange(SIZE - 1)) for fault in faults]


class Breaker:
    """Does to the cluster what a round says, and undoes it."""

    def __init__(self, cluster: NatsCluster, conn: Connection) -> None:
        self.done: Counter[str] = Counter()
        self.elections = 0
        """Rounds after which somebody else led the log."""
        self.whole_s: list[float] = []
        """From a fault's end until the cluster was whole."""
        self._cluster = cluster
        self._conn = conn

    async def round(self, todo: Round) -> None:
        """Do it, wait, undo it; returns once the cluster is whole."""
        leader = await self._cluster.leader(self._conn, "EVENTS")
        other = (leader + 1 + todo.other) % SIZE
        await self._break(todo.fault, leader, other)
        self.done[todo.fault] += 1
        await asyncio.sleep(todo.away_s)
        await self._undo(todo.fault, leader, other)
        began = time.monotonic()
        await self._cluster.until_whole(timeout_s=WHOLE_MAX_S)
        self.whole_s.append(round(time.monotonic() - began, 2))
        self.elections += await self._cluster.leader(self._conn, "EVENTS") != leader

    async def _break(self, fault: Fault, leader: int, other: int) -> None:
        cluster = self._cluster
        if fault == "kill":
            cluster.kill(leader)
        elif fault == "follower":
            cluster.kill(other)
        elif fault == "stop":
            cluster.pause(leader)
        elif fault == "isolate":
            cluster.isolate(leader)
        elif fault == "cut":
            cluster.cut(leader, other)
        else:
            for i in range(SIZE):
                if i != leader:
                    cluster.deafen(leader, i)

    async def _undo(self, fault: Fault, leader: int, other: int) -> None:
        if fault in ("kill", "follower"):
            await self._cluster.restart(leader if fault == "kill" else other)
        elif fault == "stop":
            self._cluster.resume(leader)
        else:
            self._cluster.mend()


class Watched(msgspec.Struct, frozen=True):
    """Who takes part in the rounds."""

    breaker: Breaker
    speakers: Speakers
    projectors: list[ProjectorProcess]
    checkpoints: Checkpoints

    async def caught_up(self) -> float | None:
        return await caught_up(self.speakers, self.checkpoints, projectors=self.projectors)


async def run(job: Job) -> Result:
    rounds, facts = job.of(job.rounds, ROUNDS, 2), job.of(job.facts, FACTS, 1000)
    result = Result(rounds=rounds)
    with folder(job, "cluster") as home:
        async with database(home / "postgres", {}) as postgres, NatsCluster(home / "nats") as cluster:
            await cluster.apply(EVENTS=_EVENTS, TELEMETRY=_TELEMETRY)
            await cluster.until_whole()
            url = postgres.url()
            speech = Speech(
                url=cluster.url, tenant="cluster", seed=job.seed, records=str(home / "records"), per_s=PER_S,
                bug=job.bug if job.bug == "lost_ack" else None,
            )  # fmt: skip
            async with contextlib.AsyncExitStack() as stack:
                projectors = [await _projector(stack, job, cluster, url, home) for _ in range(REPLICAS)]
                conn = await stack.enter_async_context(await cluster.connect("soak-breaker"))
                speakers = await stack.enter_async_context(speaking(speech, home / "speakers.log"))
                watched = Watched(Breaker(cluster, conn), speakers, projectors, Checkpoints(url))
                await _rounds(job, result, watched, facts)
                result.details["leader_of_log"] = f"n{await cluster.leader(conn, 'EVENTS')}"
            say("comparing")
            db = await connect(url)
            rows, findings = await judge(db, [speech])
            await db.close()
            result.add(findings)
            result.volume["rows"] = rows
    return result


async def _projector(
    stack: contextlib.AsyncExitStack, job: Job, cluster: NatsCluster, url: str, home: Path
) -> ProjectorProcess:
    bug = job.bug if job.bug != "lost_ack" else None
    # What is connected to a server that stands still must notice as soon as in production: by pings.
    told = crash.Job(cluster.url, url, ProjectorConfig(), ping_interval_s=1.0, bug=bug)
    projector = await stack.enter_async_context(projector_process(told, home / "projector.log"))
    await projector.ready(60)
    return projector


async def _rounds(job: Job, result: Result, watched: Watched, facts: int) -> None:
    breaker, speakers = watched.breaker, watched.speakers
    if not await speakers.until(1_000, 60):
        result.found("few", f"only {speakers.told.acked:,} facts before the first round")
    pauses = rng_of(job, "pauses")
    for i, todo in enumerate(plan(rng_of(job, "faults"), result.rounds)):
        try:
            await breaker.round(todo)
        except (NotWhole, TimeoutError) as exc:
            result.found("broken", f"round {i}, {todo.fault} for {todo.away_s:.1f} s: {exc!r}")
            break
        took = await watched.caught_up()
        if took is None:
            result.found("stuck", f"round {i}: not caught up {STUCK_S:g} s after {todo.fault}")
            break
        result.catch_up_s.append(round(took, 3))
        say(f"round {i + 1}/{result.rounds}: {todo.fault} for {todo.away_s:.1f} s; whole after {breaker.whole_s[-1]} s,"
            f" caught up {took:.2f} s later; {speakers.told.acked:,} facts")  # fmt: skip
        if took > CATCH_UP_MAX_S:
            result.found("late", f"round {i}: caught up after {took:.2f} s ({todo.fault} for {todo.away_s:.1f} s)")
        await speakers.until(0 if job.bug else facts * (i + 1) // result.rounds, timeout_s=_AHEAD_MAX_S)
        await asyncio.sleep(pauses.uniform(0.1, 0.6))
    speakers.pace(0.0)
    if not await speakers.until(facts, timeout_s=300):
        result.found("few", f"only {speakers.told.acked:,} of {facts:,} facts")
    told = await speakers.finish()
    if await watched.caught_up() is None:
        result.found("stuck", f"not everything is in the tables {STUCK_S:g} s after the last fact")
    watched.checkpoints.close()
    result.volume |= {"facts": told.acked, "messages": told.messages, "unsure": told.unsure, "shed": told.shed}
    result.volume |= {f"rounds_{fault}": count for fault, count in sorted(breaker.done.items())}
    result.volume["elections"] = breaker.elections
    result.details |= {
        "resends": told.resends,
        "failures": told.failures,
        "catch_up_p50_s": round(percentile(result.catch_up_s, 0.5), 3),
        "whole_worst_s": max(breaker.whole_s, default=0.0),
    }
