"""Maintenance on real servers: who leads, what is held, refused or done, and that each step is a row and a fact."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus.connection import Connection, NatsConfig
from coord.ops.devstack.nats import NatsServer
from coord.runtime.assets import sql_dir
from coord.server.config import MaintenanceConfig
from coord.server.maintenance import AGENT, Maintenance
from coord.store import copy, maintenance, migrations, queries, rollups
from coord.store.alone import alone
from coord.store.config import AgesConfig, ArchiveConfig, DatabaseConfig
from coord.store.pool import Pool
from coord.store.rollup_files import LEVELS
from coord.telemetry.metrics import Metrics
from tests.support.cli import cli
from tests.support.cluster import Database
from tests.support.rolling import BEGIN, checkpoints_sql, facts_sql
from tests.support.store import event, pool_of, sample
from tests.support.waiting import until

LONG_AGO = "INSERT INTO coord.maintenance_step (started_at, ended_at, rows, batches, job, relation, unit, result)"
LONG_AGO += " VALUES (now() - interval '2 days', now() - interval '2 days', 0, 0, 'night', '', 'rows', 'done')"
BEHIND = "UPDATE coord.checkpoint SET pending = 5, stored_at = now() - $1::interval, updated_at = now()"
ANOTHER_NIGHT = "UPDATE coord.maintenance_step SET started_at = now() - interval '2 days' WHERE job = 'night'"
AN_HOUR_LATER = "UPDATE coord.maintenance_step SET started_at = now() - interval '61 min'"
AN_HOUR_LATER += " WHERE job = 'night' AND result = 'more'"
STEPS = "SELECT job, relation, result, rows, reason FROM coord.maintenance_step WHERE job <> 'night' ORDER BY id"
AGES = AgesConfig(hot_days=2, retain_days=30)


@pytest.fixture
async def pool(migrated_database: Database) -> AsyncIterator[Pool]:
    if migrated_database.edition == "community":
        pytest.skip("the server does it: tests/contract/community")
    async with pool_of(migrated_database.url) as pool:
        yield pool


def service(database: Database, ages: AgesConfig = AGES, **given: object) -> Maintenance:
    nats = given.pop("nats", None)
    config = DatabaseConfig(url=database.url, pool_min=0, statement_timeout_s=120.0)
    made = Maintenance(nats, config, ages, registry=Metrics(CollectorRegistry()), **given)  # type: ignore[arg-type]
    assert made.config.at == "02:00"
    return made


async def prepare(pool: Pool, until: datetime, *, due: bool = True) -> None:
    async with pool.transaction() as conn:
        await conn.execute(checkpoints_sql(until))
        if due:
            await conn.execute(LONG_AGO)


async def steps(pool: Pool) -> list[asyncpg.Record]:
    async with pool.acquire() as conn:
        return await conn.fetch(STEPS)


async def count(pool: Pool) -> int:
    async with pool.acquire() as conn:
        found: int = await conn.fetchval("SELECT count(*) FROM coord.event")
        return found


async def old_and_new(pool: Pool, **old: float) -> datetime:
    now = datetime.now(UTC)
    async with pool.transaction() as conn:
        await copy.events(conn, [event(1, at=now - timedelta(**(old or {"days": 40}))), event(2, at=now)])
    return now


async def test_a_night_drops_what_is_old_and_records_every_step(pool: Pool, migrated_database: Database) -> None:
    await prepare(pool, await old_and_new(pool))
    await service(migrated_database).look()
    assert await count(pool) == 1
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT sum(facts) FROM coord.v_fact_rate_1d") == 2, "what is gone stays counted"
    found = await steps(pool)
    assert {(s["job"], s["relation"]) for s in found} >= {
        ("rollup", "fact_rate_1m"), ("rollup", "fact_rate_1d"), ("retention", "event"), ("retention", "metric_sample"),
        ("ended", "task"), ("anchors", "audit_anchor"), ("expire", "fact_rate_1m"), ("steps", "maintenance_step"),
    }  # fmt: skip
    assert {s["result"] for s in found} == {"done"}
    async with pool.acquire() as conn:
        policies = {(p["job"], p["relation"]): p for p in await maintenance.policies(conn)}
    event_ = policies["retention", "event"]
    assert event_["state"] == "done"
    assert event_["last_success"] is not None
    assert event_["bytes_before"] >= event_["bytes_after"] > 0


async def test_the_first_look_of_all_is_no_night(pool: Pool, migrated_database: Database) -> None:
    await prepare(pool, await old_and_new(pool), due=False)
    made = service(migrated_database)
    await made.look()
    await made.look()
    assert await count(pool) == 2
    assert {s["job"] for s in await steps(pool)} == {"rollup"}


async def test_a_night_of_a_clock_that_was_ahead_is_not_the_last(pool: Pool, migrated_database: Database) -> None:
    await prepare(pool, await old_and_new(pool))
    async with pool.acquire() as conn:
        await conn.execute(LONG_AGO.replace("- interval", "+ interval"))
    await service(migrated_database).look()
    assert await count(pool) == 1


async def test_a_night_that_was_died_in_is_not_done(
    pool: Pool, migrated_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(pool, await old_and_new(pool))
    with monkeypatch.context() as patched:

        async def die(*_: object) -> None:
            raise Killed

        patched.setattr(rollups, "uncounted", die)
        with pytest.raises(Killed):
            await service(migrated_database).look()
    async with pool.acquire() as conn:
        now, last, tried = await maintenance.night(conn)
        assert last is not None
        assert tried is not None
        assert last < now - timedelta(days=1) < tried
        await conn.execute(AN_HOUR_LATER)
    await service(migrated_database).look()
    assert await count(pool) == 1


async def test_one_of_them_leads(pool: Pool, migrated_database: Database) -> None:
    await prepare(pool, await old_and_new(pool))
    one, other = service(migrated_database), service(migrated_database)
    async with alone(pool, "maintenance") as lead:
        assert lead is not None
        await one.look()
        assert not one.leads
        assert await steps(pool) == []
    await asyncio.gather(one.look(), other.look())
    night = [s for s in await steps(pool) if s["job"] == "anchors"]
    assert len(night) == 1, "the other one found it done, or somebody at it"


async def test_what_drops_is_held_while_the_projector_is_behind(pool: Pool, migrated_database: Database) -> None:
    await prepare(pool, await old_and_new(pool))
    async with pool.acquire() as conn:
        await conn.execute(BEHIND, timedelta(hours=25))
    await service(migrated_database).look()
    assert await count(pool) == 2
    (held,) = [s for s in await steps(pool) if s["result"] == "held"]
    assert held["job"] == "retention"
    assert "the projector is 25 h behind, more than half the hot age (24 h)" in held["reason"]
    # Caught up: the same night goes on, an hour later.
    async with pool.acquire() as conn:
        await conn.execute(checkpoints_sql(datetime.now(UTC)))
    await service(migrated_database).look()
    assert await count(pool) == 2, "not at every look"
    async with pool.acquire() as conn:
        await conn.execute(AN_HOUR_LATER)
    await service(migrated_database).look()
    assert await count(pool) == 1
    await service(migrated_database).look()
    assert len([s for s in await steps(pool) if s["job"] == "anchors"]) == 2, "it is done"


async def test_a_retention_shorter_than_the_lag_is_refused(pool: Pool, migrated_database: Database) -> None:
    await prepare(pool, await old_and_new(pool, days=12))
    async with pool.acquire() as conn:
        await conn.execute(BEHIND, timedelta(days=11))
    short = AgesConfig(hot_days=2, retain_days=10)
    await service(migrated_database, short).look()
    assert await count(pool) == 2
    (refused,) = [s for s in await steps(pool) if s["result"] == "refused"]
    assert "dropped after 10.0 d, and the projector is 11.0 d behind" in refused["reason"]
    config = DatabaseConfig(url=migrated_database.url)
    with pytest.raises(errors.RetentionRefused, match=r"11\.0 d behind"):
        await asyncio.to_thread(migrations.migrate, config, short)
    # Who is about to project may start: it is what ends the lag.
    report = await asyncio.to_thread(migrations.migrate, config, short, late="defer")
    assert any("no retention for now" in note for note in report.notes)


async def test_nothing_is_dropped_that_no_rollup_has_counted(pool: Pool, migrated_database: Database) -> None:
    now = await old_and_new(pool)
    await prepare(pool, now)
    async with pool.acquire() as conn:
        await conn.execute("UPDATE coord.checkpoint SET stored_at = $1 WHERE partition = 3", now - timedelta(days=45))
    await service(migrated_database).look()
    assert await count(pool) == 2
    (held,) = [s for s in await steps(pool) if s["result"] == "held"]
    assert "would be dropped uncounted" in held["reason"]


async def test_a_stream_that_fell_silent_holds_nothing_up(pool: Pool, migrated_database: Database) -> None:
    """Its newest row is as old as its checkpoints: counted, and dropped."""
    now = await old_and_new(pool)
    await prepare(pool, now)
    async with pool.transaction() as conn:
        await copy.samples(conn, [sample(1, at=now - timedelta(days=40))])
        silent = "UPDATE coord.checkpoint SET stored_at = $1 WHERE stream = 'TELEMETRY'"
        await conn.execute(silent, now - timedelta(days=40))
    await service(migrated_database).look()
    assert await count(pool) == 1
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM coord.metric_sample") == 0
        assert await conn.fetchval("SELECT sum(samples) FROM coord.v_telemetry_1d") == 1


async def test_each_step_is_a_fact_once(
    pool: Pool, migrated_database: Database, conn: Connection, nats: NatsServer
) -> None:
    await prepare(pool, await old_and_new(pool))
    made = service(migrated_database, nats=NatsConfig(urls=(nats.url,)), tenant="acme")
    try:
        await made.look()
        async with pool.acquire() as db:
            assert await maintenance.unstated(db) == []
            recorded = await db.fetchval("SELECT count(*) FROM coord.maintenance_step")
            await db.execute("UPDATE coord.maintenance_step SET stated = false")  # killed before it could say so
        await made.look()
    finally:
        await made.teardown()
    info = await conn.api("STREAM.INFO.EVENTS", {"subjects_filter": f"coord.log.*.acme.{AGENT}.maintenance.>"})
    subjects = info["state"]["subjects"]
    async with pool.acquire() as db:
        later = await db.fetchval("SELECT count(*) FROM coord.maintenance_step") - recorded
    assert sum(subjects.values()) == recorded + later
    assert any(".event._maintenance.stepped.retention" in subject for subject in subjects)


async def test_an_archive_takes_the_place_of_retention(pool: Pool, migrated_database: Database, tmp_path: Path) -> None:
    archive = ArchiveConfig(url=str(tmp_path / "cold"), after_days=7, drop_days=30, keep_days=365)
    config = DatabaseConfig(url=migrated_database.url)
    await asyncio.to_thread(migrations.migrate, config, AGES, archive)
    await prepare(pool, await old_and_new(pool))
    made = service(migrated_database, archive=archive)
    await made.look()
    assert await count(pool) == 1
    done = [(s["job"], s["relation"], s["rows"]) for s in await steps(pool) if s["job"].startswith("archive")]
    assert ("archive_verify", "event", 1) in done
    assert ("archive_drop", "event", 1) in done
    assert made.metrics.archive_rows.labels(step="verify")._value.get() == 1
    assert made.metrics.archive_bytes.labels(step="drop")._value.get() > 0
    assert list(tmp_path.glob("cold/event/tenant=*/**/*.parquet"))
    async with pool.acquire() as conn:
        await conn.execute(ANOTHER_NIGHT)
    # Kept for less than its age: the next night removes the file.
    await service(migrated_database, archive=msgspec.structs.replace(archive, keep_days=35)).look()
    assert not list(tmp_path.glob("cold/event/tenant=*/**/*.parquet"))
    assert ("archive_purge", "event", 1) in [(s["job"], s["relation"], s["rows"]) for s in await steps(pool)]
    assert [s for s in await steps(pool) if (s["job"], s["relation"], s["rows"]) == ("retention", "event", 1)] == []


class Killed(BaseException):
    """What ends a process in the middle of something."""


@pytest.mark.parametrize("when", range(1, 12, 2))
async def test_killed_anywhere_nothing_is_counted_twice_or_left_out(
    pool: Pool, migrated_database: Database, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    async with pool.acquire() as conn:
        for sql in facts_sql(300):
            await conn.execute(sql)
        await conn.execute(checkpoints_sql(BEGIN + timedelta(hours=5)))
    (rollup,) = [r for r in rollups.load() if r.name == "fact_rate"]
    left = when
    statement = queries.statement

    def dying(name: str) -> str:
        nonlocal left
        left -= name in {"rollup_begin", "rollup_move"}
        if left == 0:
            raise Killed
        return statement(name)

    with monkeypatch.context() as patched:
        patched.setattr("coord.store.rollups.statement", dying)
        with pytest.raises(Killed):
            await rollups.advance_all(pool, [rollup], pause_s=0)
    await rollups.advance_all(pool, [rollup], pause_s=0)
    async with pool.acquire() as conn:
        for level in LEVELS:
            shown = await conn.fetchval("SELECT shown FROM coord.rollup WHERE name = $1", rollup.table(level))
            counted = await conn.fetchval(f"SELECT sum(facts) FROM coord.fact_rate_{level} WHERE bucket < $1", shown)
            there = await conn.fetchval("SELECT count(*) FROM coord.event WHERE stored_at < $1", shown)
            assert (counted or 0) == there, level


async def test_a_partition_that_is_not_known_yet_may_bring_what_is_older(pool: Pool) -> None:
    (rollup,) = [r for r in rollups.load() if r.name == "fact_rate"]
    newer, older = BEGIN + timedelta(minutes=30), BEGIN
    async with pool.transaction() as conn:
        await copy.events(conn, [event(2, at=newer)])
        await conn.execute(checkpoints_sql(newer + timedelta(hours=1)))
        await conn.execute("UPDATE coord.checkpoint SET stored_at = NULL WHERE partition = 3")
    await rollups.advance_all(pool, [rollup], pause_s=0)
    async with pool.transaction() as conn:
        await copy.events(conn, [event(1, at=older)])
        await conn.execute(checkpoints_sql(newer + timedelta(hours=1)))
    await rollups.advance_all(pool, [rollup], pause_s=0)
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT sum(facts) FROM coord.fact_rate_1m") == 2
        assert await conn.fetchval("SELECT sum(facts) FROM coord.v_fact_rate_1m") == 2


async def test_facts_that_come_in_the_minute_of_the_newest_are_counted(pool: Pool) -> None:
    """By a database's clock that is ahead, a fleet that works has been silent for an hour."""
    (rollup,) = [r for r in rollups.load() if r.name == "fact_rate"]
    async with pool.acquire() as conn:
        for seq in range(1, 4):
            at = BEGIN + timedelta(seconds=10 * seq)
            async with conn.transaction():
                await copy.events(conn, [event(seq, at=at)])
                await conn.execute(checkpoints_sql(at))
            await rollups.advance_all(pool, [rollup], pause_s=0)
            assert await conn.fetchval("SELECT sum(facts) FROM coord.v_fact_rate_1m") == seq


async def test_two_at_once_count_everything_once(pool: Pool) -> None:
    async with pool.acquire() as conn:
        for sql in facts_sql(2_000):
            await conn.execute(sql)
        await conn.execute(checkpoints_sql(BEGIN + timedelta(hours=7)))
    await asyncio.gather(*(rollups.advance_all(pool, pause_s=0) for _ in range(3)))
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT sum(facts) FROM coord.fact_rate_1h") == 2_000
        assert await conn.fetchval("SELECT sum(facts) FROM coord.v_fact_rate_1d") == 2_000


async def test_what_was_taken_back_is_counted_again(pool: Pool) -> None:
    async with pool.acquire() as conn:
        for sql in facts_sql(500):
            await conn.execute(sql)
        await conn.execute(checkpoints_sql(BEGIN + timedelta(hours=7)))
    await rollups.advance_all(pool, pause_s=0)
    async with pool.transaction() as conn:
        # An operator puts rows where they were counted already.
        await conn.execute(facts_sql(100)[0])
        await rollups.forget(conn, BEGIN)
        assert await conn.fetchval("SELECT sum(facts) FROM coord.v_fact_rate_1d") == 600
    await rollups.advance_all(pool, pause_s=0)
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT sum(facts) FROM coord.fact_rate_1h") == 600


async def test_minutes_go_once_hours_have_them(pool: Pool) -> None:
    async with pool.acquire() as conn:
        for sql in facts_sql(500):
            await conn.execute(sql)
        await conn.execute(checkpoints_sql(BEGIN + timedelta(hours=4)))
    await rollups.advance_all(pool, pause_s=0)
    (rollup,) = [r for r in rollups.load() if r.name == "fact_rate"]
    # By the broker's clock, which has seen four hours, nothing is a day old.
    assert (await rollups.expire(pool, rollup, "1m", timedelta(days=1), pause_s=0))[0] == 0
    removed, _ = await rollups.expire(pool, rollup, "1m", timedelta(minutes=5), batch_rows=50, pause_s=0)
    assert removed
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT sum(facts) FROM coord.v_fact_rate_1d") == 500
        shown = await conn.fetchval("SELECT shown FROM coord.rollup WHERE name = 'fact_rate_1h'")
        assert await conn.fetchval("SELECT min(bucket) FROM coord.fact_rate_1m") >= shown


async def test_a_dense_second_is_stepped_through_in_batches(pool: Pool) -> None:
    async with pool.acquire() as conn:
        await conn.execute(facts_sql(60_000, hours=0.0005)[0])
        await conn.execute(checkpoints_sql(BEGIN + timedelta(hours=7)))
    (rollup,) = [r for r in rollups.load() if r.name == "fact_rate"]
    moved = await rollups.advance(pool, rollup, "1m", pause_s=0)
    assert moved.rows == 60_000
    assert moved.steps >= 3
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT sum(facts) FROM coord.fact_rate_1m") == 60_000


@pytest.mark.parametrize(
    ("file", "edit", "line"),
    [
        ("policies/{edition}.sql", ("DECLARE\n", "DECLARE\n  oops\n"), r"policies/\w+\.sql, line \d+"),
        ("policies/{edition}.sql", ("LANGUAGE plpgsql", "LANGUAGE plpgsqll"), r"policies/\w+\.sql, line \d+"),
        ("rollups/fact_rate.sql", ("s.agent, --", "s.agent --"), r"rollups/fact_rate\.sql, line \d+"),
        ("rollups/telemetry.sql", ("-- sum: How", "-- How"), r"rollups/telemetry\.sql, line 6"),
    ],
)
async def test_a_file_with_a_mistake_is_refused_as_a_whole_with_its_line(
    pool: Pool, migrated_database: Database, tmp_path: Path, file: str, edit: tuple[str, str], line: str
) -> None:
    folder = tmp_path / "sql"
    shutil.copytree(sql_dir(), folder)
    path = folder / file.format(edition=migrated_database.edition)
    text = path.read_text("utf-8")
    assert edit[0] in text
    path.write_text(text.replace(edit[0], edit[1], 1), "utf-8")
    # What comes before the mistake must not stay either.
    first = folder / "functions" / "a.sql"
    first.write_text("CREATE FUNCTION coord.not_to_stay() RETURNS integer LANGUAGE sql AS 'SELECT 1';")
    config = DatabaseConfig(url=migrated_database.url)
    with pytest.raises(errors.MigrationFailed, match=line):
        await asyncio.to_thread(migrations.migrate, config, folder=folder)
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT to_regprocedure('coord.not_to_stay()') IS NULL")


def test_when_it_is_due_is_checked() -> None:
    for wrong in ("24:00", "2", "02:60", "at two"):
        with pytest.raises(errors.SettingsError, match=r"maintenance\.at"):
            MaintenanceConfig(at=wrong).validate()
    with pytest.raises(errors.SettingsError):
        MaintenanceConfig(every_s=0.5).validate()


async def test_where_facts_come_fast_rollups_are_moved_between_looks(
    pool: Pool, migrated_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROLLUP_LIVE_ROWS", 1)
    monkeypatch.setattr(limits, "ROLLUP_EVERY_MIN_S", 0.01)
    monkeypatch.setattr(limits, "MAINTAIN_PAUSE_S", 0.0)
    async with pool.acquire() as conn:
        for sql in facts_sql(300, hours=0.05):
            await conn.execute(sql)
    await prepare(pool, BEGIN + timedelta(seconds=40), due=False)
    made = service(migrated_database)
    await made.look()
    recorded = len(await steps(pool))
    running = asyncio.create_task(made.run())
    try:
        async with pool.acquire() as conn:
            await conn.execute(checkpoints_sql(BEGIN + timedelta(seconds=170)))

        async def moved() -> bool:
            async with pool.acquire() as conn:
                counted = await conn.fetchval("SELECT sum(samples) FROM coord.telemetry_1m")
                return bool(counted > 200)

        await until(moved)
        assert len(await steps(pool)) == recorded, "each move is not worth a row"
    finally:
        running.cancel()
        await asyncio.wait([running])
    await made.look()
    assert len(await steps(pool)) > recorded


async def test_a_run_goes_no_further_than_was_complete_when_it_began(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts that come all the time would keep it at one rollup for ever."""
    (rollup,) = [r for r in rollups.load() if r.name == "fact_rate"]
    asked = 0

    async def complete(*_: object) -> datetime:
        nonlocal asked
        asked += 1
        return BEGIN + timedelta(minutes=asked)

    monkeypatch.setattr(rollups, "_complete", complete)
    async with pool.acquire() as conn:
        for sql in facts_sql(50, hours=0.1):
            await conn.execute(sql)
    await rollups.advance(pool, rollup, "1m", pause_s=0)
    begun = BEGIN + timedelta(minutes=asked + 1)
    moved = await rollups.advance(pool, rollup, "1m", pause_s=0, steps_max=20)
    assert moved.progress == begun
    assert not moved.more


async def test_policies_are_shown(
    pool: Pool, migrated_database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COORD_DATABASE_URL", migrated_database.url)
    assert (await cli("db", "policies")).code == 0
    await prepare(pool, await old_and_new(pool))
    await service(migrated_database).look()
    shown = await cli("db", "policies", "-o", "json")
    assert shown.code == 0
    policies = {(p["job"], p["relation"]): p for p in shown.json}
    retention = policies["retention", "event"]
    assert (retention["state"], retention["runs_it"]) == ("done", "coord")
    assert retention["bytes_before"] >= retention["bytes_after"] > 0
    assert policies["rollup", "fact_rate_1m"]["last_success"]
    async with pool.acquire() as conn:
        await conn.execute(BEHIND, timedelta(days=20))
        await conn.execute(ANOTHER_NIGHT)
    await service(migrated_database).look()
    held = await cli("db", "policies")
    assert held.code == 3
    assert "retention: held: the projector is 20.0 d behind" in held.err
    async with pool.acquire() as conn:
        await conn.execute(checkpoints_sql(datetime.now(UTC)))
        await conn.execute(ANOTHER_NIGHT)
    await service(migrated_database).look()
    assert (await cli("db", "policies")).code == 0, "it has done it since"


async def test_steps_are_forgotten_even_where_there_is_no_log(pool: Pool) -> None:
    step = (
        "INSERT INTO coord.maintenance_step (started_at, ended_at, rows, batches, job, relation, unit, result, stated)"
    )
    step += " SELECT now(), now() - days * interval '1 day', days, 0, 'ended', 'task', 'rows', 'done', stated"
    step += (
        " FROM (VALUES (50, true), (70, false), (40, true), (50, false), (20, true), (1, false)) AS x (days, stated)"
    )
    async with pool.acquire() as conn:
        await conn.execute(step)
    assert await maintenance.forget_steps(pool, timedelta(days=30)) == 3
    async with pool.acquire() as conn:
        left = await conn.fetch("SELECT rows FROM coord.maintenance_step ORDER BY rows")
    assert [row[0] for row in left] == [1, 20, 50]
