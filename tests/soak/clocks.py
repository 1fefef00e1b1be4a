"""Agents whose clocks are an hour or ten years off, beside one whose is right.

What they state is stored under the broker's time: no chunk lies in another year, order per key is
the log's, and what each agent believed the time to be is kept in `occurred_at`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from tests.soak.harness import Job, Result, Scenario, folder, say
from tests.soak.lag import caught_up
from tests.soak.speakers import Speech, speaking
from tests.soak.stack import Checkpoints, Stack
from tests.soak.verdict import judge

SCENARIO = Scenario(name="clocks", title="agents' clocks an hour and ten years off, either way", bound_s=300, rank=40)

FACTS = 200_000
_YEARS = 10 * 365.25 * 86_400
SKEWS_S = {"right": 0.0, "hourahead": 3600.0, "hourbehind": -3600.0, "yearsahead": _YEARS, "yearsbehind": -_YEARS}
"""Tenant → how far its agents' clocks are ahead."""
_OFF_S = 120.0
"""How far a time may be from what was meant: the scenario's own length."""


async def run(job: Job) -> Result:
    facts = job.of(job.facts, FACTS, 1000) // len(SKEWS_S)
    result = Result(rounds=len(SKEWS_S))
    began = datetime.now(UTC)
    with folder(job, "clocks") as home:
        async with Stack.open(home) as stack:
            await (await stack.projector()).ready(60)
            checkpoints = Checkpoints(stack.database_url)
            for tenant, skew_s in SKEWS_S.items():
                await _state(job, result, stack, checkpoints, home, tenant, skew_s, facts)
            checkpoints.close()
            db = await stack.database()
            ended = datetime.now(UTC)
            for tenant, skew_s in SKEWS_S.items():
                speech = _speech(job, stack, home, tenant, skew_s, facts)
                rows, findings = await judge(db, [speech])
                result.add(findings)
                result.volume["rows"] = result.volume.get("rows", 0) + rows
                await _times(result, db, tenant, skew_s, began, ended)
            await _chunks(result, db, began, ended)
            await db.close()
    return result


def _speech(job: Job, stack: Stack, home: Path, tenant: str, skew_s: float, facts: int) -> Speech:
    return Speech(
        url=stack.nats_url, tenant=tenant, seed=job.seed, records=str(home / f"records-{tenant}"), per_s=0.0,
        notes=32, tasks=32, limit=facts, skew_s=skew_s,
    )  # fmt: skip


async def _state(
    job: Job,
    result: Result,
    stack: Stack,
    checkpoints: Checkpoints,
    home: Path,
    tenant: str,
    skew_s: float,
    facts: int,
) -> None:
    async with speaking(_speech(job, stack, home, tenant, skew_s, facts), home / "speakers.log") as speakers:
        if not await speakers.until(facts, 120):
            result.found("few", f"{tenant}: only {speakers.told.acked} of {facts} facts")
        told = await speakers.finish()
        if await caught_up(speakers, checkpoints) is None:
            result.found("stuck", f"{tenant}: not everything is in the tables")
    result.volume["facts"] = result.volume.get("facts", 0) + told.acked
    say(f"{tenant}: {told.acked:,} facts")


_TIMES = """
SELECT count(*) AS rows, min(stored_at) AS stored_from, max(stored_at) AS stored_to,
       min(occurred_at) AS occurred_from, max(occurred_at) AS occurred_to,
       max(abs(extract(epoch FROM occurred_at - stored_at) - $2)) AS off_s
FROM coord.event WHERE tenant = $1
"""


async def _times(
    result: Result,
    db: asyncpg.Connection[asyncpg.Record],
    tenant: str,
    skew_s: float,
    began: datetime,
    ended: datetime,
) -> None:
    found = await db.fetchrow(_TIMES, tenant, skew_s)
    assert found is not None
    result.details[tenant] = {
        name: value.isoformat(timespec="seconds") if isinstance(value, datetime) else round(float(value), 2)
        for name, value in found.items()
    }
    slack = timedelta(seconds=_OFF_S)
    if found["stored_from"] < began - slack or found["stored_to"] > ended + slack:
        result.found("stored", f"{tenant}: stored from {found['stored_from']} to {found['stored_to']}")
    if found["off_s"] > _OFF_S:
        result.found("occurred", f"{tenant}: occurred_at is up to {found['off_s']} s from what its agents' clocks said")


async def _chunks(result: Result, db: asyncpg.Connection[asyncpg.Record], began: datetime, ended: datetime) -> None:
    """No partition of a hypertable lies where an agent's wrong clock would have put it."""
    if not await db.fetchval("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'"):
        result.details["chunks"] = "no TimescaleDB: none"
        return
    chunks = await db.fetch(
        "SELECT hypertable_name, chunk_name, range_start, range_end FROM timescaledb_information.chunks"
        " WHERE hypertable_schema = 'coord'"
    )
    result.details["chunks"] = len(chunks)
    if not chunks:
        result.found("chunks", "there is no chunk at all")
    for chunk in chunks:
        if chunk["range_end"] < began or chunk["range_start"] > ended:
            result.found("chunk", f"{chunk['hypertable_name']}: {chunk['range_start']} to {chunk['range_end']}")
