"""A migrated database is what sql/schema.sql says, on every edition that can be had here."""

from __future__ import annotations

import asyncio

import pytest

from coord.ops.devstack.postgres import PostgresServer
from coord.store import migrations
from coord.store.config import AgesConfig, DatabaseConfig, EditionName
from tests.support.catalogue import catalogue, from_schema
from tests.support.cluster import Database


async def compare(one: DatabaseConfig, other: DatabaseConfig) -> None:
    report = await asyncio.to_thread(migrations.migrate, one, AgesConfig(hot_days=7, retain_days=30))
    await asyncio.to_thread(from_schema, other)
    migrated = await asyncio.to_thread(catalogue, one.url, report.edition.name)
    declared = await asyncio.to_thread(catalogue, other.url, report.edition.name)
    assert migrated["relations"], "nothing to compare"
    for what, rows in declared.items():
        assert migrated[what] == rows, what


async def test_migrated_equals_schema(database: Database, another_database: Database) -> None:
    await compare(DatabaseConfig(url=database.url), DatabaseConfig(url=another_database.url))


async def test_migrated_equals_schema_plain(bare_database: Database, another_bare_database: Database) -> None:
    await compare(
        DatabaseConfig(url=bare_database.url, edition="plain"),
        DatabaseConfig(url=another_bare_database.url, edition="plain"),
    )


async def test_migrated_equals_schema_without_timescaledb_on_the_server(wheel_server: PostgresServer) -> None:
    """The newest PostgreSQL, and nothing of TimescaleDB anywhere."""
    await wheel_server.ensure_database("one")
    await wheel_server.ensure_database("other")
    await compare(DatabaseConfig(url=wheel_server.url("one")), DatabaseConfig(url=wheel_server.url("other")))


@pytest.mark.parametrize("edition", ["auto", "plain"])
async def test_migrating_again_changes_nothing(
    database: Database, bare_database: Database, edition: EditionName
) -> None:
    url = bare_database.url if edition == "plain" else database.url
    config = DatabaseConfig(url=url, edition=edition)
    first = await asyncio.to_thread(migrations.migrate, config)
    before = await asyncio.to_thread(catalogue, url, first.edition.name)
    again = await asyncio.to_thread(migrations.migrate, config)
    assert first.applied
    assert not again.applied
    assert again.notes == first.notes == ()
    assert await asyncio.to_thread(catalogue, url, first.edition.name) == before


async def test_editions_have_the_same_names(database: Database, bare_database: Database) -> None:
    """Same tables, views, columns and functions, whatever the licence."""
    seen = []
    for url, want in ((database.url, "auto"), (bare_database.url, "plain")):
        config = DatabaseConfig(url=url, edition=want)  # type: ignore[arg-type]
        report = await asyncio.to_thread(migrations.migrate, config)
        found = await asyncio.to_thread(catalogue, url, report.edition.name)
        tables = [row[:2] for row in found["relations"] if row[1] in "rv"]
        columns = [row[:5] for row in found["columns"] if (row[0], "r") in tables or (row[0], "v") in tables]
        functions = [row[0] for row in found["functions"] if "time_bucket" not in row[0]]
        seen.append((tables, columns, functions))
    assert seen[0] == seen[1]


async def test_every_view_column_and_table_is_explained(migrated_database: Database) -> None:
    found = await asyncio.to_thread(catalogue, migrated_database.url, "plain")
    kinds = {name: kind for name, kind, *_ in found["relations"]}
    assert not [name for name, kind, *_, comment in found["relations"] if kind in "rv" and not comment]
    ledger_and_own_tables = {"migration"}
    assert not [
        (name, column)
        for name, _, column, *_, comment in found["columns"]
        if kinds[name] in "rv" and name not in ledger_and_own_tables and not comment
    ]


async def test_nothing_on_the_big_tables_that_would_slow_copy_down(migrated_database: Database) -> None:
    """A unique index, a primary key or a trigger costs COPY a third and switches direct compression off."""
    found = await asyncio.to_thread(catalogue, migrated_database.url, "plain")
    big = ("coord.event", "coord.metric_sample")
    indexes = [
        definition for _, definition, _ in found["indexes"] if any(f" ON {table} " in definition for table in big)
    ]
    assert len(indexes) == 5  # two B-trees and a BRIN on event, one and one on metric_sample
    assert not [i for i in indexes if "UNIQUE" in i]
    assert not [t for table, t in found["triggers"] if table in big and "ts_insert_blocker" not in t]
    assert {d[:5] for table, _, d in found["constraints"] if table in big} <= {"CHECK", "NOT N"}
    # A volatile default would make PostgreSQL insert row by row.
    assert {d for table, _, _, _, _, d, *_ in found["columns"] if table in {"event", "metric_sample"}} == {
        None,
        "statement_timestamp()",
    }
