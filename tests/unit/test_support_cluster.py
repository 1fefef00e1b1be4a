"""The tests' own servers: what every other test of the suite relies on."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import psutil
import pytest

from tests.support import cluster


async def test_a_database_has_timescaledb_where_the_cluster_has_it(postgres, database):
    conn = await asyncpg.connect(database.url)
    try:
        found = await conn.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
        assert (found is None) == (postgres.edition == "plain")
        if found:
            await conn.execute("CREATE TABLE x (t timestamptz NOT NULL, v int)")
            await conn.execute("SELECT create_hypertable('x', 't')")
            await conn.execute("INSERT INTO x VALUES (now(), 1)")
            assert await conn.fetchval("SELECT count(*) FROM x") == 1
    finally:
        await conn.close()


async def test_two_tests_never_share_a_database(postgres, database):
    conn = await asyncpg.connect(database.url)
    try:
        assert await conn.fetchval("SELECT to_regclass('x')") is None
        assert database.url != postgres.admin_url
    finally:
        await conn.close()


async def test_a_bare_database_is_plain(bare_database):
    conn = await asyncpg.connect(bare_database.url)
    try:
        assert await conn.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == 0
    finally:
        await conn.close()


async def test_a_migrated_database_has_the_schema_and_is_ones_own(migrated_database):
    conn = await asyncpg.connect(migrated_database.url)
    try:
        assert await conn.fetchval("SELECT count(*) FROM coord.event") == 0
        await conn.execute("CREATE TABLE coord.mine ()")
    finally:
        await conn.close()


def test_what_a_test_writes_lies_in_the_runs_folder(tmp_path):
    run = Path(os.environ[cluster.RUN_DIR])
    assert tmp_path.is_relative_to(run)
    assert Path(tempfile.gettempdir()) == Path(os.environ["TMPDIR"]) == run / "tmp"


@pytest.mark.parametrize(
    ("free", "available", "flags", "room"),
    [
        (1 << 40, 1 << 40, 0, True),
        (64 << 20, 1 << 40, 0, False),
        (1 << 40, 1 << 30, 0, False),
        (1 << 40, 1 << 40, os.ST_NOEXEC, False),
    ],
)
def test_a_run_lies_in_memory_only_where_there_is_room(monkeypatch, tmp_path, free, available, flags, room):
    monkeypatch.setattr(cluster, "_MEMORY_LIMIT", tmp_path / "none")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flags))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    assert cluster.has_room(tmp_path) is room
    (tmp_path / "limit").write_text(f"{1 << 30}\n")
    monkeypatch.setattr(cluster, "_MEMORY_LIMIT", tmp_path / "limit")
    assert not cluster.has_room(tmp_path), "a container of one GB"
    assert not cluster.has_room(tmp_path / "nowhere")
