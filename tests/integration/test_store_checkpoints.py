"""Checkpoints: of two that move one, exactly one commits."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import msgspec
import pytest

from coord import errors
from coord.core.checkpoint import Checkpoint
from coord.store import checkpoints, copy
from coord.store.pool import Pool
from tests.support import waiting
from tests.support.store import T0, advance, event

CREATED = T0 - timedelta(days=1)


async def create(pool: Pool, partition: int = 0, seq: int = 0) -> Checkpoint:
    async with pool.acquire() as conn:
        return await checkpoints.create(conn, stream="EVENTS", partition=partition, stream_created=CREATED, seq=seq)


async def read(pool: Pool, partition: int = 0) -> Checkpoint | None:
    async with pool.acquire() as conn:
        return await checkpoints.read(conn, "EVENTS", partition)


async def commit(pool: Pool, before: Checkpoint, seq: int) -> Checkpoint:
    """What a projector does: rows, then the checkpoint."""
    after = checkpoints.moved(before, seq=seq, stored_at=T0)
    async with pool.transaction() as conn:
        await copy.events(conn, [event(s) for s in range(before.seq + 1, seq + 1)])
        await advance(conn, before, after, pending=seq)
    return after


async def test_create_read_advance(pool: Pool) -> None:
    assert await read(pool) is None
    first = await create(pool, seq=41)
    assert first == Checkpoint(stream="EVENTS", partition=0, stream_created=CREATED, epoch=1, seq=41, stored_at=None)
    second = await commit(pool, first, 50)
    assert await read(pool) == second
    assert (second.seq, second.stored_at) == (50, T0)
    async with pool.acquire() as conn:
        lag = await conn.fetchrow("SELECT * FROM coord.v_projection_lag")
    assert lag is not None
    assert (lag["seq"], lag["pending"]) == (50, 50)
    assert lag["lag_seconds"] > 0
    assert 0 <= lag["silent_seconds"] < 60


async def test_whoever_creates_second_gets_the_first(pool: Pool) -> None:
    async with asyncio.timeout(60):
        made = await asyncio.gather(*(create(pool, seq=s) for s in range(8)))
    assert len(set(made)) == 1


async def test_confirming_its_place_moves_only_the_clock(pool: Pool) -> None:
    first = await create(pool, seq=5)

    async def updated_at() -> object:
        async with pool.acquire() as conn:
            return await conn.fetchval("SELECT updated_at FROM coord.checkpoint")

    before = await updated_at()
    async with pool.acquire() as conn:
        await advance(conn, first, first, pending=0)
    assert await read(pool) == first
    assert await updated_at() > before  # type: ignore[operator]


async def test_a_checkpoint_never_moves_back(pool: Pool) -> None:
    first = await create(pool, seq=5)
    with pytest.raises(AssertionError):
        checkpoints.moved(first, seq=4, stored_at=None)


@pytest.mark.parametrize("change", [{"seq": 4}, {"seq": 6}, {"epoch": 2}, {"partition": 1}, {"stream": "TELEMETRY"}])
async def test_a_wrong_belief_rolls_the_rows_back(pool: Pool, change: dict[str, object]) -> None:
    right = await create(pool, seq=5)
    wrong = msgspec.structs.replace(right, **change)
    with pytest.raises(errors.CheckpointMoved) as caught:
        await commit(pool, wrong, 9)
    assert caught.value.retryable
    assert await read(pool) == right
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM coord.event") == 0


async def test_of_two_at_once_exactly_one_commits(pool: Pool) -> None:
    """Both have written their rows before either moves the checkpoint: the worst case."""
    first = await create(pool)
    async with pool.acquire() as conn:  # the chunk is there already: making it would queue them up earlier
        await copy.events(conn, [event(0, agent="before")])
    ready = asyncio.Barrier(2)

    async def project(marker: str) -> str:
        after = checkpoints.moved(first, seq=10, stored_at=T0)
        async with pool.transaction() as conn:
            await copy.events(conn, [event(s, agent=marker) for s in range(1, 11)])
            await ready.wait()
            await advance(conn, first, after, pending=0)
        return marker

    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(project("one"), project("two"), return_exceptions=True)
    winners = [o for o in outcomes if isinstance(o, str)]
    losers = [o for o in outcomes if isinstance(o, BaseException)]
    assert len(winners) == 1
    assert [type(o) for o in losers] == [errors.CheckpointMoved]
    async with pool.acquire() as conn:
        rows = await conn.fetch("SELECT agent, count(*) FROM coord.event WHERE seq > 0 GROUP BY agent")
    assert [tuple(r) for r in rows] == [(winners[0], 10)]


async def test_the_loser_waits_for_the_winners_commit_and_no_longer(pool: Pool) -> None:
    """When the first one rolls back after all, the second one's move is the right one."""
    first = await create(pool)
    after = checkpoints.moved(first, seq=10, stored_at=T0)
    moved, give_up = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        async with pool.transaction() as conn:
            await advance(conn, first, after, pending=0)
            moved.set()
            await give_up.wait()
            raise errors.NotConnected

    async def waits() -> None:
        await moved.wait()
        await commit(pool, first, 3)

    async def is_waiting() -> bool:
        async with pool.acquire() as conn:
            return bool(
                await conn.fetchval(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            )

    async with asyncio.timeout(60):
        one, other = asyncio.create_task(fails()), asyncio.create_task(waits())
        await waiting.until(is_waiting)
        give_up.set()
        with pytest.raises(errors.NotConnected):
            await one
        await other
    final = await read(pool)
    assert final is not None
    assert final.seq == 3


async def test_many_projectors_at_random_leave_every_row_once(pool: Pool, rng: random.Random) -> None:
    """Six projectors that all believe the partition is theirs, with batches of random size."""
    end = 300
    await create(pool)
    moved = 0

    async def project() -> None:
        nonlocal moved
        while True:
            checkpoint = await read(pool)
            assert checkpoint is not None
            if checkpoint.seq >= end:
                return
            await asyncio.sleep(rng.random() / 500)
            try:
                await commit(pool, checkpoint, min(end, checkpoint.seq + rng.randrange(1, 20)))
            except errors.CheckpointMoved:
                moved += 1

    async with asyncio.timeout(60):
        await asyncio.gather(*(project() for _ in range(6)))
    async with pool.acquire() as conn:
        rows = [r[0] for r in await conn.fetch("SELECT seq FROM coord.event ORDER BY seq")]
    assert rows == list(range(1, end + 1))
    assert moved > 0, "nobody ever collided: the test proves nothing"


async def test_a_new_epoch_is_above_all_and_stops_whoever_is_at_work(pool: Pool) -> None:
    first, second = await create(pool, 0, seq=100), await create(pool, 1, seq=7)
    anew = T0 + timedelta(days=1)
    async with pool.acquire() as conn:
        one = await checkpoints.new_epoch(conn, "EVENTS", stream_created=CREATED, seq=120, partitions=[1])
        assert [(c.partition, c.epoch, c.seq) for c in one] == [(1, 2, 120)]
        everything = await checkpoints.new_epoch(conn, "EVENTS", stream_created=anew, seq=0)
        assert {(c.partition, c.epoch, c.seq, c.stream_created, c.stored_at) for c in everything} == {
            (0, 3, 0, anew, None),
            (1, 3, 0, anew, None),
        }
        assert await checkpoints.read_all(conn, "EVENTS") == sorted(everything, key=lambda c: c.partition)
        assert await checkpoints.read_all(conn, "TELEMETRY") == []
    for old in (first, second):
        with pytest.raises(errors.CheckpointMoved):
            await commit(pool, old, old.seq + 1)


async def test_refused_numbers_do_not_pass_for_an_outage(pool: Pool) -> None:
    first = await create(pool)
    with pytest.raises(errors.DatabaseRefused):
        async with pool.acquire() as conn:
            await advance(conn, first, first, pending=-1)
