"""Streams that live in the broker's memory are made again where a broker was started that knows nothing of them.

A single broker forgets such a stream with its messages; a cluster keeps it while one of its servers
lives.  What it held may be missed (`CACHE_L2`: answers that everybody can load again), the stream itself
may not: without it a shared cache would only come back with the next deployment.
"""

from __future__ import annotations

import asyncio

from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.bus.topology import Topology
from coord.runtime.clock import Clock
from coord.runtime.service import Service
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics

_log = logs.get("streams")


class MemoryStreams(Service):
    """Looks after each reconnect; every replica has one, and a stream that is there is left as it is."""

    def __init__(
        self, nats: NatsConfig, wanted: Topology, *, registry: Metrics | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__("memory_streams", registry=registry, clock=clock)
        self._nats = nats
        self._specs = [spec for spec in wanted.streams if spec.config.get("storage") == "memory"]
        self._conn: Connection | None = None
        self._look = asyncio.Event()

    async def setup(self) -> None:
        """Connect, waiting for the broker."""
        self._conn = await Connection.open(
            self._nats, name="coord-memory-streams", role="memory_streams", wait=True, registry=self.metrics
        )
        self._conn.on_connected(self._look.set)

    async def run(self) -> None:
        """Make what is missing; what cannot be made now is tried again."""
        assert self._conn is not None
        self._look.set()
        while True:
            await self._look.wait()
            self._look.clear()
            for spec in self._specs:
                try:
                    if await topology.ensure_stream(self._conn, spec):
                        _log.info("streams.made_again", stream=spec.stream)
                except errors.CoordError as exc:
                    _log.warning("streams.not_made", stream=spec.stream, error=exc)
                    self._look.set()
            if self._look.is_set():
                await self.clock.sleep(limits.RETRY_BROKER_MAX_S)

    async def teardown(self) -> None:
        """Close the connection."""
        if self._conn is not None:
            await self._conn.close()

    def is_ready(self) -> bool:
        """Always: nobody's work waits for what may be forgotten."""
        return True
