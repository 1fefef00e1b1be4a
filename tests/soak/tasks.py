"""kill -9 of workers, deciders and NATS, and a database that is away now and then, with thousands of tasks in flight.

5,000 tasks and 500 workflows (a fan-out of two, then two steps) are in flight at any time; what ends is
replaced.  A round kills workers, one of two processes that decide, and the broker, within a second of each other in
an order of the seed's.  Besides, the database is killed every 5 to 40 s and away for up to 10: nobody
but the projectors may notice.  Once everybody is back, tasks and workflows of every partition are submitted,
and the clock runs until all of them have ended.

At the end the broker is killed once more, when all work has ended, and no handler may hear of any of it.  Then
the log is read, and held against what submitters were told, what workers began, and the tables.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

import coord
from coord.bus.connection import Connection, NatsConfig
from coord.telemetry.metrics import Metrics
from tests.soak.harness import Finding, Job, Result, Scenario, folder, percentile, rng_of, say
from tests.soak.stack import LOSES_MUCH, Checkpoints, Stack, behind
from tests.support import crew
from tests.support.siege import Outages, Siege, plan
from tests.support.taskload import Amount, Load
from tests.support.taskverdict import Log, compare_tables, judge

SCENARIO = Scenario(
    name="tasks",
    title="kill -9 of workers, deciders and NATS with tasks in flight, the database away 0-10 s every 5-40 s",
    bound_s=3600,
    rank=17,
)

ROUNDS = 100
IN_FLIGHT = Amount(tasks=5_000, workflows=500)
PROJECTORS = 2
PROBE_MAX_S = 60.0
"""Partitions that have not run anything for so long after everybody is back never will: a finding.  How long it took
is shown, and says as much about the machine: processes of Python start, and thousands of tasks are looked at again."""
_QUIET_S = 3.0
"""For so long workers listen after the last restart of the broker."""
_BEHIND_MAX_S = 120.0
_SOON_TOGETHER: dict[str, int | float] = {"GATHER_PAUSE_S": 0.5, "GATHER_PAUSE_MAX_S": 2.0}
"""What a round of seconds ends is begun again within it."""
TENANT = "siege"


async def run(job: Job) -> Result:
    return await besieged(job, "tasks", ROUNDS, IN_FLIGHT, alone=False)


async def besieged(job: Job, name: str, rounds: int, in_flight: Amount, *, alone: bool) -> Result:
    """`alone`: one process is all of coord, instead of two that decide and two that project."""
    rounds = job.of(job.rounds, rounds, 3)
    share = min(1.0, (job.facts or in_flight.tasks) / in_flight.tasks) * min(1.0, job.scale * 10)
    amount = Amount(tasks=round(in_flight.tasks * share), workflows=round(in_flight.workflows * share))
    result = Result(rounds=rounds, volume={"tasks in flight": amount.tasks, "workflows in flight": amount.workflows})
    with folder(job, name) as home:
        async with Stack.open(home, settings=LOSES_MUCH) as stack:
            for _ in range(0 if alone else PROJECTORS):
                await (await stack.projector()).ready(60)
            told = crew.Job(urls=(), tenant=TENANT, folder=str(home), database=stack.database_url)
            if alone:
                told = msgspec.structs.replace(told, everything=True, limits=_SOON_TOGETHER)
            servers = 1 if alone else 2
            log = home / "crew.log"
            async with (
                Siege.of(stack.nats, told, log, servers=servers) as siege,
                connected(siege.urls) as c,
            ):
                load = Load(c, amount, job.seed)
                await _rounds(job, result, stack, siege, load)
                await finish(result, load)
                result.volume |= {f"kills_{victim}": count for victim, count in sorted(siege.kills.items())}
                result.details["database_away_s"] = round(siege.database_away_s, 1)
                stack.nats.kill()
                await stack.nats.start()
                await c.connection.wait_connected(30)
                await load.last_word()
                await asyncio.sleep(_QUIET_S)
            await verdict(result, load, siege.urls, stack.database_url, home)
            if alone:
                result.details["rides"] = log.read_text(errors="replace").count("gathered.riding")
    return result


def connected(urls: tuple[str, ...]) -> contextlib.AbstractAsyncContextManager[coord.Coord]:
    """The submitter's connection."""
    nats = NatsConfig(urls=urls, ping_interval_s=1.0, reconnect_wait_s=0.1)
    return coord.connect(nats, tenant=TENANT, agent="boss", metrics=Metrics(CollectorRegistry()))


async def _rounds(job: Job, result: Result, stack: Stack, siege: Siege, load: Load) -> None:
    await load.full(120)
    started = time.monotonic()
    outages = asyncio.create_task(siege.without_database(stack.postgres, rng_of(job, "database"), Outages()))
    try:
        for i, kills in enumerate(plan(rng_of(job, "kills"), result.rounds)):
            if job.is_over(started):
                result.rounds = i
                break
            before, began = load.ended, time.monotonic()
            await siege.round(kills)
            what = "+".join(kill.victim for kill in kills)
            if not await probed(result, load, f"round {i}, {what}"):
                break
            took = time.monotonic() - began
            say(f"round {i + 1}/{result.rounds}: {what}; every partition ran {result.catch_up_s[-1]:.2f} s after all"
                f" were back; {load.ended - before:,} ended in {took:.1f} s, {load.ended:,} in all")  # fmt: skip
            await asyncio.sleep(rng_of(job, f"pause {i}").uniform(0.1, 1.0))
    finally:
        outages.cancel()
        await asyncio.gather(outages, return_exceptions=True)


async def probed(result: Result, load: Load, where: str) -> bool:
    """Whether every partition's tasks and workflows go from end to end; how long that takes is a catch-up."""
    took = await load.probe(PROBE_MAX_S)
    if took is None:
        result.found("stuck", f"{where}: not every partition goes on {PROBE_MAX_S:g} s after all were back")
        return False
    result.catch_up_s.append(round(took, 3))
    return True


async def finish(result: Result, load: Load) -> None:
    """All that is in flight ends."""
    left = await load.finish(180)
    if left:
        result.found("stuck", f"{left} tasks and workflows have not ended")
    for wrong in load.wrong:
        result.found("wrong", wrong)
    result.volume |= {"unsure": sum(load.unsure.values())}
    result.details |= {"catch_up_p50_s": round(percentile(result.catch_up_s, 0.5), 3), "unsure": dict(load.unsure)}
    say(f"{load.ended:,} ended; comparing")


async def verdict(result: Result, load: Load, urls: tuple[str, ...], database_url: str | None, home: Path) -> None:
    """Read the log, and hold everything else against it."""
    async with await Connection.open(NatsConfig(urls=urls), name="verdict") as conn:
        log = await Log.read(conn, TENANT)
    findings = judge(log, load.ends, home)
    if database_url is not None:
        findings += await _tables(log, database_url)
    kinds = [kind for kind, _, _ in log.entities]
    result.volume |= {"tasks": kinds.count("task"), "workflows": kinds.count("workflow"), "facts": log.facts}
    result.volume["executions"] = sum(1 for _ in crew.began(home))
    result.add(findings)
    result.disordered = None


async def _tables(log: Log, url: str) -> list[Finding]:
    from tests.support.workload import connect

    checkpoints = Checkpoints(url)
    goal = {("EVENTS", p): seq for p, seq in log.last.items()}
    ends_at = time.monotonic() + _BEHIND_MAX_S
    while (at := await checkpoints.read()) is None or behind(at, goal):
        if time.monotonic() > ends_at:
            return [Finding("stuck", f"the tables are behind: {behind(at or {}, goal)}")]
        await asyncio.sleep(0.2)
    checkpoints.close()
    db = await connect(url)
    found = await compare_tables(db, TENANT, log)
    await db.close()
    return found
