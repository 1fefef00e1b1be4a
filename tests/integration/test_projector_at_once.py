"""Small transactions as one statement: the same tables as the long way makes, or nothing at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from coord import errors, limits
from coord.bus.pull import Delivery
from coord.core.checkpoint import Checkpoint
from coord.projector import at_once
from coord.projector.rows import Batch
from coord.store import checkpoints
from coord.store.rows import EventRow
from coord.wire import subjects
from tests.integration.test_entity_tables import history
from tests.integration.test_projector_joint import KEYS, Replica, create, settled
from tests.support.cluster import Database
from tests.support.waiting import until

TABLES = {
    "event": "seq",
    "task": "id",
    "workflow": "id",
    "outcome": "stored_at, run_s, status",
    "checkpoint": "partition",
    "dead_letter": "seq",
}
WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
"""
TASK = ("submitted", "claimed", "completed")
RECORDING = ("submitted", "claimed", "recorded", "recorded", "recorded", "completed")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each small transaction went the short way, as they come."""
    went: list[bool] = []
    real = at_once.write

    async def noting(*args: Any) -> bool:
        went.append(await real(*args))
        return went[-1]

    monkeypatch.setattr(at_once, "write", noting)
    return went


def of_task(event: str, id_: str, partition: int = 3, *, data: str = "{}") -> tuple[str, bytes]:
    """The message that says it of a task."""
    agent = "me" if event == "submitted" else "w1"
    detail = {"submitted": ("work", "normal"), "claimed": ("1",)}.get(event, ())
    return subjects.FactSubject("acme", agent, KEYS[partition], "task", id_, event, detail).stored, data.encode()


def of_flow(event: str, id_: str) -> tuple[str, bytes]:
    """The same of a workflow."""
    body = b'{"definition":{"name":"n","version":"1"},"input":{}}' if event == "started" else b"{}"
    return subjects.FactSubject("acme", "me", id_, "workflow", id_, event).stored, body


def as_said(row: EventRow) -> tuple[str, bytes]:
    """The message of which it is the row."""
    _, agent, _, kind, id_, event, detail = row[5:12]
    tokens = tuple(detail.split(".")) if detail else ()
    return subjects.FactSubject("acme", agent, KEYS[3], kind, id_, event, tokens).stored, (row[19] or "").encode()


async def write(replica: Replica, before: Checkpoint, said: list[tuple[str, bytes]]) -> Checkpoint:
    """As one transaction of one partition, with no anchor due."""
    batch = Batch("EVENTS", before.partition, before.epoch, before.digest)
    for seq, (subject, body) in enumerate(said, before.seq + 1):
        batch.add(Delivery(seq, 1_800_000_000_000_000_000 + seq * 1_000_000, subject, None, body))
    offer = replica.writer.offer(batch, before, anchored_at=asyncio.get_running_loop().time())
    (outcome,) = await settled([offer])
    if isinstance(outcome, BaseException):
        raise outcome
    after: Checkpoint = outcome.after
    return after


async def tables(db: Any) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for table, order in TABLES.items():
        rows = [dict(r) for r in await db.fetch(f"SELECT * FROM coord.{table} ORDER BY {order}")]
        for row in rows:
            for clock in ("projected_at", "updated_at", "dead_at"):
                row.pop(clock, None)
        found[table] = rows
    return found


async def test_what_is_wrong_by_itself_is_a_dead_letter_of_a_small_transaction_too(
    migrated_database: Database, short: list[bool]
) -> None:
    """Beside timers that are as they should be, which do not send it the long way."""
    bad = of_task("submitted", "bad", data='{"retries":"x"}')

    def timer(id_: str, body: bytes) -> tuple[str, bytes]:
        return subjects.FactSubject("acme", "me", KEYS[3], "timer", id_, "set").stored, body

    async with Replica(migrated_database.url, lanes=1) as replica:
        (mark,) = await create(replica.pool, [3])
        replica.go()
        mark = await write(replica, mark, [of_task("submitted", "good"), timer("t1", b'{"every_s":5}')])
        assert short == [True]
        mark = await write(replica, mark, [bad])
        await write(replica, mark, [timer("t2", b'{"cron":"x"}'), of_task("claimed", "good")])
        async with replica.pool.acquire() as db:
            found = await tables(db)
    assert [(row["seq"], row["code"]) for row in found["dead_letter"]] == [
        (3, "task.malformed"),
        (4, "timer.malformed"),
    ]
    assert [row["seq"] for row in found["event"]] == [1, 2, 5]
    assert [(row["id"], row["status"]) for row in found["task"]] == [("good", "claimed")]


async def test_both_ways_make_the_same_tables(
    migrated_database: Database, rng: random.Random, short: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = [as_said(row) for row in history(rng, ids=6, facts=80)]
    log += [of_task(event, f"n{number}") for number in range(30) for event in TASK]
    log += [of_task(event, f"r{number}", data='{"step":"a"}') for number in range(8) for event in RECORDING]
    flows = [key for key in map(str, range(400)) if subjects.partition(key) == 3]
    log += [
        of_flow(event, flows[at - back]) for at in range(2, 20) for event, back in (("started", 0), ("cancelled", 2))
    ]
    cuts = [rng.randrange(1, 9) for _ in log]
    made = []
    for rows_max in (limits.PROJECT_AT_ONCE_ROWS, 0):
        monkeypatch.setattr(limits, "PROJECT_AT_ONCE_ROWS", rows_max)
        async with Replica(migrated_database.url, lanes=1) as replica:
            async with replica.pool.acquire() as db:
                await db.execute(f"TRUNCATE {', '.join(f'coord.{table}' for table in TABLES)}")
            (mark,) = await create(replica.pool, [3])
            replica.go()
            start = 0
            for cut in cuts:
                if start < len(log):
                    mark = await write(replica, mark, log[start : start + cut])
                    start += cut
            async with replica.pool.acquire() as db:
                made.append(await tables(db))
        assert (sum(short) > 12) == bool(rows_max), short
        short.clear()
    assert made[0] == made[1]
    assert len(made[0]["outcome"]) >= 30 + 16
    assert len(made[0]["workflow"]) == 18
    assert sum(row["status"] == "cancelled" for row in made[0]["workflow"]) == 16


async def test_nothing_is_written_on_what_is_not_there(migrated_database: Database, short: list[bool]) -> None:
    """What was kept, or supposed, is not what the table has: that decides."""
    async with Replica(migrated_database.url, lanes=1) as replica, replica.pool.acquire() as db:
        (mark,) = await create(replica.pool, [3])
        replica.go()
        mark = await write(replica, mark, [of_task("submitted", id_) for id_ in ("moved", "other")])
        await db.execute("UPDATE coord.task SET seq = seq + 1000 WHERE id = 'moved'")
        mark = await write(replica, mark, [of_task("claimed", "moved")])
        assert await db.fetchval("SELECT seq FROM coord.task WHERE id = 'moved'") == 1001

        mark = await write(replica, mark, [of_task("submitted", "again"), *(of_task(event, "done") for event in TASK)])
        mark = await write(replica, mark, [of_task("submitted", "done", data='{"input":2}')])
        assert await db.fetchval("SELECT status FROM coord.task WHERE id = 'done'") == "completed"
        assert await db.fetchval("SELECT count(*) FROM coord.dead_letter") == 1

        mark = await write(replica, mark, [of_task("submitted", "gone-soon")])
        assert short == [True, False, True, False, True]
        await db.execute("DELETE FROM coord.task WHERE id = 'gone-soon'")
        mark = await write(replica, mark, [of_task("claimed", "gone-soon")])
        assert not await db.fetch("SELECT FROM coord.task WHERE id = 'gone-soon'")

        mark = await write(replica, mark, [of_task("claimed", "nobody-knows")])
        assert short[5:] == [False, False]  # nothing is to be written of it: only a transaction can look at that
        mark = await write(replica, mark, [of_task("submitted", "torn-now")])
        await db.execute(r"UPDATE coord.task SET fold = fold || '\xc0' WHERE id = 'torn-now'")
        facts = await db.fetchval("SELECT count(*) FROM coord.event")
        with pytest.raises(errors.CoordError, match="malformed"):  # the long way cannot read it
            await write(replica, mark, [of_task("claimed", "torn-now")])
        assert await db.fetchval("SELECT count(*) FROM coord.event") == facts
        assert short[7:] == [True, False]
        assert await db.fetchval("SELECT count(*) FROM coord.outcome") == 1


async def test_what_changes_no_row_is_looked_at_all_the_same(migrated_database: Database, short: list[bool]) -> None:
    """A step's record, alone: its row is written as it was, where it is what was kept."""
    step = of_task("recorded", "t", data='{"step":"a"}')
    async with Replica(migrated_database.url, lanes=1) as replica, replica.pool.acquire() as db:
        (mark,) = await create(replica.pool, [3])
        replica.go()
        mark = await write(replica, mark, [of_task("submitted", "t"), of_task("claimed", "t")])
        before = (await tables(db))["task"]
        mark = await write(replica, mark, [step])
        assert (await tables(db))["task"] == before
        assert short == [True, True]
        await db.execute("UPDATE coord.task SET seq = 0 WHERE id = 't'")
        mark = await write(replica, mark, [step])
        assert short[2:] == [False], "another row stands there"
        assert await db.fetchval("SELECT count(*) FROM coord.event WHERE event = 'recorded'") == 2


async def test_of_two_writers_one_commits(migrated_database: Database, short: list[bool]) -> None:
    """Both have read the same checkpoint; one waits for the other's rows, then finds that it has moved."""
    async with Replica(migrated_database.url) as one, Replica(migrated_database.url) as other:
        (mark,) = await create(one.pool, [3])
        one.go()
        other.go()
        for turn in range(8):
            said = [of_task(event, f"t{turn}") for event in TASK]
            ends = await asyncio.gather(*(write(r, mark, said) for r in (one, other)), return_exceptions=True)
            (lost,) = [end for end in ends if isinstance(end, BaseException)]
            assert isinstance(lost, errors.CheckpointMoved), lost
            (mark,) = [end for end in ends if isinstance(end, Checkpoint)]
        async with one.pool.acquire() as db:
            assert await db.fetchval("SELECT count(*) FROM coord.event") == 24
            assert await db.fetchval("SELECT count(*) FROM coord.outcome") == 8
            assert await checkpoints.read_all(db, "EVENTS") == [mark]
    assert short.count(True) == 8


async def test_who_is_late_waits_for_the_rows_and_takes_back_everything(
    migrated_database: Database, short: list[bool]
) -> None:
    """The other writer's transaction is open while the statement looks at the checkpoint, and commits under it."""
    async with Replica(migrated_database.url) as late, late.pool.acquire() as db, late.pool.acquire() as watch:
        (mark,) = await create(late.pool, [3])
        late.go()
        async with db.transaction():
            await db.execute("UPDATE coord.checkpoint SET seq = 1")
            writing = asyncio.create_task(write(late, mark, [of_task(event, "t") for event in TASK]))
            await until(lambda: watch.fetchval(WAITING))
        with pytest.raises(errors.CheckpointMoved):
            await writing
        assert short == [False]
        assert not await db.fetch("SELECT FROM coord.event")
        assert not await db.fetch("SELECT FROM coord.task")
        assert not await db.fetch("SELECT FROM coord.outcome")


async def test_what_waits_holds_no_checkpoint(migrated_database: Database, short: list[bool]) -> None:
    """As one that waits for a chunk of outcomes does."""
    async with Replica(migrated_database.url) as late, late.pool.acquire() as db, late.pool.acquire() as watch:
        (mark,) = await create(late.pool, [3])
        await db.execute("""
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN new; END';
            CREATE TRIGGER slow BEFORE INSERT ON coord.outcome FOR EACH ROW EXECUTE FUNCTION slow()
        """)
        late.go()
        async with db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock(7)")
            writing = asyncio.create_task(write(late, mark, [of_task(event, "t") for event in TASK]))
            await until(lambda: watch.fetchval(WAITING))
            assert await watch.fetch("SELECT FROM coord.checkpoint FOR UPDATE SKIP LOCKED")
        await writing
        assert short == [True]


async def test_a_row_that_is_refused_is_parked_as_ever(migrated_database: Database, short: list[bool]) -> None:
    async with Replica(migrated_database.url) as replica, replica.pool.acquire() as db:
        await db.execute("ALTER TABLE coord.event ADD CONSTRAINT no_evil CHECK (id <> 'evil')")
        (mark,) = await create(replica.pool, [3])
        replica.go()
        await write(replica, mark, [of_task("submitted", id_) for id_ in ("a", "evil", "b")])
        assert short[0] is False
        assert await db.fetchval("SELECT count(*) FROM coord.event") == 2
        assert await db.fetchval("SELECT seq FROM coord.dead_letter") == 2


def row_of(id_: str, *, open_: bool = True, fold: bytes = b"12345678") -> tuple[Any, ...]:
    row: list[Any] = ["acme", KEYS[3], id_, None, 1, 2, 0, fold, *[None] * 22]
    row[12] = None if open_ else 1.0
    return tuple(row)


def test_what_is_kept_is_open_and_bounded() -> None:
    size: Callable[[int], int] = lambda count: count * 508  # noqa: E731
    kept = at_once.Kept(size(3))
    kept.written("task", [row_of(id_) for id_ in "abc"])
    kept.written("task", [row_of("a"), row_of("b", open_=False), row_of("d"), row_of("e")])
    assert [kept.get("task", ("acme", KEYS[3], id_)) is not None for id_ in "abcde"] == [True, False, False, True, True]
    assert kept.get("task", ("acme", KEYS[3], "a")) == ((1, 2, 0), b"12345678")
    batch = Batch("EVENTS", 3, 1, 0)
    subject, body = of_task("claimed", "d")
    batch.add(Delivery(9, 1_800_000_000_000_000_000, subject, None, body))
    kept.forget([batch])
    assert (len(kept), kept.get("task", ("acme", KEYS[3], "d"))) == (2, None)
    kept.written("task", [row_of("f")])
    assert len(kept) == 3
