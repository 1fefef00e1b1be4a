"""Tables made anew from history are what the projector made, and take the places of those it made."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from coord.projector import rebuild
from coord.projector.rebuild import Rebuilder
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.store.shadow import Compared
from tests.support.cluster import Database
from tests.support.rebuilding import History, project
from tests.support.store import pool_of


@pytest.fixture
async def pool(migrated_database: Database) -> AsyncIterator[Pool]:
    async with pool_of(migrated_database.url) as pool:
        yield pool


@pytest.fixture
async def rebuilder(migrated_database: Database) -> AsyncIterator[Rebuilder]:
    async with rebuild.pools(DatabaseConfig(url=migrated_database.url)) as (writer, reader):
        yield Rebuilder(writer, reader)


def unequal(compared: list[Compared]) -> list[Compared]:
    return [one for one in compared if not one.is_equal]


async def test_rebuilt_equals_live(pool: Pool, rebuilder: Rebuilder, rng: random.Random) -> None:
    assert await project(pool, History(rng).facts(1500)), "some are refused"
    assert not await rebuilder.begin()
    made = await rebuilder.build()
    compared = await rebuilder.compare()
    assert unequal(compared) == []
    assert all(one.live for one in compared), compared
    assert made.facts
    assert not made.refused
    await rebuilder.swap()
