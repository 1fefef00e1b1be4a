"""SIGSTOP of the projector that owns half of the partitions, beyond its pin; another takes over; SIGCONT.

The stopped one wakes up with batches in hand, pins that lapsed and transactions that the
database may have ended: nothing of that may count.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from coord import limits
from tests.soak.harness import Job, Result, Scenario, folder, percentile, rng_of, say
from tests.soak.lag import STUCK_S, caught_up
from tests.soak.speakers import Speakers, Speech, speaking
from tests.soak.stack import Checkpoints, Stack
from tests.soak.verdict import judge
from tests.support.crash import ProjectorProcess
from tests.support.waiting import until

SCENARIO = Scenario(
    name="stopped-owner",
    title="SIGSTOP of an owner beyond its pin, takeover, SIGCONT, the two in turns",
    bound_s=600,
    rank=20,
)

ROUNDS = 20
PER_S = 6_000.0
TAKEOVER_MAX_S = limits.TAKEOVER_S


async def run(job: Job) -> Result:
    rounds = job.of(job.rounds, ROUNDS, 2)
    result = Result(rounds=rounds)
    with folder(job, "stopped") as home:
        async with Stack.open(home) as stack:
            speech = Speech(
                url=stack.nats_url, tenant="stopped", seed=job.seed, records=str(home / "records"), per_s=PER_S
            )
            both = [await stack.projector(bug=job.bug) for _ in range(2)]
            await asyncio.gather(*(p.ready(60) for p in both))
            async with speaking(speech, home / "speakers.log") as speakers:
                await _rounds(job, result, stack, speakers, both, rounds)
            db = await stack.database()
            result.volume["rows"], findings = await judge(db, [speech])
            await db.close()
            result.add(findings)
    return result


async def _rounds(
    job: Job, result: Result, stack: Stack, speakers: Speakers, both: list[ProjectorProcess], rounds: int
) -> None:
    checkpoints = Checkpoints(stack.database_url)
    rng = rng_of(job, "moments")
    beyond_s = limits.PIN_TTL_S + limits.REPLICA_GONE_S
    for i in range(rounds):
        await _settled(both)
        await asyncio.sleep(rng.uniform(0.2, 0.8))
        frozen = both[i % 2]
        frozen.pause()
        began = time.monotonic()
        # What was acknowledged until now, its partitions' included, is the other's to project.
        took = await caught_up(speakers, checkpoints)
        if took is None:
            result.found("stuck", f"round {i}: nobody took over within {STUCK_S:g} s")
            frozen.resume()
            break
        result.catch_up_s.append(round(took, 3))
        if took > TAKEOVER_MAX_S:
            result.found("late", f"round {i}: taken over after {took:.2f} s")
        await asyncio.sleep(max(0.0, beyond_s + rng.uniform(0.0, 1.0) - (time.monotonic() - began)))
        frozen.resume()
        say(f"round {i + 1}/{rounds}: taken over after {took:.2f} s, woken after {time.monotonic() - began:.2f} s")
    told = await speakers.finish()
    if await caught_up(speakers, checkpoints) is None:
        result.found("stuck", "not everything is in the tables after the last fact")
    checkpoints.close()
    result.volume |= {"facts": told.acked, "messages": told.messages, "unsure": told.unsure}
    result.details["takeover_p50_s"] = percentile(result.catch_up_s, 0.5)


async def _settled(both: list[ProjectorProcess]) -> None:
    """Each owns something, so that a stop means something; not for ever: a round without is one, too."""
    with contextlib.suppress(AssertionError):
        await until(lambda: all(len(p.owned) >= limits.PARTITIONS // 2 for p in both), 10, every_s=0.05)
