"""asyncpg goes through an array twice, the first time for arrays in it: `coord.store.columns` rests on that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from coord.store.columns import Column

ARRAYS: dict[str, list[Any]] = {
    "text[]": ["a", None, "", "ü,\x1f{}\"'"],
    "double precision[]": [1.5, None, 0.0],
    "bigint[]": [1, None, 2**62],
    "boolean[]": [True, None],
    "bytea[]": [b"", None, b"\0a"],
    "integer[]": [],
}


@pytest.fixture
async def pg(bare_database) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(bare_database.url)
    yield connection
    await connection.close()


async def test_what_is_sent_is_what_is_in_it(pg: asyncpg.Connection[Any]) -> None:
    for kind, values in ARRAYS.items():
        assert await pg.fetchval(f"SELECT $1::{kind}", Column(values)) == values


async def test_a_statement_that_is_encoded_again_has_all_of_it(pg: asyncpg.Connection[Any]) -> None:
    column = Column(["a", "b"])
    for _ in range(2):
        assert await pg.fetchval("SELECT $1::text[]", column) == ["a", "b"]


async def test_each_element_is_looked_at_once(pg: asyncpg.Connection[Any]) -> None:
    shown: list[int] = []

    class Watched(Column):
        __slots__ = ()

        def __iter__(self) -> Any:
            values = list(super().__iter__())
            shown.append(len(values))
            return iter(values)

    await pg.fetchval("SELECT $1::text[]", Watched(["a", "b"]))
    assert shown == [0, 2]
