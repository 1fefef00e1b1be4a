"""Migrations on a real server: order, edits, failures, races."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from coord import errors
from coord.runtime.assets import sql_dir
from coord.store import migrations
from coord.store.config import DatabaseConfig
from coord.store.migrations import Report
from tests.support import waiting
from tests.support.cluster import Database

LAST = len(list((sql_dir() / "migrations").glob("*.sql")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of sql/ that a test may change."""
    return Path(shutil.copytree(sql_dir(), tmp_path / "sql"))


@pytest.fixture
def config(database: Database) -> DatabaseConfig:
    return DatabaseConfig(url=database.url)


def add(folder: Path, phase: str, sql: str, *, name: str = "more") -> str:
    """A migration after the last one; its file name."""
    number = len(list((folder / "migrations").glob("*.sql"))) + 1
    file = f"{number:04d}_{phase}_{name}.sql"
    (folder / "migrations" / file).write_text(sql, "utf-8")
    return file


async def migrate(config: DatabaseConfig, folder: Path | None = None, **options: Any) -> Report:
    return await asyncio.to_thread(migrations.migrate, config, folder=folder, **options)


async def ask(config: DatabaseConfig, sql: str) -> Any:
    def one() -> Any:
        with psycopg.connect(config.url, autocommit=True) as conn:
            cursor = conn.execute(sql.encode())
            return cursor.fetchall() if cursor.description else None

    return await asyncio.to_thread(one)


async def test_from_nothing_then_nothing_to_do(config: DatabaseConfig) -> None:
    before = await asyncio.to_thread(migrations.status, config)
    assert (before.applied, len(before.pending), before.is_current) == ((), LAST, False)
    report = await migrate(config)
    assert len(report.applied) == LAST
    after = await asyncio.to_thread(migrations.status, config)
    assert after.is_current
    assert [a.file for a in after.applied] == list(report.applied)
    assert after.edition == report.edition
    assert (await migrate(config)).applied == ()


async def test_status_changes_nothing(config: DatabaseConfig) -> None:
    await asyncio.to_thread(migrations.status, config)
    assert await ask(config, "SELECT to_regnamespace('coord')") == [(None,)]


async def test_a_failed_migration_names_its_file_and_leaves_nothing(config: DatabaseConfig, folder: Path) -> None:
    good = add(folder, "pre", "CREATE TABLE coord.good (i int);", name="good")
    bad = add(folder, "pre", "CREATE TABLE coord.bad (i int); SELECT 1 / 0; CREATE TABLE coord.after (i int);")
    with pytest.raises(errors.MigrationFailed, match=rf"{bad}.*division by zero"):
        await migrate(config, folder)
    status = await asyncio.to_thread(migrations.status, config, folder=folder)
    assert status.applied[-1].file == good
    assert status.pending == (bad,)
    assert await ask(config, "SELECT to_regclass('coord.good') IS NOT NULL, to_regclass('coord.bad')") == [(True, None)]
    # Repaired, it goes on from there.
    (folder / "migrations" / bad).write_text("CREATE TABLE coord.bad (i int);", "utf-8")
    assert (await migrate(config, folder)).applied == (bad,)


async def test_an_edited_migration_is_refused_by_name(config: DatabaseConfig, folder: Path) -> None:
    file = add(folder, "pre", "CREATE TABLE coord.one (i int);")
    await migrate(config, folder)
    (folder / "migrations" / file).write_text("CREATE TABLE coord.one (i bigint);", "utf-8")
    add(folder, "pre", "CREATE TABLE coord.two (i int);")
    with pytest.raises(errors.MigrationFailed, match=f"{file} was edited"):
        await migrate(config, folder)
    assert await ask(config, "SELECT to_regclass('coord.two')") == [(None,)]
    (problem,) = (await asyncio.to_thread(migrations.status, config, folder=folder)).problems
    assert file in problem


async def test_an_older_release_refuses_a_newer_database(config: DatabaseConfig, folder: Path) -> None:
    file = add(folder, "pre", "CREATE TABLE coord.one (i int);")
    await migrate(config, folder)
    with pytest.raises(errors.MigrationFailed, match=f"{file}.*newer release"):
        await migrate(config)


async def test_post_waits_until_the_old_code_is_gone(config: DatabaseConfig, folder: Path) -> None:
    early_post = add(folder, "post", "SELECT 1;", name="early")
    pre = add(folder, "pre", "SELECT 1;", name="new")
    post = add(folder, "post", "SELECT 1;", name="late")
    report = await migrate(config, folder, upto="pre")
    assert report.applied[-2:] == (early_post, pre)
    assert report.pending == (post,)
    assert report.notes == ()  # there was nothing, so there is no older process
    assert (await migrate(config, folder)).applied == (post,)
    between, _ = add(folder, "post", "SELECT 1;"), add(folder, "pre", "SELECT 1;")
    assert (await migrate(config, folder, upto="pre")).notes == (
        f"{between}: applied while older processes may run; stop them now",
    )


async def test_without_a_transaction(config: DatabaseConfig, folder: Path) -> None:
    file = add(
        folder,
        "pre",
        "-- coord: no-transaction\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS extra_idx ON coord.agent (state);\n"
        "DO $$ BEGIN PERFORM 1; END $$; -- one; two\n",
    )
    assert file in (await migrate(config, folder)).applied
    assert await ask(config, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'coord.extra_idx'::regclass") == [
        (True,)
    ]


async def test_a_failure_without_a_transaction_names_the_statement(config: DatabaseConfig, folder: Path) -> None:
    file = add(
        folder, "pre", "-- coord: no-transaction\nCREATE TABLE IF NOT EXISTS coord.kept (i int);\nSELECT nonsense;"
    )
    with pytest.raises(errors.MigrationFailed, match=rf"{file}, statement 2: .*nonsense"):
        await migrate(config, folder)
    assert await ask(config, "SELECT to_regclass('coord.kept') IS NOT NULL") == [(True,)]
    assert (await asyncio.to_thread(migrations.status, config, folder=folder)).pending == (file,)


async def test_many_at_once_apply_everything_once(config: DatabaseConfig, folder: Path) -> None:
    add(folder, "pre", "CREATE TABLE coord.once (i int); INSERT INTO coord.once VALUES (1);")
    reports = await asyncio.gather(*(migrate(config, folder) for _ in range(6)))
    assert sorted(len(r.applied) for r in reports) == [0] * 5 + [LAST + 1]
    assert await ask(config, "SELECT count(*) FROM coord.once") == [(1,)]


async def test_an_index_built_concurrently_does_not_deadlock_with_a_waiting_run(
    config: DatabaseConfig, folder: Path
) -> None:
    """A waiter that held a snapshot would stop CREATE INDEX CONCURRENTLY for ever."""
    add(folder, "pre", "-- coord: no-transaction\nCREATE INDEX CONCURRENTLY slow_idx ON coord.agent (last_seen);")
    async with asyncio.timeout(60):
        reports = await asyncio.gather(*(migrate(config, folder) for _ in range(3)))
    assert sum(len(r.applied) for r in reports) == LAST + 1


@contextlib.asynccontextmanager
async def held(url: str, sql: str) -> AsyncIterator[Callable[[], None]]:
    """A session that has run `sql` and stays in its transaction until told."""
    ready, go = threading.Event(), threading.Event()

    def hold() -> None:
        with psycopg.connect(url) as conn:
            conn.execute(sql.encode())
            ready.set()
            go.wait(120)

    holder = asyncio.create_task(asyncio.to_thread(hold))
    try:
        await waiting.until(ready.is_set)
        yield go.set
    finally:
        go.set()
        await holder


async def test_waiting_for_another_run_ends_and_says_so(config: DatabaseConfig) -> None:
    async with held(config.url, f"SELECT pg_advisory_lock({migrations._LOCK})"):
        with pytest.raises(errors.DatabaseUnavailable, match="another migration"):
            await migrate(config, wait_s=0.2)
    assert (await migrate(config)).applied


async def test_a_table_in_use_is_not_waited_for_for_ever(
    config: DatabaseConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes after a waiting ALTER waits behind it, so it must give up."""
    await migrate(config, folder)
    file = add(folder, "pre", "ALTER TABLE coord.agent ADD COLUMN more int;")
    monkeypatch.setattr("coord.limits.MIGRATION_LOCK_TIMEOUT_S", 0.2)
    async with held(config.url, "LOCK TABLE coord.agent IN ACCESS SHARE MODE"):
        with pytest.raises(errors.MigrationFailed, match=rf"{file}.*lock timeout"):
            await migrate(config, folder)
    assert (await migrate(config, folder)).applied == (file,)


async def test_no_server(config: DatabaseConfig) -> None:
    nobody = DatabaseConfig(url="postgresql://u:s3cret@127.0.0.1:1/x")
    with pytest.raises(errors.DatabaseUnavailable) as caught:
        await migrate(nobody)
    assert "s3cret" not in str(caught.value)


async def test_without_createrole_it_says_what_is_missing(postgres: Any, bare_database: Database) -> None:
    """An owner of one database, as a hosted PostgreSQL gives: it migrates, and is told about the role."""
    owner = f"owner_{bare_database.name}"
    admin = DatabaseConfig(url=bare_database.url)
    await ask(admin, f"CREATE ROLE {owner} LOGIN PASSWORD 'x'")
    try:
        await ask(admin, f"ALTER DATABASE {bare_database.name} OWNER TO {owner}")
        theirs = bare_database.url.replace("//coord@", f"//{owner}:x@")
        if theirs == bare_database.url:
            pytest.skip("the external cluster's URL has another user")
        existed = await ask(admin, "SELECT 1 FROM pg_roles WHERE rolname = 'coord_reader'")
        report = await migrate(DatabaseConfig(url=theirs, edition="plain"))
        assert report.applied
        assert [n for n in report.notes if "coord_reader" in n]
        assert bool(existed) == ("settings" in report.notes[0])
    finally:
        await ask(admin, f"REASSIGN OWNED BY {owner} TO CURRENT_USER; DROP OWNED BY {owner}; DROP ROLE {owner}")
