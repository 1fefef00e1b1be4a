"""Tables made anew from history are what the projector made, and take the places of those it made."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from coord import errors, limits
from coord.core.past import Point
from coord.projector import rebuild
from coord.projector.rebuild import Rebuilder
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.wire import facts, records
from coord.wire.flagging import FlagSet
from tests.support.catalogue import catalogue
from tests.support.cli import cli
from tests.support.cluster import Database
from tests.support.rebuilding import History, differing, open_epoch, project, tables, unequal
from tests.support.store import event, pool_of

Make = Callable[..., Rebuilder]


@pytest.fixture
async def pool(migrated_database: Database) -> AsyncIterator[Pool]:
    async with pool_of(migrated_database.url) as pool:
        yield pool


@pytest.fixture
async def another(migrated_database: Database) -> AsyncIterator[Callable[..., asyncio.Future[Rebuilder]]]:
    """`await another(**fields)`: a rebuilder with connections of its own, as another process has them."""
    async with AsyncExitStack() as stack:

        async def make(**fields: object) -> Rebuilder:
            config = DatabaseConfig(url=migrated_database.url)
            writer, reader = await stack.enter_async_context(rebuild.pools(config))
            return Rebuilder(writer, reader, **fields)  # type: ignore[arg-type]

        yield make  # type: ignore[misc]


@pytest.fixture
async def rebuilder(another) -> Rebuilder:
    made: Rebuilder = await another()
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many slices and batches of a short history."""
    monkeypatch.setattr(limits, "REBUILD_BATCH_ROWS", 70)
    monkeypatch.setattr(limits, "REBUILD_SLICE_ROWS", 150)


async def test_rebuilt_equals_live(pool: Pool, rebuilder: Rebuilder, rng: random.Random, small: None) -> None:
    assert await project(pool, History(rng).facts(1500)), "some are refused"
    before = await tables(pool)
    assert not await rebuilder.begin()
    made = await rebuilder.build()
    compared = await rebuilder.compare()
    assert unequal(compared) == []
    assert all(one.live for one in compared), compared
    assert made.facts
    assert not made.refused
    assert not made.carried
    await rebuilder.swap()
    assert await tables(pool) == before
    async with pool.acquire() as conn:
        assert not await conn.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'coord\\_re%'")


async def test_facts_that_come_meanwhile_are_in_it(pool: Pool, rebuilder: Rebuilder, rng: random.Random) -> None:
    history = History(rng)
    await project(pool, history.facts(400))
    await rebuilder.begin()
    await project(pool, history.facts(200))
    await rebuilder.build()
    await project(pool, history.facts(200))
    assert unequal(await rebuilder.compare()) == [], await differing(pool)
    await project(pool, history.facts(200))
    assert unequal(await rebuilder.compare()) == [], await differing(pool)
    await project(pool, history.facts(200))
    before = await tables(pool)
    await rebuilder.swap()
    assert await tables(pool) == before
    await project(pool, history.facts(200))


@pytest.mark.parametrize("replaced", [True, False])
async def test_epochs_are_what_they_were(
    pool: Pool, rebuilder: Rebuilder, rng: random.Random, replaced: bool, small: None
) -> None:
    """What was open in a log that was replaced is lost, when it was; behind a gap everything goes on."""
    first = History(rng)
    await project(pool, first.facts(500))
    await open_epoch(pool, replaced=replaced)
    second = History(rng, epoch=2)
    second.at = first.at + timedelta(hours=1)
    second.seq = 0 if replaced else first.seq
    await project(pool, second.facts(500))
    async with pool.acquire() as conn:
        lost = await conn.fetchval("SELECT count(*) FROM coord.task WHERE status = 'lost'")
    assert replaced or not lost
    await rebuilder.begin()
    await rebuilder.build()
    assert unequal(await rebuilder.compare()) == [], await differing(pool)


async def test_an_epoch_that_begins_meanwhile(pool: Pool, rebuilder: Rebuilder, rng: random.Random) -> None:
    first = History(rng)
    await project(pool, first.facts(300))
    await rebuilder.begin()
    await rebuilder.build()
    await open_epoch(pool, replaced=True)
    second = History(rng, epoch=2)
    second.at = first.at + timedelta(hours=1)
    await project(pool, second.facts(300))
    with pytest.raises(errors.RebuildBehind):
        await rebuilder.compare()
    await rebuilder.build()
    assert unequal(await rebuilder.compare()) == [], await differing(pool)


async def test_a_clock_that_steps_back_does_not_change_the_order(
    pool: Pool, rebuilder: Rebuilder, rng: random.Random, small: None
) -> None:
    history = History(rng)
    for _ in range(4):
        await project(pool, history.facts(200))
        history.at -= timedelta(hours=rng.randrange(1, 6))
    await rebuilder.begin()
    await rebuilder.build()
    assert unequal(await rebuilder.compare()) == [], await differing(pool)


async def test_what_was_damaged_is_mended(pool: Pool, rebuilder: Rebuilder, rng: random.Random) -> None:
    await project(pool, History(rng).facts(800))
    before = await tables(pool)
    async with pool.acquire() as conn:
        await conn.execute(
            "UPDATE coord.task SET status = 'lost', claims = 77 WHERE id = (SELECT min(id) FROM coord.task)"
        )
        await conn.execute("DELETE FROM coord.signal WHERE id = (SELECT min(id) FROM coord.signal)")
        await conn.execute("INSERT INTO coord.agent SELECT now(), now(), 1, 1, 0, 'acme', 'nobody', 'alive'")
    await rebuilder.begin()
    await rebuilder.build()
    found = {one.relation: one for one in unequal(await rebuilder.compare())}
    assert found.keys() == {"task", "signal", "agent"}
    assert (found["task"].differ, found["signal"].only_rebuilt, found["agent"].only_live) == (1, 1, 1)
    await rebuilder.swap()
    assert await tables(pool) == before


async def test_only_what_was_heard_of_since_is_made_anew(pool: Pool, another, rng: random.Random, small: None) -> None:
    history = History(rng, ids=30)
    await project(pool, history.facts(900))
    seq, at = history.seq, history.at
    await project(pool, history.facts(100))
    before = await tables(pool)
    async with pool.acquire() as conn:
        touched = {r[0] for r in await conn.fetch("SELECT id FROM coord.event WHERE kind = 'task' AND seq > $1", seq)}
        every = {r[0] for r in await conn.fetch("SELECT id FROM coord.task")}
        assert touched & every
        assert every - touched
        await conn.execute("UPDATE coord.task SET claims = 77")
    rebuilder: Rebuilder
    for since in (Point(seq=seq + 1), Point(seq=seq + 1, epoch=1), Point(time=at + timedelta(microseconds=1))):
        rebuilder = await another()
        await rebuilder.begin(since)
        made = await rebuilder.build()
        assert made.carried
        found = {one.relation: one for one in unequal(await rebuilder.compare())}
        assert found.keys() == {"task"}
        assert found["task"].differ == len(touched & every)
        if since.time is None:
            await rebuilder.drop()
    await rebuilder.swap()
    for row, was in zip((await tables(pool))["task"], before["task"], strict=True):
        id_ = next(value for value in row if isinstance(value, str) and value in every)
        assert (row == was) == (id_ in touched)


async def test_what_began_before_the_history_stays(pool: Pool, rebuilder: Rebuilder, rng: random.Random) -> None:
    """Retention has dropped what led to it."""
    history = History(rng, ids=60)
    await project(pool, history.facts(400))
    dropped = history.at
    await project(pool, history.facts(400))
    async with pool.acquire() as conn:
        await conn.execute("DELETE FROM coord.event WHERE stored_at <= $1", dropped)
    await rebuilder.begin()
    made = await rebuilder.build()
    assert made.carried
    assert unequal(await rebuilder.compare()) == [], await differing(pool)
    await project(pool, history.facts(100))
    assert unequal(await rebuilder.compare()) == [], await differing(pool)


async def test_what_retention_removed_stays_removed(pool: Pool, another, rng: random.Random) -> None:
    await project(pool, History(rng).facts(600))
    async with pool.acquire() as conn:
        ended = await conn.execute("DELETE FROM coord.task WHERE ended_at IS NOT NULL")
        unused = await conn.execute("DELETE FROM coord.signal WHERE waiting = 0")
        await conn.execute("UPDATE coord.checkpoint SET stored_at = now()")  # so it is old by the broker's clock too
    assert {ended, unused} != {"DELETE 0"}
    rebuilder = await another(kept=timedelta(days=1))  # the facts are of last January
    await rebuilder.begin()
    await rebuilder.build()
    assert unequal(await rebuilder.compare()) == [], await differing(pool)


async def test_the_swap_keeps_what_hangs_on_the_tables(
    migrated_database: Database, pool: Pool, rebuilder: Rebuilder, rng: random.Random
) -> None:
    await project(pool, History(rng).facts(200))
    async with pool.acquire() as conn:
        await conn.execute("""
            CREATE VIEW public.mine WITH (security_barrier = true) AS
              SELECT t.id, w.status, coord.v_task.attempts FROM coord.task AS t
              LEFT JOIN coord.workflow AS w USING (tenant, key, id) JOIN coord.v_task USING (tenant, key, id);
            GRANT SELECT ON public.mine TO PUBLIC;
            GRANT SELECT (tenant, id), UPDATE (status) ON coord.task TO PUBLIC;
            GRANT SELECT, DELETE ON coord.agent TO coord_reader WITH GRANT OPTION;
            CREATE INDEX mine_idx ON coord.task (claimant) WHERE ended_at IS NULL;
            ALTER TABLE coord.task ADD CONSTRAINT mine_check CHECK (claims >= 0);
            ALTER TABLE coord.task ALTER COLUMN message SET STORAGE EXTERNAL;
        """)
        grants = """
            SELECT c.oid::regclass::text, c.relacl::text, c.reloptions, c.relowner,
              (SELECT array_agg((a.attname, a.attacl::text, a.attstorage) ORDER BY a.attnum)
               FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0)
            FROM pg_class AS c WHERE c.relnamespace IN ('coord'::regnamespace, 'public'::regnamespace)
              AND c.relkind IN ('r', 'v') ORDER BY 1
        """
        before = await conn.fetch(grants)
        mine = await conn.fetch("SELECT * FROM public.mine ORDER BY 1")
    shape = await asyncio.to_thread(catalogue, migrated_database.url, "apache")
    await rebuilder.begin()
    await rebuilder.build()
    await rebuilder.swap()
    async with pool.acquire() as conn:
        assert await conn.fetch(grants) == before
        assert await conn.fetch("SELECT * FROM public.mine ORDER BY 1") == mine
    assert await asyncio.to_thread(catalogue, migrated_database.url, "apache") == shape


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE MATERIALIZED VIEW public.m AS SELECT id FROM coord.task", "task"),
        ("CREATE FUNCTION public.f() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM coord.flag; END", "flag"),
        ("CREATE POLICY p ON coord.lock USING (true)", "policy p"),
        ("CREATE STATISTICS coord.s ON tenant, key FROM coord.signal", "statistics s"),
        ("CREATE TABLE public.t (a text, b text, c text, FOREIGN KEY (a, b, c) REFERENCES coord.workflow)", "workflow"),
    ],
    ids=["matview", "function", "policy", "statistics", "reference"],
)
async def test_what_a_swap_would_lose_is_refused(
    pool: Pool, rebuilder: Rebuilder, rng: random.Random, made: str, named: str
) -> None:
    await project(pool, History(rng).facts(50))
    async with pool.acquire() as conn:
        await conn.execute(made)
    before = await tables(pool)
    await rebuilder.begin()
    await rebuilder.build()
    with pytest.raises(errors.RebuildRefused, match=named):
        await rebuilder.swap()
    assert await tables(pool) == before
    assert unequal(await rebuilder.compare()) == [], "it is as it was, and can be gone on with"


@pytest.mark.parametrize(
    "change",
    ["ALTER TABLE coord.flag ADD COLUMN x text", "CREATE INDEX ON coord.lock (permits)"],
    ids=["column", "index"],
)
async def test_tables_that_were_migrated_meanwhile_are_not_swapped(
    pool: Pool, rebuilder: Rebuilder, rng: random.Random, change: str
) -> None:
    await project(pool, History(rng).facts(50))
    await rebuilder.begin()
    async with pool.acquire() as conn:
        await conn.execute(change)
    for step in (rebuilder.swap, rebuilder.begin):
        with pytest.raises(errors.RebuildRefused, match="begin anew"):
            await step()
    await rebuilder.drop()
    assert not await rebuilder.begin()
    await rebuilder.swap()


async def test_upcasters_run(pool: Pool, rebuilder: Rebuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fact of an older schema is folded as its upcaster has it, then and now."""
    registry = facts.Registry()
    registry.register("flag", "set", FlagSet, schema=2)

    @registry.upcaster("flag", "set", 1)
    def doubled(data: dict[str, float]) -> dict[str, float]:
        return data | {"percentage": 2 * data["percentage"]}

    monkeypatch.setattr(records, "REGISTRY", registry)
    said = {"kind": "flag", "event": "set", "key": "flags", "type": "coord.flag.set", "partition": 0}
    await project(
        pool,
        [
            event(1, id="old", schema=1, data='{"percentage": 10}', **said),
            event(2, id="new", schema=2, data='{"percentage": 10}', **said),
        ],
    )
    await rebuilder.begin()
    await rebuilder.build()
    assert unequal(await rebuilder.compare()) == [], await differing(pool)
    await rebuilder.swap()
    async with pool.acquire() as conn:
        rows = await conn.fetch("SELECT id, percentage FROM coord.flag ORDER BY id")
    assert [tuple(row) for row in rows] == [("new", 10.0), ("old", 20.0)]


async def test_on_plain_too(plain_database: Database, rng: random.Random) -> None:
    config = DatabaseConfig(url=plain_database.url)
    async with pool_of(plain_database.url) as pool, rebuild.pools(config) as (writer, reader):
        await project(pool, History(rng).facts(300))
        before = await tables(pool)
        rebuilder = Rebuilder(writer, reader)
        await rebuilder.begin()
        await rebuilder.build()
        assert unequal(await rebuilder.compare()) == [], await differing(pool)
        await rebuilder.swap()
        assert await tables(pool) == before


async def test_who_goes_on_takes_over(pool: Pool, another, rng: random.Random, small: None) -> None:
    await project(pool, History(rng).facts(500))
    one, other = await another(), await another()
    assert not await one.begin()
    assert await other.begin()
    with pytest.raises(errors.RebuildTakenOver):
        await one.build()
    await other.build()
    assert unequal(await other.compare()) == []


async def test_a_reader_that_does_not_let_go_is_waited_for(
    pool: Pool, rebuilder: Rebuilder, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits behind the swap for long meanwhile."""
    monkeypatch.setattr(limits, "REBUILD_LOCK_S", 0.05)
    history = History(rng)
    await project(pool, history.facts(200))
    await rebuilder.begin()
    await rebuilder.build()
    async with pool.acquire() as conn:
        async with conn.transaction():
            await conn.fetch("SELECT count(*) FROM coord.v_task")
            swapping = asyncio.ensure_future(rebuilder.swap())
            await project(pool, history.facts(200))
            assert not swapping.done()
            assert await conn.fetchval("SELECT count(*) FROM coord.v_task")
        await swapping
    before = await tables(pool)
    await rebuilder.begin()
    await rebuilder.build()
    assert unequal(await rebuilder.compare()) == [], await differing(pool)
    assert await tables(pool) == before


async def test_nothing_projected_is_nothing_to_rebuild(rebuilder: Rebuilder) -> None:
    with pytest.raises(errors.RebuildRefused, match="ever projected"):
        await rebuilder.begin()
    await rebuilder.drop()


async def test_the_command(pool: Pool, migrated_database: Database, rng: random.Random) -> None:
    """Without a broker: nobody is told anything."""
    await project(pool, History(rng).facts(300))
    before = await tables(pool)
    one = ("projection", "rebuild", "--database", migrated_database.url, "--nats", "nats://127.0.0.1:1", "-o", "json")
    checked = await cli(*one, "--check")
    assert (checked.code, [row["differ"] for row in checked.json]) == (0, [0] * 8), checked.err
    async with pool.acquire() as conn:
        await conn.execute("UPDATE coord.task SET claims = 77 WHERE id = (SELECT min(id) FROM coord.task)")
        damaged = await tables(pool)
        assert (await cli(*one, "--check")).code == 3
        refused = await cli(*one, "--yes")
        assert (refused.code, "rebuild.differs" in refused.err) == (1, True)
        assert await tables(pool) == damaged
        again = await cli(*one, "--from", "5m", "--yes")
        assert (again.code, "was begun" in again.err) == (2, True), "with what it was begun with"
        swapped = await cli(*one, "--yes", "--accept-changes")
        assert (swapped.code, "Going on with" in swapped.err) == (0, True), swapped.err
    assert await tables(pool) == before
    assert (await cli(*one)).code == 1, "nobody to ask"
    assert (await cli(*one, "--drop")).code == 0
