"""No space left on the volume of the log, then on the database's; and then there is again.

*The log's volume.*  Publishers must be told, with typed errors, and never be told "stored" for what
is not.  *The database's.*  The projector must wait; the log holds the backlog, and rollups that are moved on
meanwhile are told.  Once there is room, everything goes on, nothing acknowledged is missing, and every fact
is in the rollups once.

Whether a server itself needs a restart is measured and stands in the details: what this scenario
restarts is what an operator or systemd would have to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coord.bus.connection import Connection, NatsConfig
from coord.errors import BusError, CoordError
from coord.store import rollups
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from tests.soak.harness import Job, Result, Scenario, folder, say
from tests.soak.lag import STUCK_S, caught_up
from tests.soak.speakers import Speakers, Speech, speaking
from tests.soak.stack import Checkpoints, Stack
from tests.soak.verdict import judge
from tests.soak.volumes import NotAllowed, Volume, own_mounts

SCENARIO = Scenario(
    name="disk-full", title="no space left on the log's volume, then on the database's", bound_s=420, rank=30
)

_VOLUME_MIB = 1024
_LOG_LEFT_MIB, _DATABASE_LEFT_MIB = 6, 24
"""What somebody else's file leaves when it fills the volume."""
_STREAMS: dict[str, Any] = {
    name: {"max_bytes": mib * 2**20}
    for name, mib in {
        "EVENTS": 300,
        "TELEMETRY": 100,
        "DLQ": 50,
        "CURSORS": 10,
        "SNAPSHOTS": 20,
        "OBJ_PAYLOADS": 20,
    }.items()
}
"""The broker refuses streams that could not fit: it reckons with three quarters of the volume."""
_FULL_S = 60.0


async def run(job: Job) -> Result:
    result = Result(rounds=2)
    try:
        own_mounts()
    except NotAllowed as exc:
        result.skipped = str(exc)
        return result
    await _log_full(job, result)
    await _database_full(job, result)
    return result


# --- the log's volume --------------------------------------------------------------------


async def _log_full(job: Job, result: Result) -> None:
    with folder(job, "logfull") as home:
        volume = Volume(home / "nats" / "store", _VOLUME_MIB)
        try:
            async with Stack.open(home, **_STREAMS) as stack:
                await (await stack.projector()).ready(60)
                speech = _speech(job, stack, home, "logfull")
                async with speaking(speech, home / "speakers.log") as speakers:
                    await _fill_log(result, stack, volume, speakers)
                    await _finish(result, stack, speakers, speech, "log")
        finally:
            volume.close()


async def _fill_log(result: Result, stack: Stack, volume: Volume, speakers: Speakers) -> None:
    await speakers.until(5_000, 30)
    volume.fill(_LOG_LEFT_MIB)
    if not await stopped_moving(lambda: speakers.told.acked, quiet_s=2.0):
        result.found("roomy", "the log's volume never filled up")
        return
    full_at, acked = time.monotonic(), speakers.told.acked
    say(f"the log's volume is full after {acked:,} facts: {volume.free_mib:.1f} MiB free")
    # Long enough for publishers to be told: a refusal is tried again, silence for the deadline.
    await speakers.told_of_failure(timeout_s=45)
    told = speakers.told
    result.details["log_full"] = {
        "acked_before": acked,
        "told": told.failures,
        "told_after_s": round(time.monotonic() - full_at, 1),
        "broker": await _says(stack),
    }
    if not told.failures:
        result.found("untold", "publishers were told nothing while the log's volume was full")
    volume.make_room()
    by_itself = await speakers.until(speakers.told.acked + 2_000, 20)
    result.details["log_full"]["goes_on_by_itself"] = by_itself
    if not by_itself:
        say("the broker does not take up again by itself: restarting it")
        began = time.monotonic()
        await stack.nats.restart()
        if not await speakers.until(speakers.told.acked + 2_000, 30):
            result.found("stuck", "publishing does not go on after there is room and the broker was restarted")
        result.details["log_full"]["goes_on_after_restart_s"] = round(time.monotonic() - began, 2)


async def _says(stack: Stack) -> dict[str, str]:
    """What the broker answers to a publish, and about itself."""
    said = {}
    async with await Connection.open(NatsConfig(urls=(stack.nats_url,)), name="soak-look") as conn:
        try:
            await conn.api("INFO")
            said["jetstream"] = "enabled"
        except BusError as exc:
            said["jetstream"] = f"{exc.code}: {exc.message}"
        try:
            answer = await conn.request("coord.ev.probe.me.me.note.n.said", b"{}", timeout_s=5)
            said["publish"] = answer.data.decode()
        except CoordError as exc:
            said["publish"] = f"{exc.code}: {exc.message}"
    return said


# --- the database's volume ---------------------------------------------------------------


async def _database_full(job: Job, result: Result) -> None:
    with folder(job, "dbfull") as home:
        volume = Volume(home / "postgres", _VOLUME_MIB)
        try:
            async with Stack.open(
                home, settings={"max_wal_size": "48MB", "min_wal_size": "32MB"}, shared_buffers="48MB"
            ) as stack:
                projector = await stack.projector()
                await projector.ready(60)
                speech = _speech(job, stack, home, "dbfull")
                async with speaking(speech, home / "speakers.log") as speakers:
                    await _fill_database(result, stack, volume, speakers)
                    if not projector.owned and stack.postgres.pid is None:
                        result.found("dead", "the projector ended")
                    await _finish(result, stack, speakers, speech, "database")
                await _all_counted(result, stack)
        finally:
            volume.close()


async def _roll(stack: Stack) -> str | None:
    """Move the rollups on; the code of the error that ended it."""
    if stack.postgres.pid is None:
        return "PostgreSQL has ended itself"
    try:
        async with Pool(DatabaseConfig(url=stack.database_url, slow_query_ms=0)) as pool:
            await rollups.advance_all(pool, pause_s=0)
    except CoordError as exc:
        return exc.code
    return None


async def _all_counted(result: Result, stack: Stack) -> None:
    if (told := await _roll(stack)) is not None:
        result.found("unrolled", f"rollups do not move on although there is room: {told}")
    db = await stack.database()
    facts = await db.fetchval("SELECT count(*) FROM coord.event")
    counted = await db.fetchval("SELECT sum(facts)::bigint FROM coord.v_fact_rate_1h")
    await db.close()
    if facts != counted:
        result.found("miscounted", f"rollups have {counted} of {facts} facts")


async def _fill_database(result: Result, stack: Stack, volume: Volume, speakers: Speakers) -> None:
    checkpoints = Checkpoints(stack.database_url)
    await speakers.until(5_000, 30)
    volume.fill(_DATABASE_LEFT_MIB)
    progress = 0

    async def follow() -> None:
        nonlocal progress
        while True:
            at = await checkpoints.read()
            progress = sum(at.values()) if at else progress
            await asyncio.sleep(0.1)

    follower = asyncio.create_task(follow())
    try:
        if not await stopped_moving(lambda: progress, quiet_s=4.0):
            result.found("roomy", "the database's volume never filled up")
            return
        say(
            f"the database's volume is full: {volume.free_mib:.1f} MiB free, {speakers.told.acked:,} facts acknowledged"
        )
        acked = speakers.told.acked
        await speakers.until(acked + 20_000, 20)
        rolling = await _roll(stack)
        details: dict[str, Any] = {
            "rolling_told": rolling,
            "acked_while_full": speakers.told.acked - acked,
            "postgres_runs": stack.postgres.pid is not None,
        }
        if details["acked_while_full"] <= 0:
            result.found("coupled", "publishing stopped because the database had no room")
        volume.make_room()
        began = time.monotonic()
        if stack.postgres.pid is None:
            say("PostgreSQL has ended itself: starting it, as systemd would")
            await stack.postgres.start()
        took = await caught_up(speakers, checkpoints)
        if took is None:
            result.found("stuck", f"not caught up {STUCK_S:g} s after the database had room again")
        else:
            result.catch_up_s.append(round(time.monotonic() - began, 2))
        result.details["database_full"] = details
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        checkpoints.close()


# --- both --------------------------------------------------------------------------------


def _speech(job: Job, stack: Stack, home: Path, tenant: str) -> Speech:
    return Speech(
        url=stack.nats_url,
        tenant=tenant,
        seed=job.seed,
        records=str(home / "records"),
        per_s=15_000,
        notes=64,
        tasks=64,
    )


async def stopped_moving(value: Callable[[], int], quiet_s: float) -> bool:
    """Return once a number that moved has not for `quiet_s`; False when it still does after `_FULL_S`."""
    deadline, last, since = time.monotonic() + _FULL_S, 0, time.monotonic()
    while time.monotonic() < deadline:
        now = value()
        if now != last or now == 0:
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= quiet_s:
            return True
        await asyncio.sleep(0.05)
    return False


async def _finish(result: Result, stack: Stack, speakers: Speakers, speech: Speech, what: str) -> None:
    told = await speakers.finish()
    checkpoints = Checkpoints(stack.database_url)
    if await caught_up(speakers, checkpoints) is None:
        result.found("stuck", f"{what}: not everything acknowledged is in the tables")
    checkpoints.close()
    db = await stack.database()
    rows, findings = await judge(db, [speech])
    await db.close()
    result.add(findings)
    for name, count in {"facts": told.acked, "unsure": told.unsure, "rows": rows}.items():
        result.volume[name] = result.volume.get(name, 0) + count
