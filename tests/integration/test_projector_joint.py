"""Transactions that several partitions share: what fails, fails alone, and nothing is there in part."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import asyncpg
import msgspec
import pytest
from asyncpg.transaction import Transaction
from prometheus_client import CollectorRegistry

from coord import errors
from coord.bus.pull import Delivery
from coord.core import chain
from coord.core.checkpoint import Checkpoint
from coord.projector.intake import Intake
from coord.projector.rows import Batch, Letter
from coord.projector.writer import Offer, Writer
from coord.runtime.bell import Bell
from coord.store import checkpoints, copy
from coord.store.config import DatabaseConfig
from coord.store.pool import PROJECTOR_SETTINGS, Pool
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from tests.support.intake import Breaking, Prefetched
from tests.support.waiting import until

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
FIVE = range(5)
KEYS = {subjects.partition(key): key for key in map(str, range(200))}


def stored(partition: int, kind: str = "note") -> str:
    """The subject of a message of that partition, as the stream has it."""
    return subjects.FactSubject("t", "a", KEYS[partition], kind, "n", "said").stored


class Queue:
    """A DLQ whose answers may be held back."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.told: list[Letter] = []

    async def publish(self, letters: Sequence[Letter]) -> None:
        if letters:
            await self.open.wait()
            self.told += letters


class Replica:
    """A writer and its lanes, on a pool of its own."""

    def __init__(self, url: str, *, lanes: int = 2, gap_s: float = 0.0) -> None:
        # We may stand still in a transaction for longer than the server lets one idle.
        config = DatabaseConfig(url=url, pool_min=1, pool_max=6, statement_timeout_s=120.0, idle_in_transaction_s=120.0)
        self.pool = Pool(config, settings=PROJECTOR_SETTINGS)
        self.queue = Queue()
        self.metrics = Metrics(CollectorRegistry())
        self.writer = Writer(self.pool, self.queue, self.metrics, writers=lanes, gap_s=gap_s)  # type: ignore[arg-type]
        self.lanes: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.pool.open()
        return self

    def go(self) -> None:
        """Take what waits from now on."""
        self.lanes = [asyncio.create_task(self.writer.run()) for _ in range(self.writer.writers)]

    async def halt(self) -> None:
        for lane in self.lanes:
            lane.cancel()
        if self.lanes:
            await asyncio.wait(self.lanes)

    async def __aexit__(self, *_: object) -> None:
        await self.halt()
        self.writer.close()
        await self.pool.close()

    def transactions(self) -> float:
        return self.metrics.registry.get_sample_value("coord_db_commit_rows_count") or 0.0


@pytest.fixture
async def replica(migrated_database: Any) -> AsyncIterator[Replica]:
    async with Replica(migrated_database.url) as made:
        yield made


@pytest.fixture
async def db(migrated_database: Any) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(migrated_database.url)
    yield connection
    await connection.close()


async def create(pool: Pool, partitions: Sequence[int] = FIVE) -> list[Checkpoint]:
    async with pool.acquire() as conn:
        return [
            await checkpoints.create(conn, stream="EVENTS", partition=p, stream_created=CREATED, seq=0)
            for p in partitions
        ]


def batch_of(before: Checkpoint, rows: int, *, evil: int | None = None, poison: bool = False) -> Batch:
    """The next `rows` messages of a partition; sequences are its own, as if it had a stream to itself."""
    batch = Batch("EVENTS", before.partition, before.epoch, before.digest)
    for seq in range(before.seq + 1, before.seq + rows + 1):
        kind = "evil" if seq - before.seq == evil else "note"
        body = b"\xff" if poison else b"{}"
        batch.add(Delivery(seq, time.time_ns(), stored(before.partition, kind), None, body))
    return batch


async def rows_of(db: Any) -> dict[int, int]:
    found = await db.fetch("SELECT partition, count(*) FROM coord.event GROUP BY 1")
    return {r[0]: r[1] for r in found}


async def settled(offers: Sequence[Offer]) -> list[Any]:
    async with asyncio.timeout(120):
        return await asyncio.gather(*(offer.settled for offer in offers), return_exceptions=True)


async def test_what_waits_is_one_transaction(replica: Replica, db: Any) -> None:
    marks = await create(replica.pool)
    offers = [replica.writer.offer(batch_of(mark, 10 + mark.partition), mark) for mark in marks]
    replica.go()
    moves = await settled(offers)
    assert [m.after.seq for m in moves] == [10, 11, 12, 13, 14]
    assert await db.fetchval("SELECT count(DISTINCT xmin::text) FROM coord.event") == 1
    assert await rows_of(db) == {p: 10 + p for p in FIVE}
    assert replica.transactions() == 1
    async with replica.pool.acquire() as conn:
        assert await checkpoints.read_all(conn, "EVENTS") == [m.after for m in moves]


async def test_facts_of_a_clock_that_was_set_back_mark_the_rollups(replica: Replica, db: Any) -> None:
    now = datetime.now(UTC).replace(second=30, microsecond=0)
    shown = now.replace(second=0)
    async with replica.pool.acquire() as conn:
        (mark,) = await create(replica.pool, [0])
        await conn.execute("UPDATE coord.checkpoint SET stored_at = $1", now)
        for name in ("fact_rate_1m", "fact_rate_1h"):
            await conn.execute("INSERT INTO coord.rollup (name, progress, shown) VALUES ($1, $2, $3)", name, now, shown)
    mark = msgspec.structs.replace(mark, stored_at=now)
    replica.go()
    told = []
    for back_s in (0.5, 2, 65, 3):  # the last one is later than what came before it
        batch = Batch("EVENTS", 0, mark.epoch, mark.digest)
        stored_ns = [int((now - timedelta(seconds=s)).timestamp()) * 10**9 for s in (back_s, 0.0)]
        for seq, at in enumerate(stored_ns, mark.seq + 1):
            batch.add(Delivery(seq, at, stored(0, "note"), None, b"{}"))
        (move,) = await settled([replica.writer.offer(batch, mark)])
        mark = move.after
        marks = dict(await db.fetch("SELECT name, shown FROM coord.rollup"))
        assert marks.pop("fact_rate_1h") == shown, "moved with the minutes, by whoever counts"
        told.append((shown - marks["fact_rate_1m"]).total_seconds())
    # A bucket before that of the oldest: what is open would not show it.
    assert told == [0, 60, 120, 120]


async def test_a_batch_grows_until_it_is_taken_and_not_after(replica: Replica, db: Any) -> None:
    (mark,) = await create(replica.pool, [0])
    batch = batch_of(mark, 3)
    offer = replica.writer.offer(batch, mark)
    batch.add(Delivery(4, time.time_ns(), stored(0), None, b"{}"))
    replica.go()
    await asyncio.wait_for(asyncio.shield(offer.taken), 120)
    (move,) = await settled([offer])
    assert (move.after.seq, move.after.messages) == (4, 4)
    assert await rows_of(db) == {0: 4}
    assert not replica.writer.withdraw(offer)


async def test_a_withdrawn_batch_is_not_written(replica: Replica, db: Any) -> None:
    marks = await create(replica.pool, [0, 1])
    offers = [replica.writer.offer(batch_of(mark, 3), mark) for mark in marks]
    assert replica.writer.withdraw(offers[0])
    replica.go()
    await settled(offers[1:])
    assert await rows_of(db) == {1: 3}
    assert offers[0].settled.cancelled()


@pytest.mark.parametrize("stale", [{0}, {2}, {1, 4}, {0, 1, 2, 3, 4}])
async def test_a_checkpoint_that_moved_fails_its_partition_alone(replica: Replica, db: Any, stale: set[int]) -> None:
    marks = await create(replica.pool)
    await db.execute("UPDATE coord.checkpoint SET seq = 7 WHERE partition = ANY ($1)", list(stale))
    offers = [replica.writer.offer(batch_of(mark, 10), mark) for mark in marks]
    replica.go()
    for mark, outcome in zip(marks, await settled(offers), strict=True):
        if mark.partition in stale:
            assert isinstance(outcome, errors.CheckpointMoved)
            assert outcome.details["partition"] == mark.partition
        else:
            assert outcome.after.seq == 10
    assert await rows_of(db) == {p: 10 for p in FIVE if p not in stale}
    seqs = await db.fetch("SELECT partition, seq FROM coord.checkpoint")
    assert {r[0]: r[1] for r in seqs} == {p: 7 if p in stale else 10 for p in FIVE}


async def test_a_refused_row_is_searched_in_its_own_batch(
    replica: Replica, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.execute("ALTER TABLE coord.event ADD CONSTRAINT no_evil CHECK (kind <> 'evil')")
    searched: list[int] = []
    park = Writer._park_refused

    async def noting(self: Writer, batch: Batch) -> None:
        searched.append(batch.partition)
        await park(self, batch)

    monkeypatch.setattr(Writer, "_park_refused", noting)
    marks = await create(replica.pool)
    offers = [replica.writer.offer(batch_of(m, 10, evil=4 if m.partition == 3 else None), m) for m in marks]
    replica.go()
    assert [m.after.seq for m in await settled(offers)] == [10] * 5
    assert searched == [3]
    assert await rows_of(db) == {0: 10, 1: 10, 2: 10, 3: 9, 4: 10}
    letters = await db.fetch("SELECT partition, seq, code FROM coord.dead_letter")
    assert [tuple(r) for r in letters] == [(3, 4, "store.refused")]
    assert [(x.row.partition, x.row.seq) for x in replica.queue.told] == [(3, 4)]


async def test_nobody_waits_for_a_batch_whose_letters_are_not_told(replica: Replica, db: Any) -> None:
    marks = await create(replica.pool)
    replica.queue.open.clear()
    offers = [replica.writer.offer(batch_of(m, 3, poison=m.partition == 1), m) for m in marks]
    replica.go()
    others = [offer for offer in offers if offer.before.partition != 1]
    assert [m.after.seq for m in await settled(others)] == [3] * 4
    assert not offers[1].settled.done()
    assert await db.fetchval("SELECT count(*) FROM coord.dead_letter") == 0
    replica.queue.open.set()
    (move,) = await settled([offers[1]])
    assert move.after.seq == 3
    assert await db.fetchval("SELECT count(*) FROM coord.dead_letter") == 3


@pytest.mark.parametrize("when", ["copied", "advanced"])
async def test_a_lane_cancelled_in_the_middle_leaves_nothing(
    replica: Replica, db: Any, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    marks = await create(replica.pool)
    reached = asyncio.Event()
    module, name = (copy, "events") if when == "copied" else (checkpoints, "advance_all")
    real = getattr(module, name)

    async def hanging(*args: Any) -> Any:
        found = await real(*args)
        reached.set()
        await asyncio.Event().wait()
        return found

    monkeypatch.setattr(module, name, hanging)
    offers = [replica.writer.offer(batch_of(mark, 10), mark) for mark in marks]
    replica.go()
    await asyncio.wait_for(reached.wait(), 120)
    await replica.halt()
    outcomes = await settled(offers)
    assert all(isinstance(o, errors.DatabaseUnavailable) and o.retryable for o in outcomes)
    monkeypatch.setattr(module, name, real)
    assert await rows_of(db) == {}
    again = [replica.writer.offer(batch_of(mark, 10), mark) for mark in marks]
    replica.go()
    assert [m.after.seq for m in await settled(again)] == [10] * 5


@pytest.mark.parametrize("heard", [False, True])
async def test_a_connection_cut_during_commit_is_all_or_nothing(
    replica: Replica, db: Any, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """`heard`: the server got the COMMIT, and only its answer was lost."""
    marks = await create(replica.pool)
    commit = Transaction.commit

    async def cut(self: Any) -> None:
        if heard:
            await commit(self)
        self._connection.terminate()
        await self._connection.fetchval("SELECT 1")

    monkeypatch.setattr(Transaction, "commit", cut)
    offers = [replica.writer.offer(batch_of(mark, 10), mark) for mark in marks]
    replica.go()
    outcomes = await settled(offers)
    assert all(isinstance(o, errors.StoreError) and o.retryable for o in outcomes), outcomes
    monkeypatch.setattr(Transaction, "commit", commit)

    async def ended() -> bool:
        return not await db.fetchval("SELECT count(*) FROM pg_locks WHERE relation = 'coord.checkpoint'::regclass"
                                     " AND pid <> pg_backend_pid()")  # fmt: skip

    await until(ended)
    async with replica.pool.acquire() as conn:
        now = await checkpoints.read_all(conn, "EVENTS")
    assert {mark.seq for mark in now} == {10 if heard else 0}
    assert await rows_of(db) == (dict.fromkeys(FIVE, 10) if heard else {})
    rest = [replica.writer.offer(batch_of(mark, 5), mark) for mark in now]
    assert {m.after.seq for m in await settled(rest)} == {15 if heard else 5}


async def test_a_database_that_is_away_fails_all_retryably(replica: Replica, db: Any) -> None:
    marks = await create(replica.pool)
    await db.execute("ALTER TABLE coord.event RENAME TO elsewhere")
    offers = [replica.writer.offer(batch_of(mark, 2), mark) for mark in marks]
    replica.go()
    outcomes = await settled(offers)
    assert all(isinstance(o, errors.DatabaseNotReady) for o in outcomes)
    await db.execute("ALTER TABLE coord.elsewhere RENAME TO event")
    again = [replica.writer.offer(batch_of(mark, 2), mark) for mark in marks]
    assert [m.after.seq for m in await settled(again)] == [2] * 5


async def test_a_defect_fails_what_it_met_and_the_lane_lives(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = await create(replica.pool)
    real = copy.events

    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(copy, "events", broken)
    replica.go()
    outcomes = await settled([replica.writer.offer(batch_of(mark, 2), mark) for mark in marks])
    assert all(type(o) is errors.CoordError for o in outcomes)
    monkeypatch.setattr(copy, "events", real)
    moves = await settled([replica.writer.offer(batch_of(mark, 2), mark) for mark in marks])
    assert [m.after.seq for m in moves] == [2] * 5


async def test_two_replicas_that_fight_leave_every_row_once_and_the_chain_whole(
    migrated_database: Any, db: Any, rng: random.Random
) -> None:
    """Both believe that all partitions are theirs; joint transactions overlap at random."""
    url, goal = migrated_database.url, 120
    moved = 0
    async with Replica(url, gap_s=0.001) as one, Replica(url, gap_s=0.001) as two:
        await create(one.pool)

        async def own(side: Replica, partition: int) -> None:
            nonlocal moved
            while True:
                async with side.pool.acquire() as conn:
                    mark = await checkpoints.read(conn, "EVENTS", partition)
                assert mark is not None
                while mark.seq < goal:
                    rows = min(rng.randint(1, 9), goal - mark.seq)
                    offer = side.writer.offer(batch_of(mark, rows), mark)
                    try:
                        mark = (await asyncio.wait_for(offer.settled, 120)).after
                    except errors.CheckpointMoved:
                        moved += 1
                        break
                    await asyncio.sleep(rng.random() * 0.004)
                else:
                    return

        one.go()
        two.go()
        async with asyncio.timeout(120):
            await asyncio.gather(*(own(side, p) for side in (one, two) for p in FIVE))
        joint = {n: s.transactions() for n, s in (("one", one), ("two", two))}
        print("moved", moved, "transactions", joint)
        async with one.pool.acquire() as conn:
            final = await checkpoints.read_all(conn, "EVENTS")
    assert moved > 0, "they never met"
    places = await db.fetch("SELECT partition, seq, count(*) FROM coord.event GROUP BY 1, 2")
    assert all(r[2] == 1 for r in places)
    assert len(places) == goal * len(FIVE)
    for mark in final:
        digest = chain.EMPTY
        for seq in range(1, goal + 1):
            digest = chain.extend(digest, seq, stored(mark.partition), None, b"{}")
        assert (mark.digest, mark.messages) == (digest, goal)


async def test_anchors_are_written_with_the_rows(replica: Replica, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from coord import limits

    monkeypatch.setattr(limits, "ANCHOR_MESSAGES", 25)
    (mark,) = await create(replica.pool, [2])
    replica.go()
    now = asyncio.get_running_loop().time()
    anchored = 0
    for _ in range(6):
        offer = replica.writer.offer(batch_of(mark, 10), mark, anchored_messages=anchored, anchored_at=now)
        (move,) = await settled([offer])
        mark = move.after
        anchored = mark.messages if move.anchor else anchored
    rows = await db.fetch("SELECT seq, messages, digest FROM coord.audit_anchor WHERE partition = 2 ORDER BY seq")
    assert [r["seq"] for r in rows] == [0, 30, 60]
    assert [r["messages"] for r in rows] == [0, 30, 60]
    assert rows[-1]["digest"] == mark.digest
    gone = checkpoints.moved(mark, seq=100, stored_at=None)
    await replica.writer.pass_gap(mark, gone)
    rows = await db.fetch("SELECT seq, messages, digest FROM coord.audit_anchor WHERE partition = 2 ORDER BY seq")
    assert [tuple(r) for r in rows[-2:]] == [(60, 60, mark.digest), (100, 60, mark.digest)]
    with pytest.raises(errors.CheckpointMoved):
        await replica.writer.pass_gap(mark, gone)
    async with replica.pool.acquire() as conn:
        (opened,) = await checkpoints.new_epoch(conn, "EVENTS", stream_created=CREATED, seq=100)
    assert (opened.digest, opened.messages) == (0, 0)
    first = await db.fetchrow("SELECT epoch, seq, messages, digest FROM coord.audit_anchor ORDER BY epoch DESC LIMIT 1")
    assert tuple(first) == (2, 100, 0, 0)


async def test_a_defect_while_a_waiting_batch_grows_is_not_committed_in_part(replica: Replica, db: Any) -> None:
    (mark,) = await create(replica.pool, [0])
    messages = [Delivery(seq, time.time_ns(), stored(0), None, b"{}") for seq in (1, 2, 3)]
    digest = mark.digest
    for one in messages:
        digest = chain.extend(digest, one.seq, one.subject, one.raw_headers, one.data)

    def session(before: Checkpoint, source: Prefetched, readings: Any) -> Intake:
        return Intake(
            source, replica.writer, before, Bell(), readings=readings, received=lambda _: None,
            committed=lambda *_: None,
        )  # fmt: skip

    first = Prefetched(messages[:1])
    intake = session(mark, first, Breaking(3))
    intake.turn()  # offered, and no lane is free
    first.buffer += messages[1:]
    intake.turn()
    replica.go()
    await asyncio.sleep(0)  # a lane is sooner than the session
    with pytest.raises(errors.CoordError, match="a defect"):
        intake.check()
    await intake.end()
    async with replica.pool.acquire() as conn:
        (now,) = await checkpoints.read_all(conn, "EVENTS")
    intake = session(now, Prefetched([m for m in messages if m.seq > now.seq]), None)
    intake.wake()
    await until(lambda: intake.checkpoint.seq == 3)
    assert [row[0] for row in await db.fetch("SELECT seq FROM coord.event ORDER BY seq")] == [1, 2, 3]
    assert (intake.checkpoint.messages, intake.checkpoint.digest) == (3, digest)
