"""The tests' own servers: what every other test of the suite relies on."""

from __future__ import annotations

import asyncpg


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
