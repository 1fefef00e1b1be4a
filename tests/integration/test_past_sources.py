"""Histories whose facts are in the archive, in the tables, in both, and in logs that were replaced."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coord import errors, limits
from coord.core.past import Point, sequence
from coord.ops.past import Judges, Past, Sources
from coord.ops.past import state as state_of
from coord.projector import entities
from coord.store import copy
from coord.store import entities as tables
from coord.store.archive import restore, run
from coord.store.config import ArchiveConfig
from coord.store.pool import Connection, Pool
from coord.store.rows import EventRow
from coord.wire import subjects
from tests.support.archive import BEGIN, config
from tests.support.cluster import Database
from tests.support.store import event, pool_of

KEY = "t1"


@pytest.fixture
async def pool(either_database: Database) -> AsyncIterator[Pool]:
    async with pool_of(either_database.url) as opened:
        yield opened


def sources(pool: Pool, archive: ArchiveConfig | None = None) -> Sources:
    """Tables and archive; the broker is away."""

    @contextlib.asynccontextmanager
    async def reads() -> AsyncIterator[Pool]:
        yield pool

    def bus() -> Any:
        raise errors.NotConnected

    return Sources(reads, bus, archive or ArchiveConfig())


def fact(seq: int, name: str, data: Any = None, *, days: float, epoch: int = 1, **fields: Any) -> EventRow:
    text = msgspec.json.encode({} if data is None else data).decode()
    about = {"key": KEY, "id": KEY, "agent": "boss", "partition": subjects.partition(KEY), "detail": "", **fields}
    return event(seq, epoch=epoch, event=name, data=text, at=BEGIN + timedelta(days=days), **about)


def life() -> list[EventRow]:
    """A task that waits for days between its attempts."""
    facts = [fact(1, "submitted", {"retries": 9}, days=0, detail="work.normal")]
    for n in range(1, 6):
        facts.append(fact(10 * n, "claimed", days=2 * n, detail=str(n), agent=f"w{n}"))
        last = fact(10 * n + 1, "failed", {"error": f"E{n}"}, days=2 * n + 0.5, agent=f"w{n}")
        facts.append(last if n < 5 else fact(51, "completed", days=10.5, agent="w5"))
    return facts


async def project(pool: Pool, rows: list[EventRow]) -> None:
    """Into the tables, with the checkpoint behind the last of them."""
    async with pool.transaction() as conn:
        assert await entities.project(conn, [rows]) == [{}]
        await copy.events(conn, rows)
        await checkpoint(conn, rows[-1])


async def checkpoint(conn: Connection, row: EventRow) -> None:
    await conn.execute(
        "INSERT INTO coord.checkpoint (stream, partition, stream_created, seq, epoch, stored_at)"
        " VALUES ('EVENTS', $1, $2, $3, $4, $5) ON CONFLICT (stream, partition) DO UPDATE"
        " SET seq = excluded.seq, epoch = excluded.epoch, stored_at = excluded.stored_at",
        row[4], BEGIN, row[2], row[1], row[0],
    )  # fmt: skip


async def at(where: Sources, point: Point, *, kind: str = "task") -> tuple[dict[str, Any] | None, Past]:
    found = Past(where, "acme", KEY, point, kind=kind, id=KEY)
    judges = Judges(found)
    async with contextlib.aclosing(found.facts()) as facts:
        places = [judges.judge(said).said.place async for said in facts]
    assert places == sorted(set(places)), "in the order of the log, none twice"
    judges.end()
    judge = judges.get(kind, KEY)
    return (None if judge is None else state_of(judge)), found


def expected(rows: list[EventRow]) -> dict[str, Any]:
    judge = entities.Judge("task", ("acme", KEY, KEY))
    for row in rows:
        assert judge.apply(row[1], entities.fact_of(row)) is None
    return state_of(judge)


async def test_states_are_the_same_wherever_the_facts_are(pool: Pool, tmp_path: Path) -> None:
    facts = life()
    await project(pool, facts)
    here, everywhere = sources(pool), sources(pool, config(tmp_path))
    points = [Point(seq=row[2]) for row in facts]
    points += [Point(time=row[0]) for row in facts]
    wanted = [expected([r for r in facts if r[2] <= row[2]]) for row in (*facts, *facts)]
    for point, state in zip(points, wanted, strict=True):
        assert (await at(here, point))[0] == state
    latest, found = await at(here, Point(time=facts[-1][0] - timedelta(microseconds=1)))
    assert (latest, found.notes) == (wanted[len(facts) - 2], [])

    async def everything_said(where: Sources) -> Counter[str]:
        sources_: Counter[str] = Counter()
        for point, state in list(zip(points, wanted, strict=True))[2::9]:  # not all: it takes seconds
            told, found = await at(where, point)
            assert told == state, point
            sources_ += Counter({str(k): v for k, v in found.found.items()})
        return sources_

    # Written and verified, and still in the tables: those are preferred.
    await run.run(pool, config(tmp_path, drop_days=None, keep_days=None))
    assert set(await everything_said(everywhere)) == {"table"}
    # Those of the first days have left.
    async with pool.acquire() as conn:
        await conn.execute("UPDATE coord.checkpoint SET stored_at = $1", BEGIN + timedelta(days=20))
    await run.run(pool, config(tmp_path, drop_days=14))
    assert set(await everything_said(everywhere)) == {"table", "archive"}
    # All have.
    await run.run(pool, config(tmp_path))
    assert set(await everything_said(everywhere)) == {"archive"}
    missing, found = await at(here, points[-1])
    assert missing is None
    assert "Facts may be in the archive, and archive.url does not say where that is." in found.notes
    # Some came back.
    await restore.restore(
        pool, config(tmp_path), since=BEGIN, until=BEGIN + timedelta(days=4), keep=timedelta(days=400_000)
    )
    assert set(await everything_said(everywhere)) == {"table", "archive"}


async def test_chunks_that_are_dropped_meanwhile_are_in_it(pool: Pool, tmp_path: Path) -> None:
    facts = life()
    await project(pool, facts)
    await run.run(pool, config(tmp_path, drop_days=None, keep_days=None))
    async with pool.acquire() as conn:
        await conn.execute("UPDATE coord.checkpoint SET stored_at = $1", BEGIN + timedelta(days=20))
    found = Past(sources(pool, config(tmp_path)), "acme", KEY, Point(seq=51), kind="task", id=KEY)
    dropping: asyncio.Task[Any] | None = None
    places = []
    async with contextlib.aclosing(found.facts()) as reading:
        async for said in reading:
            places.append(said.place)
            if dropping is None:
                dropping = asyncio.create_task(run.run(pool, config(tmp_path)))
                await asyncio.sleep(0.2)  # it may get as far as it can, or not: the history is whole either way
    assert places == [row[1:4] for row in facts]
    assert dropping is not None
    await dropping


async def test_an_agents_status_is_read_from_the_archive_where_the_tables_have_none(pool: Pool, tmp_path: Path) -> None:
    about: dict[str, Any] = {"kind": "agent", "agent": KEY}
    said = [fact(n, "status", {"load": n}, days=n / 10, **about) for n in range(1, 20)]
    await project(pool, [*said, fact(20, "submitted", days=15, detail="work.normal", key="other", id="other")])
    points = [Point(seq=7), Point(time=BEGIN + timedelta(days=1.25)), Point()]
    for archived in (False, True):
        if archived:
            await run.run(pool, config(tmp_path))
        for point, load in zip(points, (7, 12, 19), strict=True):
            found = Past(sources(pool, config(tmp_path)), "acme", KEY, point, kind="agent", id=KEY)
            fold, facts = await found.status()
            assert fold.state == {"load": load}
            assert facts[-1].source == ("archive" if archived else "table")


async def test_an_agents_status_is_found_behind_many_newer_ones(migrated_database: Database) -> None:
    about: dict[str, Any] = {"kind": "agent", "agent": KEY}
    newest = 4 * limits.STATUS_WHOLE_EVERY
    said = [fact(n, "status", {"load": n}, days=n / 1000, **about) for n in range(1, newest + 1)]
    async with pool_of(migrated_database.url) as pool:
        await project(pool, said)
        for point in (Point(seq=3), Point(seq=3, epoch=1), Point(time=said[2][0])):
            found = Past(sources(pool), "acme", KEY, point, kind="agent", id=KEY)
            assert (await found.status())[0].state == {"load": 3}


async def test_a_damaged_file_is_named_and_no_state_is_made_without_it(pool: Pool, tmp_path: Path) -> None:
    await project(pool, life())
    await run.run(pool, config(tmp_path))
    path = min(tmp_path.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises((errors.ArchiveCorrupted, errors.ArchiveUnavailable)) as caught:
        await at(sources(pool, config(tmp_path)), Point(seq=51))
    assert path.name in str(caught.value)


async def test_what_was_open_in_a_log_that_was_replaced_is_lost_until_it_begins_again(
    migrated_database: Database,
) -> None:
    first = life()[:2]
    again = fact(1, "submitted", {"retries": 9}, days=30, epoch=2, detail="work.normal")
    done = [
        again,
        fact(2, "claimed", days=31, epoch=2, detail="1", agent="w9"),
        fact(3, "completed", days=32, epoch=2, agent="w9"),
    ]
    async with pool_of(migrated_database.url) as pool:
        await project(pool, first)
        async with pool.acquire() as conn:
            await tables.lose(conn, lambda _: True)
            await conn.execute(
                "INSERT INTO coord.epoch (stream, partition, epoch, stream_created, seq, replaced, opened_at)"
                " VALUES ('EVENTS', $1, 2, $2, 0, true, $2)",
                subjects.partition(KEY), BEGIN + timedelta(days=20),
            )  # fmt: skip
        await project(pool, done)

        async def status(point: str | None, days: float | None = None) -> tuple[str, str | None]:
            given = sequence(point) if point else Point(time=BEGIN + timedelta(days=days or 0))
            assert given is not None
            state, _ = await at(sources(pool), given)
            assert state is not None
            return state["status"], state["claimant"]

        assert await status("1:10") == await status(None, 19) == ("claimed", "w1")
        assert await status(None, 21) == ("lost", "w1")
        assert await status("2:1") == await status(None, 30.5) == ("queued", None)
        assert await status("2") == ("claimed", "w9"), "of the newest epoch"
        assert await status(None, 40) == ("completed", "w9")
        async with pool.acquire() as conn:
            row = await conn.fetchrow("SELECT status, claimant FROM coord.task WHERE id = $1", KEY)
        assert row is not None
        assert tuple(row) == ("completed", "w9"), "as the tables have it"


async def test_where_the_brokers_clock_stepped_back_the_order_of_the_log_wins(migrated_database: Database) -> None:
    step = -limits.CLOCK_STEP.total_seconds() / 86_400 / 2
    rows = [
        fact(1, "submitted", days=0, detail="work.normal"),
        fact(2, "claimed", days=1, detail="1", agent="w1"),
        fact(3, "completed", days=1 + step, agent="w1"),
    ]
    async with pool_of(migrated_database.url) as pool:
        await project(pool, rows)
        between = Point(time=BEGIN + timedelta(days=1 + step / 2))
        state, _ = await at(sources(pool), between)
        assert state is not None
        assert state["status"] == "queued", "the claim came before the outcome, and was stored later than that"
        state, _ = await at(sources(pool), Point(time=rows[1][0]))
        assert state is not None
        assert state["status"] == "completed"


async def test_what_cannot_be_asked_is_said(migrated_database: Database) -> None:
    async with pool_of(migrated_database.url) as pool:
        state, found = await at(sources(pool), Point())
        assert state is None
        assert [note.split(" (")[0] for note in found.notes] == ["The log cannot be asked for anything"]
        await project(pool, life()[:3])
        state, found = await at(sources(pool), Point())
        assert state is not None
        assert found.notes[0].startswith(f"The log cannot be asked for what was stored after {life()[2][0]}")
        _, found = await at(sources(pool), Point(seq=11))
        assert found.notes == [], "the tables have all up to there"
        for nowhere in (Point(seq=1, epoch=3), Point(seq=99, epoch=7)):
            with pytest.raises(errors.QueryError, match="has not begun"):
                await at(sources(pool), nowhere)
