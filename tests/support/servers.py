"""Real servers for the tests: nats-server and PostgreSQL with TimescaleDB.

* `nats_server`: one nats-server per test process; use names of your own on it.
* `start_nats`: starts as many as a test wants, with any options; ended with the test.
* `postgres`: the run's cluster, shared by all workers.
* `database`: a database of this test's own, with TimescaleDB where the cluster has it.
* `bare_database`: one without it, whatever the cluster has.
* `migrated_database`: the first with coord's schema in it; `plain_database`: of the plain edition.
* `either_database`: both, one after the other: the test runs twice.
* `reachable_dir`: a temporary folder for a stack with data of its own.
* `dev_stack`: a nats-server and a cluster of this test's own, to be killed at will.

COORD_TEST_DATABASE_URL names an external cluster (its user may create databases) for all but the
last; COORD_DEV_DATABASE chooses where the cluster comes from; COORD_TEST_REQUIRE_TIMESCALEDB=1
fails rather than run on plain PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec
import pytest

from coord.ops.devstack import DevStack, DevStackConfig, ports
from coord.ops.devstack.nats import NatsOptions, NatsServer
from tests.support import cluster as clusters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from tests.support.cluster import Cluster, Database

T = TypeVar("T")
_RUN = pytest.StashKey[clusters.Run]()


def run_sync(work: Coroutine[None, None, T]) -> T:
    """Run a coroutine in a loop of its own, leaving pytest-asyncio's loop and policy alone."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the controller, or the only process
        config.stash[_RUN] = clusters.open_run()
    else:
        worker, workers = config.workerinput["workerid"], config.workerinput["workercount"]
        ports.share = (int(worker.removeprefix("gw")) % workers, workers)
    clusters.copy_clusters()


def pytest_unconfigure(config: pytest.Config) -> None:
    clusters.forget_admins()
    if run := config.stash.get(_RUN, None):
        run_sync(clusters.close_run(run))


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A nats-server shared by the tests of this process: `.url`, `.port`, `.http_url`, `.pid`."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    run_sync(server.start())
    yield server
    run_sync(server.stop())


@pytest.fixture
async def start_nats(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[NatsServer]]]:
    """`server = await start_nats(sync_interval="always", …)`: NatsOptions' fields; each its own server."""
    started: list[NatsServer] = []

    async def start(**options: object) -> NatsServer:
        server = NatsServer(tmp_path / f"nats{len(started)}", NatsOptions(**options))  # type: ignore[arg-type]
        started.append(server)
        await server.start()
        return server

    yield start
    for server in started:
        server.kill()  # its folder goes with the test: it need not put anything in order


@pytest.fixture(scope="session")
def postgres() -> Cluster:
    """The run's PostgreSQL cluster: `.edition`, `.admin_url`, `.url(database)`."""
    return run_sync(clusters.shared_cluster())


@pytest.fixture
async def database(postgres: Cluster) -> AsyncIterator[Database]:
    """A fresh database of this test's own, with TimescaleDB where the cluster has it: `.url`, `.edition`."""
    empty = await clusters.template(postgres, "empty", None)
    async with clusters.clone(postgres, empty) as made:
        yield made


@pytest.fixture
async def bare_database(postgres: Cluster) -> AsyncIterator[Database]:
    """A fresh database without TimescaleDB in it, though the server may have it: the plain edition."""
    async with clusters.clone(postgres, "template0") as made:
        yield msgspec.structs.replace(made, edition="plain")


@pytest.fixture
async def migrated_database(postgres: Cluster) -> AsyncIterator[Database]:
    """A fresh database with coord's schema in it, cloned from one that was migrated once per run."""
    async with migrated(postgres) as made:
        yield made


@pytest.fixture
async def plain_database(postgres: Cluster) -> AsyncIterator[Database]:
    """The same of the plain edition, whatever the server has."""
    async with _migrated_plain(postgres) as made:
        yield made


@pytest.fixture(params=["server", "plain"])
async def either_database(request: pytest.FixtureRequest, postgres: Cluster) -> AsyncIterator[Database]:
    """A `migrated_database`, then a `plain_database`: whoever asks for this is tested on both."""
    async with (migrated if request.param == "server" else _migrated_plain)(postgres) as made:
        yield made


@pytest.fixture
def reachable_dir() -> Iterator[Path]:
    """A temporary folder that the database's account can walk to; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="coord-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
async def dev_stack(request: pytest.FixtureRequest) -> AsyncIterator[DevStack]:
    """A started stack of this test's own; parametrize indirectly with a DevStackConfig for another one."""
    config = getattr(request, "param", DevStackConfig(ephemeral=True))
    async with DevStack(config, say=print) as stack:
        yield stack


@contextlib.asynccontextmanager
async def migrated(cluster: Cluster) -> AsyncIterator[Database]:
    """A `migrated_database`, for whoever needs it longer than for one test."""
    migrated = await clusters.template(cluster, "migrated", _migrate)
    async with clusters.clone(cluster, migrated) as made:
        yield made


@contextlib.asynccontextmanager
async def _migrated_plain(cluster: Cluster) -> AsyncIterator[Database]:
    plain = await clusters.template(cluster, "plain", lambda made: _migrate(made, "plain"), extend=False)
    async with clusters.clone(cluster, plain) as made:
        yield msgspec.structs.replace(made, edition="plain")


async def _migrate(database: Database, edition: Literal["auto", "plain"] = "auto") -> None:
    from coord.store import migrations
    from coord.store.config import DatabaseConfig

    await asyncio.to_thread(migrations.migrate, DatabaseConfig(url=database.url, edition=edition))
