"""Databases beside the one a test has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from coord.ops.devstack.postgres import PostgresServer
from tests.support import cluster as clusters
from tests.support.cluster import Cluster, Database
from tests.support.servers import run_sync
from tests.support.store import plain_server


@pytest.fixture
async def another_database(postgres: Cluster) -> AsyncIterator[Database]:
    empty = await clusters.template(postgres, "empty", None)
    async with clusters.clone(postgres, empty) as made:
        yield made


@pytest.fixture
async def another_bare_database(postgres: Cluster) -> AsyncIterator[Database]:
    async with clusters.clone(postgres, "template0") as made:
        yield msgspec.structs.replace(made, edition="plain")


@pytest.fixture(scope="module")
def wheel_server() -> Iterator[PostgresServer]:
    server = plain_server()
    run_sync(server.start())
    yield server
    run_sync(server.stop(immediate=True))
