"""The faults of `tests.soak.tasks` against one process that is all of coord, whose deciders ride with its projector.

Its deciders are fed by the projector's consumer (`coord.bus.riding`), which stops for as long as the database is
away: nobody who waits for an outcome may notice.  That process, workers and the broker are killed, too.
"""

from __future__ import annotations

from tests.soak.harness import Job, Result, Scenario
from tests.soak.tasks import besieged
from tests.support.taskload import Amount

SCENARIO = Scenario(
    name="tasks-alone",
    title="the same against one process that is all of coord: a fact is delivered to it once",
    bound_s=1800,
    rank=18,
)

ROUNDS = 20
IN_FLIGHT = Amount(tasks=2_000, workflows=200)


async def run(job: Job) -> Result:
    return await besieged(job, "tasks-alone", ROUNDS, IN_FLIGHT, alone=True)
