"""The soak itself is tested: three bugs are planted, one by one, and its verdicts must find each.

A bug that is not found is this scenario's finding; what the scenarios found because of the bugs
stands in the details.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from tests.soak import kill_storm, stopped_owner
from tests.soak.harness import Job, Result, Scenario, say
from tests.support.planted import Bug

SCENARIO = Scenario(
    name="planted-bugs",
    title="a lost ack, an unguarded checkpoint, a swallowed batch: each planted, each found by the verdict",
    bound_s=420,
    rank=90,
)

EXPECTED: dict[Bug, tuple[Callable[[Job], Awaitable[Result]], str, int]] = {
    "lost_ack": (kill_storm.run, "lost", 4),
    "unguarded_checkpoint": (stopped_owner.run, "doubled", 6),
    "swallowed_batch": (kill_storm.run, "lost", 2),
}
"""Bug → the scenario that meets it, the kind of finding it must have, and rounds."""
_FACTS = 50_000


async def run(job: Job) -> Result:
    result = Result(rounds=len(EXPECTED))
    for bug, (scenario, kind, rounds) in EXPECTED.items():
        say(f"--- planted: {bug}")
        found = await scenario(msgspec.structs.replace(job, bug=bug, rounds=rounds, facts=_FACTS))
        counts = {k: sum(f.count for f in found.findings if f.kind == k) for k in {f.kind for f in found.findings}}
        result.details[bug] = counts
        result.volume["facts"] = result.volume.get("facts", 0) + found.volume.get("facts", 0)
        say(f"--- {bug}: {counts}")
        if kind not in counts:
            result.found("missed", f"{bug}: nothing {kind}, only {counts}")
    result.volume["bugs_found"] = len(EXPECTED) - len(result.findings)
    return result
