"""Three servers and three copies of everything: the log's leader is killed with thousands of tasks in flight.

A round kills the server that leads the log, and in every second round a worker and one of two processes that decide;
all come back after 1 to 8 s.  Once the cluster says that it is whole, tasks and workflows of every partition are
submitted, and the clock runs until they have ended.  There is no database: nobody here needs one.
"""

from __future__ import annotations

import asyncio
import time

from tests.soak.harness import Job, Result, Scenario, folder, rng_of, say
from tests.soak.tasks import TENANT, connected, finish, probed, verdict
from tests.support import crew
from tests.support.nats_cluster import NatsCluster, NotWhole
from tests.support.siege import Kill, Siege
from tests.support.taskload import Amount, Load

SCENARIO = Scenario(
    name="tasks-cluster",
    title="three servers, R3: the leader of the log killed with tasks in flight, workers and deciders, too",
    bound_s=1800,
    rank=18,
)

ROUNDS = 20
IN_FLIGHT = Amount(tasks=2_000, workflows=200)
"""Every fact is stored three times, and three servers share the machine's cores."""
_STREAMS = {
    "EVENTS": {"max_bytes": 1 << 30},
    "TELEMETRY": {"max_bytes": 1 << 26},
    "SNAPSHOTS": {"max_bytes": 1 << 26},
}


async def run(job: Job) -> Result:
    rounds = job.of(job.rounds, ROUNDS, 2)
    share = min(1.0, (job.facts or IN_FLIGHT.tasks) / IN_FLIGHT.tasks) * min(1.0, job.scale * 10)
    amount = Amount(tasks=round(IN_FLIGHT.tasks * share), workflows=round(IN_FLIGHT.workflows * share))
    result = Result(rounds=rounds, volume={"tasks in flight": amount.tasks, "workflows in flight": amount.workflows})
    with folder(job, "tasks-cluster") as home:
        async with NatsCluster(home / "nats") as cluster:
            await cluster.apply(**_STREAMS)
            await cluster.until_whole()
            told = crew.Job(urls=cluster.urls, tenant=TENANT, folder=str(home))
            async with Siege.of(cluster, told, home / "crew.log") as siege, connected(cluster.urls) as c:
                load = Load(c, amount, job.seed)
                await load.full(180)
                await _rounds(job, result, cluster, siege, load)
                await finish(result, load)
                result.volume |= {f"kills_{victim}": count for victim, count in sorted(siege.kills.items())}
            await verdict(result, load, cluster.urls, None, home)
    return result


async def _rounds(job: Job, result: Result, cluster: NatsCluster, siege: Siege, load: Load) -> None:
    rng = rng_of(job, "kills")
    async with await cluster.connect("siege") as conn:
        started = time.monotonic()
        for i in range(result.rounds):
            if job.is_over(started):
                result.rounds = i
                return
            others = [Kill(victim, rng.uniform(0.0, 2.0), rng.uniform(0.0, 1.0)) for victim in ("worker", "server")]
            before, away_s = load.ended, rng.uniform(1.0, 8.0)
            leader = await cluster.leader(conn, "EVENTS")
            cluster.kill(leader)
            siege.kills["leader"] += 1
            await asyncio.gather(siege.round(others if i % 2 else []), asyncio.sleep(away_s))
            await cluster.restart(leader)
            try:
                await cluster.until_whole()
            except NotWhole as exc:
                result.found("broken", f"round {i}: {exc}")
                return
            if not await probed(result, load, f"round {i}"):
                return
            say(f"round {i + 1}/{result.rounds}: leader away {away_s:.1f} s; every partition ran"
                f" {result.catch_up_s[-1]:.2f} s after the cluster was whole; {load.ended - before:,} ended meanwhile,"
                f" {load.ended:,} in all")  # fmt: skip
            await asyncio.sleep(rng.uniform(0.1, 1.0))
