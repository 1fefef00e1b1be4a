"""A stream that is not the checkpoint's any more: the partition stops, says why, and waits for an operator.

The other stream goes on, and what was acknowledged by the new stream is projected after the decision.
"""

from __future__ import annotations

import random
import shutil
from datetime import datetime
from typing import Any

from coord import errors
from coord.bus.connection import Connection
from coord.ops import projection
from coord.projector.service import ProjectorService
from coord.store import checkpoints
from tests.support.store import pool_of
from tests.support.streams import apply_topology, back_up, restore
from tests.support.waiting import until
from tests.support.workload import Row, Workload, connect, read_rows, verify


async def state_of(conn: Connection, stream: str) -> dict[str, Any]:
    return dict(await conn.api(f"STREAM.INFO.{stream}"))


async def created(conn: Connection, stream: str) -> datetime:
    """When the stream was made, as a checkpoint has it."""
    return datetime.fromisoformat((await state_of(conn, stream))["created"])


async def projected(nats_url: str, url: str, rng: random.Random, acks: int) -> tuple[Workload, list[Row]]:
    """State so many messages and wait until they are in the tables; the workload and its rows."""
    async with Workload(nats_url, rng) as load:
        await load.until(acks)
        await load.stop()
        return load, await verify(url, load)


async def decide(conn: Connection, url: str, stream: str, *, seq: int = 0) -> None:
    """The operator: go on with the stream as it is, behind `seq`."""
    db = await connect(url)
    await checkpoints.new_epoch(db, stream, stream_created=await created(conn, stream), seq=seq)
    await db.close()


async def stopped(service: ProjectorService, stream: str, kind: type[errors.ProjectionStopped]) -> None:
    """Wait until every partition of `stream` is stopped for this reason."""

    def all_stopped() -> bool:
        return all(p.state == "stopped" and isinstance(p.error, kind) for p in service.partitions if p.stream == stream)

    await until(all_stopped)
    shown = [e for e in service.health()["errors"] if e["stream"] == stream]
    assert {e["code"] for e in shown} == {kind.code}
    assert all(e["remedy"] and e["message"] for e in shown)
    assert not service.ready


async def test_made_anew_under_a_running_projector(
    nats, conn, migrated_database, projector, rng: random.Random
) -> None:
    url = migrated_database.url
    service = await projector(url)
    before, rows_before = await projected(nats.url, url, rng, 300)
    await conn.api("STREAM.DELETE.EVENTS")
    await apply_topology(conn)
    async with Workload(nats.url, rng) as after:
        after.epochs["EVENTS"] = 2
        await after.until(300)
        await stopped(service, "EVENTS", errors.StreamReplaced)
        await after.stop()
        db = await connect(url)

        async def samples() -> bool:
            rows = await read_rows(db, after.tenant)
            assert not [r for r in rows if r.stream == "EVENTS"], "projected from a stream that nobody has accepted"
            return len(rows) == len([e for e in after.acked if e.stream == "TELEMETRY"])

        await until(samples, every_s=0.1)  # the other stream is not concerned
        await db.close()
        await decide(conn, url, "EVENTS")
        await verify(url, after)
    assert await verify(url, before) == rows_before
    await service.wait_ready(100)


async def test_restored_from_a_copy_nothing_is_twice_and_nothing_lost(
    nats, conn, migrated_database, projector, rng: random.Random
) -> None:
    """By `nats stream restore`, which makes a stream anew of what the old one held; here without the last of it."""
    url = migrated_database.url
    service = await projector(url)
    before, rows_before = await projected(nats.url, url, rng, 300)
    copy = await back_up(conn, "EVENTS")
    late, rows_late = await projected(nats.url, url, rng, 100)
    await service.stop()
    await conn.api("STREAM.DELETE.EVENTS")
    await restore(conn, "EVENTS", copy)
    service = await projector(url)
    async with Workload(nats.url, rng) as after:  # agents do not wait for the operator
        after.epochs["EVENTS"] = 2
        await after.until(100)
        await stopped(service, "EVENTS", errors.StreamReplaced)
        async with pool_of(url) as pool:
            plan = await projection.plan_new_epoch(conn, pool, "EVENTS", None)
            assert (plan.replaced, set(plan.starts.values())) == (frozenset(), {copy.said["state"]["last_seq"]})
            _, lost = await projection.new_epoch(pool, plan)
            assert not lost
        await after.until(200)
        await after.stop()
        await verify(url, after)
    assert [await verify(url, load) for load in (before, late)] == [rows_before, rows_late]
    await service.wait_ready(100)


async def test_the_store_was_wiped(nats, migrated_database, projector, rng: random.Random) -> None:
    """Everything the broker had is gone, and it begins again at sequence 1."""
    url = migrated_database.url
    service = await projector(url)
    before, rows_before = await projected(nats.url, url, rng, 300)
    nats.kill()
    shutil.rmtree(nats.folder / "store")
    await nats.start()
    async with await Connection.open(service._nats, name="operator", wait=True) as conn:
        await apply_topology(conn)
        for stream in ("EVENTS", "TELEMETRY"):
            await stopped(service, stream, errors.StreamReplaced)
        async with Workload(nats.url, rng) as after:
            after.epochs = {"EVENTS": 2, "TELEMETRY": 2}
            await after.until(200)
            for stream in ("EVENTS", "TELEMETRY"):
                await decide(conn, url, stream)
            await after.stop()
            await verify(url, after)
    assert await verify(url, before) == rows_before
    await service.wait_ready(100)


async def test_its_tail_is_lost_and_written_again(
    nats, migrated_database, projector, rng: random.Random, tmp_path
) -> None:
    """A restored backup: same stream, same creation time, other messages behind the checkpoint."""
    url = migrated_database.url
    service = await projector(url)
    await projected(nats.url, url, rng, 100)
    await nats.stop()
    shutil.copytree(nats.folder / "store", tmp_path / "backup")
    await nats.start()
    lost, rows = await projected(nats.url, url, rng, 100)
    assert rows
    nats.kill()
    shutil.rmtree(nats.folder / "store")
    shutil.move(tmp_path / "backup", nats.folder / "store")
    await nats.start()
    await stopped(service, "EVENTS", errors.StreamReplaced)
    async with Workload(nats.url, rng) as again:  # the same sequences, other facts
        await again.until(300)
        await again.stop()
        await service.partitions[0]._conn.flush()
        await stopped(service, "EVENTS", errors.StreamReplaced)
        async with await Connection.open(service._nats, name="operator") as conn:
            end = (await state_of(conn, "EVENTS"))["state"]["last_seq"]
            first = min(e.seq for e in again.acked if e.stream == "EVENTS")
            assert first <= max(e.seq for e in lost.acked if e.stream == "EVENTS") <= end, "nothing was overwritten"
            for stream in ("EVENTS", "TELEMETRY"):
                first = min(e.seq for e in again.acked if e.stream == stream)
                await decide(conn, url, stream, seq=first - 1)
        again.acked = [_in_epoch(e, 2) for e in again.acked]
        await verify(url, again)
    assert await verify(url, lost) == rows


async def test_the_window_has_passed_the_checkpoint(
    nats, conn, migrated_database, projector, rng: random.Random
) -> None:
    """EVENTS stops: facts are missing, and somebody must say that they are given up.  TELEMETRY counts and goes on."""
    url = migrated_database.url
    service = await projector(url)
    await projected(nats.url, url, rng, 300)
    await service.drain()
    await service.stop()
    async with Workload(nats.url, rng) as load:
        await load.until(800)
        await load.stop()
    first: dict[str, int] = {}
    for stream in ("EVENTS", "TELEMETRY"):
        seqs = sorted(e.seq for e in load.acked if e.stream == stream)
        first[stream] = seqs[len(seqs) // 3]
        await conn.api(f"STREAM.PURGE.{stream}", {"seq": first[stream]})
    passed = [e for e in load.acked if e.seq < first[e.stream]]
    load.acked = [e for e in load.acked if e.seq >= first[e.stream]]
    service = await projector(url, wait=False)
    await stopped(service, "EVENTS", errors.LogGap)
    gap = service.partitions[0].error
    assert gap is not None
    assert gap.details["first_seq"] == first["EVENTS"]
    db = await connect(url)
    samples = [e for e in load.acked if e.stream == "TELEMETRY"]

    async def all_there() -> bool:
        rows = await read_rows(db, load.tenant)
        assert not [r for r in rows if r.stream == "EVENTS"]
        return len(rows) == len(samples)

    await until(all_there, every_s=0.1)
    await db.close()
    shed = service.metrics.registry.get_sample_value("coord_projection_shed_messages_total", {"stream": "TELEMETRY"})
    lost = len({e.seq for e in passed if e.stream == "TELEMETRY"})
    assert shed is not None
    assert shed >= lost, "samples were shed and not counted"
    await decide(conn, url, "EVENTS", seq=first["EVENTS"] - 1)
    load.acked = [_in_epoch(e, 2) if e.stream == "EVENTS" else e for e in load.acked]
    await verify(url, load)
    await service.wait_ready(100)
    print(f"{len(passed)} entries passed by, {lost} messages of samples, counted as at most {shed}")


def _in_epoch(entry: Any, epoch: int) -> Any:
    import msgspec

    return msgspec.structs.replace(entry, epoch=epoch)
