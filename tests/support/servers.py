"""Real servers for the tests: nats-server and PostgreSQL with TimescaleDB.

* `nats_server`: one nats-server per test process; use names of your own on it.
* `start_nats`: starts as many as a test wants, with any options; ended with the test.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import pytest

from coord.ops.devstack.nats import NatsOptions, NatsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

T = TypeVar("T")


def run_sync(work: Coroutine[None, None, T]) -> T:
    """Run a coroutine in a loop of its own, leaving pytest-asyncio's loop and policy alone."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


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
        await server.stop()
