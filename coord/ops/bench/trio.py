"""Three nats-servers on loopback as one JetStream cluster: what R3 costs, on one machine.

Every fact is stored three times, by three processes that share the cores with everything else: what is measured
is their work, not a network's latency nor three machines' cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.ops.bench.measure import BenchError
from coord.ops.devstack import ports
from coord.ops.devstack.nats import NatsOptions, NatsServer
from coord.runtime import assets

SIZE: Final = 3
PROFILE: Final = "cluster"
"""Of streams/: every stream has three copies."""

_READY_S: Final = 120.0
_AGAIN_S: Final = 0.2


class Trio:
    """The running cluster."""

    def __init__(self, servers: list[NatsServer]) -> None:
        self._servers = servers

    @property
    def url(self) -> str:
        """Where clients connect: all three, with commas between."""
        return ",".join(server.url for server in self._servers)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the servers that run."""
        return tuple(server.pid for server in self._servers if server.pid is not None)


@asynccontextmanager
async def trio(sync_interval: str | None = None) -> AsyncIterator[Trio]:
    """A fresh cluster with coord's streams and consumers, three copies of each.

    Raises `EnvironmentProblem` when a server does not start, `BenchError` when they do not come together.
    """
    with tempfile.TemporaryDirectory(prefix="coord-bench-", ignore_cleanup_errors=True) as folder:
        servers: list[NatsServer] = []
        try:
            for attempt in range(limits.DEV_PORT_TRIES):
                servers = _servers(Path(folder) / f"{attempt}", sync_interval)
                try:
                    # JetStream answers once most of them are there.
                    await asyncio.gather(*(server.start() for server in servers))
                    break
                except errors.EnvironmentProblem:
                    await _stop(servers)
                    if attempt + 1 == limits.DEV_PORT_TRIES:
                        raise
            found = Trio(servers)
            await _prepare(found)
            yield found
        finally:
            await _stop(servers)


def _servers(folder: Path, sync_interval: str | None) -> list[NatsServer]:
    taken: set[int] = set()
    for _ in range(SIZE):
        taken.add(ports.choose(taken=frozenset(taken)))
    routes = ", ".join(f'"nats-route://{ports.LOOPBACK}:{port}"' for port in sorted(taken))
    return [
        NatsServer(
            folder / f"n{n}",
            NatsOptions(name=f"n{n}", sync_interval=sync_interval, extra=_CLUSTER.format(ports.LOOPBACK, port, routes)),
        )
        for n, port in enumerate(sorted(taken))
    ]


_CLUSTER: Final = """\
cluster {{
  name: "coord-bench"
  listen: "{}:{}"
  routes: [ {} ]
}}
"""


async def _prepare(cluster: Trio) -> None:
    """Make streams and consumers; a young cluster elects, and forgets requests meanwhile."""
    wanted = topology.load(assets.streams_dir(), PROFILE)
    config = NatsConfig(urls=tuple(cluster.url.split(",")))
    last: Exception | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READY_S), await Connection.open(config, name="bench-setup", wait=True) as conn:
            while True:
                try:
                    await topology.apply(conn, wanted)
                    return
                except errors.CoordError as exc:
                    last = exc
                await asyncio.sleep(_AGAIN_S)
    raise BenchError(f"the cluster is not ready after {_READY_S:g} s: {last}")


async def _stop(servers: list[NatsServer]) -> None:
    await asyncio.gather(*(server.stop() for server in servers))
