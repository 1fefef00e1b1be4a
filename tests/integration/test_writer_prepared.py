"""A connection of the projector knows what it needs before its first transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from asyncpg.connection import LoggedQuery

from coord.projector import writer
from coord.store import checkpoints, copy, timestamps
from coord.store.checkpoints import Move
from coord.store.pool import Connection
from tests.support.cluster import Database
from tests.support.store import T0, event

Prepare = Callable[[Connection], Awaitable[None]]


async def _asked_for_types(database: Database, prepare: Prepare) -> int:
    """How often a connection asks for types in the first transaction after `prepare`."""
    conn: Connection = await asyncpg.connect(database.url)
    asked: list[str] = []

    def note(query: LoggedQuery) -> None:
        asked.append(query.query)

    try:
        await prepare(conn)
        first = await checkpoints.create(conn, stream="EVENTS", partition=0, stream_created=T0, seq=0)
        second = await checkpoints.create(conn, stream="EVENTS", partition=1, stream_created=T0, seq=0)
        moves = [Move(c, checkpoints.moved(c, seq=7, stored_at=T0), 0) for c in (first, second)]
        conn.add_query_logger(note)
        transaction = conn.transaction()
        await transaction.start()
        await copy.events(conn, [event(7)])
        assert await checkpoints.advance_all(conn, moves) == []
        await transaction.rollback()
    finally:
        await conn.close()
    assert any("checkpoint" in query for query in asked)
    return sum("typeinfo" in query for query in asked)


@pytest.mark.parametrize(("prepare", "at_least", "at_most"), [(writer.prepare, 0, 0), (timestamps.teach, 1, 99)])
async def test_a_first_transaction_asks_for_no_types(
    migrated_database: Database, prepare: Prepare, at_least: int, at_most: int
) -> None:
    assert at_least <= await _asked_for_types(migrated_database, prepare) <= at_most


async def test_a_database_without_tables_can_be_connected_to(database: Database) -> None:
    """Whoever writes says what is missing: connecting is not what fails."""
    conn: Connection = await asyncpg.connect(database.url)
    try:
        await writer.prepare(conn)
        assert await conn.fetchval("SELECT 1") == 1
    finally:
        await conn.close()
